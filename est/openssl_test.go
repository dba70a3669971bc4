//go:build external

package est

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"os/exec"
	"strings"
	"testing"
)

// OpenSSL reads the requests that CreateRequest makes, finds their signatures good, and sees in them what was asked for.
func TestOpensslReadsRequests(t *testing.T) {
	curve := func(c elliptic.Curve) crypto.Signer {
		key, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		key  crypto.Signer
		hash crypto.Hash
		want string // of the signature
	}{
		{"P-256", curve(elliptic.P256()), 0, "ecdsa-with-SHA256"},
		{"P-256, SHA-512", curve(elliptic.P256()), crypto.SHA512, "ecdsa-with-SHA512"},
		{"P-384", curve(elliptic.P384()), 0, "ecdsa-with-SHA384"},
		{"P-521", curve(elliptic.P521()), 0, "ecdsa-with-SHA512"},
		{"RSA", rsaKey, 0, "sha256WithRSAEncryption"},
		{"RSA, SHA-384", rsaKey, crypto.SHA384, "sha384WithRSAEncryption"},
		{"Ed25519", newEd25519Key(t), 0, "ED25519"},
	} {
		for _, binding := range []*Binding{
			nil, {oidChallengePassword, "AAECAwQFBgcICQoL"}, {oidESTIdentityLinking, "AAECAwQFBgcICQoL"},
		} {
			der, err := CreateRequest(test.key, Template{
				Subject: commonName("gw-1"), DNSNames: []string{"gw-1.example"}, KeyUsage: x509.KeyUsageDigitalSignature,
				Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, Hash: test.hash, Binding: binding,
			})
			if err != nil {
				t.Fatal(err)
			}
			command := exec.Command("openssl", "req", "-inform", "DER", "-noout", "-text", "-verify")
			command.Stdin = bytes.NewReader(der)
			out, err := command.CombinedOutput()
			if err != nil {
				t.Fatalf("%s: openssl req: %v\n%s", test.name, err, out)
			}
			wants := []string{"verify OK", "CN = gw-1", "DNS:gw-1.example", "TLS Web Client Authentication", "Digital Signature",
				"Signature Algorithm: " + test.want}
			if binding != nil {
				wants = append(wants, "AAECAwQFBgcICQoL")
			}
			for _, want := range wants {
				if !strings.Contains(string(out), want) {
					t.Errorf("%s, %+v: no %q in\n%s", test.name, binding, want, out)
				}
			}
		}
	}
}
