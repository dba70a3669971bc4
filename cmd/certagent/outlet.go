package main

import (
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// outlet is a stderr whose reader may hang: a pipe, a terminal that was stopped, the journal's stream. It is not for
// concurrent use.
type outlet struct {
	to   io.Writer
	busy bool // it did not take the last line, so that the next does not wait for it
	torn bool // of which it had taken the beginning
}

// readerPatience is how long a line waits for a reader that is busy. One that hangs costs that once: whoever logs must not
// stop for it.
const readerPatience = time.Second

// write reports whether there was room for line. It asks before it writes, instead of having stderr not block: that would
// hold for every other process that has it too. A pipe with room has room for PIPE_BUF bytes (pipe(7)); what waits for
// a reader does so in the kernel, where the end of the agent does no harm to it.
func (o *outlet) write(line []byte) bool {
	file, ok := o.to.(*os.File)
	if !ok {
		_, _ = o.to.Write(line)
		return true
	}
	rest := line
	if o.torn {
		rest = append([]byte{'\n'}, line...)
	}
	wait := readerPatience
	if o.busy {
		wait = 0
	}
	const atOnce = 4096 // PIPE_BUF
	for whole := len(rest); len(rest) > 0; {
		ready := []unix.PollFd{{Fd: int32(file.Fd()), Events: unix.POLLOUT}}
		n := 0
		err := again(func() (err error) { n, err = unix.Poll(ready, int(wait.Milliseconds())); return err })
		if err == nil && n == 0 {
			err = unix.EAGAIN
		}
		if err == nil {
			err = again(func() (err error) { n, err = unix.Write(int(file.Fd()), rest[:min(len(rest), atOnce)]); return err })
		}
		if errors.Is(err, unix.EAGAIN) {
			o.busy, o.torn = true, o.torn || len(rest) < whole
			return false
		}
		if err != nil {
			break // nobody reads any more, and nobody is to be told
		}
		rest = rest[n:]
	}
	o.busy, o.torn = false, false
	return true
}
