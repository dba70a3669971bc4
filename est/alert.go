package est

import (
	"crypto/tls"
	"strings"

	"certagent/est/tlsalert"
)

// alert is how the other side of a TLS connection says why it ends it (RFC 8446 6.2), and what that usually means here.
type alert struct {
	name string
	// what it says of a client certificate that was offered, and of a handshake before it came to that.
	offered, handshake string
	hint               string // what to do about it where a certificate was offered; "" is nothing special
}

const internalError = "internal_error"

// alerts has those that a server uses against a client certificate or against a handshake as such.
var alerts = map[tls.AlertError]alert{
	40: {name: "handshake_failure", offered: "it does not accept it, for whatever reason",
		handshake: "it has no TLS version, cipher or curve in common with us, or wants a client certificate"},
	42: {name: "bad_certificate", offered: "it cannot verify it, or does not accept it for a reason of its own"},
	43: {name: "unsupported_certificate",
		offered: "it takes no such kind of key, or misses the usage client authentication",
		hint:    "use an identity with the usage client authentication and a key that the server takes (EC P-256, RSA)"},
	44: {name: "certificate_revoked", offered: "it was revoked", hint: "use another identity"},
	45: {name: "certificate_expired", offered: "it has expired or is not valid yet, by the server's clock",
		hint: "compare the clocks of this device and of the server"},
	46: {name: "certificate_unknown", offered: "it does not accept it, for a reason of its own"},
	48: {name: "unknown_ca", offered: "it does not know the CA that issued it",
		hint: "have the server trust the CA that issued this identity, add the intermediate CAs to the identity's " +
			"file, or use another one"},
	49: {name: "access_denied", offered: "it verified it and does not let it in",
		hint: "have the server let this identity in, or use another one"},
	51: {name: "decrypt_error", offered: "it cannot verify what was signed with its key",
		hint: "check that key and certificate belong together"},
	70: {name: "protocol_version", handshake: "it speaks no version of TLS that we do"},
	71: {name: "insufficient_security", handshake: "it wants stronger ciphers than we have in common"},
	80: {name: internalError, offered: "something is wrong in the server",
		handshake: "something is wrong in the server"},
	112: {name: "unrecognized_name", handshake: "it does not serve the host name in the URL"},
	116: {name: "certificate_required", offered: "it wants another one"},
}

// remoteAlert returns the alert with which the other side ended a connection, also one that alerts has not.
func remoteAlert(err error) (a alert, ok bool) {
	number, ok := tlsalert.Received(err)
	if !ok {
		return alert{}, false
	}
	if a, ok = alerts[number]; !ok {
		a.name = strings.TrimPrefix(number.Error(), "tls: ")
	}
	return a, true
}
