package est

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"strings"
)

const (
	hintTerminator = "if a proxy ends TLS in front of the EST server, it takes the login by certificate away: have it " +
		"pass TLS through, let a password log in, or set renew_url to an address where the EST server itself answers"
	hintKept = hintRefused + "; a proxy that ends TLS in front of it may also keep the certificate to itself"
)

// explainRefusal adds to the error of a 401 or 403 what was and was not shown to the server, which is most of what a
// person needs, and what to do about it.
func (c *Client) explainRefusal(e *Error, r *request, a *answer) {
	k, asksPassword := a.over, len(a.header.Values("WWW-Authenticate")) > 0
	if !c.named(k.origin) {
		e.Err = fmt.Errorf("it was redirected to %s, which was shown no login", quote(k.origin, c.secrets, 200))
		e.Hint = "set the URL to that server, or name its host in redirect_hosts"
		return
	}
	var shown []string
	say := func(format string, args ...any) { shown = append(shown, fmt.Sprintf(format, args...)) }

	switch ours := c.o.Certificate; {
	case k.offered:
		say("the client certificate %s was offered", ownName(ours))
		e.Hint = hintKept
	case k.notOffered != nil:
		say("the client certificate %s could not be offered (%v)", ownName(ours), k.notOffered)
		e.Hint = hintKind
	case ours != nil && !k.asked:
		say("it did not ask for a client certificate, so ours, %s, was not offered", ownName(ours))
		e.Hint = hintTerminator
	case k.asked:
		say("it asked for a client certificate, and none is configured")
		e.Hint = "configure a bootstrap certificate, or username and password"
	default:
		say("it did not ask for a client certificate")
		e.Hint = "configure username and password"
	}
	switch {
	case r.loggedIn, c.loginRefused:
		say("the password was sent")
		e.Hint = "check username and password"
	case c.o.Login != nil && !asksPassword:
		say("it did not ask for the password")
	case c.o.Login == nil && asksPassword:
		say("it asks for a password, and none is configured")
		if k.asked && c.o.Certificate != nil {
			e.Hint = "configure username and password, or " + e.Hint
		}
	}
	if a.status == http.StatusUnauthorized {
		e.Hint += c.linkHint(r)
	}
	e.Err = errors.New(quote(strings.Join(shown, "; "), c.secrets, causeLimit))
}

// ownName says whose a certificate of ours is, and who issued it.
func ownName(certificate *tls.Certificate) string {
	leaf := certificate.Leaf
	if leaf == nil {
		var err error
		if leaf, err = x509.ParseCertificate(certificate.Certificate[0]); err != nil {
			return "that cannot be read"
		}
	}
	return fmt.Sprintf("%s, issued by %s", subjectOf(leaf), issuerOf(leaf))
}
