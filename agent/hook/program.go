package hook

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// program runs a program and returns what it wrote. It has a process group of its own, to be ended as a whole; / is its
// working directory, /dev/null its standard input.
func (r Runner) program(ctx context.Context, h Hook, e Event) (string, *Error) {
	if ctx.Err() != nil {
		return "", &Error{Class: cut(ctx)}
	}
	if len(r.Self) == 0 {
		return "", &Error{Class: ErrFailed, Err: errors.New("not told how to start programs")} // else this program would run itself
	}
	path := h.Argv[0]
	if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o002 != 0 {
		return "", &Error{
			Class: ErrNotExecutable, Err: errors.New("everybody may write it, and so would choose what runs with the agent's rights"),
			Hint: "chmod o-w " + path,
		}
	}
	out, stdout, err := newOutput()
	if err != nil {
		return "", &Error{Class: ErrFailed, Err: err}
	}
	complaints, complaint, err := os.Pipe()
	if err != nil {
		stdout.Close()
		out.end(0)
		return "", &Error{Class: ErrFailed, Err: err}
	}
	defer complaints.Close()
	p, err := start(r.As, &exec.Cmd{
		Path: "/proc/self/exe", // also after an upgrade has replaced the file
		Args: slices.Concat(r.Self, h.Argv),
		Env:  e.environment(), Dir: "/",
		Stdout: stdout, Stderr: stdout, ExtraFiles: []*os.File{complaint},
	})
	stdout.Close() // the last writers are the program and its children
	complaint.Close()
	if err != nil {
		out.end(0)
		return "", &Error{Class: ErrFailed, Err: err, Hint: "/proc must be mounted; a want of memory or processes passes"}
	}
	select {
	case <-p.exited:
	case <-ctx.Done():
		if !p.hasExited() {
			died := p.endGroup(out.ended)
			text := out.end(leftOpen)
			_ = p.reap() // it was ended: how does not matter
			failure := &Error{Class: cut(ctx)}
			if failure.Class == ErrTimeout {
				failure.Hint = "find out what it waits for, or raise on_renew.timeout"
			}
			if !died {
				failure.Err = errors.New("it does not even die of SIGKILL (a disk or network file system that hangs?)")
			}
			return text, failure
		}
	}
	text := out.end(leftOpen)
	_ = complaints.SetReadDeadline(time.Now().Add(leftOpen)) // nobody has it open any more, if Self is right
	why, _ := io.ReadAll(complaints)
	err = p.reap()
	switch {
	case len(why) > 0:
		return text, notBegun(path, string(why))
	case err != nil:
		return text, &Error{Class: ErrFailed, Err: err, Hint: "its output says why, if it writes any"}
	}
	return text, nil
}

// notBegun classes what a process complained of that did not become the program.
func notBegun(path, complaint string) *Error {
	number, text, _ := strings.Cut(complaint, " ")
	n, err := strconv.Atoi(number)
	if err != nil {
		return &Error{Class: ErrFailed, Err: errors.New(text)}
	}
	switch errno := syscall.Errno(n); errno {
	case syscall.ENOENT:
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			return &Error{
				Class: ErrNotFound, Err: errors.New("its interpreter does not exist"),
				Hint: "look at its first line, which must end without a carriage return, or at the loader it was linked for",
			}
		}
		return &Error{Class: ErrNotFound, Err: errno, Hint: "install it, or correct its path"}
	case syscall.EACCES, syscall.ENOTDIR, syscall.EISDIR, syscall.ELOOP:
		hint := "the agent's user must be allowed to execute it (chmod +x) and to enter the directories above it, " +
			"and the file system must not be mounted noexec"
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			hint = "it is a directory: name a program in it"
		} else if errors.Is(err, fs.ErrNotExist) {
			hint = "correct its path"
		}
		return &Error{Class: ErrNotExecutable, Err: errno, Hint: hint}
	case syscall.ENOEXEC:
		return &Error{
			Class: ErrNotExecutable, Err: errno,
			Hint: "a script needs #! and its interpreter in the first line; a program must be made for this processor",
		}
	case 0:
		return &Error{Class: ErrFailed, Err: errors.New(text)}
	default:
		return &Error{Class: ErrFailed, Err: fmt.Errorf("begin it: %w", errno)}
	}
}
