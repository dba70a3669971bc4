package keys_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"certagent/store/durable"
	"certagent/store/keys"
)

var algorithms = []keys.Algorithm{
	keys.ECP256, keys.ECP384, keys.ECP521, keys.RSA2048, keys.RSA3072, keys.RSA4096, keys.Ed25519,
}

func TestFilesIsAProvider(t *testing.T) {
	runProvider(t, func(*testing.T) keys.Provider { return keys.Files{} })
}

// runProvider holds a provider to the contract of [keys.Provider].
func runProvider(t *testing.T, provider func(t *testing.T) keys.Provider) {
	for _, a := range algorithms {
		t.Run(string(a), func(t *testing.T) {
			p := provider(t)
			k, err := p.Generate(a)
			if err != nil {
				t.Fatal(err)
			}
			if k.Algorithm() != a || keys.AlgorithmOf(k.Public()) != a || !a.Valid() {
				t.Errorf("a key of kind %q says it is %q", a, k.Algorithm())
			}
			signsRequests(t, k)

			dir := t.TempDir()
			if _, err := p.Load(dir); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("load from an empty directory: %v", err)
			}
			if err := p.Save(dir, k, durable.Mode(0o600)); err != nil {
				t.Fatal(err)
			}
			info, err := os.Lstat(filepath.Join(dir, keys.FileName))
			if err != nil || info.Mode() != 0o600 {
				t.Errorf("the key file has mode %v, %v", info.Mode(), err)
			}
			loaded, err := p.Load(dir)
			if err != nil {
				t.Fatal(err)
			}
			if !keys.Equal(loaded.Public(), k.Public()) || loaded.Algorithm() != a {
				t.Error("another key came back")
			}
			signsRequests(t, loaded)
			neverReveals(t, k, dir)
			neverReveals(t, loaded, dir)

			other, err := p.Generate(keys.ECP256)
			if err != nil {
				t.Fatal(err)
			}
			if err := p.Save(dir, other, durable.Mode(0o600)); !errors.Is(err, fs.ErrExist) {
				t.Errorf("save over a key: %v", err)
			}
			again, err := p.Load(dir)
			if err != nil || !keys.Equal(again.Public(), k.Public()) {
				t.Errorf("after saving over it: %v", err)
			}
			// A copy elsewhere, as a renewal with the same key makes it.
			elsewhere := t.TempDir()
			if err := p.Save(elsewhere, loaded, durable.Mode(0o640)); err != nil {
				t.Fatal(err)
			}
			if again, err = p.Load(elsewhere); err != nil || !keys.Equal(again.Public(), k.Public()) {
				t.Errorf("load of a copy: %v", err)
			}
		})
	}
	t.Run("unknown kind", func(t *testing.T) {
		for _, a := range []keys.Algorithm{"", "rsa-1024", "EC-P256"} {
			if _, err := provider(t).Generate(a); err == nil || a.Valid() {
				t.Errorf("%q makes a key", a)
			}
		}
	})
}

// signsRequests has two goroutines make certificate requests (RFC 2986) with k at once, and verifies them.
func signsRequests(t *testing.T, k keys.Key) {
	t.Helper()
	var wg sync.WaitGroup
	for i := range 2 {
		wg.Go(func() {
			der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
				Subject:  pkix.Name{CommonName: fmt.Sprint("gateway-", i)},
				DNSNames: []string{"gateway.example"},
			}, k)
			if err != nil {
				t.Error(err)
				return
			}
			r, err := x509.ParseCertificateRequest(der)
			if err == nil {
				err = r.CheckSignature()
			}
			if err != nil || !keys.Equal(r.PublicKey, k.Public()) {
				t.Errorf("the request does not verify: %v", err)
			}
		})
	}
	wg.Wait()
}

// holder has a key where package fmt cannot call its methods.
type holder struct {
	key   keys.Key
	deep  *holder
	Named keys.Key
}

// neverReveals prints the key in all the ways that happen by accident and looks for its private numbers, as the file in
// dir has them.
func neverReveals(t *testing.T, k keys.Key, dir string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, keys.FileName))
	if err != nil {
		t.Fatal(err)
	}
	secrets := privateForms(t, data)
	h := holder{key: k, Named: k, deep: &holder{key: k}}
	var out strings.Builder
	for _, v := range []any{k, &k, h, &h, []keys.Key{k}, map[string]any{"k": k}, struct{ k any }{k}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		if text, err := json.Marshal(v); err == nil {
			out.Write(text)
		}
	}
	printed := strings.ToLower(out.String())
	for _, s := range secrets {
		if strings.Contains(printed, s) {
			t.Fatalf("printing shows private material: %s", printed)
		}
	}
	if !strings.Contains(printed, string(k.Algorithm())+" private key") {
		t.Errorf("printing does not say what it is: %s", printed)
	}
}

