// Package hook tells the consumers of a certificate that there is a new one: it runs programs ([Exec]), and has systemd
// reload or restart units ([Reload], [Restart]).
//
// It runs one hook at a time and says what came of it. What was run already, for which generation, and when a failed
// hook is tried again is decided and kept by its caller. It must not show a secret: the environment of a program has
// paths and numbers only, and a private key in its output is cut out.
package hook

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Action is what a [Hook] does.
type Action string

// The actions.
const (
	Exec    Action = "exec"    // run a program
	Reload  Action = "reload"  // have a systemd unit read its files again, if it runs; start it if it has failed
	Restart Action = "restart" // have a systemd unit start anew, if it runs or has failed
)

// Hook is one thing to do after a renewal.
type Hook struct {
	Action Action
	Argv   []string // of Exec: the program's absolute path, then its arguments; no shell sees them
	Unit   string   // of Reload and Restart: the unit with its suffix
	// Timeout is after how long the hook is given up; more than 0. A program is then ended, which takes up to [Grace]
	// more. A job of systemd goes on.
	Timeout time.Duration
}

// String names the hook for people, and is the same for equal actions on equal objects: exec "/bin/a" "b", reload
// nginx.service.
func (h Hook) String() string {
	words := []string{string(h.Action)}
	if h.Action != Exec {
		return strings.Join(append(words, h.Unit), " ")
	}
	for _, w := range h.Argv {
		words = append(words, strconv.Quote(w))
	}
	return strings.Join(words, " ")
}

// List is what to do after each renewal, in this order: the programs as they are listed, then the reloads, then the
// restarts. A unit comes once; one that is restarted is not reloaded before that.
func List(programs [][]string, reload, restart []string, timeout time.Duration) []Hook {
	var hooks []Hook
	for _, argv := range programs {
		hooks = append(hooks, Hook{Action: Exec, Argv: argv, Timeout: timeout})
	}
	units := func(a Action, names, except []string) {
		for i, unit := range names {
			if !slices.Contains(names[:i], unit) && !slices.Contains(except, unit) {
				hooks = append(hooks, Hook{Action: a, Unit: unit, Timeout: timeout})
			}
		}
	}
	units(Reload, reload, restart)
	units(Restart, restart, nil)
	return hooks
}

// Result is what came of a hook.
type Result struct {
	// Err is nil if the consumer was told, or if there is none to tell; otherwise an [*Error].
	Err error
	// Skipped says why there was nobody to tell, as "nginx.service is inactive"; then Err is nil. A unit that does not
	// run reads its files when it is started.
	Skipped string
	// Output is the end of what a program wrote, standard output and standard error together, at most some 4 KiB:
	// printable lines, marked where something was cut off.
	Output string
	Took   time.Duration
}

// Runner runs hooks. It has no state: several may be run at the same time.
type Runner struct {
	// Self are the words with which this very program is started to become that of a hook: its name, and what makes its
	// main function call [Become] with the words that follow. Needed for Exec.
	Self []string
	// As is whom programs run as, for an agent that is root and works for somebody else; nil is the agent itself.
	As *syscall.Credential
}

// Run runs one hook to its end and says what came of it. When ctx ends, a program is ended as at its timeout, so that
// Run returns within [Grace] and two seconds; the error is then [ErrStopped].
func (r Runner) Run(ctx context.Context, h Hook, e Event) Result {
	began := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, h.Timeout, ErrTimeout)
	defer cancel()
	var res Result
	var err *Error
	if h.Action == Exec {
		res.Output, err = r.program(ctx, h, e)
	} else {
		res.Skipped, err = unit(ctx, h)
	}
	if err != nil {
		err.Hook = h
		res.Err = err
	}
	res.Took = time.Since(began)
	return res
}

// cut is the class of a hook that did not come to its end because ctx did.
func cut(ctx context.Context) error {
	if errors.Is(context.Cause(ctx), ErrTimeout) {
		return ErrTimeout
	}
	return ErrStopped
}
