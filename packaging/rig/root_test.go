//go:build system

package rig

import (
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
var everywhere = []string{"systemd", "systemd-sysv", "dbus", "procps", "ca-certificates", "mosquitto", "nginx-light"}

// directory is where the root lies, made by mmdebstrap if it does not yet: below $XDG_CACHE_HOME/certagent, under a name that
// changes with what is in it. It is never written to.
func (r root) directory(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	must(t, err)
	cache = filepath.Join(cache, "certagent")
	must(t, os.MkdirAll(cache, 0o755))
	recipe := []string{
		"--quiet", "--variant=minbase", "--dpkgopt=force-unsafe-io", "--include=" + strings.Join(slices.Concat(everywhere, r.packages), ","),
		// Nothing of this machine: names come from /etc/hosts (hosts), and who asks for others waits for nobody.
		`--customize-hook=echo gateway >"$1/etc/hostname"; rm -f "$1/etc/resolv.conf"`, r.suite,
	}
	name := fmt.Sprintf("%s-%.6x", r.name, sha256.Sum256([]byte(strings.Join(recipe, "\n"))))
	dir := filepath.Join(cache, name)

	// One process makes it, the others wait for that.
	lock, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	must(t, err)
	defer lock.Close()
	must(t, syscall.Flock(int(lock.Fd()), syscall.LOCK_EX))
	if _, err := os.Stat(dir); err == nil {
		return dir
	} else if !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	t.Logf("making the root %s", dir)
	must(t, os.RemoveAll(dir+".new"))
	cmd := exec.CommandContext(t.Context(), "mmdebstrap", append(recipe, dir+".new")...)
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("mmdebstrap: %v\n%s", err, said)
	}
	must(t, os.Rename(dir+".new", dir))
	return dir
}
