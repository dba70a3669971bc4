//go:build external

package store_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"certagent/store"
	"certagent/store/keys"
)

// mount mounts a file system at a directory of its own, for as long as the test takes.
func mount(t *testing.T, kind string, flags uintptr, data string) string {
	t.Helper()
	dir := t.TempDir()
	must(t, syscall.Mount(kind, dir, kind, flags, data))
	t.Cleanup(func() { must(t, syscall.Unmount(dir, syscall.MNT_DETACH)) })
	return dir
}

// A full disk: what is live stays so, what cannot be kept is said, nothing half done stays behind, and as soon as there
// is room again the work goes on with the request that may have been sent.
func TestAFullDisk(t *testing.T) {
	disk := mount(t, "tmpfs", 0, "size=256k")
	s := open(t, filepath.Join(disk, "state"))
	c, a := certificate(t, s, "device-id"), newCA(t)
	first := a.renew(t, c, generate(t))
	k := generate(t)
	p, err := c.SavePending(k, request(t, k))
	must(t, err)
	for room := 10; room >= 0; room-- { // pages left
		fill(t, disk, room)
		before := tree(t, c.Dir())
		if _, err := c.Commit(a.issue(t, p)); err == nil {
			break // with that much room it goes
		} else if !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("%d pages left: %v", room, err)
		}
		if after := tree(t, c.Dir()); !slices.Equal(before, after) {
			t.Errorf("%d pages left: %v, want %v", room, after, before)
		}
	}
	fill(t, disk, 0)
	must(t, s.Close())
	s = open(t, s.Dir()) // starts on a full disk
	c = certificate(t, s, "device-id")
	live, err := c.Live()
	must(t, err)
	other := generate(t)
	if _, err := c.SavePending(other, request(t, other)); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a request was kept on a full disk: %v", err)
	}
	if err := s.SaveLastGood([]byte("x")); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a configuration was kept on a full disk: %v", err)
	}
	noTemps(t, c)
	must(t, os.Remove(filepath.Join(disk, "full")))
	if live.Number == first.Number {
		got, err := c.Pending()
		if err != nil || !samePending(got, p) {
			t.Fatalf("the request that was sent: %+v, %v", got, err)
		}
		g, err := c.Commit(a.issue(t, got))
		if err != nil || !keys.Equal(g.Key.Public(), k.Public()) {
			t.Errorf("with room again: %+v, %v", g, err)
		}
	}
}

// fill leaves room for so many pages.
func fill(t *testing.T, disk string, pages int) {
	t.Helper()
	full := filepath.Join(disk, "full")
	if err := os.Remove(full); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	f, err := os.Create(full)
	must(t, err)
	defer f.Close()
	var st syscall.Statfs_t
	must(t, syscall.Statfs(disk, &st))
	if n := int64(st.Bfree) - int64(pages); n > 0 {
		_, err = f.Write(make([]byte, n*st.Bsize))
		must(t, err)
	}
}

// The disk is mounted for reading after an error, while the agent runs, and later for writing again.
func TestADiskThatTurnsReadOnly(t *testing.T) {
	disk := mount(t, "tmpfs", 0, "size=1m")
	s := open(t, filepath.Join(disk, "state"))
	c, a := certificate(t, s, "device-id"), newCA(t)
	g := a.renew(t, c, generate(t))
	k := generate(t)
	p, err := c.SavePending(k, request(t, k))
	must(t, err, s.Close()) // the lock file is open for writing, which a remount waits for
	must(t, syscall.Mount("", disk, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
	s = open(t, s.Dir())
	c = certificate(t, s, "device-id")
	if live, err := c.Live(); err != nil || live.Number != g.Number {
		t.Errorf("live: %+v, %v", live, err)
	}
	_, commitErr := c.Commit(a.issue(t, p))
	_, pendingErr := c.SavePending(generate(t), request(t, k))
	for name, err := range map[string]error{
		"commit": commitErr, "retry": c.SaveRetry(store.Retry{Failures: 1}), "drop": c.DropPending(),
	} {
		if !errors.Is(err, syscall.EROFS) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if pendingErr == nil {
		t.Error("a request was saved")
	}
	if _, err := store.Open(s.Dir(), store.Options{}); !errors.Is(err, store.ErrLocked) {
		t.Errorf("a second agent: %v", err)
	}
	must(t, syscall.Mount("", disk, "", syscall.MS_REMOUNT, ""))
	if g, err := c.Commit(a.issue(t, p)); err != nil || !keys.Equal(g.Key.Public(), k.Public()) {
		t.Errorf("writable again: %+v, %v", g, err)
	}
}

// A golden image with a certificate and a request in it, below a file system in memory (overlayroot): what the image has
// cannot be renamed, and is replaced all the same.
func TestAnImageBelowAnOverlay(t *testing.T) {
	image := filepath.Join(t.TempDir(), "state")
	s := open(t, image)
	c, a := certificate(t, s, "device-id"), newCA(t)
	a.renew(t, c, generate(t))
	a.renew(t, c, generate(t))
	k := generate(t)
	_, err := c.SavePending(k, request(t, k))
	must(t, err, s.Close())
	memory := mount(t, "tmpfs", 0, "size=4m")
	must(t, os.Mkdir(memory+"/upper", 0o755), os.Mkdir(memory+"/work", 0o755))
	disk := mount(t, "overlay", 0, "redirect_dir=off,lowerdir="+filepath.Dir(image)+",upperdir="+memory+"/upper,workdir="+memory+"/work")

	s = open(t, filepath.Join(disk, "state"))
	c = certificate(t, s, "device-id")
	for _, want := range []int{3, 4} {
		if g := a.renew(t, c, generate(t)); g.Number != want {
			t.Errorf("generation %d, want %d", g.Number, want)
		}
		if ns, err := c.Generations(); err != nil || !slices.Equal(ns, []int{want - 1, want}) {
			t.Errorf("generations %v, %v", ns, err)
		}
	}
	noTemps(t, c)
	must(t, s.Close())
}

// Root by hand, in the directory of the agent's user: all that is written is that user's.
func TestRootInTheAgentsDirectory(t *testing.T) {
	const agent = 4711
	dir := filepath.Join(t.TempDir(), "state")
	must(t, os.Mkdir(dir, 0o755), os.Chown(dir, agent, agent))
	s := open(t, dir)
	c, a := certificate(t, s, "device-id"), newCA(t)
	a.renew(t, c, generate(t))
	k := generate(t)
	_, err := c.SavePending(k, request(t, k))
	must(t, err, c.SaveRetry(store.Retry{Failures: 1}), s.SaveLastGood([]byte("x")), s.SaveClock(store.Clock{Mark: epoch}))
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if st := info.Sys().(*syscall.Stat_t); st.Uid != agent || st.Gid != agent {
			t.Errorf("%s belongs to %d:%d", path, st.Uid, st.Gid)
		}
		return nil
	}))
}
