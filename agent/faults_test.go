package agent

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"certagent/est"
	"certagent/store"
	"certagent/store/durable"
	"certagent/store/durable/durabletest"
	"certagent/store/storetest"
)

// unreliable has every request to a server counted beside the calls on the file system, so that a sweep over one number
// breaks all that an attempt does: a request may never arrive, and its answer may never come back.
func unreliable(fsys *durabletest.FS, dial func(est.Options) (Enroller, error)) func(est.Options) (Enroller, error) {
	return func(o est.Options) (Enroller, error) {
		c, err := dial(o)
		return unreliableClient{c, fsys}, err
	}
}

type unreliableClient struct {
	Enroller
	fs *durabletest.FS
}

// ask makes one request; the error is of the network alone.
func (u unreliableClient) ask(op string, request func()) error {
	if fault := u.fs.Do(op, "the EST server", request); fault != nil {
		return &est.Error{Op: op, Class: est.ErrUnavailable, Err: fault}
	}
	return nil
}

func (u unreliableClient) Enroll(ctx context.Context, csr []byte, want est.Want) (issued *est.Issued, err error) {
	fault := u.ask(opEnroll, func() { issued, err = u.Enroller.Enroll(ctx, csr, want) })
	return unlessLost(issued, err, fault)
}

func (u unreliableClient) Reenroll(ctx context.Context, csr []byte, want est.Want) (issued *est.Issued, err error) {
	fault := u.ask(opReenroll, func() { issued, err = u.Enroller.Reenroll(ctx, csr, want) })
	return unlessLost(issued, err, fault)
}

func (u unreliableClient) ServerKeygen(
	ctx context.Context, csr []byte, want est.Want, unwrap crypto.Decrypter,
) (issued *est.Issued, err error) {
	fault := u.ask(opServerKeygen, func() { issued, err = u.Enroller.ServerKeygen(ctx, csr, want, unwrap) })
	return unlessLost(issued, err, fault)
}

func (u unreliableClient) Attributes(ctx context.Context) (known *est.Attributes, err error) {
	fault := u.ask("csrattrs", func() { known, err = u.Enroller.Attributes(ctx) })
	return unlessLost(known, err, fault)
}

func (u unreliableClient) CACerts(ctx context.Context) (cas []*x509.Certificate, err error) {
	if fault := u.ask(opCACerts, func() { cas, err = u.Enroller.CACerts(ctx) }); fault != nil {
		return nil, fault
	}
	return cas, err
}

// unlessLost is an answer, unless it was lost on the way.
func unlessLost[T any](answer *T, err, fault error) (*T, error) {
	if fault != nil {
		return nil, fault
	}
	return answer, err
}

// state is the device's state directory.
func (d *device) state() string { return filepath.Join(d.dir, "state") }

// turn is one "run --once" over a file system: open the store, make the agent, do what is due.
func (d *device) turn(fsys *durabletest.FS) error {
	d.t.Helper()
	cfg, err := d.load()
	if err != nil {
		d.t.Fatal(err)
	}
	s, err := store.Open(d.state(), store.Options{MachineID: "test", FS: fsys})
	if err != nil {
		return err
	}
	defer s.Close()
	o := d.options(cfg, s)
	o.Dial = unreliable(fsys, o.Dial)
	a, err := New(o)
	if err != nil {
		return err
	}
	if err := s.SaveLastGood(cfg.Merged); err != nil {
		d.logs.Write([]byte(err.Error())) // which is what main does with it
	}
	return a.Once(context.Background())
}

// broken is the file system of the device's state, whose call number at fails; 0 is one that works.
func (d *device) broken(at int, mode durabletest.Mode) *durabletest.FS {
	return durabletest.New(durabletest.NoSync{FS: durable.OS{Root: d.state()}}, at, mode)
}

// mustTurn is a turn in which nothing fails.
func (d *device) mustTurn() {
	d.t.Helper()
	fsys := d.broken(0, durabletest.Fail)
	if err := d.turn(fsys); err != nil {
		d.t.Fatalf("a turn without a fault: %v\n%s", err, d.logs)
	}
	if u := fsys.Unsynced(); len(u) > 0 {
		d.t.Errorf("renamed before it was durable: %v", u)
	}
}

// sentIsDurable is for [fakeCA.fail]: when a request arrives at the CA, its key and its very bytes are on the device's disk.
func (d *device) sentIsDurable(fsys *durabletest.FS) func(call) error {
	return func(c call) error {
		pending := filepath.Join(d.state(), "certs", c.id, "pending")
		var request struct{ CSR []byte }
		data, err := os.ReadFile(filepath.Join(pending, "request.json"))
		if err == nil {
			err = json.Unmarshal(data, &request)
		}
		if err != nil || !bytes.Equal(request.CSR, c.csr) {
			d.t.Errorf("after %q: a request was sent that is not on disk: %v", fsys.Fired(), err)
		}
		if slices.Contains(fsys.Names(), pending) {
			d.t.Errorf("after %q: a request was sent before its directory's name was durable", fsys.Fired())
		}
		for _, path := range fsys.Dirty() {
			// A temporary name is what a file leaves that was made, and said to be not.
			if (path == pending || filepath.Dir(path) == pending) && !durable.IsTemp(filepath.Base(path)) {
				d.t.Errorf("after %q: a request was sent before it was durable: %s", fsys.Fired(), path)
			}
		}
		return nil
	}
}

// publicKey is that of a request.
func publicKey(t *testing.T, csr []byte) crypto.PublicKey {
	t.Helper()
	r, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		t.Fatal(err)
	}
	return r.PublicKey
}

// generations are the directories of a certificate that are called so.
func (d *device) generations(id string) []string {
	d.t.Helper()
	all, err := filepath.Glob(filepath.Join(d.state(), "certs", id, "gen-*"))
	if err != nil {
		d.t.Fatal(err)
	}
	return all
}

// pair is the live pair of a certificate, nil where there is none.
func (d *device) pair(id string) (*storetest.Pair, error) {
	p, err := storetest.Live(d.state(), id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return p, err
}

// isTidy says what is wrong on disk, or left over, after a start without faults.
func (d *device) isTidy(after string) {
	d.t.Helper()
	left, err := storetest.Leftovers(d.state())
	if err != nil {
		d.t.Fatal(err)
	}
	if wrong := slices.Concat(storetest.Wrong(d.state()), left); len(wrong) > 0 {
		d.t.Errorf("%s: on disk in the end: %v", after, wrong)
	}
}
