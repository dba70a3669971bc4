package est

import (
	"context"
	"crypto"
)

// Attributes is what a server wants to see in a request (RFC 7030 4.5, RFC 8951 4, RFC 9908): advice from the network,
// which the caller's own configuration bounds.
type Attributes struct {
	// Algorithm is the kind of key: "ec" or "rsa"; "" if the server does not say.
	Algorithm string
	// Bits is the size of the key: the curve's (256, 384, 521) or the modulus's; 0 if the server does not say.
	Bits int
	// Hash is that of the signature; 0 if the server does not say.
	Hash crypto.Hash
	// Link means that the request must be linked to the TLS session.
	Link bool
}

// Attributes asks for /csrattrs, or takes the answer of Known where it is fresh. nil means that the server wants nothing
// in particular: 204, 404 and an empty list are usual.
func (c *Client) Attributes(ctx context.Context) (*Attributes, error) { return nil, nil }

// Apply returns t with what the server asks for and t leaves open, and a sentence about each thing that the server asks
// for and does not get.
func (a *Attributes) Apply(t Template) (Template, []string) { return t, nil }
