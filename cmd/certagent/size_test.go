package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// A gateway's flash is small, and an update travels over a metered link.
func TestBinaryIsSmall(t *testing.T) {
	const budget = 10 << 20
	program := filepath.Join(t.TempDir(), "certagent")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
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
