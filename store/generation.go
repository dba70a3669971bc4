package store

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"certagent/store/durable"
	"certagent/store/keys"
)

// Files of a generation, beside [keys.FileName] and meta.json.
const (
	certFile      = "cert.pem"      // the certificate
	chainFile     = "chain.pem"     // the intermediate certificates; may be empty
	fullchainFile = "fullchain.pem" // both, in this order
	caFile        = "ca.pem"        // the CA certificates it was verified with; may be empty
)

// Generation is one issued certificate with its key, as it stands on disk. It never changes.
type Generation struct {
	Number int
	Dir    string   // absolute path
	Key    keys.Key // nil in a View that may not read it
	Leaf   *x509.Certificate
	Chain  []*x509.Certificate // intermediates
	CAs    []*x509.Certificate
	Meta   Meta
	// HasMeta is false where meta.json is gone or damaged; Meta is zero then.
	HasMeta bool
}

// TLS is the certificate with its chain and key, for logging in to a server.
func (g *Generation) TLS() tls.Certificate {
	t := tls.Certificate{Certificate: [][]byte{g.Leaf.Raw}, Leaf: g.Leaf}
	if g.Key != nil {
		t.PrivateKey = g.Key
	}
	for _, c := range g.Chain {
		t.Certificate = append(t.Certificate, c.Raw)
	}
	return t
}

// Serial is the certificate's serial number in whole bytes of lower-case hexadecimal.
func (g *Generation) Serial() string { return serial(g.Leaf) }

// File is the absolute path of one of the generation's files: "cert.pem", "chain.pem", "fullchain.pem", "ca.pem", "key.pem".
func (g *Generation) File(name string) string { return filepath.Join(g.Dir, name) }

// BrokenError says what is wrong with a generation, or with the live link.
type BrokenError struct {
	Gen  int    // 0 when the live link is what is broken
	File string // name in the generation's directory, or "live"
	Why  string // reads on from the file's name: "is gone"
	Err  error  // cause, nil if there is no more to say
}

func (e *BrokenError) Error() string {
	if e.Gen == 0 {
		return e.File + " " + e.Why
	}
	return fmt.Sprintf("generation %d: %s %s", e.Gen, e.File, e.Why)
}

// Unwrap gives the cause.
func (e *BrokenError) Unwrap() error { return e.Err }

// broken turns an error of reading a file of generation n into a BrokenError, unless it is one of the process or the
// system, which says nothing about the file.
func broken(n int, file string, err error) error {
	for _, transient := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM} {
		if errors.Is(err, transient) {
			return err
		}
	}
	b := &BrokenError{Gen: n, File: file, Why: "cannot be read: " + err.Error(), Err: err}
	if errors.Is(err, fs.ErrNotExist) {
		b.Why = "is gone"
	} else if e, ok := errors.AsType[*durable.KindError](err); ok {
		b.Why = e.Why()
	} else if e, ok := errors.AsType[*keys.UnusableError](err); ok {
		b.Why = e.Why
	} else if errors.Is(err, ErrUnsafe) {
		b.Why = "is not to be believed: " + err.Error()
	}
	return b
}

// load reads and verifies generation n in dir: everything parses, and the key is the certificate's.
func (s *Store) load(dir string, n int) (*Generation, error) {
	g := &Generation{Number: n, Dir: dir}
	leaf, leafText, err := s.loadCertificates(dir, n, certFile, x509.ParseCertificate)
	if err != nil {
		return nil, err
	}
	if len(leaf) != 1 {
		return nil, &BrokenError{Gen: n, File: certFile, Why: fmt.Sprintf("holds %d certificates, not one", len(leaf))}
	}
	g.Leaf = leaf[0]
	chain, chainText, err := s.loadCertificates(dir, n, chainFile, s.issuers.parse)
	if err != nil {
		return nil, err
	}
	g.Chain = chain
	if err := s.checkFullchain(dir, n, g, leafText, chainText); err != nil {
		return nil, err
	}
	if g.CAs, _, err = s.loadCertificates(dir, n, caFile, s.issuers.parse); err != nil {
		return nil, err
	}
	g.Key, err = s.keys.Load(dir)
	switch {
	case s.readOnly && errors.Is(err, fs.ErrPermission):
		g.Key = nil
	case err != nil:
		return nil, broken(n, keys.FileName, err)
	case !keys.Equal(g.Key.Public(), g.Leaf.PublicKey):
		return nil, &BrokenError{Gen: n, File: keys.FileName, Why: "is not the key of " + certFile}
	}
	if m, err := s.readMeta(dir); err == nil {
		g.Meta, g.HasMeta = m, true
	}
	return g, nil
}

