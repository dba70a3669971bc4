package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// place is what a command is reading.
type place struct{ what, path string }

// reads notes what is read from now on, for inTime to name.
func (p *program) reads(what, path string) { p.reading.Store(&place{what, path}) }

// notInTime is the error of files that did not come: their file system hangs.
type notInTime struct {
	place
	waited time.Duration
	mount  string // what is mounted there; "" where that is not known
}

func (e *notInTime) Error() string {
	text := fmt.Sprintf("read the %s %s: nothing came within %v", e.what, e.path, e.waited)
	if e.mount != "" {
		text += "; it lies on " + e.mount
	}
	return text
}

// Unwrap is the class of the error.
func (e *notInTime) Unwrap() error { return os.ErrDeadlineExceeded }

// inTime gives what read gives. Where that takes longer than most, it is a *notInTime that names what p reads, and read is left alone:
// it ends when its file system answers, or with the program, and must change nothing that is used after that.
func inTime[T any](p *program, most time.Duration, read func() (T, error)) (T, error) {
	type outcome struct {
		of  T
		err error
	}
	ended := make(chan outcome, 1) // so that one that comes too late ends as well
	go func() {
		of, err := read()
		ended <- outcome{of, err}
	}()
	select {
	case o := <-ended:
		return o.of, o.err
	case <-time.After(most):
	}
	var none T
	e := &notInTime{place: place{"files", "of certagent"}, waited: most}
	if at := p.reading.Load(); at != nil {
		e.place = *at
	}
	mounts, err := os.ReadFile("/proc/self/mounts") // of the kernel's own, which asks no file system
	if path, absErr := filepath.Abs(e.path); err == nil && absErr == nil {
		e.mount = mountOf(string(mounts), path)
	}
	return none, e
}

// hung is the end of a command that gave up on its files.
func hung(err error) error {
	if e, ok := errors.AsType[*notInTime](err); ok {
		return failed(&hint{e, "a network file system whose server is away, perhaps, or a disk that fails: dmesg says more; --timeout 1m waits longer"})
	}
	return err
}

// mountOf says on which file system path lies, by its name alone: links are not followed, since that may hang. mounts is
// /proc/self/mounts (proc_mounts(5)): source, place and kind of each, blanks and the like in octal.
func mountOf(mounts, path string) (found string) {
	var at string
	for line := range strings.Lines(mounts) {
		fields := strings.Fields(line)
		if len(fields) < 3 {
			continue
		}
		point := unescaped(fields[1])
		below := path == point || strings.HasPrefix(path, strings.TrimSuffix(point, "/")+"/")
		if below && len(point) >= len(at) { // the later one lies above
			at, found = point, fmt.Sprintf("the %s file system %s at %s", fields[2], unescaped(fields[0]), point)
		}
	}
	return found
}

// unescaped is a field of /proc/self/mounts as it was: a backslash and three octal digits stand for a byte.
func unescaped(field string) string {
	var b strings.Builder
	for i := 0; i < len(field); i++ {
		if field[i] == '\\' && i+3 < len(field) {
			if n, err := strconv.ParseUint(field[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(field[i])
	}
	return b.String()
}
