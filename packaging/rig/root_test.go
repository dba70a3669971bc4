//go:build system

package rig

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// root is a Debian from which machines are booted.
type root struct {
	name     string
	suite    string
	systemd  int      // the version that it has
	packages []string // beside those of every root
	rpm      bool     // certagent comes as an rpm
}

// roots are the systems on which every promise is held.
var roots = []root{
	{name: "bookworm", suite: "bookworm", systemd: 252, packages: []string{"polkitd"}},
	{name: "rpm", suite: "bookworm", systemd: 252, packages: []string{"polkitd", "rpm", "dnf"}, rpm: true},
	{name: "bullseye", suite: "bullseye", systemd: 247, packages: []string{"policykit-1"}},
	{name: "trixie", suite: "trixie", systemd: 257, packages: []string{"polkitd"}},
}

// In every root: what boots, and the consumers of the examples.
var everywhere = []string{
	"systemd", "systemd-sysv", "dbus", "procps", "ca-certificates", "openssl",
	"mosquitto", "mosquitto-clients", "nginx-light",
}

// kept is how long a root is kept that nobody boots any more.
const kept = 7 * 24 * time.Hour

// recipe is what mmdebstrap is told to make the root of.
func (r root) recipe() []string {
	return []string{
		"--quiet", "--variant=minbase", "--dpkgopt=force-unsafe-io",
		"--include=" + strings.Join(slices.Concat(everywhere, r.packages), ","),
		// Nothing of this machine: names come from /etc/hosts (hosts), and who asks for others waits for nobody.
		`--customize-hook=echo gateway >"$1/etc/hostname"; rm -f "$1/etc/resolv.conf"`, r.suite,
	}
}

// held is the root for a test: nobody sweeps it away before that ends.
func (r root) held(t *testing.T) string {
	t.Helper()
	dir, use, err := r.directory(t.Context())
	must(t, err)
	t.Cleanup(func() { use.Close() })
	return dir
}

// directory is where the root lies below $XDG_CACHE_HOME/certagent, made by mmdebstrap if it does not yet, under a name
// that changes with what is in it. What was made of older recipes is swept away. It is never written to, and nobody
// sweeps it away until the file that comes with it is closed.
func (r root) directory(ctx context.Context) (dir string, use *os.File, err error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", nil, err
	}
	cache = filepath.Join(cache, "certagent")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", nil, err
	}
	// One process makes it, or sweeps; the others wait for that.
	lock, err := os.OpenFile(filepath.Join(cache, r.name+".lock"), os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return "", nil, err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", nil, err
	}
	dir = filepath.Join(cache, fmt.Sprintf("%s-%.6x", r.name, sha256.Sum256([]byte(strings.Join(r.recipe(), "\n")))))
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		if err := os.RemoveAll(dir + ".new"); err != nil {
			return "", nil, err
		}
		cmd := exec.CommandContext(ctx, "mmdebstrap", append(r.recipe(), dir+".new")...)
		if said, err := cmd.CombinedOutput(); err != nil {
			return "", nil, fmt.Errorf("mmdebstrap: %w\n%s", err, said)
		}
		if err := os.Rename(dir+".new", dir); err != nil {
			return "", nil, err
		}
	}
	now := time.Now()
	if use, err = os.Open(dir); err == nil {
		err = errors.Join(os.Chtimes(dir, now, now), syscall.Flock(int(use.Fd()), syscall.LOCK_SH))
	}
	return dir, use, errors.Join(err, r.sweep(cache, dir, now))
}

// sweep removes the roots of this name but the one in use that nobody boots, and has not for as long as they are kept.
func (r root) sweep(cache, inUse string, now time.Time) error {
	all, err := filepath.Glob(filepath.Join(cache, r.name+"-*"))
	for _, dir := range all {
		info, statErr := os.Stat(dir)
		if dir == inUse || statErr != nil || now.Sub(info.ModTime()) < kept {
			continue
		}
		err = errors.Join(err, removeUnused(dir))
	}
	return err
}

// removeUnused removes a root, unless a machine runs over it.
func removeUnused(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	switch err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); {
	case errors.Is(err, syscall.EWOULDBLOCK):
		return nil
	case err != nil:
		return err
	}
	return os.RemoveAll(dir)
}

// TestOldRootsAreSweptAway: all but the one that is in use, those of other names, and what somebody boots or did
// lately.
func TestOldRootsAreSweptAway(t *testing.T) {
	cache, now := t.TempDir(), time.Now()
	for name, age := range map[string]time.Duration{
		"rpm-used": 2 * kept, "rpm-old": 2 * kept, "rpm-old.new": 2 * kept, "rpm-lately": kept / 2, "rpm-booted": 2 * kept,
		"bookworm-old": 2 * kept,
	} {
		dir := filepath.Join(cache, name)
		must(t, os.MkdirAll(filepath.Join(dir, "etc"), 0o755))
		must(t, os.Chtimes(dir, now.Add(-age), now.Add(-age)))
	}
	booted, err := os.Open(filepath.Join(cache, "rpm-booted"))
	must(t, err)
	defer booted.Close()
	must(t, syscall.Flock(int(booted.Fd()), syscall.LOCK_SH))
	must(t, root{name: "rpm"}.sweep(cache, filepath.Join(cache, "rpm-used"), now))
	entries, err := os.ReadDir(cache)
	must(t, err)
	var left []string
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if want := []string{"bookworm-old", "rpm-booted", "rpm-lately", "rpm-used"}; !slices.Equal(left, want) {
		t.Errorf("left are %q, want %q", left, want)
	}
}
