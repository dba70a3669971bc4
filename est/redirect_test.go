package est

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// redirecting makes s answer op with a redirect to wherever to says.
func (s *server) redirecting(op string, status int, to func() string) {
	s.handlers[op] = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", to())
		w.WriteHeader(status)
	}
}

// RFC 7030 3.2.1 as a table: within the origin everything that keeps its method is followed, to another one a GET, and
// a POST only where a person named that. A login and a client certificate go with the POST and not with the GET.
func TestRedirectsToAnotherServer(t *testing.T) {
	const refused, followed = false, true
	for _, test := range []struct {
		op     string
		status int
		named  bool
		want   bool
	}{
		{"cacerts", 301, false, followed},
		{"cacerts", 302, false, followed},
		{"cacerts", 303, false, followed},
		{"cacerts", 307, false, followed},
		{"cacerts", 308, false, followed},
		{"cacerts", 300, false, refused},
		{"cacerts", 304, false, refused},
		{"cacerts", 307, true, followed},
		{"simpleenroll", 307, true, followed},
		{"simpleenroll", 308, true, followed},
		{"simpleenroll", 301, true, refused},
		{"simpleenroll", 302, true, refused},
		{"simpleenroll", 303, true, refused},
		{"simpleenroll", 307, false, refused},
		{"simpleenroll", 308, false, refused},
	} {
		t.Run(fmt.Sprintf("%s %d, named %v", test.op, test.status, test.named), func(t *testing.T) {
			a, b := newServer(t), newServer(t)
			b.root = a.root
			b.start()
			a.redirecting(test.op, test.status, func() string { return b.base().JoinPath(test.op).String() })
			a.start()
			o := a.options()
			o.Login, o.Certificate = login, a.root.tlsCertificate(t, clientTemplate("gw-1"))
			if test.named {
				o.RedirectHosts = []string{b.base().Host}
			}
			_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
			c := newClient(t, o)
			var err error
			if test.op == "cacerts" {
				_, err = c.CACerts(t.Context())
			} else {
				_, err = c.Enroll(t.Context(), csr, Want{})
			}
			if test.want == refused {
				if !errors.Is(err, ErrBadResponse) || b.connections() != 0 {
					t.Errorf("%v, %d connections to the other server", err, b.connections())
				}
				return
			}
			if err != nil || c.connections != 2 {
				t.Fatalf("%v, %d connections", err, c.connections)
			}
			log := b.log()
			if len(log) != 1 || log[0].URL.Path != "/.well-known/est/"+test.op {
				t.Fatalf("the other server was asked %v", paths(log))
			}
			if shown := len(log[0].TLS.PeerCertificates) > 0; shown != test.named {
				t.Errorf("the other server was shown the certificate: %v", shown)
			}
		})
	}
}

// A login is answered where a person named the server, once at each, and nowhere else.
func TestLoginOverRedirects(t *testing.T) {
	for _, named := range []bool{true, false} {
		a, b := newServer(t), newServer(t)
		b.root = a.root
		op := "cacerts"
		if named {
			op = "simpleenroll"
		}
		challenge := func(s *server, then http.HandlerFunc) {
			s.all = func(w http.ResponseWriter, r *http.Request, usual http.Handler) {
				switch {
				case !strings.HasSuffix(r.URL.Path, op):
					usual.ServeHTTP(w, r)
				case r.Header.Get("Authorization") == "":
					w.Header().Set("WWW-Authenticate", `Basic realm="r"`)
					w.WriteHeader(http.StatusUnauthorized)
				case then != nil:
					then(w, r)
				default:
					usual.ServeHTTP(w, r)
				}
			}
		}
		challenge(b, nil)
		b.start()
		challenge(a, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, b.base().JoinPath(op).String(), http.StatusTemporaryRedirect)
		})
		a.start()
		o := a.options()
		o.Login = login
		_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
		var err error
		if named {
			o.RedirectHosts = []string{b.base().Host}
			_, err = newClient(t, o).Enroll(t.Context(), csr, Want{})
		} else {
			_, err = newClient(t, o).CACerts(t.Context())
		}
		withLogin := func(s *server) (n int) {
			for _, r := range s.log() {
				if r.Header.Get("Authorization") != "" {
					n++
				}
			}
			return n
		}
		if named && (err != nil || withLogin(a) != 1 || withLogin(b) != 1) {
			t.Errorf("%v, %d and %d logins", err, withLogin(a), withLogin(b))
		}
		e, is := errors.AsType[*Error](err)
		if !named && (!is || e.Class != ErrUnauthorized || e.Refusal || withLogin(b) != 0 ||
			!strings.Contains(e.Hint, "redirect_hosts") || !strings.Contains(err.Error(), "redirected to "+b.base().Host)) {
			t.Errorf("%v, hint %q, %d logins", err, e.Hint, withLogin(b))
		}
	}
}

