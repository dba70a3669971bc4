package store_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"certagent/store"
	"certagent/store/durable"
	"certagent/store/durable/durabletest"
	"certagent/store/storetest"
)

// On a disk that takes nothing the store opens all the same, before there is anything and after the lock was lost, and writes
// nothing. When the disk takes something Present makes up for it, also for what a crash left; nobody else gets the lock then.
func TestOpenOnADiskThatTakesNothing(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS} {
		t.Run(errno.Error(), func(t *testing.T) {
			for name, prepare := range map[string]func(dir string){
				"nothing": func(string) {},
				"a directory": func(dir string) {
					must(t, os.Mkdir(dir, 0o755), os.WriteFile(durable.TempName(filepath.Join(dir, "x")), nil, 0o600))
				},
				"a certificate and no lock": func(dir string) { must(t, renewDying(dir, 0), os.Remove(filepath.Join(dir, "lock"))) },
			} {
				t.Run(name, func(t *testing.T) {
					dir := filepath.Join(t.TempDir(), "above", "state")
					must(t, os.Mkdir(filepath.Dir(dir), 0o755))
					prepare(dir)
					_, none := os.Stat(filepath.Join(dir, "certs"))
					disk := &durabletest.Disk{FS: durable.OS{}, Err: errno}
					disk.Shut.Store(true)
					s, err := store.Open(dir, store.Options{FS: disk})
					must(t, err)
					defer s.Close()
					c := certificate(t, s, "device-id")
					g, err := c.Live()
					if none == nil && err != nil || none != nil && !errors.Is(err, store.ErrMissing) {
						t.Errorf("live: %v", err)
					}
					refused := map[string]error{
						"retry": c.SaveRetry(store.Retry{}), "delivery": c.SaveDelivery(store.Delivery{}), "drop": c.DropPending(),
						"last good": s.SaveLastGood([]byte("x")),
						"trust":     s.UpdateTrust("https://est.example", func(store.Trust) store.Trust { return store.Trust{} }),
						"present":   s.Present(),
					}
					_, refused["pending"] = ask(c)
					_, refused["restore"] = c.Restore()
					for what, err := range refused {
						if !errors.Is(err, errno) {
							t.Errorf("%s: %v", what, err)
						}
					}
					disk.Shut.Store(false)
					if err := c.SaveRetry(store.Retry{}); !errors.Is(err, errno) {
						t.Errorf("written without the lock: %v", err)
					}

					must(t, s.Present())
					if _, err := store.Open(dir, store.Options{}); !errors.Is(err, store.ErrLocked) {
						t.Errorf("a second agent: %v", err)
					}
					must(t, renewAloud(c))
					if now, err := c.Live(); err != nil || g != nil && now.Number != g.Number+1 {
						t.Errorf("live: %+v, %v", now, err)
					}
					left, err := storetest.Leftovers(dir)
					if wrong := append(storetest.Wrong(dir), left...); err != nil || len(wrong) > 0 {
						t.Errorf("on disk: %v, %v", wrong, err)
					}
				})
			}
		})
	}
}

// Another agent that was faster on a disk that takes something again keeps it.
func TestAnotherIsFasterOnADiskThatTookNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	disk := &durabletest.Disk{FS: durable.OS{}, Err: syscall.ENOSPC}
	disk.Shut.Store(true)
	s, err := store.Open(dir, store.Options{FS: disk})
	must(t, err)
	other := open(t, dir)
	disk.Shut.Store(false)
	if err := s.Present(); !errors.Is(err, store.ErrLocked) {
		t.Errorf("beside another agent: %v", err)
	}
	c := certificate(t, s, "device-id")
	if err := c.SaveRetry(store.Retry{}); err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("written beside another agent: %v", err)
	}
	must(t, other.Close(), s.Present(), c.SaveRetry(store.Retry{}), s.Close())
}
