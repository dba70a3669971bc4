package awsiot

import (
	"fmt"
	"strings"

	"certagent/agent/onboard"
)

// The classes of error: what a caller acts on. Every error of [Connect] that is not its canceled context is an [*Error]
// with exactly one of them, to be tested with errors.Is.
var (
	// ErrDropped means that the connection ended after the certificate was shown, and nobody said why: it is being
	// provisioned, or is not active, or its policy does not allow the connection; or TLS ended over the certificate.
	ErrDropped = &onboard.Class{Name: "pending", Text: "AWS IoT ended the connection"}

	// ErrDenied means that AWS IoT answered, and does not let the device in. A person must do something at AWS.
	ErrDenied = &onboard.Class{Name: "unauthorized", Text: "AWS IoT refused the device"}

	// ErrUnavailable means that a later try may do better: the network, time limits, a broker that is busy.
	ErrUnavailable = &onboard.Class{Name: "unavailable", Text: "AWS IoT unavailable"}

	// ErrUntrusted means that the endpoint's certificate could not be verified. It was told nothing.
	ErrUntrusted = &onboard.Class{Name: "untrusted", Text: "AWS IoT not trusted"}

	// ErrBadResponse means that what answers at the endpoint is not AWS IoT.
	ErrBadResponse = &onboard.Class{Name: "bad-response", Text: "answer of AWS IoT not acceptable"}

	// ErrDevice means that something on this device keeps it from connecting: its certificate, or the configuration.
	// Nobody was dialled.
	ErrDevice = &onboard.Class{Name: "configuration", Text: "not ready to connect"}
)

// The codes of problems, stable and for machines.
const (
	CodeProvisioning       = "aws-provisioning"        // a notice: dropped, as is expected of a new certificate
	CodePending            = "aws-pending"             // still dropped after all the quick tries
	CodeCertificateRefused = "aws-certificate-refused" // TLS ended over the certificate, in all of them
	CodeDenied             = "aws-denied"              // the broker said that it does not let the device in
	CodeUnavailable        = "aws-unavailable"         // network, time limits
	CodeThrottled          = "aws-throttled"           // too many connections, or the broker is busy
	CodeUntrusted          = "aws-untrusted"           // the endpoint's certificate
	CodeBadResponse        = "aws-bad-response"        // not AWS IoT
	CodeKey                = "aws-key"                 // a kind of key or signature that AWS IoT does not take
	CodeCertificate        = "aws-certificate"         // missing, expired, or not yet valid
	CodeSettings           = "aws-settings"            // endpoint, port or client id are none
	CodeSubject            = "aws-subject"             // lacks what a provisioning template uses; of CheckSubject
)

// Error is the error of one connection.
type Error struct {
	Target Registration
	Class  *onboard.Class // one of this package's
	Code   string
	Reason byte   // the reason code of a CONNACK; 0 where there was none
	Err    error  // the cause, bounded and printable; may be nil
	Hint   string // what a person can do. Error does not repeat it
}

// Error says what happened, to what, and why, in one line.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "connect %s to %s:%d by MQTT: %v", onboard.Quote(e.Target.ClientID), onboard.Line(e.Target.Endpoint),
		e.Target.Port, e.Class)
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
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
