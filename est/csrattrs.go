package est

import (
	"bytes"
	"context"
	"crypto"
	"encoding/asn1"
	"errors"
	"net/http"
	"time"
)

// Attributes is what a server wants to see in a request (RFC 7030 4.5, RFC 8951 4, RFC 9908): advice from the network,
// which the caller's own configuration bounds. The exported fields are for the caller to follow or not; everything
// else is for [Attributes.Apply].
type Attributes struct {
	// Algorithm is the kind of key: "ec", "rsa" or "ed25519"; "" if the server does not say.
	Algorithm string
	// Bits is the size of the key: the curve's (256, 384, 521) or the modulus's (at most 8192); 0 if the server does not
	// say, or says a size or curve that is not ours.
	Bits int
	// Hash is that of the signature: SHA-256, SHA-384 or SHA-512; 0 if the server does not say.
	Hash crypto.Hash
	// Link means that the request must be linked to the TLS session. Enrolling does so by itself, by Want.Link.
	Link bool

	binding    asn1.ObjectIdentifier // the attribute that links: challengePassword or estIdentityLinking; nil if !Link
	subject    []relativeNameSET     // wanted in the subject, in order
	extensions []advisedExtension    // wanted extensions, each once
	otherKeys  []string              // kinds of key that are wanted and that we do not make
}

// relativeNameSET is a relative distinguished name whose values may be left for the client to fill in
// (RelativeDistinguishedNameTemplate of RFC 9908 3.4). encoding/asn1 takes a SET OF by the type's name.
type relativeNameSET []attributeTemplate

// attributeTemplate is a SingleAttributeTemplate of RFC 9908 3.4. Without a value its FullBytes are empty.
type attributeTemplate struct {
	Type  asn1.ObjectIdentifier
	Value asn1.RawValue `asn1:"optional"`
}

// advisedExtension is an ExtensionTemplate of RFC 9908 3.4. Its value is nil where the client is to fill it in.
type advisedExtension struct {
	ID    asn1.ObjectIdentifier
	Value []byte
}

// Attributes asks for /csrattrs, or takes the answer of Options.Known where Options.Fresh allows it. nil means that the
// server wants nothing in particular: an empty list, 204 and 404 are usual, and 400, 405 and 501 mean that it has no
// such operation. Within an attempt it is asked once.
//
// Attributes are advice, and an error need not keep a caller from enrolling: where it is about the server as a whole,
// the enrolment meets it as well. ErrBadResponse means that the answer cannot be understood. After an error Known is
// as it was.
func (c *Client) Attributes(ctx context.Context) (*Attributes, error) {
	if c.attributesAsked {
		return c.attributes, nil
	}
	if c.known.freshAttributes(c.o.Fresh, c.o.Now()) {
		if a, err := parseAttributes(c.known.Attributes); err == nil {
			c.attributes = a
			c.known.Linking = a != nil && a.Link
			return a, nil
		}
	}
	r := &request{op: "csrattrs", certificate: c.o.Certificate}
	linked := c.linked()
	answer, err := c.do(ctx, r)
	if err != nil && linked && !c.linked() {
		answer, err = c.do(ctx, r) // doubtLinking says why
	}
	var der []byte
	switch e, _ := errors.AsType[*Error](err); {
	case e != nil && wantsNothing(e.Status):
	case err != nil:
		return nil, err
	default:
		if der, err = attributesDER(answer.body); err != nil {
			return nil, c.badAnswer(r, answer, err)
		}
	}
	a, err := parseAttributes(der)
	if err != nil {
		return nil, c.badAnswer(r, answer, err)
	}
	c.attributes, c.attributesAsked = a, true
	c.known.Attributes, c.known.AttributesFetched = der, c.o.Now()
	c.known.Linking = a != nil && a.Link
	return a, nil
}

// freshAttributes reports whether Attributes need not be asked for again: they are no older than within.
func (k Known) freshAttributes(within time.Duration, now time.Time) bool {
	age := now.Sub(k.AttributesFetched)
	return !k.AttributesFetched.IsZero() && age >= 0 && age < within
}

// wantsNothing reports whether a status to /csrattrs is the normal answer of a server that wants nothing in particular
// (204, 404: RFC 7030 4.5.2), or that does not have the operation.
func wantsNothing(status int) bool {
	switch status {
	case http.StatusNoContent, http.StatusNotFound, http.StatusBadRequest, http.StatusMethodNotAllowed,
		http.StatusNotImplemented:
		return true
	}
	return false
}

// doubtAttributes has the next attempt ask /csrattrs again, where a request that followed a stored answer was refused
// for what stands in it, or for what does not.
func (c *Client) doubtAttributes(err error) {
	e, ok := errors.AsType[*Error](err)
	if ok && e.Status >= 400 && e.Status < 500 && !c.attributesAsked {
		c.known.AttributesFetched = time.Time{}
	}
}

// attributesDER returns the DER in the body of an answer; nil for one that is empty.
func attributesDER(body []byte) ([]byte, error) {
	if len(bytes.Trim(body, padding)) == 0 {
		return nil, nil
	}
	return decodeBody(body)
}
