// Package tlsalert tells with which alert the other side of a TLS connection ended it (RFC 8446 6). What an alert means is
// a matter of the protocol above.
package tlsalert

import (
	"crypto/tls"
	"errors"
	"net"
)

// Received is the alert that ended the connection on which err occurred, and false where none that came from the other side
// did. crypto/tls exports neither its type nor a way to it (errors.As finds no tls.AlertError in what came from outside, as
// of Go 1.26): it marks the error with an operation, and has the text that an AlertError of the same number has.
func Received(err error) (tls.AlertError, bool) {
	operation, ok := errors.AsType[*net.OpError](err)
	if !ok || operation.Op != "remote error" {
		return 0, false
	}
	text := operation.Err.Error()
	for number := range 256 {
		if a := tls.AlertError(number); a.Error() == text {
			return a, true
		}
	}
	return 0, false
}

// OverCertificate reports whether an alert says that the certificate which was shown is not accepted: bad_certificate to
// certificate_unknown, unknown_ca, access_denied, decrypt_error, certificate_required (RFC 8446 6.2). handshake_failure,
// which may mean that too, may mean anything else.
func OverCertificate(a tls.AlertError) bool {
	switch a {
	case 42, 43, 44, 45, 46, 48, 49, 51, 116:
		return true
	}
	return false
}
