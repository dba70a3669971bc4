package agent

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"software.sslmate.com/src/go-pkcs12"

	"certagent/store/storetest"
)

// shelf is where the outputs of one certificate lie, in all formats and three directories. It is looked at as consumers
// do, without the code that wrote it.
type shelf struct {
	dir   string // holds the three directories
	owner int    // whose the file cert is to be; all others are the process's
}

// shelved are the formats of the outputs, with the directory of each: the pair is spread over two.
var shelved = map[string]string{
	"cert": "a", "key": "b", "ca": "a", "fullchain": "b", "chain": "b", "fullchain+root": "b", "combined": "c", "pkcs12": "c",
}

const shelfPassword = "a password"

// shelfOwner is whose the file cert is to be: root can give it away.
func shelfOwner() int {
	if os.Getuid() == 0 {
		return 65534
	}
	return os.Getuid()
}

// newShelf makes the directories in dir.
func newShelf(dir string) (shelf, error) {
	s := shelf{dir: dir, owner: shelfOwner()}
	err := os.MkdirAll(dir, 0o755)
	for _, d := range []string{"a", "b", "c"} {
		err = errors.Join(err, os.Mkdir(filepath.Join(dir, d), 0o755))
	}
	return s, errors.Join(err, os.WriteFile(s.passwordFile(), []byte(shelfPassword+"\n"), 0o600))
}

func (s shelf) passwordFile() string { return filepath.Join(s.dir, "password") }

func (s shelf) path(format string) string { return filepath.Join(s.dir, shelved[format], format) }

// config is the outputs in the words of the configuration, below the table of the certificate.
func (s shelf) config(table string) string {
	var b strings.Builder
	for _, format := range slices.Sorted(maps.Keys(shelved)) {
		fmt.Fprintf(&b, "[[%s.outputs]]\nformat = %q\npath = %q\n", table, format, s.path(format))
		switch format {
		case "cert":
			fmt.Fprintf(&b, "owner = \"%d\"\n", s.owner)
		case "pkcs12":
			fmt.Fprintf(&b, "password_file = %q\n", s.passwordFile())
		}
	}
	return b.String()
}

// found is an output by itself.
type found struct {
	certs []*x509.Certificate // the first is the certificate, but for chain and ca
	key   crypto.PublicKey    // of the private key; nil where the format has none
}

// whole reads what there is, each file by itself: it is of the format, with the mode and the owner that were asked for,
// and where it holds a key and a certificate they match.
func (s shelf) whole() (map[string]found, error) {
	all := map[string]found{}
	for format := range shelved {
		info, err := os.Lstat(s.path(format))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		mode, owner := fs.FileMode(0o644), os.Getuid()
		switch format {
		case "key", "combined", "pkcs12":
			mode = 0o600
		case "cert":
			owner = s.owner
		}
		if st := info.Sys().(*syscall.Stat_t); info.Mode() != mode || int(st.Uid) != owner {
			return nil, fmt.Errorf("%s has mode %v and user %d, want %v and %d", format, info.Mode(), st.Uid, mode, owner)
		}
		data, err := os.ReadFile(s.path(format))
		if err != nil {
			return nil, err
		}
		if all[format], err = readOutput(format, data); err != nil {
			return nil, fmt.Errorf("%s: %w", format, err)
		}
	}
	return all, nil
}

// readOutput reads a file of that format.
func readOutput(format string, data []byte) (f found, err error) {
	if format == "pkcs12" {
		key, leaf, _, err := pkcs12.DecodeChain(data, shelfPassword)
		if err != nil {
			return f, err
		}
		f = found{[]*x509.Certificate{leaf}, key.(crypto.Signer).Public()}
		if !storetest.SameKey(f.key, leaf.PublicKey) {
			err = errors.New("the key is not the certificate's")
		}
		return f, err
	}
	var rest []byte
	for block, after := pem.Decode(data); block != nil; block, after = pem.Decode(after) {
		rest = after
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return f, err
		}
		f.certs = append(f.certs, c)
	}
	if len(rest) > 0 {
		return f, fmt.Errorf("ends with %d bytes of something else", len(rest))
	}
	switch format {
	case "key":
		block, _ := pem.Decode(data)
		if block == nil || block.Type != "PRIVATE KEY" {
			return f, errors.New("is no private key")
		}
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return f, err
		}
		f.key = key.(crypto.Signer).Public()
		return f, nil
	case "combined":
		pair, err := tls.X509KeyPair(data, data)
		if err != nil {
			return f, err
		}
		f.key = pair.Leaf.PublicKey
	case "chain": // the CA of these tests issues by itself
		if len(data) > 0 {
			return f, fmt.Errorf("holds %d bytes", len(data))
		}
		return f, nil
	}
	if len(f.certs) == 0 {
		return f, errors.New("holds no certificate")
	}
	if top := f.certs[len(f.certs)-1]; format == "fullchain+root" && !bytes.Equal(top.RawIssuer, top.RawSubject) {
		return f, errors.New("does not end at a root")
	}
	return f, nil
}

// complete says why the outputs are not, all of them, those of one certificate.
func (s shelf) complete(leaf *x509.Certificate) error {
	all, err := s.whole()
	if err != nil {
		return err
	}
	for format := range shelved {
		f, is := all[format]
		switch {
		case !is:
			return fmt.Errorf("%s is not there", format)
		case f.key != nil && !storetest.SameKey(f.key, leaf.PublicKey):
			return fmt.Errorf("%s has the key of another certificate", format)
		case format == "ca":
			if !slices.ContainsFunc(f.certs, func(ca *x509.Certificate) bool { return leaf.CheckSignatureFrom(ca) == nil }) {
				return errors.New("ca does not have the CA that issued the certificate")
			}
		case format != "key" && format != "chain" && !f.certs[0].Equal(leaf):
			return fmt.Errorf("%s has certificate %v, not %v", format, f.certs[0].SerialNumber, leaf.SerialNumber)
		}
	}
	return nil
}

// of says which output is of neither of these pairs, which may be nil. Where there are several they need not be of the same
// one.
func (s shelf) of(pairs ...*storetest.Pair) error {
	all, err := s.whole()
	if err != nil {
		return err
	}
	for format, f := range all {
		known := func(p *storetest.Pair) bool {
			return p != nil && (f.key == nil || storetest.SameKey(f.key, p.Leaf.PublicKey)) &&
				(format == "ca" || len(f.certs) == 0 || f.certs[0].Equal(p.Leaf))
		}
		if !slices.ContainsFunc(pairs, known) {
			return fmt.Errorf("%s is of a certificate that is not live and never was", format)
		}
	}
	return nil
}

// strange are the names in the directories that no output has.
func (s shelf) strange() (names []string, err error) {
	err = filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && path != s.passwordFile() && (shelved[d.Name()] == "" || path != s.path(d.Name())) {
			names = append(names, path)
		}
		return err
	})
	return names, err
}
