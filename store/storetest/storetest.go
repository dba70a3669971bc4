// Package storetest looks at a state directory from outside, as a consumer or a person does: it shares no code with the
// store that it judges. It is for tests of what must be true on disk whatever happened, and must not be linked into a
// program.
package storetest

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Pair is a certificate and its key as a consumer finds them.
type Pair struct {
	Dir   string // of the generation, absolute
	Leaf  *x509.Certificate
	Chain []*x509.Certificate // of fullchain.pem, the leaf first
	Key   crypto.Signer
}

// Live reads the live pair of a certificate: it resolves the link once and reads the files behind it. The error is
// fs.ErrNotExist where there is no link, and otherwise says why the pair would be of no use, such as a key that is not the
// certificate's.
func Live(state, id string) (*Pair, error) {
	link := filepath.Join(state, "certs", id, "live")
	target, err := os.Readlink(link)
	if err != nil {
		return nil, err
	}
	if filepath.Base(target) != target {
		return nil, fmt.Errorf("%s leads to %s", link, target)
	}
	p := &Pair{Dir: filepath.Join(filepath.Dir(link), target)}
	certs, err := certificates(filepath.Join(p.Dir, "cert.pem"))
	if err != nil {
		return nil, noLonger(err)
	}
	if p.Leaf = certs[0]; len(certs) != 1 {
		return nil, fmt.Errorf("cert.pem holds %d certificates", len(certs))
	}
	if p.Chain, err = certificates(filepath.Join(p.Dir, "fullchain.pem")); err != nil {
		return nil, noLonger(err)
	}
	if !p.Chain[0].Equal(p.Leaf) {
		return nil, errors.New("fullchain.pem does not begin with the certificate")
	}
	if p.Key, err = key(filepath.Join(p.Dir, "key.pem")); err != nil {
		return nil, noLonger(err)
	}
	if !SameKey(p.Key.Public(), p.Leaf.PublicKey) {
		return nil, errors.New("the key is not the certificate's")
	}
	return p, nil
}

// noLonger is err, but for what [Live] calls by fs.ErrNotExist: here there is a link.
func noLonger(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("behind the live link: %v", err)
	}
	return err
}

// PendingKey is the public key of the request on its way; fs.ErrNotExist if there is none.
func PendingKey(state, id string) (crypto.PublicKey, error) {
	k, err := key(filepath.Join(state, "certs", id, "pending", "key.pem"))
	if err != nil {
		return nil, err
	}
	return k.Public(), nil
}

// SameKey compares public keys of kinds that know how.
func SameKey(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}

func certificates(path string) (all []*x509.Certificate, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		all = append(all, c)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s holds no certificate", path)
	}
	return all, nil
}

func key(path string) (crypto.Signer, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, fmt.Errorf("%s is not PKCS#8 in PEM", path)
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	s, ok := k.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%s holds a %T", path, k)
	}
	return s, nil
}

// Wrong says which files of a state directory are not as the package comment of store has them: by mode, or as JSON that
// does not parse. What a crash may leave under temporary names is no fault, unless others can read a key in it: see [Leftovers].
func Wrong(state string) []string {
	var wrong []string
	err := filepath.WalkDir(state, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(state, path)
		say := func(format string, args ...any) {
			wrong = append(wrong, rel+": "+fmt.Sprintf(format, args...))
		}
		if w := wrongMode(rel, info); w != "" {
			say("%s", w)
		}
		if filepath.Ext(path) == ".json" && !temporary(rel) {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if !json.Valid(data) {
				say("does not parse: %q", bytes.TrimSpace(data))
			}
		}
		return nil
	})
	if err != nil {
		wrong = append(wrong, err.Error())
	}
	return wrong
}

// wrongMode compares a mode with the layout's. A process that died over a file under a temporary name leaves it private.
func wrongMode(rel string, info fs.FileInfo) string {
	want := fs.FileMode(0o644)
	switch name := filepath.Base(rel); {
	case info.Mode().Type() == fs.ModeSymlink:
		return ""
	case name == "pending":
		want = 0o700 | fs.ModeDir
	case name == "key.pem", name == "request.json", name == "last-good.toml", rel == "lock": // a lock that others may open, they may take
		want = 0o600
	case info.IsDir():
		want = 0o755 | fs.ModeDir
	}
	private := info.Mode()&0o077 == 0 && temporary(rel)
	if info.Mode() == want || private {
		return ""
	}
	return fmt.Sprintf("has mode %v, want %v", info.Mode(), want)
}

// Leftovers are the paths below a state directory that should be gone once an agent has opened and closed it: temporary
// names, and the requests that led to what is live.
func Leftovers(state string) ([]string, error) {
	var left []string
	err := filepath.WalkDir(state, func(path string, d fs.DirEntry, err error) error {
		if err == nil && temporary(d.Name()) || d != nil && d.Name() == "pending" {
			left = append(left, path)
		}
		return err
	})
	return left, err
}

// temporary reports whether a path leads through a temporary name of the store's.
func temporary(rel string) bool {
	return slices.ContainsFunc(strings.Split(rel, "/"), func(name string) bool {
		return strings.HasPrefix(name, ".certagent-") && strings.HasSuffix(name, ".tmp")
	})
}

// Copy copies directories, files and links with their modes and owners; to must not exist.
func Copy(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		target := to + strings.TrimPrefix(path, from)
		st := info.Sys().(*syscall.Stat_t)
		switch d.Type() {
		case fs.ModeDir:
			err = os.Mkdir(target, 0o700)
		case fs.ModeSymlink:
			link, err := os.Readlink(path)
			return errors.Join(err, os.Symlink(link, target), os.Lchown(target, int(st.Uid), int(st.Gid)))
		default:
			data, readErr := os.ReadFile(path)
			err = errors.Join(readErr, os.WriteFile(target, data, 0o600))
		}
		// The mode comes last: giving a file away takes some bits off it.
		return errors.Join(err, os.Chown(target, int(st.Uid), int(st.Gid)), os.Chmod(target, info.Mode()))
	})
}
