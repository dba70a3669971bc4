package keys_test

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"

	"certagent/store/keys"
)

func block(t *testing.T, kind string, der []byte, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func TestParsePEM(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	xk, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sec1, err := x509.MarshalECPrivateKey(ec)
	ecText := block(t, "EC PRIVATE KEY", sec1, err)
	rsaText := block(t, "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rs), nil)
	p8, err := x509.MarshalPKCS8PrivateKey(ec)
	p8Text := block(t, "PRIVATE KEY", p8, err)
	x8, err := x509.MarshalPKCS8PrivateKey(xk)
	xText := block(t, "PRIVATE KEY", x8, err)
	params := block(t, "EC PARAMETERS", []byte{6, 8, 42, 134, 72, 206, 61, 3, 1, 7}, nil)
	certificate := block(t, "CERTIFICATE", []byte("not looked at"), nil)

	for _, c := range []struct {
		name, text string
		pub        crypto.PublicKey
		want       string // in the error
	}{
		{name: "PKCS#8", text: p8Text, pub: &ec.PublicKey},
		{name: "SEC 1", text: ecText, pub: &ec.PublicKey},
		{name: "SEC 1 after curve parameters, as openssl writes it", text: params + ecText, pub: &ec.PublicKey},
		{name: "PKCS#1", text: rsaText, pub: &rs.PublicKey},
		{name: "beside a certificate", text: certificate + "some text\n" + rsaText, pub: &rs.PublicKey},
		{name: "nothing", text: "", want: "holds no private key"},
		{name: "a certificate only", text: certificate, want: "holds no private key"},
		{name: "cut off", text: p8Text[:60], want: "holds no private key"},
		{name: "two keys", text: p8Text + rsaText, want: "more than one"},
		{name: "PKCS#8, encrypted", text: block(t, "ENCRYPTED PRIVATE KEY", p8, nil), want: "is encrypted"},
		{
			name: "PKCS#1, encrypted",
			text: strings.Replace(rsaText, "KEY-----\n", "KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\n", 1),
			want: "is encrypted",
		},
		{name: "damaged", text: block(t, "PRIVATE KEY", p8[:40], nil), want: "does not parse"},
		{name: "a key that only agrees", text: xText, want: "cannot sign"},
		{name: "another form", text: block(t, "OPENSSH PRIVATE KEY", p8, nil), want: "OPENSSH"},
	} {
		k, err := keys.ParsePEM([]byte(c.text))
		switch {
		case c.want == "" && (err != nil || !keys.Equal(k.Public(), c.pub)):
			t.Errorf("%s: %v", c.name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: error %v, want one with %q", c.name, err, c.want)
		}
	}
}

func FuzzParsePEM(f *testing.F) {
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\n" +
		"MC4CAQAwBQYDK2VwBCIEIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f\n" +
		"-----END PRIVATE KEY-----\n"))
	f.Add([]byte("-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n-----END EC PRIVATE KEY-----\n"))
	f.Add([]byte("-----BEGIN RSA PRIVATE KEY-----\n-----END RSA PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		k, err := keys.ParsePEM(data)
		if (err == nil) != (k != nil) {
			t.Fatalf("key %v and error %v", k, err)
		}
		if err == nil && k.Public() == nil {
			t.Error("a key without a public key")
		}
	})
}
