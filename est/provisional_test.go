package est

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// Whoever answers is asked, whatever its certificate: for /cacerts, once, and for nothing else. What could tell it who
// we are stays at home, and the connection does not outlive the call.
func TestProvisional(t *testing.T) {
	for _, test := range []struct {
		name    string
		prepare func(*server)
	}{
		{"unknown CA", func(*server) {}},
		{"another host name", func(s *server) { s.template.IPAddresses = []net.IP{net.IPv4(192, 0, 2, 1)} }},
		{"expired", func(s *server) {
			s.template.NotBefore, s.template.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
		}},
		{"for no server", func(s *server) { s.template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }},
		{"TLS 1.2", func(s *server) { s.maxVersion = tls.VersionTLS12 }},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newServer(t)
			test.prepare(s)
			issuing := newRoot(t, "issuing root")
			s.handlers["cacerts"] = func(w http.ResponseWriter, r *http.Request) {
				if len(r.TLS.PeerCertificates) != 0 {
					t.Error("a client certificate was offered")
				}
				s.answer(w, s.root.cert, issuing.cert)
			}
			s.start()
			o := Options{URL: s.base(), Timeout: 20 * time.Second,
				Login: login, Certificate: s.root.tlsCertificate(t, clientTemplate("gw-1")), Identity: "certificate mqtt"}
			certs, err := Provisional(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.EqualFunc(certs, []*x509.Certificate{s.root.cert, issuing.cert}, (*x509.Certificate).Equal) {
				t.Errorf("got %d certificates, want the two", len(certs))
			}
			if got := s.log(); len(got) != 1 || got[0].Method != http.MethodGet ||
				got[0].URL.Path != "/.well-known/est/cacerts" || got[0].Header.Get("Authorization") != "" {
				t.Errorf("the server saw %v", paths(got))
			}
			s.awaitClosed()
		})
	}
}

// After acceptance the same server is spoken to over a new session, authorised by what was accepted (RFC 7030 4.1.1).
func TestProvisionalIsFollowedByANewSession(t *testing.T) {
	s := newServer(t).start()
	certs, err := Provisional(t.Context(), Options{URL: s.base()})
	if err != nil {
		t.Fatal(err)
	}
	_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
	if _, err := newClient(t, Options{URL: s.base(), Anchors: certs}).Enroll(t.Context(), csr, Want{}); err != nil {
		t.Error(err)
	}
	if n := s.connections(); n != 2 {
		t.Errorf("%d connections, want 2", n)
	}
	o := Options{URL: s.base(), Anchors: []*x509.Certificate{newRoot(t, "other").cert}}
	_, err = newClient(t, o).CACerts(t.Context())
	if !errors.Is(err, ErrUntrusted) {
		t.Errorf("a server that a provisional connection had reached is trusted: %v", err)
	}
}

// A server that is not authorised gets no login, however it asks for one.
func TestProvisionalShowsNoIdentity(t *testing.T) {
	for _, test := range []struct {
		name    string
		prepare func(*server)
		asked   int
	}{
		{"401", func(s *server) {
			s.handlers["cacerts"] = func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("WWW-Authenticate", `Basic realm="estrealm"`)
				w.WriteHeader(http.StatusUnauthorized)
			}
		}, 1},
		{"certificate demanded", func(s *server) {
			s.clientAuth, s.maxVersion = tls.RequireAnyClientCert, tls.VersionTLS12
		}, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newServer(t)
			test.prepare(s)
			s.start()
			o := Options{URL: s.base(), Login: login, Certificate: s.root.tlsCertificate(t, clientTemplate("gw-1"))}
			_, err := Provisional(t.Context(), o)
			e, ok := errors.AsType[*Error](err)
			if !ok || e.Class != ErrUnauthorized || e.Refusal || !strings.Contains(e.Hint, "not authorised") {
				t.Errorf("got %+v, want ErrUnauthorized, no refusal, and why", err)
			}
			if got := s.log(); len(got) != test.asked {
				t.Errorf("the server saw %v", paths(got))
			}
			s.awaitClosed()
		})
	}
}

