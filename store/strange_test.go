package store_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"certagent/store"
	"certagent/store/durable"
)

// Something else stands in the place of a file. Whoever looks comes back, whoever writes sets it aside and keeps it, or says
// what is there where that cannot be (the lock), nothing is written through a link, and the live certificate is none the worse.
func TestStrangeThingsInAFilesPlace(t *testing.T) {
	const server = "https://est.example"
	_, _, a, _ := start(t)
	for file, use := range map[string]struct {
		load func(s *store.Store, c *store.Certificate) error
		save func(s *store.Store, c *store.Certificate) error
	}{
		"certs/device-id/retry.json": {
			func(_ *store.Store, c *store.Certificate) error {
				if r, err := c.Retry(); err != nil || !r.Damaged {
					return err
				}
				return errors.New("damaged")
			},
			func(_ *store.Store, c *store.Certificate) error { return c.SaveRetry(store.Retry{Failures: 1}) },
		},
		"certs/device-id/delivery.json": {
			func(_ *store.Store, c *store.Certificate) error {
				if d, err := c.Delivery(); err != nil || d.SHA256 != "" {
					return err
				}
				return errors.New("nothing")
			},
			func(_ *store.Store, c *store.Certificate) error { return c.SaveDelivery(delivery) },
		},
		"clock.json": {
			func(s *store.Store, _ *store.Certificate) error { _, err := s.Clock(); return err },
			func(s *store.Store, _ *store.Certificate) error { return s.SaveClock(store.Clock{Mark: epoch}) },
		},
		"last-good.toml": {
			func(s *store.Store, _ *store.Certificate) error { _, err := s.LastGood(); return err },
			func(s *store.Store, _ *store.Certificate) error { return s.SaveLastGood([]byte("x")) },
		},
		"trust/est.example_443.pem": {
			func(s *store.Store, _ *store.Certificate) error { _, err := s.Trust(server); return err },
			func(s *store.Store, _ *store.Certificate) error {
				return s.UpdateTrust(server, keep(a.cert))
			},
		},
		"lock": {
			func(s *store.Store, _ *store.Certificate) error { return errors.New("nobody reads it") },
			func(s *store.Store, _ *store.Certificate) error { return s.Present() },
		},
	} {
		for kind, put := range strangeThings() {
			t.Run(file+" "+kind, func(t *testing.T) {
				s, c, _, g := start(t)
				path, outside := filepath.Join(s.Dir(), file), filepath.Join(t.TempDir(), "outside")
				must(t, os.WriteFile(outside, []byte("untouched"), 0o600), os.RemoveAll(path), put(path, outside))
				if use.load(s, c) == nil {
					t.Error("it was read")
				}
				strange, err := os.Lstat(path)
				must(t, err)
				err = use.save(s, c)
				_, told := errors.AsType[*durable.KindError](err)
				told = told || errors.Is(err, syscall.ELOOP) || errors.Is(err, syscall.EISDIR) || errors.Is(err, syscall.ENXIO)
				switch displaced, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "displaced-*")); {
				case file == "lock" && (!told || len(displaced) > 0):
					t.Errorf("taken: %v, %v", err, displaced)
				case file != "lock" && (err != nil || len(displaced) != 1):
					t.Errorf("saved: %v, set aside: %v", err, displaced)
				case file != "lock":
					if kept, err := os.Lstat(displaced[0]); err != nil || !os.SameFile(kept, strange) {
						t.Errorf("what was set aside is %v, %v", kept, err)
					}
					must(t, use.load(s, c))
				}
				if data, err := os.ReadFile(outside); err != nil || string(data) != "untouched" {
					t.Errorf("outside there is %q, %v", data, err)
				}
				if live, err := c.Live(); err != nil || live.Number != g.Number {
					t.Errorf("live: %+v, %v", live, err)
				}
			})
		}
	}
}

// strangeThings put something that is no file at path.
func strangeThings() map[string]func(path, outside string) error {
	return map[string]func(path, outside string) error{
		"a FIFO":      func(path, _ string) error { return syscall.Mkfifo(path, 0o600) },
		"a directory": func(path, _ string) error { return os.Mkdir(path, 0o700) },
		"a link out":  func(path, outside string) error { return os.Symlink(outside, path) },
		"a socket": func(path, _ string) error {
			// The name of a socket has room for a hundred bytes; a short way leads there.
			dir, err := os.MkdirTemp("", "s")
			if err != nil {
				return err
			}
			defer os.RemoveAll(dir)
			short := filepath.Join(dir, "s")
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: short, Net: "unix"})
			if err != nil {
				return err
			}
			l.SetUnlinkOnClose(false)
			return errors.Join(l.Close(), os.Rename(short, path))
		},
	}
}

// Two agents that find a FIFO for the lock both come back.
func TestALockThatIsNone(t *testing.T) {
	s, _, _, _ := start(t)
	must(t, s.Close())
	lock := filepath.Join(s.Dir(), "lock")
	must(t, os.Remove(lock), syscall.Mkfifo(lock, 0o600))
	held, err := os.OpenFile(lock, os.O_RDWR, 0)
	must(t, err, syscall.Flock(int(held.Fd()), syscall.LOCK_EX))
	defer held.Close()
	_, err = store.Open(s.Dir(), store.Options{})
	if _, told := errors.AsType[*durable.KindError](err); !told {
		t.Errorf("opened: %v", err)
	}
}

// What another version of certagent wrote has fields that this one does not know, and lacks some.
func TestFilesOfAnotherVersion(t *testing.T) {
	s, c, a, g := start(t)
	k := generate(t)
	p, err := c.SavePending(k, request(t, k))
	must(t, err, c.SaveRetry(store.Retry{Failures: 3}), s.SaveClock(store.Clock{Mark: epoch}))
	for _, file := range []string{"certs/device-id/live/meta.json", "certs/device-id/pending/request.json",
		"certs/device-id/retry.json", "clock.json"} {
		file = filepath.Join(s.Dir(), file)
		data, err := os.ReadFile(file)
		must(t, err, os.WriteFile(file, slices.Concat([]byte(`{"unknown": {"deeper": [1, null]}, `), data[1:]), 0o600))
	}
	must(t, os.WriteFile(filepath.Join(c.Dir(), "delivery.json"), []byte("{}"), 0o644),
		os.Mkdir(filepath.Join(s.Dir(), "onboard"), 0o755), s.Close())
	s = open(t, s.Dir())
	c = certificate(t, s, "device-id")
	if live, err := c.Live(); err != nil || live.Number != g.Number || !live.HasMeta || live.Meta.Serial != g.Meta.Serial {
		t.Errorf("live: %+v, %v", live, err)
	}
	if got, err := c.Pending(); err != nil || !samePending(got, p) {
		t.Errorf("pending: %+v, %v", got, err)
	}
	if r, err := c.Retry(); err != nil || r.Failures != 3 {
		t.Errorf("retry: %+v, %v", r, err)
	}
	if got, err := s.Clock(); err != nil || !got.Mark.Equal(epoch) {
		t.Errorf("clock: %v, %v", got, err)
	}
	a.renew(t, c, generate(t))
	if _, err := os.Stat(filepath.Join(c.Dir(), "delivery.json")); err != nil {
		t.Errorf("what another version keeps is gone: %v", err)
	}
}
