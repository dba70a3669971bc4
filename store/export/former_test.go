package export_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"certagent/store/durable"
	"certagent/store/durable/durabletest"
)

// What an Apply that died left of an output that is none any more goes; the output itself, what belongs to others, and what
// only looks like it stay. A directory that is gone is clean. One that strangers may change is left alone, and said to be.
func TestSweepOfFormerOutputs(t *testing.T) {
	dir, shared := t.TempDir(), t.TempDir()
	must(t, os.Chmod(shared, 0o777))
	former, other := filepath.Join(dir, "former"), filepath.Join(dir, "other")
	kept := []string{former, durable.TempName(other), durable.TempName(filepath.Join(shared, "former"))}
	left := []string{durable.TempName(former), durable.TempName(former)}
	for _, path := range slices.Concat(kept, left) {
		must(t, os.WriteFile(path, []byte("a private key"), 0o600))
	}
	link, tree := durable.TempName(former), durable.TempName(former)
	must(t, os.Symlink(former, link), os.Mkdir(tree, 0o700))
	kept = append(kept, link, tree)
	gone := filepath.Join(dir, "gone", "former")

	clean := writer(nil).Sweep([]string{former, gone, filepath.Join(shared, "former"), "relative"})
	if !slices.Equal(clean, []string{former, gone}) {
		t.Errorf("clean: %q", clean)
	}
	for _, path := range left {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("left over: %v", err)
		}
	}
	for _, path := range kept {
		if _, err := os.Lstat(path); err != nil {
			t.Errorf("gone: %v", err)
		}
	}
}

// Every call of a sweep fails once: a path that is called clean is, and one that is not is when it is swept again.
func TestEveryCallOfASweepFails(t *testing.T) {
	for _, mode := range durabletest.Modes {
		visited := 0
		for n := 1; ; n++ {
			dir := t.TempDir()
			paths := []string{filepath.Join(dir, "a"), filepath.Join(dir, "b")}
			for _, path := range paths {
				must(t, os.WriteFile(durable.TempName(path), nil, 0o600))
			}
			fsys := durabletest.New(durable.OS{}, n, mode)
			for _, path := range writer(fsys).Sweep(paths) {
				if slices.ContainsFunc(temps(t, dir), func(name string) bool { return durable.IsTempOf(name, path) }) {
					t.Errorf("%v at %s: %s is clean, and there is %q", mode, fsys.Fired(), path, temps(t, dir))
				}
			}
			if clean := writer(nil).Sweep(paths); len(clean) != 2 || len(temps(t, dir)) > 0 {
				t.Errorf("%v at %s: swept again only %q are clean, and there is %q", mode, fsys.Fired(), clean, temps(t, dir))
			}
			if fsys.Fired() == "" {
				break
			}
			visited++
		}
		t.Logf("%v: %d fault points", mode, visited)
		if visited < 2 {
			t.Errorf("%v: only %d fault points", mode, visited)
		}
	}
}
