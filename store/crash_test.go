package store_test

import (
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"certagent/store"
	"certagent/store/durable"
	"certagent/store/durable/durabletest"
	"certagent/store/keys"
	"certagent/store/storetest"
)

// scenario is a state directory and one renewal in it.
type scenario struct {
	name string
	bare bool // there is not even a state directory
	// prepare makes what was there before, and gives the key to renew with.
	prepare func(t *testing.T, c *store.Certificate, a *ca) keys.Key
}

var scenarios = []scenario{
	{name: "nothing there", bare: true, prepare: func(t *testing.T, c *store.Certificate, a *ca) keys.Key {
		return generate(t)
	}},
	{name: "first enrolment", prepare: func(t *testing.T, c *store.Certificate, a *ca) keys.Key {
		return generate(t)
	}},
	{name: "new key", prepare: func(t *testing.T, c *store.Certificate, a *ca) keys.Key {
		a.renew(t, c, generate(t))
		a.renew(t, c, generate(t))
		return generate(t)
	}},
	{name: "same key", prepare: func(t *testing.T, c *store.Certificate, a *ca) keys.Key {
		return a.renew(t, c, generate(t)).Key
	}},
	{name: "another request in its place", prepare: func(t *testing.T, c *store.Certificate, a *ca) keys.Key {
		a.renew(t, c, generate(t))
		k := generate(t)
		_, err := c.SavePending(k, request(t, k))
		must(t, err)
		return generate(t)
	}},
	{name: "the same request signed anew", prepare: func(t *testing.T, c *store.Certificate, a *ca) keys.Key {
		k := a.renew(t, c, generate(t)).Key
		_, err := c.SavePending(k, request(t, k))
		must(t, err)
		return k
	}},
	{name: "broken before", prepare: func(t *testing.T, c *store.Certificate, a *ca) keys.Key {
		must(t, os.Remove(filepath.Join(a.renew(t, c, generate(t)).Dir, "cert.pem")))
		return generate(t)
	}},
}

// Every call on the file system fails once, in every mode, during one renewal: opening the store, saving the request,
// committing. After each, a fresh start finds a matching pair live, the old or the new one (unless there was none); if
// the new one is not live then the request that may have been sent is there with its key; and the work completes.
func TestEveryCallOfARenewalFails(t *testing.T) {
	for _, sc := range scenarios {
		t.Run(sc.name, func(t *testing.T) {
			t.Parallel()
			r := newRenewal(t, sc)
			for _, mode := range durabletest.Modes {
				visited := 0
				for ; r.breakAt(t, visited+1, mode); visited++ {
				}
				t.Logf("%v: %d fault points", mode, visited)
				if visited < 40 {
					t.Errorf("%v: only %d fault points", mode, visited)
				}
			}
		})
	}
}

// renewal is what a sweep does over and over: what there was before, what is asked for, and what the CA answers.
type renewal struct {
	before  string // a state directory to copy
	bare    bool   // or none
	old     *x509.Certificate
	pending *store.Pending
	key     keys.Key
	request store.Pending
	issue   store.Issue // without Pending
}

func newRenewal(t *testing.T, sc scenario) renewal {
	t.Helper()
	s, a := open(t, filepath.Join(t.TempDir(), "state")), newCA(t)
	c := certificate(t, s, "device-id")
	r := renewal{before: s.Dir(), bare: sc.bare, key: sc.prepare(t, c, a)}
	if g, err := c.Live(); err == nil {
		r.old = g.Leaf
	}
	p, err := c.Pending()
	must(t, err)
	r.pending = p
	r.request = request(t, r.key)
	r.issue = a.issue(t, &store.Pending{Key: r.key})
	must(t, s.Close())
	return r
}

// try does what an agent does, until something fails. It gives the request when it could have been sent.
func (r renewal) try(t *testing.T, fsys *durabletest.FS, dir string) (*store.Pending, error) {
	t.Helper()
	s, err := store.Open(dir, store.Options{FS: fsys})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	c := certificate(t, s, "device-id")
	p, err := c.SavePending(r.key, r.request)
	if err != nil {
		return nil, err
	}
	if d := notDurable(fsys); fsys.Fired() == "" && len(d) > 0 {
		t.Errorf("a request could be sent before it was durable: %v", d)
	}
	issue := r.issue
	issue.Pending = p
	_, err = c.Commit(issue)
	// That older generations are gone need not be durable.
	if d := notDurable(fsys, c.Dir()); fsys.Fired() == "" && len(d) > 0 {
		t.Errorf("committed before it was durable: %v", d)
	}
	return p, err
}

