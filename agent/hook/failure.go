package hook

import (
	"errors"
	"fmt"
)

// The classes of error: what a caller acts on, and shows. Every error of [Runner.Run] is an [*Error] with exactly one
// of them, to be tested with errors.Is.
var (
	// ErrFailed means that the hook did what it does and failed: a program by its exit status or a signal, a job of
	// systemd by its result. Also that it could not be begun for want of memory, processes or the like.
	ErrFailed = errors.New("failed")

	// ErrTimeout means that it took longer than Hook.Timeout, or a job longer than the unit's own limit.
	ErrTimeout = errors.New("took too long")

	// ErrNotFound means that there is no such program, no interpreter for it, or no such unit.
	ErrNotFound = errors.New("not found")

	// ErrNotExecutable means that there is a file, and that it is no program which we may run.
	ErrNotExecutable = errors.New("not executable")

	// ErrDenied means that systemd does not let us act on that unit.
	ErrDenied = errors.New("not allowed")

	// ErrNoBus means that there is no systemd to ask: no D-Bus system bus, or none with systemd on it.
	ErrNoBus = errors.New("systemd cannot be reached")

	// ErrStopped means that the caller's context ended. It is no failure of the hook, which is to be run again.
	ErrStopped = errors.New("stopped")
)

// Error is why a hook did not do what it should.
type Error struct {
	Hook  Hook
	Class error  // one of the classes of this package
	Err   error  // the cause; may be nil
	Hint  string // what a person can do about it; may be empty. Error does not repeat it
}

// errorNameShown is how many bytes of a hook's name stand in the text of an Error, which becomes one line of a log.
const errorNameShown = 200

// Error says what happened, to what, and why, in one line.
func (e *Error) Error() string {
	name := e.Hook.String()
	if len(name) > errorNameShown {
		name = name[:errorNameShown] + "…"
	}
	if e.Err == nil {
		return fmt.Sprintf("%s: %v", name, e.Class)
	}
	return fmt.Sprintf("%s: %v: %v", name, e.Class, e.Err)
}

// Unwrap returns the class and the cause.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Class}
	}
	return []error{e.Class, e.Err}
}
