package est

import (
	"context"
	"crypto/x509"
	"errors"
	"net/http"
)

// Contact is how far the newest connection of a [Client] came, step by step: a person who mends a connection wants to know
// which step failed, and an [*Error] says why. Each step counts only after those before it.
type Contact struct {
	// Proxy is host:port of the proxy that leads to the server, which then resolves the server's name; "" without one, and
	// UnusableProxy where one is set that cannot be used.
	Proxy string
	// Unresolved is set where the name of the server, or of Proxy, was not found.
	Unresolved bool
	// Connected means that the TCP connection stands, through Proxy if there is one. Peer is then its other end, host:port.
	Connected bool
	Peer      string
	// Shown are the certificates that the server presented, its own first; Trusted means that they passed (RFC 7030 3.6).
	Shown   []*x509.Certificate
	Trusted bool
	// Secured means that the TLS handshake was done, and Version is that of TLS then (crypto/tls has the numbers).
	Secured bool
	Version uint16
	// Asked means that the server asked for a client certificate, Offered that it was given Options.Certificate.
	Asked, Offered bool
	// PasswordSent means that Options.Login was asked for and sent in this attempt.
	PasswordSent bool
}

// UnusableProxy stands in Contact.Proxy for a proxy that is set for the URL and is none.
const UnusableProxy = "?"

// Contact tells of the newest connection; the zero Contact but for Proxy before there was one. A refused client certificate
// leads to one more connection, without it (see [Client.Enroll]), which is then the newest.
func (c *Client) Contact() Contact {
	var t Contact
	switch through, err := c.dialer.proxyFor(context.Background(), addressOf(c.o.URL)); {
	case err != nil:
		t.Proxy = UnusableProxy // the operation's error says it
	case through != nil:
		t.Proxy = proxyAddress(through)
	}
	t.PasswordSent = c.passwordSent()
	k := c.newest
	if k == nil {
		return t
	}
	t.Unresolved, t.Connected, t.Shown, t.Trusted = k.unresolved, k.reached, k.chain, k.authorised
	t.Secured, t.Version, t.Asked, t.Offered = k.secured, k.version, k.asked, k.offered
	if k.tcp != nil {
		t.Peer = k.tcp.RemoteAddr().String()
	}
	return t
}

// Present shows the server the login as an enrolment would, and asks for nothing that a CA would act on: /csrattrs (RFC 7030
// 4.5), which a server may answer to anybody. What it says is not kept. status is the answer's: 200, or one that means that
// the server wants nothing in particular or has no such operation (204, 404 and the like). Contact tells what of the login
// was shown. That the server ends the connection over the client certificate is an ErrUnauthorized, also where a proxy that
// ends TLS says so by HTTP 400.
func (c *Client) Present(ctx context.Context) (status int, err error) {
	r := &request{op: "csrattrs", certificate: c.o.Certificate}
	a, err := c.do(ctx, r)
	if err == nil {
		return a.status, nil
	}
	e, ok := errors.AsType[*Error](err)
	if !ok || !wantsNothing(e.Status) {
		return 0, err
	}
	if e.Status == http.StatusBadRequest && c.o.Certificate != nil {
		get := c.getCACerts()
		get.loggedIn = true // as far as it goes: the password is for who asks at /csrattrs
		if _, missing := c.caCerts(ctx, get); isBadRequest(missing) {
			if refused := c.refusedInFront(ctx, r, get); refused != nil {
				return 0, refused
			}
		}
	}
	return e.Status, nil
}
