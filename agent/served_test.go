package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"certagent/agent/hook"
	"certagent/store"
	"certagent/store/durable"
	"certagent/store/durable/durabletest"
	"certagent/store/export"
	"certagent/store/storetest"
)

// witness is the consumers of a device: hooks that look at the outputs when they are run, and remember what they were told. A hook
// is a call like those on the file system: it fails without having run, or runs and is said to have failed.
type witness struct {
	shelf shelf

	mu    sync.Mutex      // guards what follows
	fsys  *durabletest.FS // of the turn
	fails string          // the hook that fails in any case
	told  []told          // hooks that ran
	wrong []error         // what they should not have seen
}

func (w *witness) Run(_ context.Context, h hook.Hook, e hook.Event) hook.Result {
	w.mu.Lock()
	fsys, fails := w.fsys, w.fails
	w.mu.Unlock()
	fault := fsys.Do("run", h.String(), func() { w.see(fsys, h, e) })
	if fault == nil && fails == h.String() {
		fault = errors.New("exit status 1")
	}
	if fault != nil {
		return hook.Result{Output: "no\n", Err: &hook.Error{Hook: h, Class: hook.ErrFailed, Err: fault}}
	}
	return hook.Result{Output: "well\n"}
}

// see is the hook: all outputs are of the certificate that it is told of, and will be so after a crash.
func (w *witness) see(fsys *durabletest.FS, h hook.Hook, e hook.Event) {
	data, err := os.ReadFile(e.Cert)
	f, formatErr := readOutput("cert", data)
	if err = errors.Join(err, formatErr); err == nil {
		err = w.shelf.complete(f.certs[0])
	}
	if err == nil && thumbprint(f.certs[0]) != e.Fingerprint {
		err = fmt.Errorf("told of %s, which is another certificate", e.Fingerprint)
	}
	for _, path := range fsys.Dirty() {
		if strings.HasPrefix(path, w.shelf.dir) {
			err = errors.Join(err, fmt.Errorf("%s is not durable", path))
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told = append(w.told, told{time.Now(), h.String(), e})
	if err != nil {
		w.wrong = append(w.wrong, fmt.Errorf("%s was run after %q: %w", h, fsys.Fired(), err))
	}
}

// options has the agent serve this witness, over a file system.
func (w *witness) options(fsys *durabletest.FS) func(*Options) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fsys = fsys
	return func(o *Options) {
		uid, gid := o.Store.Owner()
		o.Outputs, o.Hooks = export.Writer{FS: fsys, UID: uid, GID: gid}, w
	}
}

// since are the hooks that ran after the first n, and what was wrong up to now.
func (w *witness) since(n int) (told []told, wrong []error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.told[n:]), w.wrong
}

// times counts how often a hook ran for a certificate.
func times(all []told, name, fingerprint string) (n int) {
	for _, t := range all {
		if t.hook == name && t.event.Fingerprint == fingerprint {
			n++
		}
	}
	return n
}

// served is a device with consumers that are witnesses.
type served struct {
	supply
	*device
	*witness
	shelf         shelf
	before, stock string // copies of its state and of the outputs
	kept          []string
}

