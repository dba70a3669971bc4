package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestExitCodes: of few devices chance alone makes peaks that miss the goals.
func TestExitCodes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	page := filepath.Join(dir, "performance.md")
	if err := os.WriteFile(page, []byte("above\n"+tablesBegin+"old\n"+tablesEnd+"below\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	if code := start([]string{"-devices", "12", "-docs", dir}, &stdout, &stderr); code != 1 {
		t.Errorf("exit code %d, want 1\n%s", code, &stderr)
	}
	if !strings.Contains(stderr.String(), "sim: goal missed: ") {
		t.Errorf("stderr: %s", &stderr)
	}
	got, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if want := "above\n" + tablesBegin + "\n" + stdout.String() + tablesEnd + "below\n"; string(got) != want {
		t.Errorf("performance.md is\n%s\nwant\n%s", got, want)
	}
	for _, args := range [][]string{{"-devices", "0"}, {"more"}, {"-unknown"}} {
		if code := start(args, io.Discard, io.Discard); code != 2 {
			t.Errorf("%v: exit code %d, want 2", args, code)
		}
	}
}

func TestPageWithoutPlaceForTables(t *testing.T) {
	for _, page := range []string{"", tablesBegin, tablesEnd, tablesEnd + tablesBegin} {
		if got, err := withTables([]byte(page), nil); err == nil {
			t.Errorf("%q became %q", page, got)
		}
	}
}

// TestPictures holds that what is drawn is XML, and that docs/ has these pictures and no others, each shown in
// performance.md.
func TestPictures(t *testing.T) {
	t.Parallel()
	const docs = "../../docs"
	page, err := os.ReadFile(filepath.Join(docs, "performance.md"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := withTables(page, nil); err != nil {
		t.Errorf("performance.md: %v", err)
	}
	var want []string
	for _, c := range charts(simulateAll(20)) {
		want = append(want, c.file)
		if len(c.panels) != len(populations()) {
			t.Errorf("%s has %d panels", c.file, len(c.panels))
		}
		d := xml.NewDecoder(bytes.NewReader(c.svg()))
		for {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", c.file, err)
			}
		}
		if bytes.Contains(c.svg(), []byte("NaN")) || bytes.Contains(c.svg(), []byte("Inf")) {
			t.Errorf("%s draws what is not a number", c.file)
		}
		if !bytes.Contains(page, []byte("("+c.file+")")) {
			t.Errorf("performance.md does not show %s", c.file)
		}
	}
	found, err := filepath.Glob(filepath.Join(docs, "fleet-*.svg"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, path := range found {
		got = append(got, filepath.Base(path))
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("docs has %q, want %q", got, want)
	}
}

func TestTicks(t *testing.T) {
	for _, c := range []struct {
		low, high float64
		wanted    int
		want      []float64
	}{
		{0, 1, 3, []float64{0, .5, 1}},
		{0, 1.3, 3, []float64{0, .5, 1}},
		{0, 81, 3, []float64{0, 20, 40, 60, 80}},
		{-4.5, 9, 10, []float64{-4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9}},
		{0, 150, 10, []float64{0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120, 130, 140, 150}},
	} {
		if got := ticks(c.low, c.high, c.wanted); !slices.Equal(got, c.want) {
			t.Errorf("%g to %g: %v, want %v", c.low, c.high, got, c.want)
		}
	}
}
