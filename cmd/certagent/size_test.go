package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// A gateway's flash is small, and an update travels over a metered link. What is measured is what make ships.
func TestBinaryIsSmall(t *testing.T) {
	const budget = 10 << 20
	dir := t.TempDir()
	program := filepath.Join(dir, "certagent")
	build := exec.CommandContext(t.Context(), "make", "-C", "../..", "BIN="+dir, program)
	// Without the flags of the make that runs the tests, which may be -n or -j.
	build.Env = append(os.Environ(), "MAKEFLAGS=", "MAKELEVEL=", "GOOS=linux", "GOARCH=amd64")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("make: %v\n%s", err, out)
	}
	info, err := os.Stat(program)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes", info.Size())
	if info.Size() > budget {
		t.Errorf("the stripped program has %d bytes, %d are the budget; go tool nm -size says which", info.Size(), budget)
	}
}
