package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// shipped has make build programs as they are shipped, and gives the directory they are in.
func shipped(tb testing.TB, names ...string) string {
	tb.Helper()
	bin := tb.TempDir()
	args := []string{"-C", "../..", "BIN=" + bin}
	for _, name := range names {
		args = append(args, filepath.Join(bin, name))
	}
	build := exec.CommandContext(tb.Context(), "make", args...)
	// Without the flags of the make that runs the tests, which may be -n or -j.
	build.Env = append(os.Environ(), "MAKEFLAGS=", "MAKELEVEL=")
	if out, err := build.CombinedOutput(); err != nil {
		tb.Fatalf("make: %v\n%s", err, out)
	}
	return bin
}

// A gateway's flash is small, and an update travels over a metered link. What is measured is what make ships.
func TestBinaryIsSmall(t *testing.T) {
	const budget = 10 << 20
	t.Setenv("GOOS", "linux")
	t.Setenv("GOARCH", "amd64")
	info, err := os.Stat(filepath.Join(shipped(t, "certagent"), "certagent"))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes", info.Size())
	if info.Size() > budget {
		t.Errorf("the stripped program has %d bytes, %d are the budget; go tool nm -size says which", info.Size(), budget)
	}
}
