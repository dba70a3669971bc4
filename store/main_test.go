package store_test

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"certagent/store"
	"certagent/store/keys"
)

// TestMain lets the test binary be a second agent. With the first variable it opens that state directory, says so, and
// holds it until its standard input ends; with the second it renews in it until it is killed, with the third as well just
// once, and kills itself at the call of that number.
const (
	holdVariable  = "CERTAGENT_TEST_HOLD"
	renewVariable = "CERTAGENT_TEST_RENEW"
	dieVariable   = "CERTAGENT_TEST_DIE"
)

func TestMain(m *testing.M) {
	if at, err := strconv.Atoi(os.Getenv(dieVariable)); err == nil {
		if err := renewDying(os.Getenv(renewVariable), at); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if dir := os.Getenv(renewVariable); dir != "" {
		fmt.Println(renewForEver(dir))
		os.Exit(1)
	}
	if dir := os.Getenv(holdVariable); dir != "" {
		s, err := store.Open(dir, store.Options{})
		fmt.Println(err)
		io.Copy(io.Discard, os.Stdin)
		if err == nil {
			s.Close()
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// ca issues certificates for tests.
type ca struct {
	key  keys.Key
	cert *x509.Certificate
	next int64
}

var epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func newCA(t testing.TB) *ca {
	t.Helper()
	a := &ca{key: generate(t), next: 1}
	a.cert = a.sign(t, "Test CA", a.key.Public(), true)
	return a
}

func generate(t testing.TB) keys.Key {
	t.Helper()
	k, err := keys.Files{}.Generate(keys.ECP256)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (a *ca) sign(t testing.TB, name string, pub crypto.PublicKey, isCA bool) *x509.Certificate {
	t.Helper()
	a.next++
	template := &x509.Certificate{
		SerialNumber: big.NewInt(a.next), Subject: pkix.Name{CommonName: name},
		NotBefore: epoch, NotAfter: epoch.Add(24 * time.Hour),
		BasicConstraintsValid: isCA, IsCA: isCA,
	}
	parent := a.cert
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, a.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func request(t testing.TB, k keys.Key) store.Pending {
	t.Helper()
	template := &x509.CertificateRequest{Subject: pkix.Name{CommonName: "gw"}}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, k)
	if err != nil {
		t.Fatal(err)
	}
	return store.Pending{
		Operation: "simpleenroll", Server: "https://est.example:8085/.well-known/est", CSR: der, Created: epoch,
		Identity: "bootstrap", Reason: "missing",
		Request: store.Request{Subject: "CN=gw", Key: string(k.Algorithm()), URL: "https://est.example:8085/.well-known/est"},
	}
}

func (a *ca) issue(t testing.TB, p *store.Pending) store.Issue {
	t.Helper()
	return store.Issue{
		Pending: p, Leaf: a.sign(t, "gw", p.Key.Public(), false),
		Chain: []*x509.Certificate{a.cert}, CAs: []*x509.Certificate{a.cert},
		Meta: store.Meta{Issued: epoch, First: true, Version: "test"},
	}
}

// renew has one certificate asked for and issued.
func (a *ca) renew(t testing.TB, c *store.Certificate, k keys.Key) *store.Generation {
	t.Helper()
	p, err := c.SavePending(k, request(t, k))
	if err != nil {
		t.Fatal(err)
	}
	g, err := c.Commit(a.issue(t, p))
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func open(t testing.TB, dir string) *store.Store {
	t.Helper()
	s, err := store.Open(dir, store.Options{MachineID: "machine"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func certificate(t testing.TB, s *store.Store, id string) *store.Certificate {
	t.Helper()
	c, err := s.Certificate(id)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// start is an open store with one live certificate.
func start(t testing.TB) (*store.Store, *store.Certificate, *ca, *store.Generation) {
	t.Helper()
	s := open(t, filepath.Join(t.TempDir(), "state"))
	c, a := certificate(t, s, "device-id"), newCA(t)
	return s, c, a, a.renew(t, c, generate(t))
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// tree lists all below dir: mode and path, links with their target.
func tree(t testing.TB, dir string) []string {
	t.Helper()
	var lines []string
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		line := fmt.Sprintf("%v %s", info.Mode(), rel)
		if target, err := os.Readlink(path); err == nil {
			line = fmt.Sprintf("link %s -> %s", rel, target)
		}
		lines = append(lines, line)
		return nil
	}))
	return lines
}
