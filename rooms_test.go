// Package certagent_test holds the rules that no single package can hold: which package may import which, and that each
// says what it is for. The table is the one of docs/architecture.md, which the test reads too.
package certagent_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// anything marks a room that may import every other one.
const anything = "*"

// rooms says which of our packages a package may import, tests excepted. A package that has no row fails the test: adding
// one is a decision that belongs here and into docs/architecture.md.
var rooms = map[string][]string{
	"renew":                     {},
	"renew/sim":                 {"renew"},
	"est":                       {},
	"est/esttest":               {}, // shares no code with the client that it tests
	"agent/status":              {},
	"agent/hook":                {},
	"agent/control":             {"agent/status"},
	"agent/config":              {"renew"},
	"store/durable":             {},
	"store/durable/durabletest": {"store/durable"},
	"store/keys":                {"store/durable"},
	"store":                     {"store/durable", "store/keys"},
	"store/storetest":           {}, // shares no code with the store that it looks at
	"store/export":              {"store/durable", "store/keys"},
	"agent": {
		"renew", "store", "store/durable", "store/keys", "store/export", "est", "agent/config", "agent/hook", "agent/status",
		"agent/control",
	},
	"agent/check": {
		"agent", "est", "agent/config", "agent/hook", "agent/status", "store", "store/durable", "store/export",
	},
	"cmd/certagent":        {anything},
	"cmd/certagent-testca": {"est/esttest"},
	"packaging/man":        {}, // for tests: no program imports it
	"examples/demo":        {}, // drives the programs from outside, as a user does
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
	seen := map[string]bool{}
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
			case slices.Contains(may, ours):
			case slices.Contains(may, anything) && ours != "est/esttest" && ours != "packaging/man":
			default:
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
	for room := range rooms {
		if !seen[room] {
			t.Errorf("the table of rooms has a row for %s, which does not exist", room)
		}
	}
}

func TestArchitecturePageNamesEveryRoom(t *testing.T) {
	page, err := os.ReadFile("docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	for room := range rooms {
		if !bytes.Contains(page, []byte("`"+room+"`")) {
			t.Errorf("docs/architecture.md does not name `%s`", room)
		}
	}
}
