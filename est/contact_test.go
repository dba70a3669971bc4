package est

import (
	"crypto/tls"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// Contact tells which step of a connection failed, with a proxy on the way and without.
func TestContact(t *testing.T) {
	s := newServer(t)
	s.template.DNSNames = append(s.template.DNSNames, "est.invalid")
	s.start()
	p := &connectProxy{t: t, target: s.http.Listener.Addr().String()}
	good := "http://proxyuser:geheim@" + listen(t, p.serve)
	for _, test := range []struct {
		name, host, proxy string
		want              Contact // but for Shown, Peer and Version
	}{
		{"direct", "", "", Contact{Connected: true, Trusted: true, Secured: true}},
		{"no such name", "no..such", "", Contact{Unresolved: true}},
		{"nobody there", "127.0.0.1:1", "", Contact{}},
		{"through a proxy", "est.invalid", good, Contact{Connected: true, Trusted: true, Secured: true}},
		{"for another host", "other.invalid", good, Contact{Connected: true}},
		{"refused by the proxy", "est.invalid", strings.Replace(good, "geheim", "falsch", 1), Contact{}},
		{"a proxy of no such name", "est.invalid", "http://no..such:1", Contact{Unresolved: true}},
		{"no proxy", "est.invalid", "gopher://proxy", Contact{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := s.options()
			o.Proxy = func(*http.Request) (*url.URL, error) {
				if test.proxy == "" {
					return nil, nil
				}
				return url.Parse(test.proxy)
			}
			if test.host != "" {
				o.URL = mustParse(t, "https://"+test.host+"/.well-known/est")
			}
			c := newClient(t, o)
			if c.Contact().Connected {
				t.Error("connected before anybody dialled")
			}
			_, err := c.CACerts(t.Context())
			got := c.Contact()
			if (err == nil) != got.Secured {
				t.Errorf("%v", err)
			}
			if u, _ := url.Parse(test.proxy); u.Scheme == "gopher" && got.Proxy != UnusableProxy ||
				u.Scheme == "http" && got.Proxy != u.Host {
				t.Errorf("proxy is %q", got.Proxy)
			}
			if got.Connected != (got.Peer != "") || got.Connected != (len(got.Shown) > 0) || got.Secured != (got.Version == tls.VersionTLS13) {
				t.Errorf("%+v", got)
			}
			got.Proxy, got.Peer, got.Shown, got.Version, got.Asked = "", "", nil, 0, false
			if got.Connected != test.want.Connected || got.Unresolved != test.want.Unresolved || got.Trusted != test.want.Trusted ||
				got.Secured != test.want.Secured {
				t.Errorf("%+v, want %+v", got, test.want)
			}
		})
	}
}

// Present tells how a login was taken, and asks for nothing but /csrattrs, and /cacerts where that is what it takes to
// understand an HTTP 400.
func TestPresent(t *testing.T) {
	challenge := func(w http.ResponseWriter, r *http.Request) {
		if _, password, _ := r.BasicAuth(); password != login.Password {
			w.Header().Set("WWW-Authenticate", `Basic realm="r"`)
			w.WriteHeader(http.StatusUnauthorized)
		}
	}
	status := func(n int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(n) }
	}
	// As nginx answers a client whose certificate it cannot verify, whatever it asks.
	inFront := func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.PeerCertificates) > 0 {
			w.WriteHeader(http.StatusBadRequest)
		}
	}
	for _, test := range []struct {
		name     string
		handler  http.HandlerFunc
		login    *Login
		status   int
		class    error
		password bool
		// everything is answered so, /cacerts too.
		everything bool
	}{
		{"taken", status(200), login, 200, nil, false, false},
		{"nothing wanted", status(204), login, 204, nil, false, false},
		{"no such operation", status(404), nil, 404, nil, false, false},
		{"the operation is not understood", status(400), nil, 400, nil, false, false},
		{"refused", status(403), login, 0, ErrUnauthorized, false, false},
		{"refused by what stands in front", inFront, login, 0, ErrUnauthorized, false, true},
		{"the password is asked for", challenge, login, 200, nil, true, false},
		{"the password is asked for, and there is none", challenge, nil, 0, ErrUnauthorized, false, false},
		{"unwell", status(503), login, 0, ErrUnavailable, false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newServer(t)
			s.handlers["csrattrs"] = test.handler
			if test.everything {
				s.handlers["cacerts"] = func(w http.ResponseWriter, r *http.Request) {
					if test.handler(w, r); len(r.TLS.PeerCertificates) == 0 {
						s.answer(w, s.root.cert)
					}
				}
			}
			s.start()
			o := s.options()
			o.Certificate, o.Login = s.root.tlsCertificate(t, clientTemplate("gw-1")), test.login
			c := newClient(t, o)
			got, err := c.Present(t.Context())
			if got != test.status || !errors.Is(err, test.class) {
				t.Errorf("%d, %v; want %d, %v", got, err, test.status, test.class)
			}
			if sent := c.Contact().PasswordSent; sent != test.password {
				t.Errorf("password sent: %v", sent)
			}
			for _, r := range s.log() {
				if r.Method != http.MethodGet {
					t.Errorf("the server was asked %s %s", r.Method, r.URL.Path)
				}
			}
		})
	}
}