// The server that a redirect leads to is verified by the rule of the anchors: configured or last host under explicit
// ones, all hosts under implicit ones.
func TestRedirectTargetIsAuthorised(t *testing.T) {
	root := newRoot(t, "root")
	const target, base = "localhost", "127.0.0.1"
	for _, test := range []struct {
		name     string
		hosts    []string // in the certificate of the server redirected to
		implicit bool
		ok       bool
	}{
		{"explicit, its own host", []string{target}, false, true},
		{"explicit, the configured host", []string{base}, false, true},
		{"explicit, another", []string{"other.example"}, false, false},
		{"implicit, its own host", []string{target}, true, false},
		{"implicit, the configured host", []string{base}, true, false},
		{"implicit, both", []string{base, target}, true, true},
	} {
		a, b := newServer(t), newServer(t)
		a.root, b.root = root, root
		b.template.DNSNames, b.template.IPAddresses = nil, nil
		for _, host := range test.hosts {
			if ip := net.ParseIP(host); ip != nil {
				b.template.IPAddresses = append(b.template.IPAddresses, ip)
			} else {
				b.template.DNSNames = append(b.template.DNSNames, host)
			}
		}
		b.start()
		there := strings.Replace(b.base().String(), base, target, 1)
		a.redirecting("cacerts", 307, func() string { return there + "/cacerts" })
		a.start()
		o := a.options()
		if test.implicit {
			o.Anchors, o.SystemRoots, o.Roots = nil, true, pool(root.cert)
		}
		_, err := newClient(t, o).CACerts(t.Context())
		if test.ok && err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
		if !test.ok && (!errors.Is(err, ErrUntrusted) || !strings.Contains(err.Error(), "redirected to "+target) ||
			len(b.log()) != 0) {
			t.Errorf("%s: %v, asked %v", test.name, err, paths(b.log()))
		}
	}
}

// A server that sends us elsewhere for its CA certificates, to where they cannot be had, is a server without them: it
// is asked for the rest over a connection of its own, and its neighbour's faults are not held against it or the
// identity.
func TestCACertsElsewhere(t *testing.T) {
	stranger := newServer(t).start()
	demanding := newServer(t)
	for _, test := range []struct {
		name string
		to   func() string
		want string // in the warning
	}{
		{"a server that is not trusted", func() string { return stranger.base().String() }, "unknown CA"},
		{"a server that demands a certificate", func() string { return demanding.base().String() }, "redirected to"},
		{"nobody", func() string { return "https://127.0.0.1:1" }, "redirected to 127.0.0.1:1"},
		{"a server without TLS", func() string { return strings.Replace(stranger.http.URL, "https", "http", 1) },
			"not https"},
		{"circles", nil, "more than 3 redirects"},
	} {
		a := newServer(t)
		if demanding.http == nil {
			demanding.root, demanding.clientAuth = a.root, tls.RequireAndVerifyClientCert
			demanding.clientCAs = pool(a.root.cert)
			demanding.start()
		}
		to := test.to
		if to == nil {
			to = func() string { return a.base().JoinPath("cacerts").String() }
		}
		a.redirecting("cacerts", 302, to)
		a.start()
		o := a.options()
		o.Anchors = append(o.Anchors, demanding.root.cert)
		o.Certificate = a.root.tlsCertificate(t, clientTemplate("gw-1"))
		_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
		issued, err := newClient(t, o).Enroll(t.Context(), csr, Want{})
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if len(issued.Warnings) != 1 || !strings.Contains(issued.Warnings[0], test.want) {
			t.Errorf("%s: warnings %q, want %q", test.name, issued.Warnings, test.want)
		}
	}
	for _, r := range slices.Concat(stranger.log(), demanding.log()) {
		t.Errorf("%s was asked of a server that should not have been", r.URL)
	}
}

// A server that we were redirected to and that demands a certificate gets none, and that is no refusal of the identity.
func TestServerElsewhereThatDemandsACertificate(t *testing.T) {
	a, b := newServer(t), newServer(t)
	b.root, b.maxVersion, b.clientAuth = a.root, tls.VersionTLS12, tls.RequireAndVerifyClientCert // an alert for certain
	b.clientCAs = pool(a.root.cert)
	b.start()
	a.redirecting("cacerts", 302, func() string { return b.base().JoinPath("cacerts").String() })
	a.start()
	o := a.options()
	o.Certificate = a.root.tlsCertificate(t, clientTemplate("gw-1"))
	_, err := newClient(t, o).CACerts(t.Context())
	if e, is := errors.AsType[*Error](err); !is || e.Refusal || e.Class != ErrUnavailable || len(b.log()) != 0 {
		t.Errorf("%v, asked %v", err, paths(b.log()))
	}
}

