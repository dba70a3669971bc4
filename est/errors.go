package est

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// The classes of error: what a caller acts on. Every error of a [Client]'s operation is an [*Error] that carries
// exactly one of them, to be tested with errors.Is.
var (
	// ErrPending means that the request was accepted and is not decided yet (HTTP 202, RFC 7030 4.2.3): send the
	// same request again after Error.RetryAfter.
	ErrPending = errors.New("not issued yet")

	// ErrUnauthorized means that the server did not accept who we are: HTTP 401 or 403, or a TLS handshake that
	// it ended over the client certificate.
	ErrUnauthorized = errors.New("server refused the login")

	// ErrRejected means that the server did not accept what was asked (any other 4xx, and 501): the same request
	// will not do better later.
	ErrRejected = errors.New("server rejected the request")

	// ErrUnavailable means that no usable answer was had and that a later try may do better: network errors, time
	// limits, HTTP 408, 429 and 5xx.
	ErrUnavailable = errors.New("server unavailable")

	// ErrUntrusted means that the server could not be authorised (RFC 7030 3.6): unknown CA, another host name, a
	// certificate out of its validity, or no TLS at all. Nothing was sent to it. Also that
	// it is authorised by implicit anchors where only explicit ones will do; then no more than /cacerts was asked.
	ErrUntrusted = errors.New("server not trusted")

	// ErrBadResponse means that an authorised server's answer cannot be used: not EST, too large, a redirect that is
	// not followed, or a certificate that does not pass the checks of [Client.Enroll].
	ErrBadResponse = errors.New("response not acceptable")
)

// Error is the error of one EST operation.
type Error struct {
	Op       string // the operation: "simpleenroll", …; "cacerts" also where that step ended an enrolment
	Server   string // base URL of the operations
	Identity string // who we came as, as Options.Identity words it; may be empty
	Class    error  // one of the classes of this package
	Status   int    // HTTP status of the answer; 0 where there was none, or where it was cut off

	// RetryAfter is what the server's Retry-After asks for, counted from when the answer came; 0 if it did not say.
	// It is not bounded: a caller sets its own floor and ceiling.
	RetryAfter time.Duration

	// Refusal is true where the answer speaks against the identity that was used, so that another one may do
	// better: HTTP 401, 403, 404, 405 and 501 on an enrolment, and a connection that the server ended over the
	// client certificate, or over its absence.
	Refusal bool

	Detail string // text of the server's: at most 4 KiB, printable, no secret of ours in it; may be empty
	Hint   string // what a person can do about it; may be empty. Error does not repeat it
	Err    error  // the cause, its text bounded, printable and without a secret of ours; may be nil
}

// errorDetailShown is how many bytes of Detail stand in the text of an Error, which becomes one line of a log.
const errorDetailShown = 300

// Error says what happened, to what, and why, in one line.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "est %s at %s", e.Op, e.Server)
	if e.Identity != "" {
		fmt.Fprintf(&b, " as %s", e.Identity)
	}
	fmt.Fprintf(&b, ": %v", e.Class)
	switch {
	case e.Status != 0 && e.RetryAfter != 0:
		fmt.Fprintf(&b, " (HTTP %d, try again in %v)", e.Status, e.RetryAfter.Round(time.Second))
	case e.Status != 0:
		fmt.Fprintf(&b, " (HTTP %d)", e.Status)
	}
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	if e.Detail != "" {
		fmt.Fprintf(&b, ": %q", shorten(e.Detail, errorDetailShown))
	}
	return b.String()
}

// Unwrap returns the class and the cause.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Class}
	}
	return []error{e.Class, e.Err}
}
