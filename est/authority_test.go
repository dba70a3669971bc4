package est

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"io"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/smallstep/pkcs7"
)

// authority is a CA made for one test.
type authority struct {
	cert  *x509.Certificate
	key   crypto.Signer
	chain []*x509.Certificate // from cert up to, and without, the root
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newSerial(t testing.TB) *big.Int {
	t.Helper()
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		t.Fatal(err)
	}
	return n.Add(n, big.NewInt(1))
}

// sign has parent sign template for key; nil means self-signed.
func sign(t testing.TB, template *x509.Certificate, key crypto.Signer, parent *authority) *x509.Certificate {
	t.Helper()
	template.SerialNumber = newSerial(t)
	if template.NotBefore.IsZero() {
		template.NotBefore = time.Now().Add(-time.Hour)
	}
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(time.Hour)
	}
	by := &authority{cert: template, key: key}
	if parent != nil {
		by = parent
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by.cert, key.Public(), by.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func caTemplate(name string) *x509.Certificate {
	return &x509.Certificate{
		Subject:               pkix.Name{CommonName: name},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
}

func newRoot(t testing.TB, name string) *authority {
	t.Helper()
	key := newKey(t)
	return &authority{cert: sign(t, caTemplate(name), key, nil), key: key}
}

// newRSARoot returns a root that signs with RSA.
func newRSARoot(t testing.TB, name string) *authority {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert: sign(t, caTemplate(name), key, nil), key: key}
}

// sub returns a CA below a.
func (a *authority) sub(t testing.TB, name string) *authority {
	t.Helper()
	key := newKey(t)
	cert := sign(t, caTemplate(name), key, a)
	return &authority{cert: cert, key: key, chain: append([]*x509.Certificate{cert}, a.chain...)}
}

// tlsCertificate returns a certificate of a's, with its chain.
func (a *authority) tlsCertificate(t testing.TB, template *x509.Certificate) *tls.Certificate {
	t.Helper()
	key := newKey(t)
	leaf := sign(t, template, key, a)
	pair := &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
	for _, cert := range a.chain {
		pair.Certificate = append(pair.Certificate, cert.Raw)
	}
	return pair
}

func serverTemplate() *x509.Certificate {
	return &x509.Certificate{
		Subject:     pkix.Name{CommonName: "localhost"},
		DNSNames:    []string{"localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
}

func clientTemplate(name string) *x509.Certificate {
	return &x509.Certificate{
		Subject:     pkix.Name{CommonName: name},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
}

// issue answers a request as a plain CA does: subject, names and usages as asked.
func (a *authority) issue(t testing.TB, der []byte) *x509.Certificate {
	t.Helper()
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{RawSubject: csr.RawSubject}
	template.ExtraExtensions = csr.Extensions
	return a.certify(t, template, csr.PublicKey)
}

// certify signs template for a public key.
func (a *authority) certify(t testing.TB, template *x509.Certificate, public crypto.PublicKey) *x509.Certificate {
	t.Helper()
	return sign(t, template, publicOnly{public}, a)
}

// publicOnly is a key that can be certified and not used.
type publicOnly struct{ crypto.PublicKey }

func (p publicOnly) Public() crypto.PublicKey { return p.PublicKey }
func (publicOnly) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	panic("a public key cannot sign")
}

// certsOnlyDER is the PKCS#7 of an answer.
func certsOnlyDER(t testing.TB, certs ...*x509.Certificate) []byte {
	t.Helper()
	var raw []byte
	for _, cert := range certs {
		raw = append(raw, cert.Raw...)
	}
	der, err := pkcs7.DegenerateCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func certsOnlyBody(t testing.TB, certs ...*x509.Certificate) []byte {
	t.Helper()
	return []byte(base64.StdEncoding.EncodeToString(certsOnlyDER(t, certs...)))
}

// newRequest returns a key and a request for it, in DER.
func newRequest(t testing.TB, template Template) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	key := newKey(t)
	der, err := CreateRequest(key, template)
	if err != nil {
		t.Fatal(err)
	}
	return key, der
}

func commonName(name string) pkix.RDNSequence {
	return pkix.RDNSequence{{{Type: oidCommonName, Value: name}}}
}
