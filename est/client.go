package est

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"
)

// Options says which server a [Client] talks to, what it trusts, and who it comes as. New reads it once; later
// changes have no effect.
type Options struct {
	// URL is the base of the operations (RFC 7030 3.2.2), https://host[:port][/prefix]/.well-known/est[/label]; the
	// operation's name is appended. Only https, without user information, query and fragment.
	URL *url.URL

	// Anchors are the explicit trust anchors (RFC 7030 3.6.1), for the server's TLS certificate and for what it
	// issues.
	Anchors []*x509.Certificate

	// SystemRoots accepts the implicit trust anchors (RFC 7030 3.6.2) for the server's TLS certificate as well, until
	// Known.ImplicitOff. They never vouch for an issued certificate. Without Anchors, SystemRoots and Known.TLSAnchors
	// nothing would be trusted and New fails.
	SystemRoots bool

	// Roots are the implicit trust anchors to use in place of the system's, for a device with a store of its own.
	// nil means the system's.
	Roots *x509.CertPool

	// Known is what earlier attempts at this URL learned.
	Known Known

	// Fresh is how old an answer in Known may be that is taken in place of asking /cacerts or /csrattrs again. 0 means
	// that both are asked at each attempt. CA certificates of which one expires within that time are not fresh.
	Fresh time.Duration

	// RedirectHosts are the other servers, as host or host:port, to which an enrolment may be redirected (RFC 7030
	// 3.2.1): what only a person may allow. They see the login and the client certificate as the configured server
	// does. A host without a port means port 443. To all others a GET alone is redirected, without either.
	RedirectHosts []string

	// LinkIdentity links each request to its TLS session (RFC 7030 3.5), also where the server does not ask for it.
	LinkIdentity bool

	// Certificate is offered to the server, with its whole chain, when the server asks for one. nil means none.
	Certificate *tls.Certificate

	// Identity is what Certificate is, for the text of errors: "certificate mqtt", "bootstrap certificate".
	Identity string

	// Login answers an HTTP 401, beside Certificate: once in an operation at each URL of a server that a person named, and
	// no more once it was refused. As HTTP Basic, and once URL's server has taken it, it goes with the later operations
	// of the attempt unasked (RFC 7617 2.2), which saves a connection for each. nil means none.
	Login *Login

	// Now is the clock for validity and for Retry-After dates. nil means time.Now.
	Now func() time.Time

	// Reached is a time that is known to have come, however wrong Now may be: of what Known holds nothing is forgotten for
	// having expired since. A clock that ran ahead for an hour must not cost trust anchors. Zero means that Now is believed.
	Reached time.Time

	// Timeout bounds one request from dialling to the last byte of the answer. 0 means one minute. An enrolment makes
	// two requests, and more where it is asked for a login, is redirected, or has to find out why a connection ended;
	// the context bounds it as a whole.
	Timeout time.Duration

	// Proxy returns the proxy for a request, as [Dialer.Proxy] does. An https proxy's own certificate is verified by the
	// implicit anchors. nil means what it means there.
	Proxy func(*http.Request) (*url.URL, error)

	// UserAgent is the User-Agent header. "" means "certagent".
	UserAgent string
}

const defaultTimeout = time.Minute

// Client makes one attempt at a server: it keeps one connection, and is closed after it. It is not for concurrent
// use.
type Client struct {
	o        Options
	dialer   Dialer
	implicit *x509.CertPool // nil without Options.SystemRoots

	redirectOrigins []string // of Options.RedirectHosts

	conn        *conn // the connection kept between requests; nil if there is none
	newest      *conn // the last that was dialled, for Contact; nil if there is none
	connections int   // TLS connections opened so far
	statuses    []int // of the answers so far, see Traffic
	meter       meter
	closed      bool

	secrets      []string // what of Login was sent, in the forms an answer could quote
	loginRefused bool     // it was answered with another 401: more would only lock the account
	basic        string   // the Authorization that the configured server took in this attempt; "" if none, or no Basic

	// certificateTaken is the origin to which a connection on which Options.Certificate was offered has carried an
	// answer: when a later one to it ends, it is not for the certificate.
	certificateTaken string

	cas    []*x509.Certificate   // what /cacerts answered in this attempt
	unread []string              // certificates in that answer that could not be read
	shown  [][]*x509.Certificate // the certificates, with chain, that the configured server showed in it
	known  Known                 // Options.Known and what this attempt added

	attributes      *Attributes // what the server wants, as far as it was asked for; nil if nothing
	attributesAsked bool        // /csrattrs answered in this attempt
}

// New returns a client for one attempt. It opens no connection. It fails on options that cannot lead to an attempt.
func New(o Options) (*Client, error) {
	if err := checkURL(o.URL); err != nil {
		return nil, err
	}
	if o.Certificate != nil && (len(o.Certificate.Certificate) == 0 || o.Certificate.PrivateKey == nil) {
		return nil, errors.New("client certificate without certificate or key")
	}
	origins, err := parseRedirectHosts(o.RedirectHosts)
	if err != nil {
		return nil, err
	}
	if len(o.Anchors) == 0 && len(o.Known.TLSAnchors) == 0 && !o.SystemRoots {
		return nil, errors.New("no trust anchors: neither explicit ones nor the system's roots are to be trusted")
	}
	c := bare(o)
	c.redirectOrigins = origins
	if o.SystemRoots {
		c.implicit = o.Roots
		if c.implicit == nil {
			roots, err := x509.SystemCertPool()
			if err != nil {
				return nil, fmt.Errorf("read the system's root certificates: %w", err)
			}
			c.implicit = roots
		}
	}
	return c, nil
}

