package main

import (
	"cmp"
	"debug/buildinfo"
	"debug/elf"
	"debug/gosym"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
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

// A gateway's flash is small, and an update travels over a metered link. What is measured is what make ships; what it
// is made of is logged (make size).
func TestBinaryIsSmall(t *testing.T) {
	const budget = 10 << 20
	t.Setenv("GOOS", "linux")
	t.Setenv("GOARCH", "amd64")
	program := filepath.Join(shipped(t, "certagent"), "certagent")
	info, err := os.Stat(program)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes:\n\n%s", info.Size(), composition(t, program, info.Size()))
	if info.Size() > budget {
		t.Errorf("the stripped program has %d bytes, %d are the budget; make size says which", info.Size(), budget)
	}
}

// composition is a table of what a program is made of: machine code by whose it is, the biggest first, and the other
// parts of the file. A function counts for the package that it is written in, a generic one for each set of types.
func composition(t *testing.T, program string, size int64) string {
	t.Helper()
	file, err := elf.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	section := func(name string) *elf.Section {
		s := file.Section(name)
		if s == nil {
			t.Fatalf("the program has no section %s", name)
		}
		return s
	}
	text, tables := section(".text"), section(".gopclntab")
	lines, err := tables.Data()
	if err != nil {
		t.Fatal(err)
	}
	functions, err := gosym.NewTable(nil, gosym.NewLineTable(lines, text.Addr))
	if err != nil {
		t.Fatal(err)
	}
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}

	code := map[string]uint64{}
	end := text.Addr + text.Size
	for _, f := range slices.Backward(functions.Funcs) {
		code[owner(info, f.PackageName())] += end - f.Entry
		end = f.Entry
	}
	if end != text.Addr {
		t.Errorf("the first function begins %d bytes behind the code's beginning", end-text.Addr)
	}

	var b strings.Builder
	row := func(what string, bytes uint64) { fmt.Fprintf(&b, "| %s | %.0f |\n", what, float64(bytes)/1024) }
	b.WriteString("| what | KiB |\n| --- | --- |\n")
	var others, rest uint64
	for _, who := range slices.SortedFunc(maps.Keys(code), func(x, y string) int { return cmp.Compare(code[y], code[x]) }) {
		if code[who] < 16<<10 {
			others++
			rest += code[who]
			continue
		}
		row(who, code[who])
	}
	row(fmt.Sprintf("%d others", others), rest)
	row("**code**", text.Size)
	row("what belongs to each function: lines, stack, names", tables.Size)
	constant, variable := section(".rodata").Size, section(".noptrdata").Size+section(".data").Size
	row("types, texts, more about functions", constant)
	row("variables, tables of the standard library among them", variable)
	row("**the file**", uint64(size))
	return b.String()
}

// owner is whose code a package is: a room of ours, a module, or the standard library by the first name of the path.
func owner(info *buildinfo.BuildInfo, pkg string) string {
	if pkg == "main" {
		return "ours: cmd/certagent"
	}
	if room, ours := strings.CutPrefix(pkg, "certagent/"); ours {
		return "ours: " + room
	}
	for _, module := range info.Deps {
		if pkg == module.Path || strings.HasPrefix(pkg, module.Path+"/") {
			return module.Path
		}
	}
	if pkg == "" {
		return "Go: comparisons made by the compiler"
	}
	first, _, _ := strings.Cut(strings.TrimPrefix(pkg, "vendor/golang.org/x/"), "/")
	return "Go: " + first
}
