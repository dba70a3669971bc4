package keys_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"

	"certagent/store/durable"
	"certagent/store/keys"
)

// A key that somebody else made is kept like one of ours, and shows as little.
func TestKeyTakenOver(t *testing.T) {
	theirs, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	k, err := keys.Of(theirs)
	if err != nil || k.Algorithm() != keys.ECP384 {
		t.Fatalf("%v, %v", k, err)
	}
	if again, err := keys.Of(k); err != nil || again != k {
		t.Errorf("a key of ours became %v, %v", again, err)
	}
	dir := t.TempDir()
	if err := (keys.Files{}).Save(dir, k, durable.Mode(0o600)); err != nil {
		t.Fatal(err)
	}
	back, err := keys.Files{}.Load(dir)
	if err != nil || !keys.Equal(back.Public(), theirs.Public()) {
		t.Errorf("loaded %v, %v", back, err)
	}
	weak, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if k, err := keys.Of(weak); err == nil {
		t.Errorf("a key on P-224 was taken: %v", k)
	}
}

func TestDecrypter(t *testing.T) {
	k, err := keys.Files{}.Generate(keys.RSA2048)
	if err != nil {
		t.Fatal(err)
	}
	d := keys.Decrypter(k)
	if d == nil {
		t.Fatal("an RSA key opens nothing")
	}
	sealed, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, k.Public().(*rsa.PublicKey), []byte("secret"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := d.Decrypt(rand.Reader, sealed, &rsa.OAEPOptions{Hash: crypto.SHA256}); err != nil || string(text) != "secret" {
		t.Errorf("%q, %v", text, err)
	}
	if s := fmt.Sprintf("%v %+v %#v", d, d, d); strings.Contains(s, "PrivateKey") || len(s) > 100 {
		t.Errorf("it shows as %.200s", s)
	}
	ec, err := keys.Files{}.Generate(keys.ECP256)
	if err != nil {
		t.Fatal(err)
	}
	if keys.Decrypter(ec) != nil {
		t.Error("an EC key opens what is encrypted to it")
	}
}
