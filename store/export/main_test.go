package export_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"io/fs"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"certagent/store/durable"
	"certagent/store/export"
	"certagent/store/keys"
)

// asAgent has the test binary be an agent: it writes the outputs that the variable names, with the rights it was given.
const asAgent = "CERTAGENT_TEST_EXPORT"

func TestMain(m *testing.M) {
	if text := os.Getenv(asAgent); text != "" {
		if err := beAgent(text); err != nil {
			os.Stderr.WriteString(err.Error())
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// order is an output as it goes to a process.
type order struct {
	Format             export.Format
	Path, Owner, Group string
	Mode               fs.FileMode
}

// report is a result as it comes from a process.
type report struct {
	Path, Drift, Error, Hint string
	Written, Settled         bool
}

// beAgent applies outputs once, then checks them with the marks it got, then without, and prints what came out.
func beAgent(text string) error {
	var orders []order
	if err := json.Unmarshal([]byte(text), &orders); err != nil {
		return err
	}
	var outputs []export.Output
	for _, o := range orders {
		outputs = append(outputs, export.Output{Format: o.Format, Path: o.Path, Owner: o.Owner, Group: o.Group, Mode: o.Mode})
	}
	ca, err := newAuthority("Root", nil)
	if err != nil {
		return err
	}
	pair, err := ca.pair()
	if err != nil {
		return err
	}
	w := export.Writer{UID: os.Geteuid(), GID: os.Getegid()}
	set := export.Set{Pair: pair, Outputs: outputs}
	first := w.Apply(set, nil)
	var all [][]report
	for _, results := range [][]export.Result{first, w.Check(set, marks(first)), w.Check(set, nil)} {
		var reports []report
		for _, r := range results {
			rep := report{Path: r.Path, Drift: r.Drift, Written: r.Written, Settled: r.Settled()}
			if r.Err != nil {
				rep.Error = r.Err.Error()
			}
			if e, ok := errors.AsType[*export.RefusedError](r.Err); ok {
				rep.Hint = e.Hint
			}
			reports = append(reports, rep)
		}
		all = append(all, reports)
	}
	return json.NewEncoder(os.Stdout).Encode(all)
}

// writeAs has an agent without root's rights write outputs: as attr says where the test is root, else as the user of the
// test.
func writeAs(t *testing.T, attr *syscall.SysProcAttr, outputs ...export.Output) (applied, checked, unmarked []report) {
	t.Helper()
	var orders []order
	for _, o := range outputs {
		orders = append(orders, order{o.Format, o.Path, o.Owner, o.Group, o.Mode})
	}
	text, err := json.Marshal(orders)
	must(t, err)
	cmd := exec.Command("/proc/self/exe") // the binary may lie where nobody else may go
	cmd.Env = append(os.Environ(), asAgent+"="+string(text))
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = attr
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	var all [][]report
	must(t, json.Unmarshal(out, &all))
	return all[0], all[1], all[2]
}

// authority is a CA certificate with its key.
type authority struct {
	cert   *x509.Certificate
	key    keys.Key
	issuer *authority // nil for a root
}

var epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func newAuthority(name string, issuer *authority) (*authority, error) {
	k, err := keys.Files{}.Generate(keys.ECP256)
	if err != nil {
		return nil, err
	}
	a := &authority{key: k, issuer: issuer}
	by := issuer
	if by == nil {
		by = a
	}
	a.cert, err = by.sign(name, k.Public(), true)
	return a, err
}

func (a *authority) sign(name string, pub crypto.PublicKey, isCA bool) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: epoch, NotAfter: epoch.Add(24 * time.Hour),
		BasicConstraintsValid: isCA, IsCA: isCA,
	}
	parent := a.cert
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, a.key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// pair is a new certificate with a new key, its chain, and the root it ends at.
func (a *authority) pair() (export.Pair, error) { return a.pairOf(keys.ECP256) }

func (a *authority) pairOf(kind keys.Algorithm) (export.Pair, error) {
	k, err := keys.Files{}.Generate(kind)
	if err != nil {
		return export.Pair{}, err
	}
	leaf, err := a.sign("gateway", k.Public(), false)
	p := export.Pair{Key: k, Leaf: leaf}
	for ; a.issuer != nil; a = a.issuer {
		p.Chain = append(p.Chain, a.cert)
	}
	p.CAs = []*x509.Certificate{a.cert}
	return p, err
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// issuing is a CA below a root, and a pair of it.
func issuing(t testing.TB) (*authority, export.Pair) {
	t.Helper()
	root, err := newAuthority("Root", nil)
	must(t, err)
	sub, err := newAuthority("Issuing", root)
	must(t, err)
	p, err := sub.pair()
	must(t, err)
	return sub, p
}

func secret(s string) func() (string, error) { return func() (string, error) { return s, nil } }

// writer is one for the user of the test.
func writer(fsys durable.FS) export.Writer {
	return export.Writer{FS: fsys, UID: os.Geteuid(), GID: os.Getegid()}
}

var allFormats = []export.Format{export.Cert, export.Chain, export.Fullchain, export.FullchainRoot, export.CA,
	export.Key, export.Combined, export.PKCS12}

// outputs are one output of each format in dir, named after it.
func outputs(dir string, formats ...export.Format) (outs []export.Output) {
	for _, f := range formats {
		o := export.Output{Format: f, Path: filepath.Join(dir, string(f)), Mode: 0o644}
		if holdsKey(f) {
			o.Mode = 0o600
		}
		if f == export.PKCS12 {
			o.Password = secret("changeit")
		}
		outs = append(outs, o)
	}
	return outs
}

func holdsKey(f export.Format) bool {
	return slices.Contains([]export.Format{export.Key, export.Combined, export.PKCS12}, f)
}

func marks(results []export.Result) map[string]export.Mark {
	ms := map[string]export.Mark{}
	for _, r := range results {
		ms[r.Path] = r.Mark
	}
	return ms
}

// settled checks that all results are, and gives how many were written.
func settled(t testing.TB, results []export.Result) (written int) {
	t.Helper()
	for _, r := range results {
		if !r.Settled() || r.Err != nil {
			t.Errorf("%s is not settled: drift %q, %v", r.Path, r.Drift, r.Err)
		}
		if r.Written {
			written++
		}
	}
	return written
}

// contents are all files in dir by name.
func contents(t testing.TB, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	all := map[string]string{}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		must(t, err)
		all[e.Name()] = string(data)
	}
	return all
}

func lstat(t testing.TB, path string) fs.FileInfo {
	t.Helper()
	info, err := os.Lstat(path)
	must(t, err)
	return info
}

// openDir is a directory that other users may look into, as /tmp/TestX/001 is not.
func openDir(t testing.TB) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err, os.Chmod(filepath.Dir(dir), 0o755), os.Chmod(dir, 0o755))
	return dir
}

func temps(t testing.TB, dir string) (names []string) {
	t.Helper()
	for name := range contents(t, dir) {
		if durable.IsTemp(name) {
			names = append(names, name)
		}
	}
	return names
}

// refused checks that err is a refusal whose text and hint hold what they should.
func refused(t testing.TB, err error, why, hint string) {
	t.Helper()
	e, ok := errors.AsType[*export.RefusedError](err)
	if !ok || !strings.Contains(e.Why, why) || !strings.Contains(e.Hint, hint) || !strings.Contains(e.Error(), e.Path) {
		t.Errorf("error %v, want a refusal because %q, with the hint %q", err, why, hint)
	}
}
