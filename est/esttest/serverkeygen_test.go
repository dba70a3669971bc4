package esttest_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"io"
	"math/big"
	"mime"
	"mime/multipart"
	"testing"
	"time"

	"go.mozilla.org/pkcs7"

	"certagent/est/esttest"
)

// keygenParts takes the answer to serverkeygen apart: the type and content of the key part, and the certificate.
func keygenParts(t *testing.T, r reply) (keyType string, key []byte, cert *x509.Certificate) {
	t.Helper()
	mediaType, parameters, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || mediaType != "multipart/mixed" {
		t.Fatalf("Content-Type %q, %v", r.Header.Get("Content-Type"), err)
	}
	reader := multipart.NewReader(bytes.NewReader(r.body), parameters["boundary"])
	part := func() (string, []byte) {
		p, err := reader.NextPart()
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(p)
		if err != nil {
			t.Fatal(err)
		}
		der, err := base64.StdEncoding.DecodeString(string(text))
		if err != nil {
			t.Fatal(err)
		}
		return p.Header.Get("Content-Type"), der
	}
	keyType, key = part()
	_, message := part()
	if _, err := reader.NextPart(); err != io.EOF {
		t.Errorf("a third part: %v", err)
	}
	certs, err := pkcs7.Parse(message)
	if err != nil || len(certs.Certificates) != 1 {
		t.Fatalf("certificate part: %v", err)
	}
	return keyType, key, certs.Certificates[0]
}

// isFor reports whether a certificate is for a key.
func isFor(cert *x509.Certificate, key any) bool {
	return cert.PublicKey.(interface{ Equal(crypto.PublicKey) bool }).Equal(key.(crypto.Signer).Public())
}

// The first face makes a key of the request's kind, and sends PKCS#8.
func TestServerKeygen(t *testing.T) {
	s := esttest.New(t, esttest.Options{})
	c := newClient(t, s, withPassword("estuser", "estpwd"))
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, own := range []crypto.Signer{p384, ed} {
		csr := newCSR(t, own, x509.CertificateRequest{Subject: pkix.Name{CommonName: "device"}})
		keyType, der, cert := keygenParts(t, c.post("serverkeygen", csr).want(t, 200))
		key, err := x509.ParsePKCS8PrivateKey(der)
		if err != nil || keyType != "application/pkcs8" {
			t.Fatalf("%s: %v", keyType, err)
		}
		if !isFor(cert, key) || isFor(cert, own) {
			t.Error("the certificate is not for the key that was made")
		}
		if cert.PublicKeyAlgorithm == x509.ECDSA && cert.PublicKey.(*ecdsa.PublicKey).Curve != elliptic.P384() {
			t.Error("another curve than asked for")
		}
	}
}

// libest's way: always RSA, and PKCS#1 under the name of PKCS#8.
func TestLibestServerKeygen(t *testing.T) {
	s := esttest.New(t, esttest.Options{LikeLibest: true, Workers: 2})
	newClient(t, s).post("serverkeygen", csrFor(t, "device")).want(t, 401)
	c := newClient(t, s, withPassword("estuser", "estpwd"))
	keyType, der, cert := keygenParts(t, c.post("serverkeygen", csrFor(t, "device")).want(t, 200))
	key, err := x509.ParsePKCS1PrivateKey(der)
	if err != nil || keyType != "application/pkcs8" || !isFor(cert, key) {
		t.Errorf("%s: %v", keyType, err)
	}
}

// A key is encrypted to the certificate that the request names, and a request that names an unknown one is refused.
func TestServerKeygenEncrypted(t *testing.T) {
	recipientKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "recipient"}, SubjectKeyId: []byte("its name"),
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, recipientKey.Public(), recipientKey)
	if err != nil {
		t.Fatal(err)
	}
	recipient, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	s := esttest.New(t, esttest.Options{KeyRecipients: []*x509.Certificate{recipient}})
	c := newClient(t, s, withPassword("estuser", "estpwd"))

	c.post("serverkeygen", requestNaming(t, "another")).want(t, 400)
	keyType, sealed, cert := keygenParts(t, c.post("serverkeygen", requestNaming(t, "its name")).want(t, 200))
	if keyType != "application/pkcs7-mime; smime-type=server-generated-key" {
		t.Errorf("key part is %s", keyType)
	}
	message, err := pkcs7.Parse(sealed)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := message.Decrypt(recipient, recipientKey)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := pkcs7.Parse(plain)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(s.Root)
	if err := signed.VerifyWithChain(roots); err != nil {
		t.Errorf("signature of the key package: %v", err)
	}
	var keys []asn1.RawValue
	if _, err := asn1.Unmarshal(signed.Content, &keys); err != nil || len(keys) != 1 {
		t.Fatalf("%d keys, %v", len(keys), err)
	}
	key, err := x509.ParsePKCS8PrivateKey(keys[0].FullBytes)
	if err != nil || !isFor(cert, key) {
		t.Errorf("key %T, %v", key, err)
	}
}

// requestNaming is a request with an AsymmetricDecryptKeyIdentifier (RFC 7030 section 4.4.1.2).
func requestNaming(t *testing.T, id string) []byte {
	t.Helper()
	return attributeCSR(t, asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 2, 54}, must(asn1.Marshal([]byte(id))))
}
