package onboard

import (
	"errors"
	"io"
	"syscall"
)

// HungUp reports whether err is that the other side ended a connection without a word of TLS, in whichever way.
func HungUp(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) ||
		errors.Is(err, syscall.EPIPE)
}
