package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"certagent/store"
	"certagent/store/durable"
	"certagent/store/keys"
)

func samePending(a, b *store.Pending) bool {
	return a != nil && b != nil && a.ID == b.ID && bytes.Equal(a.CSR, b.CSR) && keys.Equal(a.Key.Public(), b.Key.Public())
}

func TestAPendingRequestSurvives(t *testing.T) {
	s, c, _, _ := start(t)
	if p, err := c.Pending(); p != nil || err != nil {
		t.Errorf("none: %v, %v", p, err)
	}
	k := generate(t)
	saved, err := c.SavePending(k, request(t, k))
	must(t, err)
	must(t, s.Close())
	c = certificate(t, open(t, s.Dir()), "device-id")
	got, err := c.Pending()
	if err != nil || !samePending(got, saved) {
		t.Fatalf("after a restart: %+v, %v", got, err)
	}
	if fmt.Sprintf("%+v", *got) != fmt.Sprintf("%+v", *saved) {
		t.Errorf("saved %+v\ngot   %+v", *saved, *got)
	}
	// The same request again, with more known about it.
	sent := *got
	sent.Accepted = epoch.Add(time.Minute)
	_, err = c.SavePending(sent.Key, sent)
	must(t, err)
	if got, err := c.Pending(); err != nil || !samePending(got, saved) || !got.Accepted.Equal(sent.Accepted) {
		t.Errorf("with more known: %+v, %v", got, err)
	}
	// Another one in its place.
	k = generate(t)
	other, err := c.SavePending(k, request(t, k))
	must(t, err)
	if got, err := c.Pending(); err != nil || !samePending(got, other) || got.ID == saved.ID {
		t.Errorf("replaced: %+v, %v", got, err)
	}
	must(t, c.DropPending(), c.DropPending())
	if p, err := c.Pending(); p != nil || err != nil {
		t.Errorf("dropped: %v, %v", p, err)
	}
	noTemps(t, c)
}

func noTemps(t *testing.T, c *store.Certificate) {
	t.Helper()
	for _, line := range tree(t, c.Dir()) {
		if strings.Contains(line, ".certagent-") {
			t.Errorf("left over: %s", line)
		}
	}
}

func TestSavePendingRefusesWhatDoesNotFit(t *testing.T) {
	_, c, _, _ := start(t)
	k := generate(t)
	good := request(t, k)
	damaged := good
	damaged.CSR = slices.Clone(good.CSR)
	damaged.CSR[len(damaged.CSR)-1] ^= 1
	for name, try := range map[string]struct {
		key keys.Key
		p   store.Pending
	}{
		"no key": {nil, good}, "another key": {generate(t), good},
		"no CSR": {k, store.Pending{}}, "damaged CSR": {k, damaged},
	} {
		if _, err := c.SavePending(try.key, try.p); err == nil {
			t.Errorf("%s: saved", name)
		}
	}
	if p, err := c.Pending(); p != nil || err != nil {
		t.Errorf("pending: %v, %v", p, err)
	}
}