// breakAt has the n-th call of a renewal fail, checks, and reports whether there were that many calls.
func (r renewal) breakAt(t *testing.T, n int, mode durabletest.Mode) bool {
	t.Helper()
	dir, err := os.MkdirTemp(filepath.Dir(r.before), "")
	must(t, err)
	defer os.RemoveAll(dir)
	dir = filepath.Join(dir, "state")
	if !r.bare {
		must(t, storetest.Copy(r.before, dir))
	}
	fsys := durabletest.New(durabletest.NoSync{FS: durable.OS{Root: dir}}, n, mode)
	sent, err := r.try(t, fsys, dir)
	at := fsys.Fired()
	if u := fsys.Unsynced(); len(u) > 0 {
		t.Errorf("%v at %s: renamed %v", mode, at, u)
	}
	if at == "" && err != nil {
		t.Fatalf("without a fault: %v", err)
	}

	// The fresh start.
	fsys.Restart()
	s, openErr := store.Open(dir, store.Options{FS: fsys})
	if openErr != nil {
		t.Fatalf("%v at %s: open: %v", mode, at, openErr)
	}
	defer s.Close()
	c := certificate(t, s, "device-id")
	live, liveErr := c.Live()
	p, pendingErr := c.Pending()
	isNew := liveErr == nil && live.Leaf.Equal(r.issue.Leaf)
	isOld := liveErr == nil && live.Leaf.Equal(r.old) || liveErr != nil && r.old == nil
	switch {
	case pendingErr != nil:
		t.Errorf("%v at %s: pending: %v", mode, at, pendingErr)
	case !isNew && !isOld:
		t.Errorf("%v at %s: live is %+v, %v", mode, at, live, liveErr)
	case err == nil && !isNew:
		t.Errorf("%v at %s: the commit said it was well, and live is %+v, %v", mode, at, live, liveErr)
	case isNew && p != nil:
		t.Errorf("%v at %s: the new one is live and its request still pending", mode, at)
	case !isNew && r.pending != nil && p == nil:
		t.Errorf("%v at %s: neither the request before nor the new one is there", mode, at)
	case !isNew && sent != nil && !samePending(p, sent):
		t.Errorf("%v at %s: the request that was sent is gone: %+v", mode, at, p)
	}
	if d := notDurable(fsys); p != nil && len(d) > 0 {
		t.Errorf("%v at %s: a request could be sent again before it was durable: %v", mode, at, d)
	}
	if w := storetest.Wrong(dir); len(w) > 0 {
		t.Errorf("%v at %s: %v", mode, at, w)
	}

	// The work completes, with the key that was sent where there is one.
	if !isNew {
		if p == nil || !keys.Equal(p.Key.Public(), r.key.Public()) {
			p, err = c.SavePending(r.key, r.request)
			must(t, err)
		}
		issue := r.issue
		issue.Pending = p
		g, err := c.Commit(issue)
		if err != nil {
			t.Fatalf("%v at %s: finish: %v", mode, at, err)
		}
		if live, err = c.Live(); err != nil || live.Number != g.Number || !live.Leaf.Equal(issue.Leaf) {
			t.Errorf("%v at %s: after finishing: %+v, %v", mode, at, live, err)
		}
	}
	noTemps(t, c)
	if d := notDurable(fsys, c.Dir()); len(d) > 0 {
		t.Errorf("%v at %s: in the end these are not synced: %v", mode, at, d)
	}
	return at != ""
}

// notDurable is what a power cut may take away or bring back, but for what does no harm: temporary names, and the process id
// in the lock file, which is for people to see.
func notDurable(fsys *durabletest.FS, but ...string) []string {
	return slices.DeleteFunc(fsys.Dirty(), func(path string) bool {
		return filepath.Base(path) == "lock" || durable.IsTemp(filepath.Base(path)) || slices.Contains(but, path)
	})
}

