package est_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"certagent/est"
	"certagent/est/esttest"
)

// terminator is a reverse proxy that ends TLS in front of an EST server: it has a certificate of a CA of its own, asks
// its clients for one or not, and logs in to the server behind it with own, or as nobody.
type terminator struct {
	url  *url.URL
	root *x509.Certificate
}

func newTerminator(t *testing.T, behind *esttest.Server, asks tls.ClientAuthType, own *tls.Certificate) terminator {
	t.Helper()
	target, err := url.Parse(behind.URL())
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{RootCAs: pool([]*x509.Certificate{behind.TLSRoot})}
	if own != nil {
		config.Certificates = []tls.Certificate{*own}
	}
	// A connection for each request, as nginx has it: libest drops one after a 401, and a POST into that would be lost.
	upward := &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}
	front := httptest.NewUnstartedServer(&httputil.ReverseProxy{
		Transport: upward,
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: "https", Host: target.Host}) },
		ErrorLog:  log.New(io.Discard, "", 0),
	})
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "reverse proxy"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour),
		IsCA:     true, BasicConstraintsValid: true, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	front.TLS = &tls.Config{ClientAuth: asks,
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, NextProtos: []string{"http/1.1"}}
	front.StartTLS()
	t.Cleanup(front.Close)
	at, err := url.Parse(front.URL + target.Path)
	if err != nil {
		t.Fatal(err)
	}
	return terminator{at, root}
}

// deviceOf is a certificate of the server's own CA, as a device in service has it.
func deviceOf(t testing.TB, s *esttest.Server) *tls.Certificate {
	t.Helper()
	certificate, key := s.IssueBootstrap("gw-1", time.Hour)
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	return &pair
}

// A proxy that ends TLS in front of an EST server takes the login by certificate away. The error says what was seen of
// that from here, and the hint what to do.
func TestBehindATLSTerminatingProxy(t *testing.T) {
	for _, face := range []struct {
		name    string
		options esttest.Options
	}{
		{"globalsign", esttest.Options{}},
		{"libest", esttest.Options{LikeLibest: true, Workers: 5}},
	} {
		for _, test := range []struct {
			name       string
			asks       tls.ClientAuthType
			want, hint string
		}{
			{"asks for no certificate", tls.NoClientCert, `it did not ask for a client certificate, so ours, "CN=gw-1"`,
				"if a proxy ends TLS in front of the EST server"},
			{"asks for one and keeps it", tls.RequestClientCert, `the client certificate "CN=gw-1", issued by`,
				"a proxy that ends TLS in front of it may also keep the certificate to itself"},
		} {
			t.Run(face.name+" "+test.name, func(t *testing.T) {
				s := esttest.New(t, face.options)
				front := newTerminator(t, s, test.asks, nil)
				o := optionsFor(t, s)
				o.URL, o.Anchors = front.url, []*x509.Certificate{front.root, s.Root}
				o.Certificate, o.Identity = deviceOf(t, s), "certificate gw-1"
				csr, err := est.CreateRequest(newKey(t), est.RenewalTemplate(o.Certificate.Leaf))
				if err != nil {
					t.Fatal(err)
				}
				c, err := est.New(o)
				if err != nil {
					t.Fatal(err)
				}
				_, err = c.Reenroll(t.Context(), csr, est.Want{})
				c.Close()
				e, ok := errors.AsType[*est.Error](err)
				if !ok || e.Class != est.ErrUnauthorized || !e.Refusal || !strings.Contains(err.Error(), test.want) ||
					!strings.Contains(e.Hint, test.hint) {
					t.Errorf("%v\nhint %s", err, e.Hint)
				}

				// What the hint says helps: the password, through the same proxy.
				o.Login = &est.Login{Username: esttest.DefaultUser, Password: esttest.DefaultPassword}
				issued := attempt(t, o, func(ctx context.Context, c *est.Client) (*est.Issued, error) {
					return c.Enroll(ctx, csr, est.Want{})
				})
				if !issued.PasswordSent || issued.Connections != 2 {
					t.Errorf("password sent: %v, %d connections", issued.PasswordSent, issued.Connections)
				}
			})
		}
	}
}