func TestATornPendingRequestCountsAsNone(t *testing.T) {
	for name, damage := range map[string]func(dir string) error{
		"no key":               func(d string) error { return os.Remove(d + "/key.pem") },
		"key cut off":          func(d string) error { return os.Truncate(d+"/key.pem", 50) },
		"key that others read": func(d string) error { return os.Chmod(d+"/key.pem", 0o644) },
		"no request":           func(d string) error { return os.Remove(d + "/request.json") },
		"request cut off":      func(d string) error { return os.Truncate(d+"/request.json", 50) },
		"empty request":        func(d string) error { return os.Truncate(d+"/request.json", 0) },
		"FIFO for the request": func(d string) error {
			return errors.Join(os.Remove(d+"/request.json"), syscall.Mkfifo(d+"/request.json", 0o600))
		},
		"file for the directory": func(d string) error { return errors.Join(os.RemoveAll(d), os.WriteFile(d, nil, 0o600)) },
		"link for the directory": func(d string) error { return errors.Join(os.Rename(d, d+"2"), os.Symlink("pending2", d)) },
		"key of something else": func(d string) error {
			return errors.Join(os.Remove(d+"/key.pem"), os.Link(filepath.Dir(d)+"/live/key.pem", d+"/key.pem"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, c, a, g := start(t)
			k := generate(t)
			_, err := c.SavePending(k, request(t, k))
			must(t, err, damage(filepath.Join(c.Dir(), "pending")))
			if p, err := c.Pending(); p != nil || err != nil {
				t.Errorf("pending: %v, %v", p, err)
			}
			// It is in nobody's way, neither now nor after a restart, which sweeps it.
			k = generate(t)
			p, err := c.SavePending(k, request(t, k))
			must(t, err)
			if got, err := c.Pending(); err != nil || !samePending(got, p) {
				t.Errorf("saved over it: %+v, %v", got, err)
			}
			must(t, c.DropPending())
			_, err = c.SavePending(k, request(t, k))
			must(t, err, os.RemoveAll(filepath.Join(c.Dir(), "pending2")), damage(filepath.Join(c.Dir(), "pending")), s.Close())
			c = certificate(t, open(t, s.Dir()), "device-id")
			if _, err := os.Lstat(filepath.Join(c.Dir(), "pending")); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("not swept: %v", err)
			}
			if live, err := c.Live(); err != nil || live.Number != g.Number {
				t.Errorf("live: %+v, %v", live, err)
			}
			a.renew(t, c, generate(t))
		})
	}
}

// A key that signs without randomness makes the same CSR at each renewal; the second request is not the first one.
func TestTheSameBytesAreAnotherRequest(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "state"))
	c, a := certificate(t, s, "ed"), newCA(t)
	k, err := keys.Files{}.Generate(keys.Ed25519)
	must(t, err)
	first := request(t, k)
	p, err := c.SavePending(k, first)
	must(t, err)
	g, err := c.Commit(a.issue(t, p))
	must(t, err)
	second := request(t, g.Key)
	if !bytes.Equal(first.CSR, second.CSR) {
		t.Fatal("the CSRs differ, and this test shows nothing")
	}
	p, err = c.SavePending(g.Key, second)
	must(t, err)
	must(t, s.Close())
	c = certificate(t, open(t, s.Dir()), "ed")
	if got, err := c.Pending(); err != nil || !samePending(got, p) {
		t.Errorf("after a restart: %+v, %v", got, err)
	}
}

// noExchange is a file system that cannot exchange names.
type noExchange struct{ durable.FS }

func (noExchange) Exchange(string, string) error { return syscall.ENOTSUP }

// overlay is a file system like overlayfs, as read-only images have it: directories of the image cannot be renamed. Here
// they are those that have been synced, as what is being made has a temporary name.
type overlay struct{ durable.FS }

func (overlay) Exchange(string, string) error { return syscall.EXDEV }

func (o overlay) Rename(from, to string) error {
	if info, err := o.Lstat(from); err == nil && info.IsDir() && !durable.IsTemp(filepath.Base(from)) {
		return syscall.EXDEV
	}
	return o.FS.Rename(from, to)
}

func TestFileSystemsThatCannotExchangeNames(t *testing.T) {
	for name, fsys := range map[string]durable.FS{
		"no exchange": noExchange{durable.OS{}}, "overlay": overlay{durable.OS{}},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := store.Open(filepath.Join(t.TempDir(), "state"), store.Options{FS: fsys})
			must(t, err)
			c, a := certificate(t, s, "mqtt"), newCA(t)
			for range 3 {
				for range 2 { // the second takes the place of the first
					k := generate(t)
					p, err := c.SavePending(k, request(t, k))
					must(t, err)
					if got, err := c.Pending(); err != nil || !samePending(got, p) {
						t.Errorf("%+v, %v", got, err)
					}
				}
				a.renew(t, c, generate(t))
			}
			if ns, err := c.Generations(); err != nil || !slices.Equal(ns, []int{2, 3}) {
				t.Errorf("generations %v, %v", ns, err)
			}
			if _, err := os.Lstat(filepath.Join(c.Dir(), "pending")); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the finished request: %v", err)
			}
			must(t, s.Close())
			open(t, s.Dir())
			noTemps(t, c)
		})
	}
}