// trusted returns what the server at an origin is judged by. The implicit anchors are given up for the configured
// server alone, and only as they were when the attempt began: what it learns takes nothing away from itself.
func (c *Client) trusted(origin string) trusted {
	by := trusted{implicit: c.implicit, between: c.known.intermediates(), learned: len(c.known.TLSAnchors) > 0}
	anchors := slices.Concat(c.o.Anchors, c.known.TLSAnchors)
	if len(anchors) > 0 {
		by.explicit = poolOf(anchors)
	}
	lasting := slices.ContainsFunc(anchors, func(anchor *x509.Certificate) bool { return !expired(anchor, c.o.Now()) })
	if c.o.Known.ImplicitOff && c.implicit != nil && lasting && origin == originOf(c.o.URL) {
		by.implicit, by.implicitOff = nil, true
	}
	return by
}

// bare returns a client with the defaults filled in that trusts nobody.
func bare(o Options) *Client {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Timeout <= 0 {
		o.Timeout = defaultTimeout
	}
	if o.UserAgent == "" {
		o.UserAgent = "certagent"
	}
	return &Client{o: o, dialer: Dialer{Proxy: o.Proxy, ProxyRoots: o.Roots, Now: o.Now}, known: o.Known}
}

func (c *Client) passwordSent() bool { return len(c.secrets) > 0 }

func checkURL(u *url.URL) error {
	switch {
	case u == nil:
		return errors.New("no URL")
	case u.Scheme != "https":
		return fmt.Errorf("URL %s: EST is spoken over https only", u.Redacted())
	case u.Hostname() == "":
		return fmt.Errorf("URL %s: no host", u.Redacted())
	case u.User != nil:
		return fmt.Errorf("URL %s: a login does not belong into the URL", u.Redacted())
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		// Not quoted: a token may have been pasted there.
		return fmt.Errorf("URL %s://%s%s: query and fragment have no meaning in EST", u.Scheme, u.Host, u.EscapedPath())
	}
	return nil
}

// Close ends the connection, if there is one, with a close-notify. The client is of no use after it. Close may be
// called more than once.
func (c *Client) Close() {
	c.HangUp()
	c.closed = true
}

// Want says what else is accepted in an answer.
type Want struct {
	CA bool // a CA certificate was asked for

	// Link makes the request anew with a binding in it, same key, same names: for a server that wants it linked to the
	// TLS session. It is called after the handshake of each connection that the request is to be sent over, and
	// what it returns is sent in place of the csr given. nil means that such a server cannot be served.
	Link func(Binding) (csr []byte, err error)
}

// Issued is a checked answer to an enrolment.
type Issued struct {
	Leaf *x509.Certificate // the certificate for the key of the request

	// Key is the private key that the server made, and nil but for [Client.ServerKeygen].
	Key crypto.Signer

	// Chain holds the intermediates between Leaf and the anchor, in order, without the anchor and without duplicates.
	Chain []*x509.Certificate

	// CAs are the anchors to hand to consumers (RFC 7030 4.1.3): the self-signed ones of Known.CAs that are valid, and the
	// anchor at which the chain of Leaf ended where that is another one.
	CAs []*x509.Certificate

	// Warnings tell what the CA left out, added or rewrote in a way that leaves the certificate usable, and what
	// else went less than well. One sentence each.
	Warnings []string
}

// CACerts fetches the server's CA certificates (RFC 7030 4.1), whatever Options.Fresh says, and brings Known up to date
// with them. The answer came from an authorised server; the certificates in it have not been judged. Within an
// attempt the answer is kept: Enroll does not fetch it again.
func (c *Client) CACerts(ctx context.Context) ([]*x509.Certificate, error) {
	cas, err := c.caCerts(ctx, c.getCACerts())
	return slices.Clone(cas), err
}

// Enroll sends a PKCS#10 request (DER) to simpleenroll (RFC 7030 4.2.1) and checks the answer.
//
// Before it sends anything that a CA would act on it fetches /cacerts over the same connection, unless what Known holds
// is fresh. That this fails is a warning as long as Options.Anchors or Known can vouch for the answer; that the server
// is not trusted, or the connection breaks, is the error of the attempt. Where the certificate that was issued cannot
// be verified for want of an authority and /cacerts has not been had in this attempt, it is fetched then.
//
// Of the answer the certificate whose key is the request's is taken; it may be the one that is being renewed. It must
// chain to Options.Anchors or to the server's own CA certificates, be valid now (a notBefore up to five minutes ahead
// of our clock is accepted, for CAs whose clock runs fast), be no CA certificate unless want says so, and not name a
// subject other than the one asked for. Attributes, names and usages that the CA left out or added are warnings.
func (c *Client) Enroll(ctx context.Context, csr []byte, want Want) (*Issued, error) {
	r := &request{op: "simpleenroll", certificate: c.o.Certificate, csr: csr}
	return c.enroll(ctx, r, want, c.openEnrolled)
}

// Reenroll sends a PKCS#10 request (DER) to simplereenroll (RFC 7030 4.2.2); Options.Certificate should be the
// certificate being renewed. It is Enroll in everything else.
func (c *Client) Reenroll(ctx context.Context, csr []byte, want Want) (*Issued, error) {
	r := &request{op: "simplereenroll", certificate: c.o.Certificate, csr: csr}
	return c.enroll(ctx, r, want, c.openEnrolled)
}