// The same server, reached past the proxy (its TLS passed through, or renew_url), takes the certificate, also with the
// key that it has already: some CAs want that.
func TestPastTheProxy(t *testing.T) {
	for _, face := range []esttest.Options{{}, {LikeLibest: true}} {
		s := esttest.New(t, face)
		r := esttest.NewRelay(t, s.Addr())
		o := optionsFor(t, s)
		o.URL = r.In(o.URL)
		o.Certificate = deviceOf(t, s)
		csr, err := est.CreateRequest(o.Certificate.PrivateKey.(*ecdsa.PrivateKey), est.RenewalTemplate(o.Certificate.Leaf))
		if err != nil {
			t.Fatal(err)
		}
		issued := attempt(t, o, func(ctx context.Context, c *est.Client) (*est.Issued, error) {
			return c.Reenroll(ctx, csr, est.Want{})
		})
		if issued.PasswordSent || issued.Connections != 1 || s.Connections() != 1 ||
			!issued.Leaf.PublicKey.(*ecdsa.PublicKey).Equal(o.Certificate.Leaf.PublicKey) {
			t.Errorf("password sent: %v, %d connections", issued.PasswordSent, issued.Connections)
		}
	}
}

// Layers, as between the levels of a plant (ISA-95, IEC 62264): the upper server knows the lower one, which logs in for
// its devices and has them prove themselves to it. An enrolment goes through; libest's renewal does too. globalsign's
// compares the name with that of the layer below, as RFC 7030 4.2.2 has it, and then the answer tells why.
func TestLayers(t *testing.T) {
	for _, libest := range []bool{false, true} {
		s := esttest.New(t, esttest.Options{LikeLibest: libest, Workers: 5})
		registrar, key := s.IssueBootstrap("lower layer", time.Hour)
		own, err := tls.X509KeyPair(registrar, key)
		if err != nil {
			t.Fatal(err)
		}
		front := newTerminator(t, s, tls.RequireAnyClientCert, &own)
		o := optionsFor(t, s)
		o.URL, o.Anchors = front.url, []*x509.Certificate{front.root, s.Root}
		o.Certificate, o.Identity = deviceOf(t, s), "certificate gw-1"
		csr, err := est.CreateRequest(newKey(t), est.Template{
			Subject: pkix.RDNSequence{{{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: "gw-1"}}}})
		if err != nil {
			t.Fatal(err)
		}
		issued := attempt(t, o, func(ctx context.Context, c *est.Client) (*est.Issued, error) {
			return c.Enroll(ctx, csr, est.Want{})
		})
		if issued.PasswordSent || issued.Connections != 1 || issued.Leaf.Subject.CommonName != "gw-1" {
			t.Errorf("libest %v: %+v", libest, issued)
		}
		c, err := est.New(o)
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Reenroll(t.Context(), csr, est.Want{})
		c.Close()
		if libest {
			if err != nil {
				t.Error(err)
			}
			continue
		}
		e, ok := errors.AsType[*est.Error](err)
		if !ok || e.Class != est.ErrUnauthorized || !e.Refusal || !strings.Contains(e.Detail, "identical to certificate") {
			t.Errorf("%v", err)
		}
	}
}

// A server that wants requests linked to their TLS session never finds the link behind such a proxy: its session is
// another one. The password is good, and the hint says why it is refused all the same.
func TestLinkBehindATLSTerminatingProxy(t *testing.T) {
	s := esttest.New(t, esttest.Options{LikeLibest: true, ProofOfPossession: true, Workers: 5})
	front := newTerminator(t, s, tls.NoClientCert, nil)
	o := optionsFor(t, s)
	o.URL, o.Anchors = front.url, []*x509.Certificate{front.root, s.Root}
	o.Login = &est.Login{Username: esttest.DefaultUser, Password: esttest.DefaultPassword}
	key, template := newKey(t), est.RenewalTemplate(deviceOf(t, s).Leaf)
	csr, err := est.CreateRequest(key, template)
	if err != nil {
		t.Fatal(err)
	}
	c, err := est.New(o)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Attributes(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err = c.Enroll(t.Context(), csr, est.Want{Link: func(b est.Binding) ([]byte, error) {
		linked := template
		linked.Binding = &b
		return est.CreateRequest(key, linked)
	}})
	e, ok := errors.AsType[*est.Error](err)
	if !ok || e.Class != est.ErrUnauthorized || !strings.Contains(e.Hint, "if TLS ends at a proxy in front of the EST server") {
		t.Errorf("%v, %+v", err, e)
	}
}
