package store_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"certagent/store"
)

// TestOnboarding: what a cloud answered is for everybody to read, is kept as it was given, and counts as none where it is
// something else than a file or others could have written it.
func TestOnboarding(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state")
	s, err := store.Open(dir, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	o := s.Onboarding("dps")
	for what, read := range map[string]func() ([]byte, error){"result": o.Result, "state": o.State} {
		if data, err := read(); data != nil || err != nil {
			t.Errorf("%s before there is one: %q, %v", what, data, err)
		}
	}
	if f := o.Fingerprint(); f != "" {
		t.Errorf("fingerprint of nothing: %q", f)
	}
	if err := o.SaveResult([]byte("result\n")); err != nil {
		t.Fatal(err)
	}
	if err := o.SaveState([]byte("state\n")); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"dps.json": "result\n", "dps-state.json": "state\n"} {
		path := filepath.Join(s.Dir(), "onboard", name)
		data, err := os.ReadFile(path)
		info, err2 := os.Lstat(path)
		if err != nil || err2 != nil || string(data) != want || info.Mode() != 0o644 {
			t.Errorf("%s: %q, %v, %v, %v", name, data, info, err, err2)
		}
	}
	if want := filepath.Join(s.Dir(), "onboard", "dps.json"); o.ResultFile() != want {
		t.Errorf("the result is said to be in %s, not in %s", o.ResultFile(), want)
	}
	written := o.Fingerprint()
	if err := o.SaveResult([]byte("result\n")); err != nil || o.Fingerprint() != written {
		t.Errorf("the same was written again (%v)", err)
	}
	view, err := store.View(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer view.Close()
	if data, err := view.Onboarding("dps").Result(); !bytes.Equal(data, []byte("result\n")) || err != nil {
		t.Errorf("from outside: %q, %v", data, err)
	}
	if err := view.Onboarding("dps").SaveResult([]byte("x")); err == nil {
		t.Error("a View writes")
	}

	for name, spoil := range map[string]func() error{
		"a link":      func() error { return os.Symlink("/etc/hostname", o.ResultFile()) },
		"a directory": func() error { return os.Mkdir(o.ResultFile(), 0o755) },
		"everybody's": func() error {
			if err := os.WriteFile(o.ResultFile(), []byte("evil"), 0o666); err != nil {
				return err
			}
			return os.Chmod(o.ResultFile(), 0o666)
		},
	} {
		if err := os.RemoveAll(o.ResultFile()); err != nil {
			t.Fatal(err)
		}
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		if data, err := o.Result(); data != nil || err != nil {
			t.Errorf("%s: %q, %v", name, data, err)
		}
		if o.Fingerprint() == written {
			t.Errorf("%s has the fingerprint of what was written", name)
		}
		if err := o.SaveResult([]byte("result\n")); err != nil {
			t.Errorf("over %s: %v", name, err)
		}
		if data, err := o.Result(); !bytes.Equal(data, []byte("result\n")) || err != nil {
			t.Errorf("after %s: %q, %v", name, data, err)
		}
	}
	if err := os.Chmod(filepath.Dir(o.ResultFile()), 0o777); err != nil {
		t.Fatal(err)
	}
	if data, _ := o.Result(); data != nil {
		t.Errorf("out of a directory that everybody may write: %q", data)
	}
	if view.Safe() == nil {
		t.Error("such a directory is said to be safe")
	}
}
