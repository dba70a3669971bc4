// Package keys makes private keys and keeps them in directories of the store, as files first ([Files]); other places, a
// PKCS#11 token say, are further implementations of [Provider].
//
// It owns the name and the form of the key file. It must not decide which key is used, must not overwrite or delete
// one, and must not let private material out other than by [PKCS8]: not by printing, not in an error.
package keys

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"errors"
	"fmt"

	"certagent/store/durable"
)

// Algorithm is a kind of key in the configuration's words. The empty one is a kind that certagent does not make.
type Algorithm string

// The kinds of keys that certagent makes.
const (
	ECP256  Algorithm = "ec-p256"
	ECP384  Algorithm = "ec-p384"
	ECP521  Algorithm = "ec-p521"
	RSA2048 Algorithm = "rsa-2048"
	RSA3072 Algorithm = "rsa-3072"
	RSA4096 Algorithm = "rsa-4096"
	Ed25519 Algorithm = "ed25519"
)

// Valid reports whether a is one that certagent can make.
func (a Algorithm) Valid() bool {
	switch a {
	case ECP256, ECP384, ECP521, RSA2048, RSA3072, RSA4096, Ed25519:
		return true
	}
	return false
}

// AlgorithmOf is the kind of a public key, empty if it is none that certagent makes.
func AlgorithmOf(pub crypto.PublicKey) Algorithm {
	switch pub := pub.(type) {
	case *ecdsa.PublicKey:
		switch pub.Curve {
		case elliptic.P256():
			return ECP256
		case elliptic.P384():
			return ECP384
		case elliptic.P521():
			return ECP521
		}
	case *rsa.PublicKey:
		if a := Algorithm(fmt.Sprintf("rsa-%d", pub.N.BitLen())); a.Valid() {
			return a
		}
	case ed25519.PublicKey:
		return Ed25519
	}
	return ""
}

// Key is a private key that can only be asked to sign. Printing it, with any verb and from inside any struct, shows its
// kind and nothing private. Keys are safe for concurrent use.
type Key interface {
	crypto.Signer
	Algorithm() Algorithm
}

// Equal reports whether a and b are the same public key.
func Equal(a, b crypto.PublicKey) bool {
	e, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && e.Equal(b)
}

// ErrNotExportable says that a private key cannot be put into a file.
var ErrNotExportable = errors.New("the private key cannot leave the place where it is kept")

// FileName is the name under which a [Provider] leaves its key, or the reference to it, in a directory.
const FileName = "key.pem"

// Provider keeps private keys in directories of the store: those of a generation or of a pending request. It is safe
// for concurrent use on different directories.
type Provider interface {
	// Generate makes a key in memory or on the token, not yet in the store. It may take minutes (RSA-4096 on a small
	// ARM).
	Generate(a Algorithm) (Key, error)
	// Save puts the key into dir as [FileName] and syncs it, but not dir, which its maker syncs when it is complete. k must
	// come from this provider, or from [ParsePEM] where the provider keeps files. A key that is there already is never
	// replaced: the error is fs.ErrExist. An owner or group that cannot be set is a [*durable.ChownError], and nothing is
	// left behind.
	Save(dir string, k Key, p durable.Perm) error
	// Load gives the key in dir: fs.ErrNotExist if there is none, [*UnusableError] if what is there must not be used,
	// any other error when it could not be read.
	Load(dir string) (Key, error)
}

// UnusableError says that a key is there and must not be used: it does not parse, or others may read it.
type UnusableError struct {
	Path string
	Why  string // what is wrong and what to do; no part of the file's content
}

func (e *UnusableError) Error() string { return e.Path + " " + e.Why }