// checkFullchain expects the certificate and the chain of g in the file of both. It parses that only where it is not one text
// behind the other, as [Store.write] makes it.
func (s *Store) checkFullchain(dir string, n int, g *Generation, leaf, chain []byte) error {
	text, _, err := s.read(filepath.Join(dir, fullchainFile))
	if err != nil {
		return broken(n, fullchainFile, err)
	}
	if bytes.HasSuffix(leaf, []byte("\n")) && bytes.Equal(text, slices.Concat(leaf, chain)) {
		return nil
	}
	full, err := parseCertificates(text, x509.ParseCertificate)
	if err != nil {
		return &BrokenError{Gen: n, File: fullchainFile, Why: err.Error(), Err: err}
	}
	if !slices.EqualFunc(full, append([]*x509.Certificate{g.Leaf}, g.Chain...), (*x509.Certificate).Equal) {
		return &BrokenError{Gen: n, File: fullchainFile, Why: "does not hold " + certFile + " and " + chainFile}
	}
	return nil
}

// loadCertificates gives the certificates in a file, made by parse of their DER, and its text.
func (s *Store) loadCertificates(dir string, n int, file string, parse func(der []byte) (*x509.Certificate, error)) (
	certs []*x509.Certificate, text []byte, err error,
) {
	text, _, err = s.read(filepath.Join(dir, file))
	if err != nil {
		return nil, nil, broken(n, file, err)
	}
	certs, err = parseCertificates(text, parse)
	if err != nil {
		return nil, nil, &BrokenError{Gen: n, File: file, Why: err.Error(), Err: err}
	}
	return certs, text, nil
}

// write puts the files of a new generation into dir, a directory that does not count yet, and makes them durable.
func (s *Store) write(dir string, i Issue) error {
	meta := i.meta(s.machineID)
	if err := s.saveKey(dir, i, &meta); err != nil {
		return err
	}
	metaJSON, err := encodeJSON(meta)
	if err != nil {
		return err
	}
	file := func(name string, data []byte) durable.New {
		return durable.New{Path: filepath.Join(dir, name), Data: data, Perm: s.perm(0o644)}
	}
	leaf, chain := encodeCertificates(i.Leaf), encodeCertificates(i.Chain...)
	err = durable.CreateAll(s.fs, file(certFile, leaf), file(chainFile, chain),
		file(fullchainFile, bytes.Join([][]byte{leaf, chain}, nil)), file(caFile, encodeCertificates(i.CAs...)),
		file(metaFile, metaJSON))
	if err != nil {
		return err
	}
	return durable.SyncDir(s.fs, dir)
}

// saveKey puts the key into dir as i.KeyPerm says. An owner or group that cannot be given is a warning: a certificate
// that the CA has issued is not thrown away for it.
func (s *Store) saveKey(dir string, i Issue, meta *Meta) error {
	own := s.perm(0o600)
	p := i.KeyPerm
	if p.Mode == 0 {
		p = own
	}
	if p.UID < 0 {
		p.UID = own.UID
	}
	if p.GID < 0 {
		p.GID = own.GID
	}
	err := s.keys.Save(dir, i.key(), p)
	if e, ok := errors.AsType[*durable.ChownError](err); ok && p != own {
		e.Path = keys.FileName
		meta.Warnings = append(slices.Clip(meta.Warnings),
			e.Error()+"; it has mode 0600 and the agent's own group instead")
		err = s.keys.Save(dir, i.key(), own)
	}
	return err
}

func genName(n int) string { return fmt.Sprintf("gen-%06d", n) }

// lastNumber is the highest of a generation. It fits into an int everywhere, and no device lives to see it.
const lastNumber = 999_999_999

// genNumber is the number of a generation's directory, 0 if the name is none.
func genNumber(name string) int {
	digits, ok := strings.CutPrefix(name, "gen-")
	if !ok || len(digits) > len("999999999") {
		return 0
	}
	n, err := strconv.Atoi(digits)
	if err != nil || n < 1 || genName(n) != name {
		return 0
	}
	return n
}
