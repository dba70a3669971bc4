package est

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// What a person reads after a refusal, as a whole: which server, which operation, who we came as, what was shown and
// what came back. The first line of want is the error, the second its hint.
func TestRefusalTexts(t *testing.T) {
	asks := func(challenge string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			if challenge != "" {
				w.Header().Set("WWW-Authenticate", challenge)
			}
			w.WriteHeader(http.StatusUnauthorized)
			io.WriteString(w, "no")
		}
	}
	for _, test := range []struct {
		name        string
		certificate bool
		login       *Login
		auth        tls.ClientAuthType
		handler     http.HandlerFunc
		want        string
	}{
		{"wrong password", false, login, tls.NoClientCert, asks(`Basic realm="r"`),
			`est simpleenroll at https://HOST/.well-known/est as user "estuser": server refused the login (HTTP 401): ` +
				`it did not ask for a client certificate; the password was sent: "no"
check username and password`},
		{"password and certificate", true, login, tls.RequestClientCert, asks(`Basic realm="r"`),
			`est simpleenroll at https://HOST/.well-known/est as certificate mqtt: server refused the login (HTTP 401): ` +
				`the client certificate "CN=gw-1", issued by "CN=test root" was offered; the password was sent: "no"
check username and password`},
		{"password asked for, none configured", true, nil, tls.RequestClientCert, asks(`Basic realm="r"`),
			`est simpleenroll at https://HOST/.well-known/est as certificate mqtt: server refused the login (HTTP 401): ` +
				`the client certificate "CN=gw-1", issued by "CN=test root" was offered; ` +
				`it asks for a password, and none is configured: "no"
configure username and password, or have the server accept the CA that issued this identity, or use another one; ` +
				`a proxy that ends TLS in front of it may also keep the certificate to itself`},
		{"certificate not asked for", true, nil, tls.NoClientCert, asks(""),
			`est simpleenroll at https://HOST/.well-known/est as certificate mqtt: server refused the login (HTTP 401): ` +
				`it did not ask for a client certificate, so ours, "CN=gw-1", issued by "CN=test root", was not offered: "no"
if a proxy ends TLS in front of the EST server, it takes the login by certificate away: have it pass TLS through, ` +
				`let a password log in, or set renew_url to an address where the EST server itself answers`},
		{"nothing to show, certificate asked for", false, nil, tls.RequestClientCert, asks(""),
			`est simpleenroll at https://HOST/.well-known/est: server refused the login (HTTP 401): ` +
				`it asked for a client certificate, and none is configured: "no"
configure a bootstrap certificate, or username and password`},
		{"nothing to show, nothing but a password asked for", false, nil, tls.NoClientCert, asks(`Basic realm="r"`),
			`est simpleenroll at https://HOST/.well-known/est: server refused the login (HTTP 401): ` +
				`it did not ask for a client certificate; it asks for a password, and none is configured: "no"
configure username and password`},
		{"certificate refused by HTTP", true, login, tls.RequestClientCert, func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "not you", http.StatusForbidden)
		},
			`est simpleenroll at https://HOST/.well-known/est as certificate mqtt: server refused the login (HTTP 403): ` +
				`the client certificate "CN=gw-1", issued by "CN=test root" was offered; it did not ask for the password: "not you"
have the server accept the CA that issued this identity, or use another one; ` +
				`a proxy that ends TLS in front of it may also keep the certificate to itself`},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newServer(t)
			s.clientAuth = test.auth
			s.handlers["simpleenroll"] = test.handler
			s.start()
			o := s.options()
			o.Login = test.login
			if test.certificate {
				o.Certificate, o.Identity = s.root.tlsCertificate(t, clientTemplate("gw-1")), "certificate mqtt"
			}
			_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
			_, err := newClient(t, o).Enroll(t.Context(), csr, Want{})
			want := test.want
			if strings.Contains(want, "HTTP 401") {
				want += notLinked
			}
			compareText(t, err, o, want)
			if e, ok := errors.AsType[*Error](err); !ok || e.Class != ErrUnauthorized || !e.Refusal || e.Status == 0 {
				t.Errorf("%+v", e)
			}
		})
	}
}

