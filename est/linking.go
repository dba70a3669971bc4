package est

import "encoding/asn1"

// Binding ties a request to the TLS session it is sent over, and so the identity that logged in to the key that is asked
// for (RFC 7030 3.5, RFC 7894 3.3). It is good for one connection.
type Binding struct {
	Attribute asn1.ObjectIdentifier // challengePassword or estIdentityLinking
	Value     string                // base64 of tls-unique
}
