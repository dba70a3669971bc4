package est

import (
	"encoding/asn1"
	"fmt"
)

// Binding ties a request to the TLS session it is sent over, and so the identity that logged in to the key that is
// asked for (RFC 7030 3.5, RFC 7894 3.3). It is good for one connection.
type Binding struct {
	Attribute asn1.ObjectIdentifier // challengePassword or estIdentityLinking
	Value     string                // base64 of tls-unique
}

// bindingLimit is the longest value, in bytes, of challengePassword (RFC 2985, pkcs-9-ub-challengePassword) and of
// estIdentityLinking (RFC 7894, ub-aa-est-identity-linking).
const bindingLimit = 255

// encode returns the attribute's value, a DirectoryString.
func (b *Binding) encode() ([]byte, error) {
	if !b.Attribute.Equal(oidChallengePassword) && !b.Attribute.Equal(oidESTIdentityLinking) {
		return nil, fmt.Errorf("attribute %v is no link", b.Attribute)
	}
	if len(b.Value) == 0 || len(b.Value) > bindingLimit {
		return nil, fmt.Errorf("value of %d bytes, 1 to %d are allowed", len(b.Value), bindingLimit)
	}
	return asn1.Marshal(b.Value)
}
