// Package golden holds what a program says against a file that a person has read. It is for tests and must not be linked into
// a program.
package golden

import (
	"bytes"
	"os"
)

// Test is what it needs of a *testing.T.
type Test interface {
	Helper()
	Errorf(format string, args ...any)
	Fatal(args ...any)
}

// Match fails the test unless the file holds got, byte for byte. With update it writes the file first: what was a failure
// is then a change, to be read before it is committed.
func Match(t Test, file string, got []byte, update bool) {
	t.Helper()
	if update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs (go test with -update writes it anew).\n--- got\n%s\n--- want\n%s", file, got, want)
	}
}
