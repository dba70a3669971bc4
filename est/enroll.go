package est

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

func (c *Client) getCACerts() *request { return &request{op: "cacerts", certificate: c.o.Certificate} }

// caCerts asks for /cacerts once in an attempt, with r.
func (c *Client) caCerts(ctx context.Context, r *request) ([]*x509.Certificate, error) {
	if c.cas != nil {
		return c.cas, nil
	}
	a, err := c.do(ctx, r)
	if err != nil {
		return nil, err
	}
	cas, unread, err := certsOnly(a)
	if err != nil {
		return nil, c.badAnswer(r, a, err)
	}
	c.cas, c.unread = cas, unread
	c.learn(a)
	return cas, nil
}

// learn brings Known up to date with c.cas, which a gave.
func (c *Client) learn(a *answer) {
	k := a.over
	if !k.authorised {
		return // nothing follows from what anybody may have sent
	}
	var s session
	if c.named(k.origin) {
		s = session{chain: k.chain, hosts: k.hosts, ends: k.ends}
	}
	reached := a.came
	if !c.o.Reached.IsZero() && c.o.Reached.Before(reached) {
		reached = c.o.Reached
	}
	c.known = c.known.learned(c.cas, c.o.Anchors, s, a.came, reached)
	c.giveUpImplicit()
}

// giveUpImplicit decides on Known.ImplicitOff in an attempt in which /cacerts answered: whether every certificate that
// the configured server showed would have done under explicit anchors alone. It may show more than one.
func (c *Client) giveUpImplicit() {
	if c.implicit == nil || c.cas == nil || len(c.shown) == 0 {
		return
	}
	by := c.trusted(originOf(c.o.URL))
	by.implicit = nil
	c.known.ImplicitOff = !slices.ContainsFunc(c.shown, func(chain []*x509.Certificate) bool {
		_, err := authorise(chain, []string{c.o.URL.Hostname()}, by, c.o.Now())
		return err != nil
	})
}

// certsOnly returns the certificates of a successful answer, and what could not be read of it.
func certsOnly(a *answer) (certs []*x509.Certificate, unread []string, err error) {
	return parseCertificates(a.header.Get("Content-Type"), a.body)
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

// granted is what a server gave, not judged yet.
type granted struct {
	key    crypto.Signer // where the server made it, else nil
	certs  []*x509.Certificate
	unread []string // certificates that could not be read
}

// openEnrolled takes the answer to simpleenroll or simplereenroll apart.
func (c *Client) openEnrolled(r *request, a *answer) (granted, error) {
	certs, unread, err := certsOnly(a)
	if err != nil {
		return granted{}, c.badAnswer(r, a, err)
	}
	return granted{certs: certs, unread: unread}, nil
}

// enroll is one attempt: /cacerts, the request, the checks. open takes the answer apart.
func (c *Client) enroll(
	ctx context.Context, r *request, want Want, open func(*request, *answer) (granted, error),
) (*Issued, error) {
	r.link = want.Link
	asked, err := parseAsked(r.csr)
	if err != nil {
		return nil, c.fail(r, ErrRejected, nil, err)
	}
	warnings, err := c.prepare(ctx, r)
	if err != nil {
		return nil, err
	}
	a, err := c.do(ctx, r)
	if err != nil {
		c.doubtAttributes(err)
		if tried := c.cas != nil || len(warnings) > 0; !tried && isBadRequest(err) {
			// Would /cacerts have been answered so as well?
			get := c.getCACerts()
			if _, missing := c.caCerts(ctx, get); isBadRequest(missing) {
				if refused := c.refusedInFront(ctx, r, get); refused != nil {
					return nil, refused
				}
			}
		}
		return nil, err
	}
	got, err := open(r, a)
	if err != nil {
		return nil, err
	}
	if got.key != nil {
		asked.key = got.key.Public()
	}
	issued, err := c.accept(ctx, asked, got.certs, want)
	if err != nil {
		if len(got.unread) > 0 {
			err = fmt.Errorf("%w (and of the answer %s)", err, quoteList(got.unread))
		}
		e := c.fail(r, ErrBadResponse, nil, err)
		e.Status = a.status
		if refused, ok := errors.AsType[*notAcceptable](err); ok {
			e.Hint = refused.hint
		}
		return nil, e
	}
	for _, unread := range c.unread {
		warnings = append(warnings, "of the server's CA certificates, "+unread)
	}
	for _, unread := range got.unread {
		warnings = append(warnings, "of the answer, "+unread)
	}
	issued.Key = got.key
	issued.Warnings = slices.Concat(warnings, issued.Warnings)
	return issued, nil
}

// prepare sees to it that there is something to verify the answer to r by before r is sent. What it could not have is a
// warning.
func (c *Client) prepare(ctx context.Context, r *request) (warnings []string, err error) {
	var missing error // why there is no answer from /cacerts
	if !c.known.freshCAs(c.o.Fresh, c.o.Now()) {
		get := c.getCACerts()
		if _, missing = c.caCerts(ctx, get); missing != nil {
			// A server that is not trusted, or not there, will not do better when asked for more; unless it is another one
			// that our server sent us to.
			fatal, ok := errors.AsType[*Error](missing)
			if ok && fatal.Status == 0 && !c.elsewhere(get) {
				return nil, missing
			}
			if isBadRequest(missing) {
				if refused := c.refusedInFront(ctx, r, get); refused != nil {
					return nil, refused
				}
			}
			warnings = append(warnings, couldNotFetch(missing))
		}
	}
	if len(gather(c.o.Anchors, c.known).anchors) > 0 {
		return warnings, nil
	}
	if missing != nil {
		return nil, missing
	}
	reason := "the server's /cacerts has no self-signed CA certificate, so nothing can vouch for what it issues"
	if len(c.unread) > 0 {
		reason += "; " + quoteList(c.unread)
	}
	e := c.failHint(r, ErrBadResponse, errors.New(reason), "add the root of the issuing CA to trusted_certs")
	e.Op = "cacerts"
	return nil, e
}

func isBadRequest(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Status == http.StatusBadRequest
}

func couldNotFetch(err error) string {
	return fmt.Sprintf("the server's CA certificates could not be fetched: %v", err)
}

// accept checks what was issued. Where an authority is wanting that /cacerts may give, it is asked for now:
// certificates that were taken for fresh, or could not be had a moment ago, shall not cost one that has been issued.
func (c *Client) accept(ctx context.Context, asked *asked, certs []*x509.Certificate, want Want) (*Issued, error) {
	issued, err := check(asked, certs, gather(c.o.Anchors, c.known), want, c.o.Now())
	if !wantsAuthority(err) || c.cas != nil {
		return issued, err
	}
	if _, missing := c.caCerts(ctx, c.getCACerts()); missing != nil {
		refused, ok := errors.AsType[*notAcceptable](err)
		if !ok {
			return nil, err
		}
		return nil, &notAcceptable{text: refused.text + "; " + couldNotFetch(missing), hint: refused.hint, err: err}
	}
	return check(asked, certs, gather(c.o.Anchors, c.known), want, c.o.Now())
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
