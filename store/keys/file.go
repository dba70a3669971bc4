package keys

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"certagent/store/durable"
)

// fileKey is a key in memory. The signer is behind a function, where no printing verb can follow: package fmt does not
// call methods on the unexported fields of other people's structs, but reads what it finds in them.
type fileKey struct {
	signer func() crypto.Signer
}

func newFileKey(s crypto.Signer) *fileKey { return &fileKey{func() crypto.Signer { return s }} }

// Of takes over a private key that somebody else made, an EST server for example (RFC 7030, section 4.4): one that the
// [Files] provider can keep.
func Of(s crypto.Signer) (Key, error) {
	if k, ok := s.(Key); ok {
		return k, nil
	}
	k := newFileKey(s)
	if !k.Algorithm().Valid() {
		return nil, fmt.Errorf("a key of kind %T is none that certagent keeps", s)
	}
	return k, nil
}

// Decrypter is a key that opens what was encrypted to it (RSA); nil where it cannot. It shows no more than the key does.
func Decrypter(k crypto.PrivateKey) crypto.Decrypter {
	fk, ok := k.(*fileKey)
	if !ok {
		return nil
	}
	if _, ok := fk.signer().(crypto.Decrypter); !ok {
		return nil
	}
	return decrypter{fk}
}

type decrypter struct{ *fileKey }

// Decrypt implements [crypto.Decrypter].
func (d decrypter) Decrypt(r io.Reader, message []byte, o crypto.DecrypterOpts) ([]byte, error) {
	return d.signer().(crypto.Decrypter).Decrypt(r, message, o)
}

// Public implements [crypto.Signer].
func (k *fileKey) Public() crypto.PublicKey { return k.signer().Public() }

// Sign implements [crypto.Signer].
func (k *fileKey) Sign(r io.Reader, digest []byte, o crypto.SignerOpts) ([]byte, error) {
	return k.signer().Sign(r, digest, o)
}

// Algorithm implements [Key].
func (k *fileKey) Algorithm() Algorithm { return AlgorithmOf(k.Public()) }

// Format implements [fmt.Formatter].
func (k *fileKey) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "%s private key", k.Algorithm()) }

// Files keeps keys as files: PKCS#8 (RFC 5958) in PEM (RFC 7468), unencrypted.
type Files struct {
	FS durable.FS // nil is durable.OS{}
}

func (p Files) fs() durable.FS {
	if p.FS == nil {
		return durable.OS{}
	}
	return p.FS
}

// Generate implements [Provider].
func (p Files) Generate(a Algorithm) (Key, error) {
	s, err := generate(a)
	if err != nil {
		return nil, fmt.Errorf("generate key: %w", err)
	}
	return newFileKey(s), nil
}

func generate(a Algorithm) (crypto.Signer, error) {
	switch a {
	case ECP256:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case ECP384:
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case ECP521:
		return ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case RSA2048:
		return rsa.GenerateKey(rand.Reader, 2048)
	case RSA3072:
		return rsa.GenerateKey(rand.Reader, 3072)
	case RSA4096:
		return rsa.GenerateKey(rand.Reader, 4096)
	case Ed25519:
		_, k, err := ed25519.GenerateKey(rand.Reader)
		return k, err
	}
	return nil, fmt.Errorf("%q is no kind of key", a)
}

// PKCS8 is the private key itself, as PKCS#8 in DER (RFC 5958), for a file that its owner or a consumer reads. The caller
// clears it after use. A key that never leaves its place, such as a token, is [ErrNotExportable].
func PKCS8(k Key) ([]byte, error) {
	fk, ok := k.(*fileKey)
	if !ok {
		return nil, ErrNotExportable
	}
	return x509.MarshalPKCS8PrivateKey(fk.signer())
}

// maxMode is what Save and Load let a key file have at most: more than a group that reads is never needed, and what
// Save writes Load must take.
const maxMode fs.FileMode = 0o640

func checkMode(m fs.FileMode) error {
	if m&^maxMode != 0 || m&0o400 == 0 {
		return fmt.Errorf("has mode %04o; a private key must have 0600, or 0640 for a group that reads it", m.Perm())
	}
	return nil
}

// Save implements [Provider]. The mode must be 0600 or 0640, or less, and let the owner read.
func (p Files) Save(dir string, k Key, perm durable.Perm) error {
	path := filepath.Join(dir, FileName)
	if err := checkMode(perm.Mode); err != nil {
		return fmt.Errorf("save %s: it %w", path, err)
	}
	der, err := PKCS8(k)
	if err != nil {
		return fmt.Errorf("save %s: %w", path, err)
	}
	defer clear(der)
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	defer clear(text)
	if err := durable.Create(p.fs(), path, text, perm); err != nil {
		return fmt.Errorf("save key: %w", err)
	}
	return nil
}

// maxFile is far above the largest key file; more is not read.
const maxFile = 64 << 10

// Load implements [Provider]. Beside a file that does not parse it refuses one that is a link or no regular file, has
// more than mode 0640, or belongs to somebody who is neither this process's user, root, nor the owner of dir.
func (p Files) Load(dir string) (Key, error) {
	path := filepath.Join(dir, FileName)
	data, info, err := durable.ReadFile(p.fs(), path, maxFile)
	if e, ok := errors.AsType[*durable.KindError](err); ok {
		return nil, &UnusableError{path, e.Why()}
	}
	if err != nil {
		return nil, fmt.Errorf("load key: %w", err)
	}
	defer clear(data)
	if err := checkMode(info.Mode()); err != nil {
		return nil, &UnusableError{path, err.Error()}
	}
	d, err := p.fs().Lstat(dir)
	if err != nil {
		return nil, fmt.Errorf("load key: %w", err)
	}
	dirOwner, _ := durable.Owner(d)
	if uid, _ := durable.Owner(info); uid != 0 && uid != os.Geteuid() && uid != dirOwner {
		return nil, &UnusableError{path,
			fmt.Sprintf("belongs to user %d, who is neither the agent nor the directory's owner", uid)}
	}
	k, err := ParsePEM(data)
	if err != nil {
		return nil, &UnusableError{path, err.Error()}
	}
	return k, nil
}
