// Package certagent_test holds the rules that no single package can hold: which package may import which, and that each
// says what it is for. The table is that of docs/architecture.md.
package certagent_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// room is what a package may import of ours.
type room struct {
	anything bool // but names; else nothing but those
	names    []string
}

func (r room) allows(name string) bool { return slices.Contains(r.names, name) != r.anything }

var roomPattern = regexp.MustCompile("(?m)^\\| `([a-z0-9/-]+)` \\| .+ \\| (nothing|anything but )?(.*) \\|$")

// rooms are the rows of the table. A package that has none fails the test: adding one is a decision that belongs there.
func rooms(t *testing.T) map[string]room {
	t.Helper()
	page, err := os.ReadFile("docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(page), "\n## Rooms\n")
	table, _, _ = strings.Cut(table, "\n## ")
	all := map[string]room{}
	for _, m := range roomPattern.FindAllStringSubmatch(table, -1) {
		r := room{anything: m[2] == "anything but "}
		if m[3] != "" {
			r.names = strings.Split(strings.Trim(m[3], "`"), "`, `")
		}
		all[m[1]] = r
	}
	return all
}

type goPackage struct {
	ImportPath, Doc, Name string
	Imports               []string
}

func packages(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Doc,Name,Imports", "./...")
	out, err := cmd.Output()
	if err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			t.Fatalf("go list: %v\n%s", err, exit.Stderr)
		}
		t.Fatal(err)
	}
	var list []goPackage
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return list
		} else if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
}

func TestImportsKeepToTheRooms(t *testing.T) {
	rooms, seen := rooms(t), map[string]bool{}
	for _, p := range packages(t) {
		room := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, "certagent"), "/")
		if room == "" {
			continue // this test
		}
		seen[room] = true
		may, ok := rooms[room]
		if !ok {
			t.Errorf("package %s has no row in the table of rooms", room)
			continue
		}
		if p.Doc == "" {
			t.Errorf("package %s has no package comment", room)
		}
		for _, i := range p.Imports {
			ours, found := strings.CutPrefix(i, "certagent/")
			switch {
			case !found:
				if i == "testing" && room != "est/esttest" {
					t.Errorf("package %s imports testing outside its tests", room)
				}
			case !may.allows(ours):
				t.Errorf("package %s must not import %s", room, ours)
			}
		}
		if room == "renew" {
			for _, i := range p.Imports {
				if strings.Contains(i, ".") {
					t.Errorf("package renew must get by with the standard library, and imports %s", i)
				}
			}
		}
	}
	for room, may := range rooms {
		for _, name := range append(may.names, room) {
			if !seen[name] {
				t.Errorf("the table of rooms has %s, which does not exist", name)
			}
		}
	}
}

// TestDependenciesAreExplained: docs/architecture.md says of every module that one of ours asks for itself what it is for.
func TestDependenciesAreExplained(t *testing.T) {
	page, err := os.ReadFile("docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(page), "\n## Dependencies\n")
	table, _, _ = strings.Cut(table, "\n## ")
	found := 0
	for _, file := range []string{"go.mod", "packaging/rig/kubernetes/go.mod"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^\t(?:github\.com/)?(\S+) v\S+$`).FindAllStringSubmatch(string(text), -1) {
			if found++; !strings.Contains(table, m[1]) {
				t.Errorf("%s: docs/architecture.md does not say what %s is for", file, m[1])
			}
		}
	}
	if found < 15 {
		t.Errorf("only %d modules were found", found)
	}
}
