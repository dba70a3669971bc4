package est_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"certagent/est"
	"certagent/est/esttest"
)

// keygenRequest returns a request for a key that the server shall make, encrypted to that of decryptKey if not nil.
func keygenRequest(t *testing.T, decryptKey *x509.Certificate) []byte {
	t.Helper()
	csr, err := est.CreateRequest(newKey(t), est.Template{
		Subject:    pkix.RDNSequence{{{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: "gw-1"}}},
		DecryptKey: decryptKey,
	})
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

func passwordOptions(t *testing.T, s *esttest.Server) est.Options {
	t.Helper()
	o := optionsFor(t, s)
	o.Login = &est.Login{Username: esttest.DefaultUser, Password: esttest.DefaultPassword}
	return o
}

// Both servers make a key, each in its way, and the device logs in with it.
func TestServerKeygen(t *testing.T) {
	for _, face := range faces {
		t.Run(face.name, func(t *testing.T) {
			s := esttest.New(t, face.options)
			o := passwordOptions(t, s)
			csr := keygenRequest(t, nil)
			issued := attempt(t, o, func(ctx context.Context, c *est.Client) (*est.Issued, error) {
				return c.ServerKeygen(ctx, csr, est.Want{}, nil)
			})
			if _, is := issued.Key.(*rsa.PrivateKey); is != face.options.LikeLibest {
				t.Errorf("key of type %T", issued.Key)
			}
			o.Login, o.Certificate = nil, &tls.Certificate{PrivateKey: issued.Key, Certificate: [][]byte{issued.Leaf.Raw}}
			for _, cert := range issued.Chain {
				o.Certificate.Certificate = append(o.Certificate.Certificate, cert.Raw)
			}
			renewal, err := est.CreateRequest(issued.Key, est.RenewalTemplate(issued.Leaf))
			if err != nil {
				t.Fatal(err)
			}
			attempt(t, o, func(ctx context.Context, c *est.Client) (*est.Issued, error) {
				return c.Reenroll(ctx, renewal, est.Want{})
			})
		})
	}
}

// What is checked of an enrolment's answer is checked here too.
func TestServerKeygenFaults(t *testing.T) {
	for _, face := range []esttest.Options{{}, {LikeLibest: true}} {
		s := esttest.New(t, face)
		for _, test := range []struct {
			fault esttest.Fault
			class error
			want  string
		}{
			{esttest.CertificateForAnotherKey, est.ErrBadResponse, "for another key"},
			{esttest.CertificateOfAnotherSubject, est.ErrBadResponse, "somebody else"},
			{esttest.ExpiredCertificate, est.ErrBadResponse, "expired at"},
			{esttest.CACertificate, est.ErrBadResponse, "CA certificate was issued"},
			{esttest.Pending202(90 * time.Second), est.ErrPending, "HTTP 202, try again in 1m30s"},
			{esttest.CutBody(300), est.ErrUnavailable, "cut short"},
			{esttest.Endless(256 << 20), est.ErrBadResponse, "more than"},
			{esttest.Garbage("text/html", "<h1>hello</h1>"), est.ErrBadResponse, "text/html"},
			{esttest.Status(501), est.ErrRejected, "makes no keys"},
		} {
			s.NextOn("serverkeygen", esttest.Status(401, "WWW-Authenticate", `Basic realm="r"`), test.fault)
			c, err := est.New(passwordOptions(t, s))
			if err != nil {
				t.Fatal(err)
			}
			issued, err := c.ServerKeygen(t.Context(), keygenRequest(t, nil), est.Want{}, nil)
			c.Close()
			e, ok := errors.AsType[*est.Error](err)
			if !ok || issued != nil || e.Class != test.class || e.Refusal || !strings.Contains(err.Error(), test.want) ||
				e.Status < 400 && e.Detail != "" {
				t.Errorf("libest %v: %v, want %q", face.LikeLibest, err, test.want)
			}
		}
	}
}

// recipient returns a certificate to whose key others can be encrypted, with that key.
func recipient(t *testing.T) (*x509.Certificate, *rsa.PrivateKey) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "born as 1"}, SubjectKeyId: []byte("its name"),
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func TestServerKeygenEncrypted(t *testing.T) {
	cert, unwrap := recipient(t)
	s := esttest.New(t, esttest.Options{KeyRecipients: []*x509.Certificate{cert}})
	o := passwordOptions(t, s)
	csr := keygenRequest(t, cert)
	issued := attempt(t, o, func(ctx context.Context, c *est.Client) (*est.Issued, error) {
		return c.ServerKeygen(ctx, csr, est.Want{}, unwrap)
	})
	if key, is := issued.Key.(*ecdsa.PrivateKey); !is || !key.PublicKey.Equal(issued.Leaf.PublicKey) {
		t.Errorf("key of type %T", issued.Key)
	}

	_, another := recipient(t)
	for _, test := range []struct {
		name   string
		csr    []byte
		unwrap crypto.Decrypter
		class  error
		want   string
	}{
		{"no key to decrypt with", csr, nil, est.ErrRejected, "none to decrypt it with"},
		{"the wrong key", csr, another, est.ErrBadResponse, "not encrypted to our key"},
	} {
		before := len(s.Logins())
		c, err := est.New(o)
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.ServerKeygen(t.Context(), test.csr, est.Want{}, test.unwrap)
		c.Close()
		if !errors.Is(err, test.class) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", test.name, err)
		}
		if sent := len(s.Logins()) > before; sent != (test.unwrap != nil) {
			t.Errorf("%s: sent %v", test.name, sent)
		}
	}
}

// libest knows nothing of encryption, and sends the key in clear although it was asked. Then the key is not used.
func TestServerKeygenInClearAlthoughAsked(t *testing.T) {
	cert, unwrap := recipient(t)
	s := esttest.New(t, esttest.Options{LikeLibest: true})
	c, err := est.New(passwordOptions(t, s))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	issued, err := c.ServerKeygen(t.Context(), keygenRequest(t, cert), est.Want{}, unwrap)
	e, ok := errors.AsType[*est.Error](err)
	if !ok || issued != nil || e.Class != est.ErrBadResponse || !strings.Contains(err.Error(), "came in clear") ||
		!strings.Contains(e.Hint, "exposed") {
		t.Errorf("%v", err)
	}
}
