package main

import (
	"bytes"
	"os"
	"testing"

	"certagent/packaging/notices"
)

// TestNotices: the packages carry the licences of all that is linked into the programs, and of nothing else.
func TestNotices(t *testing.T) {
	for program, tags := range map[string][]string{
		"certagent":        {"nethttpomithttp2"}, // as the Makefile has it
		"certagent-testca": nil,
	} {
		want, err := notices.Of("../..", "./cmd/"+program, tags...)
		if err != nil {
			t.Fatal(err)
		}
		file := "../../packaging/notices/" + program + ".txt"
		if *update {
			if err := os.WriteFile(file, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(fileOf(t, file), want) {
			t.Errorf("%s is stale: make docs", file)
		}
	}
}

// fileOf reads a file that must be there.
func fileOf(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
