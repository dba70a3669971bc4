package export

import (
	"os"
	"path/filepath"
	"testing"

	"certagent/store/durable"
)

// Somebody who may change names on the way to an output, the agent's user while root works for him, turns the directory
// into a link to a place where only root may write, after the look and before the write.
func TestAPathThatIsTurnedAfterTheLook(t *testing.T) {
	base, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	dir, outside := filepath.Join(base, "dir"), t.TempDir()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	w := Writer{UID: os.Geteuid(), GID: os.Getegid()}
	f := &file{out: Output{Path: filepath.Join(dir, "sub", "..", "out")}, by: w, fs: durable.OS{}}
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := w.place(f); err != nil || f.path != filepath.Join(dir, "out") {
		t.Fatalf("placed at %s: %v", f.path, err)
	}
	if err := durable.Create(f.fs, durable.TempName(f.path), nil, durable.Mode(0o600)); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(dir, dir+".old"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, dir); err != nil {
		t.Fatal(err)
	}
	if err := durable.Create(f.fs, durable.TempName(f.path), []byte("key"), durable.Mode(0o600)); err == nil {
		t.Error("the link was followed")
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) > 0 {
		t.Errorf("outside there is %v, %v", entries, err)
	}
}