// What was said to have failed is written again, even if the same is read back: only the sync may have been missing, and
// the second answer must be true. That goes for the request above all, which is sent after it.
func TestASyncThatFailedIsMadeUpFor(t *testing.T) {
	k := generate(t)
	r := request(t, k)
	r.ID = "one"
	for name, save := range map[string]func(s *store.Store, c *store.Certificate) error{
		"pending request": func(_ *store.Store, c *store.Certificate) error { _, err := c.SavePending(k, r); return err },
		"retry state":     func(_ *store.Store, c *store.Certificate) error { return c.SaveRetry(store.Retry{Reissue: "forced"}) },
		"delivery state": func(_ *store.Store, c *store.Certificate) error {
			return c.SaveDelivery(store.Delivery{SHA256: "5c", Generation: 1})
		},
		"dropped request": func(_ *store.Store, c *store.Certificate) error {
			_, err := c.SavePending(k, r)
			return errors.Join(err, c.DropPending())
		},
		"last good": func(s *store.Store, _ *store.Certificate) error { return s.SaveLastGood([]byte("x")) },
		"clock":     func(s *store.Store, _ *store.Certificate) error { return s.SaveClock(store.Clock{Mark: epoch}) },
	} {
		t.Run(name, func(t *testing.T) {
			for n, fired := 1, "yes"; fired != ""; n++ {
				dir := filepath.Join(t.TempDir(), "state")
				must(t, open(t, dir).Close())
				fsys := durabletest.New(durabletest.NoSync{FS: durable.OS{Root: dir}}, n, durabletest.Fail)
				s, err := store.Open(dir, store.Options{FS: fsys})
				if err != nil {
					continue
				}
				c, err := s.Certificate("mqtt")
				must(t, err)
				err = save(s, c)
				for err != nil {
					err = save(s, c)
				}
				dirty := notDurable(fsys)
				if fired = fsys.Fired(); len(dirty) > 0 && strings.Contains(fired, "fsync") {
					t.Errorf("after %s failed and a second try went well, these are not synced: %v", fired, dirty)
				}
				s.Close() // which may be the call that fails
			}
		})
	}
}

// The crash came between the two renames of a commit: the generation is there, verified, and not live.
func TestOpenCompletesACommit(t *testing.T) {
	for _, live := range []string{"gen-000001", ""} {
		s, c, a, first := start(t)
		k := generate(t)
		p, err := c.SavePending(k, request(t, k))
		must(t, err)
		aside := filepath.Join(t.TempDir(), "pending")
		must(t, os.CopyFS(aside, os.DirFS(filepath.Join(c.Dir(), "pending"))))
		g, err := c.Commit(a.issue(t, p))
		must(t, err)
		restorePending(t, c, aside)
		if got, err := c.Pending(); got != nil || err != nil {
			t.Errorf("a finished request is pending: %+v, %v", got, err)
		}
		must(t, os.Remove(filepath.Join(c.Dir(), "live")))
		if live != "" {
			must(t, os.Symlink(live, filepath.Join(c.Dir(), "live")))
		}
		if got, err := c.Pending(); err != nil || !samePending(got, p) {
			t.Errorf("before the restart: %+v, %v", got, err)
		}
		must(t, s.Close())

		c = certificate(t, open(t, s.Dir()), "device-id")
		if got, err := c.Live(); err != nil || got.Number != g.Number {
			t.Errorf("live: %+v, %v", got, err)
		}
		if _, err := os.Lstat(filepath.Join(c.Dir(), "pending")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the finished request is still there: %v", err)
		}
		if ns, err := c.Generations(); err != nil || !slices.Equal(ns, []int{first.Number, g.Number}) {
			t.Errorf("generations %v, %v", ns, err)
		}
	}
}

