//go:build external

package main

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMachineIDOfOneBoot is what systemd does where /etc cannot be written: a file in memory, bound over the one in /etc.
func TestMachineIDOfOneBoot(t *testing.T) {
	memory, file := t.TempDir(), filepath.Join(t.TempDir(), "machine-id")
	mount := func(source, target, kind string, flags uintptr) {
		if err := unix.Mount(source, target, kind, flags, ""); err != nil {
			t.Fatalf("mount %s: %v", target, err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(target, 0); err != nil {
				t.Errorf("unmount %s: %v", target, err)
			}
		})
	}
	mount("tmpfs", memory, "tmpfs", 0)
	const id = "0123456789abcdef0123456789abcdef\n"
	for path, text := range map[string]string{filepath.Join(memory, "machine-id"): id, file: ""} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	mount(filepath.Join(memory, "machine-id"), file, "", unix.MS_BIND)
	if machineID(file) == "" || !inMemory(file) {
		t.Errorf("%q, in memory: %v", machineID(file), inMemory(file))
	}
	if inMemory("/proc/version") {
		t.Error("a file elsewhere is said to be in memory")
	}
}
