package est

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
)

// A key is read in every encoding that servers send, whatever the part is called.
func TestPrivateKeyEncodings(t *testing.T) {
	for _, name := range named(t, "key.*.der") {
		der := readTestdata(t, name)
		want, err := parsePrivateKey(der)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		b64 := []byte(base64.StdEncoding.EncodeToString(der))
		for _, body := range [][]byte{
			b64, wrap(b64, 64, "\r\n"), append(wrap(b64, 76, "\n"), 0), der,
			pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
			pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}),
		} {
			key, err := openKeyPart(part{body: bytes.Clone(body)}, false, nil)
			if err != nil || !want.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(key.Public()) {
				t.Errorf("%s as %.20q: %v", name, body, err)
			}
		}
	}
}

func TestPrivateKeysRefused(t *testing.T) {
	key := readTestdata(t, "keygen/key.pkcs8.der")
	large, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	stuffed := seq([]byte{2, 1, 0}, seq(), octets(make([]byte, 10000)))
	prime := func(bits int) *big.Int {
		p, err := rand.Prime(rand.Reader, bits)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	damaged := x509.MarshalPKCS1PrivateKey(large)
	damaged[len(damaged)/2] ^= 1
	for _, test := range []struct {
		name string
		der  []byte
		want string
	}{
		{"RSA of 1024 bits", readTestdata(t, "keygen/refused.rsa1024.der"), "RSA key of 1024 bits"},
		{"P-224", readTestdata(t, "keygen/refused.p224.der"), "P-224"},
		{"X25519", readTestdata(t, "keygen/refused.x25519.der"), "cannot sign"},
		{"encrypted with a password", readTestdata(t, "keygen/refused.password.der"), "password"},
		{"very long", stuffed, "8192 are the limit"},
		{"does not add up", damaged, "parse private key"},
		{"primes that are none", rsaOf(t, new(big.Int).Mul(prime(520), prime(520)), prime(1024), 65537), "cannot sign"},
		{"even exponent", rsaOf(t, prime(1024), prime(1024), 65536), "parse private key"},
		{"the same prime twice", rsaOf(t, large.Primes[0], large.Primes[0], 65537), "parse private key"},
		{"curve by its parameters", seq([]byte{2, 1, 1}, octets(make([]byte, 32)), tlv(0xa0, seq([]byte{2, 1, 1}))),
			"parse private key"},
		{"scalar of nought", seq([]byte{2, 1, 1}, octets(make([]byte, 32)), tlv(0xa0, oidDER(t, oidSecp256r1))),
			"parse private key"},
		{"two keys", seq(key, key), "2 private keys"},
		{"wrapped too often", seq(seq(seq(seq(key)))), "wrapped too often"},
		{"nothing", nil, "cut short"},
		{"empty", []byte{0x30, 0}, "not a private key"},
		{"a number", []byte{2, 1, 0}, "no values inside"},
		{"cut", key[:len(key)-1], "cut short"},
		{"certificates", readTestdata(t, "certs-only.der"), "SignedData without content"},
	} {
		got, err := parsePrivateKey(test.der)
		if err == nil || got != nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
	}
	if _, err := parsePrivateKey(seq(seq(seq(key)))); err != nil {
		t.Error(err)
	}
}

// rsaOf is a PKCS#1 key (RFC 8017 A.1.2) of whatever numbers.
func rsaOf(t *testing.T, p, q *big.Int, e int64) []byte {
	t.Helper()
	one := big.NewInt(1)
	p1, q1 := new(big.Int).Sub(p, one), new(big.Int).Sub(q, one)
	d := new(big.Int).ModInverse(big.NewInt(e), new(big.Int).Mul(p1, q1))
	inverse := new(big.Int).ModInverse(q, p)
	if d == nil || inverse == nil { // there is none
		d, inverse = one, one
	}
	der, err := asn1.Marshal(struct {
		Version                  int
		N, E, D, P, Q, D1, D2, C *big.Int
	}{0, new(big.Int).Mul(p, q), big.NewInt(e), d, p, q, new(big.Int).Mod(d, p1), new(big.Int).Mod(d, q1), inverse})
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// A key counts by its private part alone, whatever a server adds: attributes, or, in version 2 of PKCS#8 and in SEC 1,
// a public key, even that of another.
func TestPrivateKeyWithMoreInIt(t *testing.T) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ec, other := newKey(t), newKey(t)
	scalar, err := ec.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	point, err := other.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	seed := octets(octets(key.Seed()))
	for _, test := range []struct {
		name string
		der  []byte
		want interface{ Equal(crypto.PublicKey) bool }
	}{
		{"attributes", seq([]byte{2, 1, 0}, seq(oidDER(t, oidEd25519)), seed,
			tlv(0xa0, seq(oid(t, 1, 2, 3), set([]byte{5, 0})))), key.Public().(ed25519.PublicKey)},
		{"version 2", seq([]byte{2, 1, 1}, seq(oidDER(t, oidEd25519)), seed, tlv(0x81, make([]byte, 33))),
			key.Public().(ed25519.PublicKey)},
		{"another's public key", seq([]byte{2, 1, 1}, octets(scalar), tlv(0xa0, oidDER(t, oidSecp256r1)),
			tlv(0xa1, tlv(3, []byte{0}, point))), &ec.PublicKey},
	} {
		got, err := parsePrivateKey(test.der)
		if err != nil || !test.want.Equal(got.Public()) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}