// A generation that is not live and was damaged since is not made live for the request that led to it: the old pair stays,
// and the request is there to be sent again.
func TestOpenCompletesNoDamagedCommit(t *testing.T) {
	s, c, a, first := start(t)
	k := generate(t)
	p, err := c.SavePending(k, request(t, k))
	must(t, err)
	aside := filepath.Join(t.TempDir(), "pending")
	must(t, os.CopyFS(aside, os.DirFS(filepath.Join(c.Dir(), "pending"))))
	g, err := c.Commit(a.issue(t, p))
	live := filepath.Join(c.Dir(), "live")
	must(t, err, os.Remove(filepath.Join(g.Dir, "key.pem")), os.Remove(live), os.Symlink(filepath.Base(first.Dir), live), s.Close())
	restorePending(t, c, aside)

	c = certificate(t, open(t, s.Dir()), "device-id")
	if got, err := c.Live(); err != nil || got.Number != first.Number {
		t.Errorf("live: %+v, %v", got, err)
	}
	if got, err := c.Pending(); err != nil || !samePending(got, p) {
		t.Errorf("pending: %+v, %v", got, err)
	}
}

func restorePending(t *testing.T, c *store.Certificate, from string) {
	t.Helper()
	to := filepath.Join(c.Dir(), "pending")
	must(t, os.CopyFS(to, os.DirFS(from)), os.Chmod(to, 0o700))
	for _, name := range []string{"key.pem", "request.json"} {
		must(t, os.Chmod(filepath.Join(to, name), 0o600))
	}
}

// A generation that is newer than the live one and answers no pending request is somebody's decision, or older than a
// Restore: it is not made live.
func TestOpenLeavesWhatItDoesNotKnow(t *testing.T) {
	s, c, a, _ := start(t)
	a.renew(t, c, generate(t))
	must(t, os.Remove(filepath.Join(c.Dir(), "live")), os.Symlink("gen-000001", filepath.Join(c.Dir(), "live")))
	k := generate(t)
	p, err := c.SavePending(k, request(t, k))
	must(t, err, s.Close())
	c = certificate(t, open(t, s.Dir()), "device-id")
	if g, err := c.Live(); err != nil || g.Number != 1 {
		t.Errorf("live: %+v, %v", g, err)
	}
	if got, err := c.Pending(); err != nil || !samePending(got, p) {
		t.Errorf("pending: %+v, %v", got, err)
	}
}

func TestOpenSweeps(t *testing.T) {
	s, c, _, _ := start(t)
	must(t, s.Close())
	for _, dir := range []string{s.Dir(), filepath.Join(s.Dir(), "certs"), filepath.Join(s.Dir(), "trust"), c.Dir()} {
		tmp := durable.TempName(filepath.Join(dir, "x"))
		must(t, os.Mkdir(tmp, 0o700), os.WriteFile(filepath.Join(tmp, "key.pem"), nil, 0o600),
			os.WriteFile(durable.TempName(tmp), nil, 0o600),
			os.WriteFile(filepath.Join(dir, ".somebody's.tmp"), nil, 0o600))
	}
	s = open(t, s.Dir())
	var kept int
	for _, line := range tree(t, s.Dir()) {
		if strings.Contains(line, ".certagent-") {
			t.Errorf("left: %s", line)
		}
		if strings.HasSuffix(line, ".somebody's.tmp") {
			kept++
		}
	}
	if kept != 4 {
		t.Errorf("%d of 4 files that are not ours were kept", kept)
	}
}

// On a disk that takes no more writes the store opens and what is live can be read.
func TestOpenOnAReadOnlyDisk(t *testing.T) {
	s, _, _, g := start(t)
	must(t, os.WriteFile(durable.TempName(filepath.Join(s.Dir(), "x")), nil, 0o600), s.Close())
	s, err := store.Open(s.Dir(), store.Options{FS: readOnly{durable.OS{}}})
	must(t, err)
	defer s.Close()
	c := certificate(t, s, "device-id")
	if live, err := c.Live(); err != nil || live.Number != g.Number {
		t.Errorf("live: %+v, %v", live, err)
	}
	k := generate(t)
	if _, err := c.SavePending(k, request(t, k)); err == nil {
		t.Error("a request was saved on a read-only disk")
	}
	if _, err := store.Open(s.Dir(), store.Options{}); !errors.Is(err, store.ErrLocked) {
		t.Errorf("a second agent: %v", err)
	}
}