// What another server gives is used and stored, but neither its certificate nor its session makes an anchor for TLS.
func TestCACertsFromAnotherServer(t *testing.T) {
	shared, own := newRoot(t, "shared root"), newRoot(t, "own root")
	a, b := newServer(t), newServer(t)
	a.root = own
	b.root = shared
	rekeyed := newRoot(t, "shared root")
	b.handlers["cacerts"] = func(w http.ResponseWriter, _ *http.Request) { b.answer(w, shared.cert, rekeyed.cert) }
	b.start()
	a.redirecting("cacerts", 302, func() string { return b.base().JoinPath("cacerts").String() })
	a.start()
	for _, explicit := range []bool{true, false} {
		o := a.options()
		o.Anchors, o.SystemRoots, o.Roots = []*x509.Certificate{shared.cert}, true, pool(own.cert)
		if !explicit {
			o.Anchors, o.Roots = nil, pool(shared.cert, own.cert)
		}
		c := newClient(t, o)
		if _, err := c.CACerts(t.Context()); err != nil {
			t.Fatal(err)
		}
		known := c.Known()
		if len(known.CAs) != 2 || len(known.TLSAnchors) != 0 || known.ImplicitOff {
			t.Errorf("known: %v, anchors for TLS %v, implicit given up: %v", names(known.CAs), names(known.TLSAnchors),
				known.ImplicitOff)
		}
	}
}

// A refused certificate is told from a server that is down at the server that refused it, also behind a redirect.
func TestCertificateRefusedAfterARedirect(t *testing.T) {
	a, b := newServer(t), newServer(t)
	b.root, b.maxVersion, b.clientAuth = a.root, tls.VersionTLS12, tls.VerifyClientCertIfGiven
	b.clientCAs = x509.NewCertPool()
	b.start()
	a.redirecting("simpleenroll", 307, func() string { return b.base().JoinPath("simpleenroll").String() })
	a.start()
	o := a.options()
	o.RedirectHosts = []string{b.base().Host}
	o.Certificate = a.root.tlsCertificate(t, clientTemplate("gw-1"))
	_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
	_, err := newClient(t, o).Enroll(t.Context(), csr, Want{})
	if e, is := errors.AsType[*Error](err); !is || e.Class != ErrUnauthorized || !e.Refusal {
		t.Error(err)
	}
	if got := paths(b.log()); !slices.Equal(got, []string{getCACerts}) {
		t.Errorf("the server behind the redirect was asked %v", got)
	}
}

// After a redirect the connection that is kept is that of the other server. The next operation is back at the first
// one.
func TestNextOperationAfterARedirect(t *testing.T) {
	a, b := newServer(t), newServer(t)
	b.root = a.root
	b.start()
	a.redirecting("cacerts", 302, func() string { return b.base().JoinPath("cacerts").String() })
	a.start()
	_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
	c := newClient(t, a.options())
	issued, err := c.Enroll(t.Context(), csr, Want{})
	if err != nil || c.Traffic().Connections != 3 {
		t.Fatalf("%v, %+v", err, issued)
	}
	if got := paths(a.log()); !slices.Equal(got, []string{getCACerts, postEnroll}) {
		t.Errorf("the configured server was asked %v", got)
	}
}

func TestRedirectHosts(t *testing.T) {
	for _, test := range []struct {
		host, want string // "" is refused
	}{
		{"est.example", "est.example:443"},
		{"EST.example:8443", "est.example:8443"},
		{"192.0.2.1", "192.0.2.1:443"},
		{"::1", "[::1]:443"},
		{"[::1]", "[::1]:443"},
		{"[::1]:8443", "[::1]:8443"},
		{"", ""},
		{":8443", ""},
		{"est.example:", ""},
		{"est.example:https", ""},
		{"https://est.example", ""},
		{"est.example/path", ""},
		{"user@est.example", ""},
		{"est.example?x", ""},
		{"two words", ""},
	} {
		origins, err := parseRedirectHosts([]string{test.host})
		if test.want == "" && err == nil || test.want != "" && (err != nil || !slices.Equal(origins, []string{test.want})) {
			t.Errorf("%q: %v, %v", test.host, origins, err)
		}
		_, err = New(Options{URL: mustParse(t, "https://h/"), SystemRoots: true, RedirectHosts: []string{test.host}})
		if (err == nil) != (test.want != "") {
			t.Errorf("New with %q: %v", test.host, err)
		}
	}
	c := newClient(t, Options{URL: mustParse(t, "https://A.example/"), SystemRoots: true,
		RedirectHosts: []string{"b.example"}})
	for url, want := range map[string]bool{
		"https://a.example/x": true, "https://a.example:443": true, "https://a.example:444": false,
		"https://b.EXAMPLE": true, "https://b.example:8443": false, "https://x.b.example": false,
	} {
		if got := c.named(originOf(mustParse(t, url))); got != want {
			t.Errorf("%s is named: %v", url, got)
		}
	}
}