func (s supply) begin(t *testing.T) *served {
	d := newDevice(t, day, oneCertificate)
	on, err := newShelf(filepath.Join(d.dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	if s.config == nil {
		s.config = supplied
	}
	c := &served{
		supply: s, device: d, shelf: on, witness: &witness{shelf: on},
		before: filepath.Join(d.dir, "before"), stock: filepath.Join(d.dir, "stock"),
	}
	c.configure(s.config(on))
	if err := os.Mkdir(c.state(), 0o755); err != nil {
		t.Fatal(err)
	}
	if s.prepare != nil {
		s.prepare(c)
	}
	c.witness.wrong = nil // with other outputs, and other hooks
	time.Sleep(time.Minute)
	if err := errors.Join(os.Rename(c.state(), c.before), os.Rename(c.shelf.dir, c.stock)); err != nil {
		t.Fatal(err)
	}
	return c
}

// serve is a turn of an agent with these consumers.
func (c *served) serve(fsys *durabletest.FS) error {
	c.t.Helper()
	c.change = c.witness.options(fsys)
	return c.turn(fsys)
}

// mustServe is a turn in which nothing fails.
func (c *served) mustServe() {
	c.t.Helper()
	if err := c.serve(c.broken(0, durabletest.Fail)); err != nil {
		c.t.Fatalf("a turn without a fault: %v\n%s", err, c.logs)
	}
}

// leftOver is what a crash leaves of an output on its way. The output itself is to be kept.
func (c *served) leftOver(path string) {
	c.t.Helper()
	writeFile(c.t, durable.TempName(path), []byte("half of it, with a private key"))
	c.kept = append(c.kept, path)
}

// keeps checks that nothing happened to a file.
func (c *served) keeps(path, after string) {
	c.t.Helper()
	was, err := os.ReadFile(c.stock + strings.TrimPrefix(path, c.shelf.dir))
	is, isErr := os.ReadFile(path)
	if err := errors.Join(err, isErr); err != nil || string(was) != string(is) {
		c.t.Errorf("%s: %s is no output any more, and was changed: %v", after, path, err)
	}
}

// again makes everything as it was before.
func (c *served) again(t *testing.T) {
	t.Helper()
	err := errors.Join(os.RemoveAll(c.state()), os.RemoveAll(c.shelf.dir),
		storetest.Copy(c.before, c.state()), storetest.Copy(c.stock, c.shelf.dir))
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Millisecond) // so that what happens now is told from what happened before
}

// record is delivery.json; zero where there is none.
func (c *served) record() (d store.Delivery) {
	c.t.Helper()
	data, err := os.ReadFile(filepath.Join(c.state(), "certs/device-id/delivery.json"))
	if errors.Is(err, os.ErrNotExist) {
		return d
	}
	if err == nil {
		err = json.Unmarshal(data, &d)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return d
}

// isTrue checks delivery.json against what happened: what it calls done is. What it had before is not judged: that may have
// been spoilt since, and the agent did not get to it.
func (c *served) isTrue(before, d store.Delivery, after string) {
	c.t.Helper()
	for _, o := range d.Outputs {
		had := slices.ContainsFunc(before.Outputs, func(b store.DeliveredOutput) bool { return b == o })
		if o.State != store.StepOK || had && before.SHA256 == d.SHA256 && before.CAs == d.CAs {
			continue
		}
		info, err := os.Lstat(o.Path)
		if err != nil || !export.Mark(o.Mark).Fits(info) {
			c.t.Errorf("%s: delivery.json has %s as written, which is not there or another: %v", after, o.Path, err)
			continue
		}
		data, err := os.ReadFile(o.Path)
		f, formatErr := readOutput(o.Format, data)
		if err := errors.Join(err, formatErr); err != nil {
			c.t.Errorf("%s: delivery.json has %s as written: %v", after, o.Path, err)
		}
		if len(f.certs) > 0 && o.Format != "ca" && thumbprint(f.certs[0]) != d.SHA256 {
			c.t.Errorf("%s: delivery.json says that %s is of generation %d, which it is not", after, o.Path, d.Generation)
		}
	}
	all, _ := c.since(0)
	for _, h := range d.Hooks {
		if h.State == store.StepOK && times(all, h.Hook, d.SHA256) == 0 {
			c.t.Errorf("%s: delivery.json says that %s was run for generation %d, which it was not", after, h.Hook, d.Generation)
		}
	}
}

// isWhole checks what must be true at any moment.
func (c *served) isWhole(old *storetest.Pair, after string) {
	c.t.Helper()
	if wrong := storetest.Wrong(c.state()); len(wrong) > 0 {
		c.t.Errorf("%s: on disk: %v", after, wrong)
	}
	live, err := c.pair("device-id")
	if err != nil || live == nil && old != nil {
		c.t.Errorf("%s: live: %v", after, err)
	}
	if !c.spoilt {
		if err := c.shelf.of(old, live); err != nil {
			c.t.Errorf("%s: outputs: %v", after, err)
		}
	}
	if _, wrong := c.since(0); len(wrong) > 0 {
		c.t.Fatal(errors.Join(wrong...))
	}
}

// isServed checks what must be true when a turn has ended well.
func (c *served) isServed(after string) {
	c.t.Helper()
	live, record := c.live("device-id"), c.record()
	if err := c.shelf.complete(live.Leaf); err != nil {
		c.t.Errorf("%s: in the end: %v", after, err)
	}
	if _, wrong := c.since(0); len(wrong) > 0 {
		c.t.Fatal(errors.Join(wrong...))
	}
	var notOK []string
	for _, o := range record.Outputs {
		if info, err := os.Lstat(o.Path); err != nil || o.State != store.StepOK || !export.Mark(o.Mark).Fits(info) {
			notOK = append(notOK, o.Path)
		}
	}
	for _, h := range record.Hooks {
		if h.State != store.StepOK {
			notOK = append(notOK, h.Hook)
		}
	}
	if len(notOK) > 0 || len(record.Outputs) != len(shelved) || len(record.Hooks) != len(bothHooks) ||
		record.Generation != live.Number || record.SHA256 != thumbprint(live.Leaf) {
		c.t.Errorf("%s: delivery.json in the end, not well are %q: %+v", after, notOK, record)
	}
	strange, err := c.shelf.strange()
	strange = slices.DeleteFunc(strange, func(path string) bool { return slices.Contains(c.kept, path) })
	if err != nil || len(strange) > 0 {
		c.t.Errorf("%s: left over beside the outputs: %v, %v", after, strange, err)
	}
}

// stamps tell whether an output or delivery.json was written.
func (c *served) stamps() string {
	c.t.Helper()
	var b strings.Builder
	for _, path := range append([]string{filepath.Join(c.state(), "certs/device-id/delivery.json")}, c.outputs()...) {
		info, err := os.Lstat(path)
		if err != nil {
			c.t.Fatal(err)
		}
		fmt.Fprintln(&b, path, info.Size(), info.ModTime(), info.Mode())
	}
	return b.String()
}

func (c *served) outputs() (paths []string) {
	for format := range shelved {
		paths = append(paths, c.shelf.path(format))
	}
	slices.Sort(paths)
	return paths
}
