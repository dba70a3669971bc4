//go:build external

package check

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestReadOnlyMounts: a ConfigMap as the kubelet lays it out has directories that everybody may write, on a mount that nobody can.
func TestReadOnlyMounts(t *testing.T) {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	dir, err := filepath.EvalSymlinks(t.TempDir())
	must(err)
	for _, d := range []string{dir, filepath.Dir(dir)} { // those above are the system's
		must(os.Chmod(d, 0o755))
	}
	volume := filepath.Join(dir, "volume")
	file := filepath.Join(volume, "config.toml")
	must(os.MkdirAll(filepath.Join(volume, "..1"), 0o755))
	must(os.WriteFile(filepath.Join(volume, "..1", "config.toml"), nil, 0o644))
	must(os.Symlink("..1", filepath.Join(volume, "..data")))
	must(os.Symlink("..data/config.toml", file))
	must(os.Chmod(volume, 0o777))
	must(syscall.Mount(volume, volume, "", syscall.MS_BIND, ""))
	t.Cleanup(func() { must(syscall.Unmount(volume, syscall.MNT_DETACH)) })

	says := func(why string, want Verdict, text string) {
		t.Helper()
		u := User{UID: 65532, GIDs: []int{65532}, Name: "certagent"}
		w, err := look(file)
		must(err)
		p := &probes{Options: Options{User: u}}
		if r := u.protected("file-protected", file, w, p.safe(file, w)); r.Verdict != want || !strings.Contains(r.Text, text) {
			t.Errorf("%s: %s: %s, want %s with %q", why, r.Verdict, r.Text, want, text)
		}
	}
	says("writable", Failed, "everybody may write "+volume)
	must(syscall.Mount("", volume, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
	says("read-only", OK, "only root and user certagent can change it")
	must(syscall.Mount("", volume, "", syscall.MS_BIND|syscall.MS_REMOUNT, ""))
	must(os.Chown(volume, 4000000, 0))
	must(syscall.Mount("", volume, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
	says("a stranger's", Failed, "4000000 may write "+volume)
}