// privateForms are the private numbers of a key file as fmt would print them.
func privateForms(t *testing.T, data []byte) []string {
	t.Helper()
	block, _ := pem.Decode(data)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	var numbers [][]byte
	var forms []string
	switch key := key.(type) {
	case *ecdsa.PrivateKey:
		d, err := key.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		numbers = append(numbers, d)
		forms = append(forms, new(big.Int).SetBytes(d).String())
	case *rsa.PrivateKey:
		for _, n := range append(key.Primes, key.D) {
			numbers = append(numbers, n.Bytes())
			forms = append(forms, n.String())
		}
	case ed25519.PrivateKey:
		numbers = append(numbers, key.Seed())
	}
	for _, n := range numbers {
		forms = append(forms, hex.EncodeToString(n), strings.Trim(fmt.Sprint(n[:8]), "[]"),
			strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%#v", n[:8]), "[]byte{"), "}"))
	}
	for _, f := range forms {
		if len(f) < 10 {
			t.Fatalf("a form of the key of %d characters proves nothing", len(f))
		}
	}
	return forms
}

func TestSaveRefusesModesThatLoadRefuses(t *testing.T) {
	k, err := keys.Files{}.Generate(keys.ECP256)
	if err != nil {
		t.Fatal(err)
	}
	for m, good := range map[fs.FileMode]bool{
		0o600: true, 0o640: true, 0o400: true, 0o440: true,
		0: false, 0o644: false, 0o660: false, 0o700: false, 0o604: false, 0o200: false, fs.ModeSetuid | 0o600: false,
	} {
		dir := t.TempDir()
		err := keys.Files{}.Save(dir, k, durable.Mode(m))
		if (err == nil) != good {
			t.Errorf("save with mode %v: %v", m, err)
		}
		if err != nil {
			if entries, _ := os.ReadDir(dir); len(entries) > 0 {
				t.Errorf("save with mode %v left %v", m, entries)
			}
			// The same mode given afterwards.
			if err := (keys.Files{}).Save(dir, k, durable.Mode(0o600)); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(filepath.Join(dir, keys.FileName), m); err != nil {
				t.Fatal(err)
			}
		}
		_, err = keys.Files{}.Load(dir)
		_, unusable := errors.AsType[*keys.UnusableError](err)
		unreadable := errors.Is(err, fs.ErrPermission) && m&0o400 == 0 // unless we are root
		if (err == nil) != good || (unusable || unreadable) == good {
			t.Errorf("load with mode %v: %v", m, err)
		}
	}
}

// foreign says that files of one name belong to somebody else, and so may the directory.
type foreign struct {
	durable.FS
	file, dir int
}

type owned struct {
	durable.File
	uid int
}

func (f foreign) Lstat(path string) (fs.FileInfo, error) {
	info, err := f.FS.Lstat(path)
	if err == nil && info.IsDir() {
		chown(info, f.dir)
	}
	return info, err
}

func (f foreign) OpenFile(path string, flag int, m fs.FileMode) (durable.File, error) {
	file, err := f.FS.OpenFile(path, flag, m)
	if err != nil {
		return nil, err
	}
	return owned{file, f.file}, nil
}

func (o owned) Stat() (fs.FileInfo, error) {
	info, err := o.File.Stat()
	if err == nil {
		chown(info, o.uid)
	}
	return info, err
}

func TestLoadRefusesStrangersFiles(t *testing.T) {
	k, err := keys.Files{}.Generate(keys.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	path := filepath.Join(dir, keys.FileName)
	if err := (keys.Files{}).Save(dir, k, durable.Mode(0o600)); err != nil {
		t.Fatal(err)
	}
	stranger, me := os.Geteuid()+4711, os.Geteuid()
	for _, c := range []struct {
		file, dir int
		good      bool
	}{{me, me, true}, {0, me, true}, {stranger, stranger, true}, {stranger, me, false}, {stranger, 0, false}} {
		_, err := keys.Files{FS: foreign{durable.OS{}, c.file, c.dir}}.Load(dir)
		if _, unusable := errors.AsType[*keys.UnusableError](err); unusable == c.good || (err == nil) != c.good {
			t.Errorf("file of %d in a directory of %d: %v", c.file, c.dir, err)
		}
	}

	moved := filepath.Join(dir, "moved")
	if err := errors.Join(os.Rename(path, moved), os.Symlink("moved", path)); err != nil {
		t.Fatal(err)
	}
	_, err = keys.Files{}.Load(dir)
	if e, ok := errors.AsType[*keys.UnusableError](err); !ok || !strings.Contains(e.Why, "symbolic link") {
		t.Errorf("load of a link: %v", err)
	}
}

// token is a key that lives elsewhere.
type token struct{ crypto.Signer }

func (token) Algorithm() keys.Algorithm { return keys.Ed25519 }

func TestPKCS8(t *testing.T) {
	k, err := keys.Files{}.Generate(keys.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	der, err := keys.PKCS8(k)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := x509.ParsePKCS8PrivateKey(der); err != nil || !keys.Equal(got.(crypto.Signer).Public(), k.Public()) {
		t.Errorf("another key: %v", err)
	}
	if _, err := keys.PKCS8(token{k}); !errors.Is(err, keys.ErrNotExportable) {
		t.Errorf("a key on a token: %v", err)
	}
	if err := (keys.Files{}).Save(t.TempDir(), token{k}, durable.Mode(0o600)); !errors.Is(err, keys.ErrNotExportable) {
		t.Errorf("saving a key on a token: %v", err)
	}
}

func TestLoadQuotesNothing(t *testing.T) {
	dir := t.TempDir()
	secret := bytes.Repeat([]byte("c2VjcmV0"), 8)
	for _, text := range []string{"", string(secret),
		"-----BEGIN PRIVATE KEY-----\n" + string(secret) + "\n-----END PRIVATE KEY-----\n",
		"-----BEGIN " + string(secret) + " PRIVATE KEY-----\n-----END PRIVATE KEY-----\n"} {
		if err := os.WriteFile(filepath.Join(dir, keys.FileName), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := keys.Files{}.Load(dir)
		if _, ok := errors.AsType[*keys.UnusableError](err); !ok || strings.Contains(err.Error(), string(secret)) {
			t.Errorf("%v", err)
		}
	}
}
