package dps

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"certagent/agent/onboard"
)

// The classes of error: what a caller acts on. Every error of [Client.Exchange] that is not its canceled context is an
// [*Error] with exactly one of them, to be tested with errors.Is.
var (
	// ErrUnauthorized means that DPS does not take the device with this certificate: HTTP 401 or 403, a disabled
	// registration, or TLS that it ended over the certificate. A person must do something, mostly at the service.
	ErrUnauthorized = &onboard.Class{Name: "unauthorized", Text: "DPS refused the device"}

	// ErrRejected means that DPS does not take what was asked: other errors 4xx. The same will not do better later.
	ErrRejected = &onboard.Class{Name: "rejected", Text: "DPS rejected the registration"}

	// ErrUnavailable means that a later try may do better: the network, time limits, 408, 409, 412, 429, 5xx.
	ErrUnavailable = &onboard.Class{Name: "unavailable", Text: "DPS unavailable"}

	// ErrUntrusted means that the endpoint's certificate could not be verified. It was told nothing.
	ErrUntrusted = &onboard.Class{Name: "untrusted", Text: "DPS not trusted"}

	// ErrBadResponse means that an endpoint that is trusted gave an answer that cannot be used.
	ErrBadResponse = &onboard.Class{Name: "bad-response", Text: "answer of DPS not acceptable"}

	// ErrDevice means that something on this device keeps it from asking: its certificate, the payload file, the
	// configuration. Nobody was dialled.
	ErrDevice = &onboard.Class{Name: "configuration", Text: "not ready to register"}
)

// The codes of problems, stable and for machines.
const (
	CodeUnauthorized   = "dps-unauthorized"    // no enrolment takes the certificate
	CodeForbidden      = "dps-forbidden"       // network rules of the service
	CodeDisabled       = "dps-disabled"        // the registration is disabled
	CodeNotFound       = "dps-not-found"       // no such ID scope at this endpoint
	CodeRejected       = "dps-rejected"        // the request as such
	CodeAllocation     = "dps-allocation"      // no hub was found for the device: webhook, or hubs of the enrolment
	CodeConflict       = "dps-conflict"        // another registration of the same id is going on
	CodeThrottled      = "dps-throttled"       // too many requests
	CodeUnavailable    = "dps-unavailable"     // network, time limits, errors of the service
	CodeOperationLost  = "dps-operation-lost"  // DPS has forgotten what it was at
	CodeEndless        = "dps-undecided"       // DPS does not come to an end
	CodeUntrusted      = "dps-untrusted"       // the endpoint's certificate
	CodeBadResponse    = "dps-bad-response"    // not an answer of DPS
	CodeRegistrationID = "dps-registration-id" // the certificate is for another registration id
	CodeCertificate    = "dps-certificate"     // expired, or not yet valid
	CodePayload        = "dps-payload"         // the payload file
	CodeSettings       = "dps-settings"        // endpoint, ID scope or registration id are none
)

// Error is the error of one exchange.
type Error struct {
	Do       Action
	Target   Registration
	Class    *onboard.Class // one of this package's
	Code     string
	Status   int // HTTP status of the answer; 0 where there was none
	DPS      int // the error code of DPS, such as 401002; 0 where there was none
	Tracking string

	// RetryAfter is what DPS asks for, counted from the answer, at most a day; 0 if it did not say.
	RetryAfter time.Duration

	Detail string // DPS's own words: bounded, printable, nothing of the payload in it
	Hint   string // what a person can do; may be empty. Error does not repeat it
	Err    error  // the cause, as harmless as Detail; may be nil

	decided bool // it is the end of the operation
}

// Error says what happened, to what, and why, in one line.
func (e *Error) Error() string {
	var b strings.Builder
	what := string(e.Do)
	if e.Do == Poll {
		what = "ask for the registration of"
	}
	fmt.Fprintf(&b, "%s %s at %s (ID scope %s): %v", what, onboard.Quote(e.Target.RegistrationID), e.Target.place(),
		onboard.Line(e.Target.IDScope), e.Class)
	var numbers []string
	if e.Status != 0 {
		numbers = append(numbers, "HTTP "+strconv.Itoa(e.Status))
	}
	if e.DPS != 0 {
		numbers = append(numbers, "error "+strconv.Itoa(e.DPS))
	}
	if e.RetryAfter != 0 {
		numbers = append(numbers, "try again in "+e.RetryAfter.Round(time.Second).String())
	}
	if len(numbers) > 0 {
		fmt.Fprintf(&b, " (%s)", strings.Join(numbers, ", "))
	}
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	if e.Detail != "" {
		fmt.Fprintf(&b, ": %q", e.Detail)
	}
	if e.Tracking != "" {
		fmt.Fprintf(&b, " (tracking id %s)", e.Tracking)
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

// mayHaveBegun reports whether DPS may have taken the registration that it was asked for, although it did not say so.
func (e *Error) mayHaveBegun() bool {
	lost := e.Status == 0 || e.Status >= 500
	return e.Class == ErrBadResponse || e.Class == ErrUnavailable && lost
}

// keepsOperation reports whether DPS may still be at the registration that it was asked for: nothing that it said
// speaks against it.
func (e *Error) keepsOperation() bool {
	if e.decided {
		return false
	}
	switch e.Code {
	case CodeThrottled, CodeUnavailable, CodeBadResponse, CodeUntrusted, CodeCertificate:
		return true
	}
	return false
}