func TestProvisionalRedirects(t *testing.T) {
	elsewhere := newServer(t).start()
	for _, test := range []struct {
		name     string
		to       func(base string, n int) string
		err      string // "": it is followed
		requests int
	}{
		{"same origin", func(string, int) string { return "/.well-known/est/moved" }, "", 2},
		{"same origin, whole", func(base string, _ int) string { return base + "/moved" }, "", 2},
		{"another server", func(string, int) string { return elsewhere.base().String() + "/cacerts" }, "another server", 1},
		{"http", func(base string, _ int) string { return "http" + strings.TrimPrefix(base, "https") + "/moved" },
			"which is not https", 1},
		{"with a login", func(base string, _ int) string { return strings.Replace(base, "//", "//u:p@", 1) + "/moved" },
			"with a login", 1},
		{"for ever", func(_ string, n int) string { return fmt.Sprintf("/.well-known/est/cacerts?%d", n) },
			"more than 3 redirects", 4},
		{"no URL", func(string, int) string { return "https://[::1" }, "not a URL", 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newServer(t)
			s.handlers["cacerts"] = func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Location", test.to(s.base().String(), len(s.log())))
				w.WriteHeader(http.StatusTemporaryRedirect)
			}
			s.handlers["moved"] = func(w http.ResponseWriter, _ *http.Request) { s.answer(w, s.root.cert) }
			s.start()
			_, err := Provisional(t.Context(), Options{URL: s.base()})
			switch {
			case test.err == "" && err != nil:
				t.Error(err)
			case test.err != "" && (!errors.Is(err, ErrBadResponse) || !strings.Contains(err.Error(), test.err)):
				t.Errorf("got %v, want ErrBadResponse with %q", err, test.err)
			}
			if n := len(s.log()); n != test.requests {
				t.Errorf("%d requests, want %d", n, test.requests)
			}
		})
	}
	if n := elsewhere.connections(); n != 0 {
		t.Errorf("the other server was spoken to, over %d connections", n)
	}
}

// What comes back is bounded and classed as everywhere else.
func TestProvisionalErrors(t *testing.T) {
	returned := make(chan struct{}) // closed when Provisional has returned
	for _, test := range []struct {
		name   string
		answer http.HandlerFunc
		class  error
		text   string
	}{
		{"too large", func(w http.ResponseWriter, _ *http.Request) { w.Write(bytes.Repeat([]byte("M"), answerLimit+1)) },
			ErrBadResponse, "answer of more than"},
		{"no certificates", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>welcome</html>") },
			ErrBadResponse, "neither base64 nor DER"},
		{"accepted", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusAccepted) },
			ErrBadResponse, "HTTP 202"},
		{"not there", http.NotFound, ErrRejected, "HTTP 404"},
		{"down", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) },
			ErrUnavailable, "HTTP 503"},
		{"no end", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusOK)
			http.NewResponseController(w).Flush()
			<-returned // not the request's end, at which the answer would get one
			panic(http.ErrAbortHandler)
		}, ErrUnavailable, "nothing more came within"},
		{"cut off", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			w.WriteHeader(http.StatusOK)
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}, ErrUnavailable, "read the answer's body"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newServer(t)
			s.handlers["cacerts"] = test.answer
			s.start()
			var certs []*x509.Certificate
			err := withLimits(test.text, func(limit time.Duration) (err error) {
				certs, err = Provisional(t.Context(), Options{URL: s.base(), Timeout: limit})
				return err
			})
			if test.name == "no end" {
				close(returned)
			}
			if certs != nil || !errors.Is(err, test.class) || !strings.Contains(err.Error(), test.text) {
				t.Errorf("got %d certificates and %v, want %v with %q", len(certs), err, test.class, test.text)
			}
			s.awaitClosed()
		})
	}
	t.Run("nobody there", func(t *testing.T) {
		_, err := Provisional(t.Context(), Options{URL: mustParse(t, "https://127.0.0.1:1/.well-known/est")})
		if e, ok := errors.AsType[*Error](err); !ok || e.Class != ErrUnavailable || e.Hint == "" {
			t.Errorf("got %v", err)
		}
	})
	t.Run("not https", func(t *testing.T) {
		_, err := Provisional(t.Context(), Options{URL: mustParse(t, "http://127.0.0.1:1/.well-known/est")})
		if _, ok := errors.AsType[*Error](err); err == nil || ok {
			t.Errorf("got %v, want an error of the options", err)
		}
	})
}

