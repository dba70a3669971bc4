package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestMachineID(t *testing.T) {
	const id = "0123456789abcdef0123456789abcdef"
	file := filepath.Join(t.TempDir(), "machine-id")
	for text, want := range map[string]string{
		id + "\n": id, id: id, id + "\r\n": id, " " + id + " \n\n": id, "0123456789ABCDEF0123456789abcdef\n": id,
		"": "", "\n": "", "uninitialized\n": "", id[1:] + "\n": "", id + "0\n": "", "00000000000000000000000000000000\n": "",
		"01234567-89ab-cdef-0123-456789abcdef\n": "", "\n" + id + "\n": "",
	} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := machineID(file); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	for name, file := range map[string]string{"none": file + ".none", "a directory": filepath.Dir(file)} {
		if got := machineID(file); got != "" {
			t.Errorf("%s: %q", name, got)
		}
	}
}
