package dps

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"certagent/agent/onboard"
)

// shown is what is known of the certificate that came with a request: what a remedy for a refusal can go by, since the
// refusal itself (401002) says nothing.
type shown struct {
	asked   bool   // the endpoint asked for a client certificate
	offered bool   // and was given one
	key     string // its kind, where that is not among those that Azure lists
	chain   int    // of so many certificates
	issuer  string // of the first
}

// judge gives e the meaning of status: an HTTP status, or the first three digits of an error code of DPS, which are
// one. The meanings of single codes are from reports, since no list of them is published: 401002 (azure-iot-samples 69,
// azure-iot-sdk-c 2362), 409203 (azure-iot-sdk-csharp 1010), 400209 (the webhook of a custom allocation failed).
func (e *Error) judge(status int, step Step, s shown) *Error {
	switch {
	case e.DPS == 400209:
		e.Class, e.Code = ErrRejected, CodeAllocation
		e.Hint = "the webhook of the enrolment's custom allocation policy failed: see the log of that function"
	case status == http.StatusUnauthorized:
		e.Class, e.Code, e.Hint = ErrUnauthorized, CodeUnauthorized, s.remedy(e.Target, step.Why)
	case status == http.StatusForbidden:
		e.Class, e.Code = ErrUnauthorized, CodeForbidden
		e.Hint = "let this device's network in, in the DPS instance's networking settings (IP filter, private endpoint)"
	case status == http.StatusNotFound && step.Do == Poll:
		e.Class, e.Code = ErrUnavailable, CodeOperationLost
		e.Hint = "nothing: the device registers anew"
	case status == http.StatusNotFound:
		e.Class, e.Code = ErrRejected, CodeNotFound
		e.Hint = "compare id_scope with the overview of the DPS instance, and set global_endpoint where that is in a " +
			"sovereign cloud or has a private endpoint"
	case status == http.StatusConflict, status == http.StatusPreconditionFailed:
		e.Class, e.Code = ErrUnavailable, CodeConflict
		e.Hint = "nothing, unless it stays: then another device registers with the same registration id"
	case status == http.StatusTooManyRequests:
		e.Class, e.Code = ErrUnavailable, CodeThrottled
		e.Hint = "nothing: it is tried again; a DPS instance takes 1000 registrations a minute"
	case status == http.StatusRequestTimeout, status >= 500 && status < 600:
		e.Class, e.Code = ErrUnavailable, CodeUnavailable
		e.Hint = "nothing: it is tried again"
	case status >= 400 && status < 500:
		e.Class, e.Code = ErrRejected, CodeRejected
		e.Hint = "check registration_id, id_scope, global_endpoint and the payload; is it an endpoint of DPS?"
	case status >= 300 && status < 400:
		e.Class, e.Code = ErrBadResponse, CodeBadResponse
		e.Err = errors.New("it redirects, and a registration goes nowhere but to the configured endpoint")
		e.Hint = "set global_endpoint to the endpoint itself; a captive portal or a proxy may be what answers"
	default:
		e.Class, e.Code = ErrBadResponse, CodeBadResponse
		e.Err = errors.New("it is neither a success nor an error that DPS knows")
		e.Hint = hintNotDPS
	}
	return e
}

const hintOverlapped = "nothing: DPS may be at a registration of this device that began before, with the certificate before a " +
	"renewal perhaps, and takes the next one when that has ended"

const hintNotDPS = "find out what answers at this address: a proxy, a captive portal, or something else that " +
	"global_endpoint names"

const otherKey = "take key = \"ec-p256\" or \"rsa-2048\"; the certificate is what group enrolment and individual enrolment go by"

// remedy is what to do about a refusal of the certificate. DPS does not tell which kind of enrolment it went by, so
// each of the two gets its sentence, the likelier one first.
func (s shown) remedy(want Registration, why onboard.Reason) string {
	const both = "; a disabled individual enrolment keeps a device out of an enabled group enrolment, too"
	individual := "individual enrolment: it must exist for the registration id " + want.RegistrationID +
		", be enabled, and hold this certificate (SHA-256 " + want.SHA256 + ")"
	group := "group enrolment: it must be enabled, and the CA that it names uploaded and verified in DPS"
	switch {
	case !s.asked:
		return "the endpoint did not ask for the device's certificate: if a proxy ends TLS on the way, have it pass TLS " +
			"through; a certificate is what group enrolment and individual enrolment go by"
	case !s.offered:
		return "the device's key could not be used with this endpoint: " + otherKey
	case s.key != "":
		return "the device's key is " + s.key + ", and Azure lists RSA and ECDSA on P-256, P-384 and P-521: " + otherKey
	case why == onboard.Renewed:
		return "individual enrolment: it still holds the certificate before the renewal; put the new one (SHA-256 " +
			want.SHA256 + ") into the entry, or a CA certificate in its place, or use a group enrolment, which needs " +
			"nothing at renewals; " + group + ", and the CA may have changed" + both
	case s.chain == 1:
		group += fmt.Sprintf("; the device showed its own certificate alone, so that must be the CA which issued it, "+
			"%s: for a root above that, have the EST server send the intermediate certificates", onboard.Quote(s.issuer))
	default:
		group += fmt.Sprintf("; it must be one of those that issued the %d certificates shown (the first by %s)",
			s.chain, onboard.Quote(s.issuer))
	}
	return group + "; " + individual + both
}

// disabled is the error of a registration that DPS has, and does not want to have.
func disabled(e *Error) *Error {
	e.Class, e.Code = ErrUnauthorized, CodeDisabled
	e.Err = errors.New("the registration is disabled")
	e.Hint = "enable the device's individual enrolment, or its group enrolment where it has no entry of its own"
	return e
}

// endless is the error of an operation that has been going on for too long.
func (a Answer) endless(want Registration, step Step, going time.Duration) *Error {
	return &Error{
		Do: step.Do, Target: want, Class: ErrUnavailable, Code: CodeEndless, Status: a.HTTP,
		Err:  fmt.Errorf("its status is %s for %s", onboard.Quote(a.Status), going.Round(time.Second)),
		Hint: "see the allocation policy and the hubs of the enrolment; the device begins anew",
	}
}
