package est

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// redirectLimit is how many redirects an operation follows.
const redirectLimit = 3

// addressOf returns host:port of an https URL.
func addressOf(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = "443"
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// originOf returns the web origin (RFC 6454) of an https URL, as host:port. Two spellings of one address count as two
// origins, which is the safe way to be wrong.
func originOf(u *url.URL) string { return strings.ToLower(addressOf(u)) }

// parseRedirectHosts returns the origins that Options.RedirectHosts names. A host without a port means port 443 alone:
// on the other ports of a machine there may be somebody else.
func parseRedirectHosts(hosts []string) ([]string, error) {
	var origins []string
	for _, host := range hosts {
		text := host
		if ip := net.ParseIP(host); ip != nil && strings.Contains(host, ":") {
			text = "[" + host + "]"
		}
		u, err := url.Parse("https://" + text)
		if err != nil || u.Host != text || u.Hostname() == "" || strings.HasSuffix(text, ":") {
			return nil, fmt.Errorf("redirect host %q is not a host, nor host:port", printable(host))
		}
		origins = append(origins, originOf(u))
	}
	return origins, nil
}

// named reports whether a person named that origin, as the server or as one it may redirect to. Others see no login, no
// client certificate and no certification request (RFC 7030 3.2.1).
func (c *Client) named(origin string) bool {
	return origin == originOf(c.o.URL) || slices.Contains(c.redirectOrigins, origin)
}

// elsewhere reports whether r was redirected to an origin other than the configured one.
func (c *Client) elsewhere(r *request) bool {
	return r.target != nil && originOf(r.target) != originOf(c.o.URL)
}

// follow moves r to where a redirect points, as far as RFC 7030 3.2.1 lets a program go there by itself: within the
// origin, and a GET anywhere over https; a POST to another origin only where a person named that. Everything else is an
// ErrBadResponse.
func (c *Client) follow(r *request, a *answer) error {
	location := a.header.Get("Location")
	shown := quote(location, c.secrets, 200)
	next, err := r.target.Parse(location)
	keepsMethod := a.status == http.StatusTemporaryRedirect || a.status == http.StatusPermanentRedirect
	hint := "set the URL to where the server's EST operations really are"
	switch {
	case err != nil:
		err = errors.New("redirect to what is not a URL")
	case a.status == http.StatusMultipleChoices || a.status > http.StatusSeeOther && !keepsMethod:
		err = fmt.Errorf("redirect of a kind that is not followed, to %q", shown)
	case next.Scheme != "https":
		err = fmt.Errorf("redirect to %q, which is not https, is not followed", shown)
	case next.User != nil || next.Hostname() == "":
		err = fmt.Errorf("redirect to %q, a URL with a login or without a host, is not followed", shown)
	case r.csr != nil && !keepsMethod:
		err = fmt.Errorf("redirect to %q would turn the POST into a GET; only 307 and 308 keep it", shown)
	case r.csr != nil && !c.named(originOf(next)):
		err = fmt.Errorf("redirect of a request to another server, %q, is not followed unless a person allows it", shown)
		hint += ", or name that host in redirect_hosts"
	case r.redirects == redirectLimit:
		err = fmt.Errorf("more than %d redirects, the last to %q", redirectLimit, shown)
	}
	if err != nil {
		e := c.fail(r, ErrBadResponse, a, err)
		e.Hint = hint
		return e
	}
	next.Fragment = ""
	if originOf(next) != originOf(r.target) {
		r.hosts = append(slices.Clip(r.hosts), next.Hostname()) // that of the connection stays as it is
	}
	// A login is for one URL only, and who redirects has not refused it: if the next one asks, it is answered.
	r.target, r.authorization, r.challenge, r.loggedIn = next, "", nil, false
	r.redirects++
	return nil
}
