package awsiot

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"

	"certagent/agent/onboard"
	"certagent/est/tlsalert"
)

// The remedies where the wire tells too little.
const (
	remedyPending = "the wire does not tell these apart. AWS is still provisioning the certificate, or could not: see " +
		"whether it is PENDING_ACTIVATION there, and in CloudTrail what became of RegisterThing (throttled; an attribute of " +
		"the template that the subject lacks; a common name with a dot or a value with a blank, which things cannot have; " +
		"a thing that exists, without OverrideSettings; a role without AWSIoTThingsRegistration). Or it was deactivated. Or it is ACTIVE, and its policy does not allow iot:Connect for " +
		"this client id"
	remedyRefused = "register the CA that issued it in this account and region, ACTIVE and with auto-registration, and see " +
		"that the certificate is not INACTIVE or REVOKED there; while a certificate is being provisioned AWS may end TLS, too"
	remedyDenied = "see at AWS that the certificate is ACTIVE, and that a policy attached to it allows iot:Connect for the " +
		"resource client/CLIENT-ID with this client id; with just-in-time registration, that the rule has attached it. A new " +
		"certificate may be refused until that was done"
	remedyNetwork = "check the network, HTTPS_PROXY, and endpoint and port in [provisioning] (443 where 8883 is " +
		"blocked); it is tried again"
	remedyEndpoint = "endpoint in [provisioning] must be what aws iot describe-endpoint --endpoint-type iot:Data-ATS says, " +
		"whole; if a proxy ends TLS on the way, have it pass TLS through"
)

// broken is the error of a connection that ended without a CONNACK.
func (v *visit) broken(err error, overdue bool) *Error {
	e := &Error{Target: v.o.Registration, Class: ErrUnavailable, Code: CodeUnavailable, Err: errors.New(onboard.Line(err.Error())),
		Hint: remedyNetwork}
	is := func(class *onboard.Class, code, hint string) { e.Class, e.Code, e.Hint = class, code, hint }
	_, verification := errors.AsType[*tls.CertificateVerificationError](err)
	alert, alerted := tlsalert.Received(err)
	ended := alerted || onboard.HungUp(err)
	switch {
	case verification:
		is(ErrUntrusted, CodeUntrusted, "install the system's CA certificates (package ca-certificates; Amazon Root CA 1 to 4 "+
			"are among them), or name the CA behind the endpoint in trusted_certs of [provisioning]; trusted_certs of EST do "+
			"not count here")
	case overdue:
		e.Err = fmt.Errorf("no answer within %s", v.o.Timeout)
	case v.offer.Asked() && !v.offer.Offered() && (ended || errors.Is(err, errNoCertificate)):
		e.Err = errNoCertificate
		is(ErrDevice, CodeKey, `the endpoint takes no signature that this key can make: take key = "ec-p256" or "rsa-2048"`)
	case errors.Is(err, errNoCertificate):
		e.Err = errors.New("it did not ask for the device's certificate")
		is(ErrBadResponse, CodeBadResponse, remedyEndpoint)
	case v.offer.Offered() && alerted && tlsalert.OverCertificate(alert):
		e.Err = fmt.Errorf("TLS ended over the device's certificate (%s)", alert)
		is(ErrDropped, CodeCertificateRefused, remedyRefused)
	case v.offer.Offered() && ended:
		e.Err = errors.New("after the device's certificate was shown, and without a word")
		if alerted {
			e.Err = fmt.Errorf("after the device's certificate was shown (%s)", alert)
		}
		is(ErrDropped, CodePending, remedyPending)
	case v.dialled && onboard.HungUp(err):
		e.Err = errors.New("it ended the connection in the TLS handshake")
	case v.dialled && !ofTheWay(err):
		is(ErrBadResponse, CodeBadResponse, remedyEndpoint) // no TLS that we speak, or no MQTT
	}
	return e
}

// ofTheWay reports whether err is one of the way to the endpoint, and not of what it says.
func ofTheWay(err error) bool {
	operation, ok := errors.AsType[*net.OpError](err)
	return ok && operation.Op != "remote error" && operation.Op != "local error" // TLS alerts of either side
}

// refused is the error of a CONNACK that is no success: reason is a code of MQTT 5 (table 3-1), or, from a broker that
// speaks nothing newer, of MQTT 3.1.1 (table 3.1).
func (v *visit) refused(reason byte) *Error {
	e := &Error{Target: v.o.Registration, Class: ErrBadResponse, Code: CodeBadResponse, Reason: reason, Hint: remedyEndpoint}
	says := "it speaks no MQTT 5, or not with us"
	switch reason {
	case 0x87, 5: // not authorized
		e.Class, e.Code, e.Hint, says = ErrDenied, CodeDenied, remedyDenied, "not authorized"
	case 0x85, 2: // client identifier not valid
		e.Class, e.Code, e.Hint, says = ErrDenied, CodeDenied, remedyDenied, "the client id is not valid"
	case 0x86, 0x8A, 0x8C, 4: // user name or password, banned, authentication method
		e.Class, e.Code, e.Hint, says = ErrDenied, CodeDenied, remedyDenied, "the login is not accepted"
	case 0x89, 0x97, 0x9F: // busy, quota exceeded, connection rate exceeded
		e.Class, e.Code, says = ErrUnavailable, CodeThrottled, "it is busy, or a quota is used up"
		e.Hint = "it is tried again; where it stays, see the quotas of AWS IoT Core in this account and region"
	case 0x80, 0x83, 0x88, 3: // unspecified, of the implementation, unavailable
		e.Class, e.Code, says = ErrUnavailable, CodeUnavailable, "it says that it cannot serve now"
		e.Hint = "it is tried again"
	}
	e.Err = fmt.Errorf("%s (CONNACK reason code %#02x)", says, reason)
	return e
}
