package est

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"time"
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

// linked reports whether requests are to be linked to their TLS session.
func (c *Client) linked() bool { return c.o.LinkIdentity || c.known.Linking }

// capped reports whether connections to an origin are capped at TLS 1.2, because a linked request may go over them: in
// 1.3 tls-unique is not defined (RFC 5929, RFC 9266 1), and nothing says how EST would carry what takes its place.
func (c *Client) capped(origin string) bool { return c.linked() && c.named(origin) }

// links reports whether a request may be linked to k's session.
func (k *conn) links() bool { return k.version <= tls.VersionTLS12 }

// bindingAttribute is where the link stands: where the server said, else in challengePassword, which is as old as EST.
func (c *Client) bindingAttribute() asn1.ObjectIdentifier {
	a := c.attributes
	if a == nil {
		a, _ = parseAttributes(c.known.Attributes) // what cannot be read says nothing
	}
	if a != nil && a.Link {
		return a.binding
	}
	return oidChallengePassword
}

const hintNoLink = "have the server offer TLS 1.2, or not ask for requests that are linked to the TLS session; " +
	"or, where the configuration asks for the link, take that away"

// link has r made anew for connection k, unless it was made for that one (RFC 7030 3.5: tls-unique is that of the very
// connection). Without extended master secret tls-unique is not unique to sessions that were resumed (RFC 7627), which
// ours never are.
func (c *Client) link(r *request, k *conn) *Error {
	if r.linkedTo == k {
		return nil
	}
	switch {
	case r.link == nil:
		return c.fail(r, ErrRejected, nil,
			errors.New("the request is to be linked to the TLS session, and this one cannot be"))
	case len(k.unique) == 0:
		return c.failHint(r, ErrRejected,
			errors.New("the request is to be linked to the TLS session, which has no tls-unique"), hintNoLink)
	}
	binding := Binding{Attribute: c.bindingAttribute(), Value: base64.StdEncoding.EncodeToString(k.unique)}
	csr, err := r.link(binding)
	if err != nil {
		return c.fail(r, ErrRejected, nil, fmt.Errorf("make the request that is linked to the TLS session: %w", err))
	}
	if err := differOnlyInBinding(r.csr, csr, binding); err != nil {
		return c.fail(r, ErrRejected, nil, fmt.Errorf("request that is linked to the TLS session: %w", err))
	}
	r.csr, r.body, r.linkedTo = csr, wrapBase64(csr), k
	if r.challenge != nil { // the answer to it may depend on the body
		if err := c.authorize(r); err != nil {
			return c.fail(r, ErrUnauthorized, nil, err)
		}
	}
	return nil
}

// differOnlyInBinding checks that linked is a signed request that carries the binding, and asks for what plain asks
// for: same key, same subject, same extensions.
func differOnlyInBinding(plain, linked []byte, b Binding) error {
	p, err := x509.ParseCertificateRequest(plain)
	if err != nil {
		return fmt.Errorf("parse certification request: %w", err)
	}
	l, err := x509.ParseCertificateRequest(linked)
	if err != nil {
		return fmt.Errorf("parse certification request: %w", err)
	}
	if err := l.CheckSignature(); err != nil {
		return fmt.Errorf("check certification request: %w", err)
	}
	switch {
	case !bytes.Equal(p.RawSubjectPublicKeyInfo, l.RawSubjectPublicKeyInfo):
		return errors.New("it is for another key")
	case !bytes.Equal(p.RawSubject, l.RawSubject):
		return errors.New("it is for another subject")
	case !slices.EqualFunc(p.Extensions, l.Extensions, sameExtension):
		return errors.New("it asks for other names or extensions")
	}
	want, err := b.encode()
	if err != nil {
		return err
	}
	var info requestInfo
	if _, err := asn1.Unmarshal(l.RawTBSCertificateRequest, &info); err != nil {
		return fmt.Errorf("parse certification request: %w", err)
	}
	for _, a := range info.Attributes {
		if a.Type.Equal(b.Attribute) && len(a.Values) == 1 && bytes.Equal(a.Values[0].FullBytes, want) {
			return nil
		}
	}
	return errors.New("it does not carry the link")
}

func sameExtension(a, b pkix.Extension) bool {
	return a.Id.Equal(b.Id) && a.Critical == b.Critical && bytes.Equal(a.Value, b.Value)
}

// refusedVersion reports whether the other side ended a handshake over the version of TLS.
func refusedVersion(err error) bool {
	a, ok := remoteAlert(err)
	return ok && a.name == "protocol_version"
}

// doubtLinking forgets that the server wants the link, after a handshake under the cap of TLS 1.2 that it ended before
// showing its certificate: it may have no TLS 1.2 any more, or none that we have in common. What is asked next is asked
// over a version that it speaks, and /csrattrs says again whether it still wants the link.
func (c *Client) doubtLinking() { c.known.Linking, c.known.AttributesFetched = false, time.Time{} }

// noTLS12 is for a server that does not speak the version that the link needs.
func (c *Client) noTLS12(r *request, err error) *Error {
	return c.failHint(r, ErrRejected,
		fmt.Errorf("requests are to be linked to the TLS session, for which the server would have to speak TLS 1.2: %w",
			err), hintNoLink)
}

// linkHint is what the link to the TLS session may have to do with HTTP 401 to a request: libest answers so where it
// misses the link, and where it does not match.
func (c *Client) linkHint(r *request) string {
	switch {
	case r.csr == nil:
		return ""
	case r.linkedTo != nil:
		return "; if TLS ends at a proxy in front of the EST server, the link of a request to its TLS session " +
			"never matches there"
	}
	return "; some servers also answer so to a request that is not linked to its TLS session (RFC 7030 3.5), " +
		"as this one was not"
}