// fingerprintPEM and the fingerprints below are openssl's ("openssl x509 -fingerprint -sha256").
const fingerprintPEM = `-----BEGIN CERTIFICATE-----
MIIBUTCCAQOgAwIBAgIUA32iEj8wtckWllV2Nhy/p2g/JZcwBQYDK2VwMB4xHDAa
BgNVBAMME2ZpbmdlcnByaW50IHRlc3QgQ0EwHhcNMjYxMTIyMDAxNDQzWhcNNDYx
MTE3MDAxNDQzWjAeMRwwGgYDVQQDDBNmaW5nZXJwcmludCB0ZXN0IENBMCowBQYD
K2VwAyEAkJPRGnwSn3WRknm71dhWD0GnAtjN+NQuOeGKMtHOuKejUzBRMB0GA1Ud
DgQWBBRjEdg59644FPlU2AQOsUityBxa1jAfBgNVHSMEGDAWgBRjEdg59644FPlU
2AQOsUityBxa1jAPBgNVHRMBAf8EBTADAQH/MAUGAytlcANBAOyupAHgxiSdUnNg
j52Nx5bw4biN9mQ4b85jWBCs2NKua3JbtkPVve9t6I9GU1pNbf6SGP0pBwgecBWA
B/Cm7AE=
-----END CERTIFICATE-----
`

func TestFingerprinted(t *testing.T) {
	const (
		sha1 = "2C:DB:39:8B:B9:8C:62:1A:7E:2B:37:B8:85:7C:BF:85:F9:0A:A8:31"
		long = "E9:BD:3E:75:5F:F1:E2:50:24:0C:25:BA:59:F1:DE:E6:9F:8E:BE:2E:99:2F:0B:D8:F2:9C:10:74:2D:FF:01:F7"
		sum5 = "F1:D0:6A:93:B4:13:36:D2:EB:34:A9:E3:C4:59:B1:C8:57:59:99:CC:03:14:79:21:7E:14:1E:60:21:78:BD:18:" +
			"42:C8:9B:72:39:64:B4:03:70:35:EA:9B:29:A8:6E:1B:BC:77:D8:40:24:B6:68:9A:EE:D0:99:E7:F9:6E:8D:CC"
	)
	block, _ := pem.Decode([]byte(fingerprintPEM))
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	shown := []*x509.Certificate{newRoot(t, "other").cert, cert, newRoot(t, "third").cert, cert}
	bare := func(s string) string { return strings.ReplaceAll(s, ":", "") }
	for _, test := range []struct {
		name        string
		fingerprint string
		covers      bool
		wrong       bool
	}{
		{"SHA-256", long, true, false},
		{"the line that openssl prints", "sha256 Fingerprint=" + long + "\n", true, false},
		{"lower case", strings.ToLower(long), true, false},
		{"without colons", bare(long), true, false},
		{"as sha256sum prints it", " " + strings.ToLower(bare(long)) + "\n", true, false},
		{"SHA-512", sum5, true, false},
		{"SHA-512 without colons", bare(sum5), true, false},
		{"one digit off", "F" + long[1:], false, false},
		{"last digit off", long[:len(long)-1] + "8", false, false},
		{"cut to a SHA-256", bare(sum5)[:64], false, false},
		{"SHA-1", sha1, false, true},
		{"too short", bare(long)[:62], false, true},
		{"odd", bare(long) + "0", false, true},
		{"not hex", "G" + long[1:], false, true},
		{"empty", "", false, true},
		{"a label alone", "sha256 Fingerprint=", false, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := Fingerprinted(shown, test.fingerprint)
			if (err != nil) != test.wrong {
				t.Fatalf("error %v", err)
			}
			if test.covers && (len(got) != 1 || !got[0].Equal(cert)) || !test.covers && len(got) != 0 {
				t.Errorf("covers %d certificates", len(got))
			}
		})
	}
}