// notLinked ends the hint of each 401 to a request that was not linked to its TLS session.
const notLinked = "; some servers also answer so to a request that is not linked to its TLS session (RFC 7030 3.5), " +
	"as this one was not"

func compareText(t *testing.T, err error, o Options, want string) {
	t.Helper()
	e, ok := errors.AsType[*Error](err)
	if !ok {
		t.Fatalf("got %v", err)
	}
	if got := strings.ReplaceAll(err.Error(), o.URL.Host, "HOST") + "\n" + e.Hint; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// alertServer ends each handshake in which a client certificate is offered with an alert, and answers /cacerts to
// whoever offers none. After the alert it reads on, so that the alert is not lost in a reset.
func alertServer(t *testing.T, root *authority, end func(raw net.Conn, config *tls.Config)) Options {
	pair := root.tlsCertificate(t, serverTemplate())
	address := listen(t, func(raw net.Conn) {
		config := &tls.Config{Certificates: []tls.Certificate{*pair}, ClientAuth: tls.RequestClientCert}
		end(raw, config)
		c := tls.Server(raw, config)
		if err := c.Handshake(); err != nil {
			io.Copy(io.Discard, raw)
			return
		}
		c.Read(make([]byte, 4096))
		io.WriteString(c, ok(certsOnlyBody(t, root.cert)))
	})
	return Options{URL: mustParse(t, "https://"+address+"/.well-known/est"), Anchors: []*x509.Certificate{root.cert},
		Identity: "certificate mqtt", Timeout: 20 * time.Second}
}

// Every alert that speaks of a certificate says what it usually means, whether crypto/tls would send it or not: under
// TLS 1.2 the server's side is not encrypted yet, and any number can be put there.
func TestAlertsAgainstACertificate(t *testing.T) {
	root := newRoot(t, "test root")
	for _, number := range slices.Sorted(maps.Keys(alerts)) {
		a := alerts[number]
		if a.offered == "" {
			continue
		}
		t.Run(a.name, func(t *testing.T) {
			o := alertServer(t, root, func(raw net.Conn, config *tls.Config) {
				config.MaxVersion = tls.VersionTLS12
				config.VerifyConnection = func(state tls.ConnectionState) error {
					if len(state.PeerCertificates) == 0 {
						return nil
					}
					raw.Write([]byte{21, 3, 3, 0, 2, 2, byte(number)})
					return errors.New("said")
				}
			})
			o.Certificate = root.tlsCertificate(t, clientTemplate("gw-1"))
			_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
			_, err := newClient(t, o).Reenroll(t.Context(), csr, Want{})
			hint := a.hint
			if hint == "" {
				hint = hintRefused
			}
			compareText(t, err, o, fmt.Sprintf("est cacerts at https://HOST/.well-known/est as certificate mqtt: "+
				"server refused the login: it ended the connection when offered the certificate "+
				`"CN=gw-1", issued by "CN=test root" (TLS alert %s: %s), and answers without it`+"\n%s", a.name, a.offered, hint))
			if e, _ := errors.AsType[*Error](err); e.Class != ErrUnauthorized || !e.Refusal {
				t.Errorf("%v, refusal %v", e.Class, e.Refusal)
			}
		})
	}
}

// The same from crypto/tls's own server, which sends under TLS 1.3 what it sends under 1.2, only later.
func TestAlertsUnderEveryVersion(t *testing.T) {
	root := newRoot(t, "test root")
	expired := clientTemplate("gw-1")
	expired.NotBefore, expired.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	for _, version := range tlsVersions {
		for _, test := range []struct {
			name        string
			certificate *tls.Certificate
			auth        tls.ClientAuthType
			verify      func([][]byte, [][]*x509.Certificate) error
			want        string
		}{
			{"unknown CA", newRoot(t, "nobody knows").tlsCertificate(t, clientTemplate("gw-1")),
				tls.VerifyClientCertIfGiven, nil,
				`it ended the connection when offered the certificate "CN=gw-1", issued by "CN=nobody knows" ` +
					`(TLS alert unknown_ca: it does not know the CA that issued it), and answers without it
` + alerts[48].hint},
			{"expired", root.tlsCertificate(t, expired), tls.VerifyClientCertIfGiven, nil,
				`it ended the connection when offered the certificate "CN=gw-1", issued by "CN=test root" ` +
					`(TLS alert certificate_expired: it has expired or is not valid yet, by the server's clock), and answers without it
compare the clocks of this device and of the server`},
			{"bad certificate", root.tlsCertificate(t, clientTemplate("gw-1")), tls.VerifyClientCertIfGiven,
				func(certs [][]byte, _ [][]*x509.Certificate) error {
					if len(certs) == 0 {
						return nil
					}
					return errors.New("I do not like it")
				},
				`it ended the connection when offered the certificate "CN=gw-1", issued by "CN=test root" ` +
					`(TLS alert bad_certificate: it cannot verify it, or does not accept it for a reason of its own), ` +
					`and answers without it
` + hintRefused},
			{"demanded of who has none", nil, tls.RequireAndVerifyClientCert, nil,
				`it asked for a client certificate, got none, and ended the connection (TLS alert ` +
					map[uint16]string{tls.VersionTLS12: "handshake_failure", tls.VersionTLS13: "certificate_required"}[version] + `)
` + hintDemanded},
		} {
			t.Run(tls.VersionName(version)+", "+test.name, func(t *testing.T) {
				o := alertServer(t, root, func(_ net.Conn, config *tls.Config) {
					config.MaxVersion, config.ClientAuth = version, test.auth
					config.ClientCAs = poolOf([]*x509.Certificate{root.cert})
					config.VerifyPeerCertificate = test.verify
				})
				o.Certificate = test.certificate
				_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
				_, err := newClient(t, o).Reenroll(t.Context(), csr, Want{})
				compareText(t, err, o, "est cacerts at https://HOST/.well-known/est as certificate mqtt: "+
					"server refused the login: "+test.want)
			})
		}
	}
}

// Alerts before it comes to certificates: nothing was refused but the handshake.
func TestAlertsAgainstTheHandshake(t *testing.T) {
	root := newRoot(t, "test root")
	for _, number := range slices.Sorted(maps.Keys(alerts)) {
		o := alertServer(t, root, func(raw net.Conn, config *tls.Config) {
			config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
				raw.Write([]byte{21, 3, 3, 0, 2, 2, byte(number)})
				return nil, errors.New("said")
			}
		})
		o.Certificate = root.tlsCertificate(t, clientTemplate("gw-1"))
		_, err := newClient(t, o).CACerts(t.Context())
		text := "TLS alert " + alerts[number].name
		if meaning := alerts[number].handshake; meaning != "" {
			text += ": " + meaning
		}
		compareText(t, err, o, "est cacerts at https://HOST/.well-known/est as certificate mqtt: server unavailable: "+
			"connection ended before it was secured: "+text+
			"\nthe server's log may say more: it must offer TLS 1.2 or later, for the host name in the URL")
	}
	// An alert that the table does not have is still named.
	o := alertServer(t, root, func(raw net.Conn, config *tls.Config) {
		config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
			raw.Write([]byte{21, 3, 3, 0, 2, 2, 120})
			return nil, errors.New("said")
		}
	})
	_, err := newClient(t, o).CACerts(t.Context())
	if !strings.Contains(fmt.Sprint(err), "TLS alert no application protocol") {
		t.Error(err)
	}
}

// A key that the server cannot verify is not offered, and the error says so.
func TestKeyThatTheServerCannotVerify(t *testing.T) {
	root := newRoot(t, "test root")
	o := alertServer(t, root, func(_ net.Conn, config *tls.Config) {
		config.MaxVersion, config.ClientAuth = tls.VersionTLS12, tls.RequireAnyClientCert
	})
	o.Certificate = root.tlsCertificate(t, clientTemplate("gw-1"))
	o.Certificate.SupportedSignatureAlgorithms = []tls.SignatureScheme{tls.PKCS1WithSHA1}
	_, err := newClient(t, o).CACerts(t.Context())
	e, ok := errors.AsType[*Error](err)
	if !ok || !e.Refusal || e.Class != ErrUnauthorized ||
		!strings.Contains(err.Error(), "it asked for a client certificate, could not be given ours (") || e.Hint != hintKind {
		t.Errorf("%v, %+v", err, e)
	}
}
