package est_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"certagent/est"
	"certagent/est/esttest"
)

// The two servers are each lenient where the other is strict: globalsign/est's router, and one that behaves like
// libest.
var faces = []struct {
	name    string
	options esttest.Options
}{
	{"globalsign", esttest.Options{}},
	{"globalsign with intermediate", esttest.Options{Intermediate: true, SendChain: true}},
	{"globalsign with TLS root of its own", esttest.Options{SeparateTLSRoot: true, Intermediate: true}},
	{"libest", esttest.Options{LikeLibest: true}},
	{"libest with Digest", esttest.Options{LikeLibest: true, Digest: true}},
	{"libest with intermediate", esttest.Options{LikeLibest: true, Intermediate: true}},
}

func TestEnrolAndRenew(t *testing.T) {
	for _, face := range faces {
		t.Run(face.name, func(t *testing.T) {
			s := esttest.New(t, face.options)
			o := optionsFor(t, s)
			o.Login = &est.Login{Username: esttest.DefaultUser, Password: esttest.DefaultPassword}
			key := newKey(t)
			csr, err := est.CreateRequest(key, est.Template{
				Subject:  pkix.RDNSequence{{{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: "gw-1"}}},
				DNSNames: []string{"gw-1.example"},
				Usages:   []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
			})
			if err != nil {
				t.Fatal(err)
			}
			first := attempt(t, o, func(ctx context.Context, c *est.Client) (*est.Issued, error) {
				return c.Enroll(ctx, csr, est.Want{})
			})
			if !first.PasswordSent || first.Connections != 2 || s.Connections() != 2 {
				t.Errorf("password sent: %v; %d connections, the server counts %d", first.PasswordSent, first.Connections,
					s.Connections())
			}
			if dropped := len(first.Warnings) > 0; dropped != face.options.LikeLibest {
				t.Errorf("warnings %q", first.Warnings)
			}

			// The renewal: the certificate itself logs in, over one connection, with a new key.
			o.Login = nil
			o.Certificate = &tls.Certificate{PrivateKey: key, Certificate: [][]byte{first.Leaf.Raw}}
			for _, cert := range first.Chain {
				o.Certificate.Certificate = append(o.Certificate.Certificate, cert.Raw)
			}
			csr, err = est.CreateRequest(newKey(t), est.RenewalTemplate(first.Leaf))
			if err != nil {
				t.Fatal(err)
			}
			second := attempt(t, o, func(ctx context.Context, c *est.Client) (*est.Issued, error) {
				return c.Reenroll(ctx, csr, est.Want{})
			})
			if second.PasswordSent || second.Connections != 1 || s.Connections() != 3 {
				t.Errorf("password sent: %v; %d connections, the server counts %d", second.PasswordSent, second.Connections,
					s.Connections())
			}
			var asked []string
			for _, login := range s.Logins() {
				asked = append(asked, login.Operation)
			}
			want := []string{"cacerts", "simpleenroll", "simpleenroll", "cacerts", "simplereenroll"} // one for the 401
			if !slices.Equal(asked, want) {
				t.Errorf("asked for %v, want %v", asked, want)
			}
			if !bytes.Equal(second.Leaf.RawSubject, first.Leaf.RawSubject) ||
				second.Leaf.SerialNumber.Cmp(first.Leaf.SerialNumber) == 0 {
				t.Errorf("%v, serial %v, after %v, serial %v", second.Leaf.Subject, second.Leaf.SerialNumber,
					first.Leaf.Subject, first.Leaf.SerialNumber)
			}
			for _, issued := range []*est.Issued{first.Issued, second.Issued} {
				_, err := issued.Leaf.Verify(x509.VerifyOptions{Roots: pool(issued.CAs), Intermediates: pool(issued.Chain),
					KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
				if err != nil {
					t.Errorf("what consumers are given does not verify: %v", err)
				}
			}
		})
	}
}

// The faults that a real server can have, by what they are called.
func TestServerFaults(t *testing.T) {
	for _, test := range []struct {
		name  string
		fault esttest.Fault
		class error
		want  string
	}{
		{"another key", esttest.CertificateForAnotherKey, est.ErrBadResponse, "for another key"},
		{"another subject", esttest.CertificateOfAnotherSubject, est.ErrBadResponse, "somebody else"},
		{"expired", esttest.ExpiredCertificate, est.ErrBadResponse, "expired at"},
		{"not yet valid", esttest.NotYetValid, est.ErrBadResponse, "not valid before"},
		{"CA", esttest.CACertificate, est.ErrBadResponse, "CA certificate was issued"},
		{"pending", esttest.Pending202(90 * time.Second), est.ErrPending, "HTTP 202, try again in 1m30s"},
		{"overload", esttest.Status(503, "Retry-After", "7"), est.ErrUnavailable, "HTTP 503, try again in 7s"},
		{"garbage", esttest.Garbage("application/pkcs7-mime", "MIIgarbage"), est.ErrBadResponse, "neither base64 nor DER"},
		{"welcome page", esttest.Garbage("text/html", "<h1>hello</h1>"), est.ErrBadResponse, "text/html"},
		{"endless", esttest.Endless(256 << 20), est.ErrBadResponse, "more than"},
		{"answer lost", esttest.LoseAnswer, est.ErrUnavailable, "EOF"},
		{"answer cut", esttest.CutBody(100), est.ErrUnavailable, "EOF"},
		{"dropped", esttest.CloseBeforeAnswer, est.ErrUnavailable, "EOF"},
	} {
		for _, face := range []esttest.Options{{}, {LikeLibest: true}} {
			s := esttest.New(t, face)
			s.NextOn("simpleenroll", test.fault)
			o := optionsFor(t, s)
			certificate, key := s.IssueBootstrap("born as 1", time.Hour)
			pair, err := tls.X509KeyPair(certificate, key)
			if err != nil {
				t.Fatal(err)
			}
			o.Certificate = &pair
			csr, err := est.CreateRequest(newKey(t), est.Template{
				Subject: pkix.RDNSequence{{{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: "gw-1"}}}})
			if err != nil {
				t.Fatal(err)
			}
			c, err := est.New(o)
			if err != nil {
				t.Fatal(err)
			}
			_, err = c.Enroll(t.Context(), csr, est.Want{})
			c.Close()
			if e, ok := errors.AsType[*est.Error](err); !ok || e.Class != test.class || e.Refusal ||
				!strings.Contains(err.Error(), test.want) {
				t.Errorf("%s, libest %v: %v, want %q", test.name, face.LikeLibest, err, test.want)
			}
		}
	}
}

func optionsFor(t testing.TB, s *esttest.Server) est.Options {
	t.Helper()
	base, err := url.Parse(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	return est.Options{URL: base, Anchors: []*x509.Certificate{s.TLSRoot}, Timeout: 30 * time.Second}
}

func attempt(t testing.TB, o est.Options, do func(context.Context, *est.Client) (*est.Issued, error)) attempted {
	t.Helper()
	c, err := est.New(o)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	issued, err := do(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return attempted{issued, c.Traffic()}
}

// attempted is what an attempt gave and what it cost.
type attempted struct {
	*est.Issued
	est.Traffic
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func pool(certs []*x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	for _, cert := range certs {
		p.AddCert(cert)
	}
	return p
}

// RFC 7030 4.2.2: a renewal may be for the same key or for a new one. The name stays byte for byte, which globalsign's
// server insists on.
func TestRenewForTheSameKeyAndForANewOne(t *testing.T) {
	for _, face := range []esttest.Options{{}, {LikeLibest: true}} {
		s := esttest.New(t, face)
		o := optionsFor(t, s)
		o.Login = &est.Login{Username: esttest.DefaultUser, Password: esttest.DefaultPassword}
		key := newKey(t)
		csr, err := est.CreateRequest(key, est.Template{
			Subject:  pkix.RDNSequence{{{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: "gw-1"}}},
			DNSNames: []string{"GW-1.example"},
		})
		if err != nil {
			t.Fatal(err)
		}
		live := attempt(t, o, func(ctx context.Context, c *est.Client) (*est.Issued, error) {
			return c.Enroll(ctx, csr, est.Want{})
		})
		o.Login = nil
		for _, next := range []*ecdsa.PrivateKey{key, newKey(t)} {
			o.Certificate = &tls.Certificate{PrivateKey: key, Certificate: [][]byte{live.Leaf.Raw}}
			if csr, err = est.CreateRequest(next, est.RenewalTemplate(live.Leaf)); err != nil {
				t.Fatal(err)
			}
			renewed := attempt(t, o, func(ctx context.Context, c *est.Client) (*est.Issued, error) {
				return c.Reenroll(ctx, csr, est.Want{})
			})
			if !next.PublicKey.Equal(renewed.Leaf.PublicKey) || !bytes.Equal(renewed.Leaf.RawSubject, live.Leaf.RawSubject) {
				t.Errorf("issued %v for our key: %v", renewed.Leaf.Subject, next.PublicKey.Equal(renewed.Leaf.PublicKey))
			}
			live, key = renewed, next
		}
	}
}
