package durable

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Both ways to open a directory below a root find the same, and leave it by no link.
func TestOpenBeneath(t *testing.T) {
	top := t.TempDir()
	root := filepath.Join(top, "root")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(root, "a/b"), 0o755))
	must(os.Mkdir(filepath.Join(top, "outside"), 0o755))
	must(os.WriteFile(filepath.Join(root, "file"), nil, 0o600))
	must(os.Symlink("a/b", filepath.Join(root, "inside")))
	must(os.Symlink("../outside", filepath.Join(root, "out")))
	must(os.Symlink(filepath.Join(top, "outside"), filepath.Join(root, "absolute")))
	for name, open := range map[string]func(root, rel string) (int, error){"openat2": openBeneath, "walk": walkBeneath} {
		for rel, want := range map[string]string{"a": "a", "a/b": "a/b", "inside": "a/b", ".": "."} {
			fd, err := open(root, rel)
			if err != nil {
				t.Errorf("%s: %s: %v", name, rel, err)
				continue
			}
			var got, is unix.Stat_t
			must(unix.Fstat(fd, &got))
			must(unix.Close(fd))
			must(unix.Stat(filepath.Join(root, want), &is))
			if got.Ino != is.Ino {
				t.Errorf("%s: %s is another directory than %s", name, rel, want)
			}
		}
		for rel, want := range map[string]error{"missing": syscall.ENOENT, "file": syscall.ENOTDIR, "out": nil, "absolute": nil} {
			if fd, err := open(root, rel); err == nil {
				t.Errorf("%s: %s was opened: %d", name, rel, fd)
			} else if want != nil && !errors.Is(err, want) {
				t.Errorf("%s: %s: %v, want %v", name, rel, err, want)
			}
		}
	}
}

// What is said of a file below a root is what package os says of it.
func TestLstatBelowRoot(t *testing.T) {
	root := t.TempDir()
	for name, create := range map[string]func(path string) error{
		"file": func(path string) error { return os.WriteFile(path, []byte("text"), 0o640) },
		"dir":  func(path string) error { return os.Mkdir(path, 0o750) },
		"sticky": func(path string) error {
			return errors.Join(os.Mkdir(path, 0o750), os.Chmod(path, 0o750|os.ModeSticky))
		},
		"setgid": func(path string) error {
			return errors.Join(os.Mkdir(path, 0o750), os.Chmod(path, 0o750|os.ModeSetgid))
		},
		"link": func(path string) error { return os.Symlink("file", path) },
		"fifo": func(path string) error { return unix.Mkfifo(path, 0o600) },
	} {
		path := filepath.Join(root, name)
		if err := create(path); err != nil {
			t.Fatal(err)
		}
		want, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		got, err := OS{Root: root}.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		uid, gid := Owner(got)
		wantUID, wantGID := Owner(want)
		if got.Name() != want.Name() || got.Mode() != want.Mode() || got.Size() != want.Size() ||
			!got.ModTime().Equal(want.ModTime()) || got.IsDir() != want.IsDir() || uid != wantUID || gid != wantGID || !SameFile(got, want) {
			t.Errorf("%s: %v %d %v of %d:%d, want %v %d %v of %d:%d", name, got.Mode(), got.Size(), got.ModTime(), uid, gid,
				want.Mode(), want.Size(), want.ModTime(), wantUID, wantGID)
		}
	}
}
