package est

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// caCerts asks for /cacerts once in an attempt.
func (c *Client) caCerts(ctx context.Context) ([]*x509.Certificate, error) {
	if c.cas != nil {
		return c.cas, nil
	}
	r := &request{op: "cacerts", certificate: c.o.Certificate}
	a, err := c.do(ctx, r)
	if err != nil {
		return nil, err
	}
	cas, err := certsOnly(a)
	if err != nil {
		return nil, c.badAnswer(r, a, err)
	}
	c.cas = cas
	c.known.CAs, c.known.Fetched = slices.Clone(cas), a.came
	return cas, nil
}

// certsOnly returns the certificates of a successful answer. Its media type is compared alone: what stands behind it
// differs from server to server, and some send none.
func certsOnly(a *answer) ([]*x509.Certificate, error) {
	mediaType, _, _ := strings.Cut(a.header.Get("Content-Type"), ";")
	mediaType = strings.TrimSpace(mediaType)
	if mediaType != "" && !strings.EqualFold(mediaType, "application/pkcs7-mime") {
		return nil, fmt.Errorf("it is of type %q, not application/pkcs7-mime", printable(mediaType))
	}
	return parseCertsOnly(a.body)
}

// badAnswer is for a success that is none. The body's text is kept where it is text.
func (c *Client) badAnswer(r *request, a *answer, err error) *Error {
	e := c.failHint(r, ErrBadResponse, err, "check that the URL leads to an EST server")
	e.Status = a.status
	if strings.HasPrefix(strings.ToLower(a.header.Get("Content-Type")), "text/") {
		e.Detail = quoteBody(a.body, c.secrets)
	}
	return e
}

// enroll is one attempt: /cacerts, the request, the checks.
func (c *Client) enroll(ctx context.Context, op string, csr []byte, want Want) (*Issued, error) {
	r := &request{op: op, certificate: c.o.Certificate, csr: csr}
	asked, err := parseAsked(csr)
	if err != nil {
		return nil, c.fail(r, ErrRejected, nil, err)
	}
	var warnings []string
	fetched, err := c.caCerts(ctx)
	if err != nil {
		var fatal *Error
		if errors.As(err, &fatal) && fatal.Status == 0 {
			return nil, err // the server is not trusted, or not there: asking for more would not do better
		}
		if fatal != nil && fatal.Status == http.StatusBadRequest && c.certificateTaken {
			if refused := c.refusedInFront(ctx, r); refused != nil {
				return nil, refused
			}
		}
		warnings = append(warnings, fmt.Sprintf("the server's CA certificates could not be fetched: %v", err))
	}
	authorities := gather(c.o.Anchors, fetched, c.o.Known.CAs)
	if len(authorities.anchors) == 0 {
		if err == nil {
			e := c.failHint(r, ErrBadResponse, errors.New("the server's /cacerts has no self-signed CA certificate, "+
				"so nothing can vouch for what it issues"), "add the root of the issuing CA to trusted_certs")
			e.Op = "cacerts"
			err = e
		}
		return nil, err
	}
	a, err := c.do(ctx, r)
	if err != nil {
		return nil, err
	}
	certs, err := certsOnly(a)
	if err != nil {
		return nil, c.badAnswer(r, a, err)
	}
	issued, err := check(asked, certs, authorities, want, c.o.Now())
	if err != nil {
		e := c.fail(r, ErrBadResponse, nil, err)
		e.Status = a.status
		if refused, ok := errors.AsType[*notAcceptable](err); ok {
			e.Hint = refused.hint
		}
		return nil, e
	}
	issued.Warnings = slices.Concat(warnings, issued.Warnings)
	issued.PasswordSent = c.passwordSent()
	issued.Connections = c.connections
	return issued, nil
}

// wrapBase64 encodes DER as servers want it: 64 columns, LF, and a final newline. RFC 8951 3.1 leaves the line breaks
// to the sender; libest refuses a body without.
func wrapBase64(der []byte) []byte {
	const columns = 64
	encoded := base64.StdEncoding.AppendEncode(nil, der)
	wrapped := make([]byte, 0, len(encoded)+len(encoded)/columns+1)
	for line := range slices.Chunk(encoded, columns) {
		wrapped = append(append(wrapped, line...), '\n')
	}
	return wrapped
}
