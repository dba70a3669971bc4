package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// composed are the problem codes that the sources put together at run time: the expression, and what it makes. The classes
// of EST errors are read from package est.
var composed = map[string][]string{
	`"est-" + c.name`:      nil,
	`code + "-unreadable"`: {"bootstrap-unreadable", "est-identity-unreadable"},
	`code + state`: {
		"bootstrap-expired", "bootstrap-not-yet-valid", "est-identity-expired", "est-identity-not-yet-valid",
	},
}

// TestProblemCodes: docs/operations.md has every problem code that the sources produce, and no other.
func TestProblemCodes(t *testing.T) {
	composed := maps.Clone(composed)
	composed[`"est-" + c.name`] = estClasses(t)
	produced := map[string]bool{}
	used := map[string]bool{}
	for _, dir := range []string{"../../agent", "../../agent/config", "."} {
		for _, value := range codesIn(t, dir) {
			if code, err := strconv.Unquote(value); err == nil {
				produced[code] = true
				continue
			}
			codes, known := composed[value]
			if !known {
				t.Errorf("package %s makes a problem code by %s: say in this test what that can be", dir, value)
			}
			used[value] = true
			for _, code := range codes {
				produced[code] = true
			}
		}
	}
	for value := range composed {
		if !used[value] {
			t.Errorf("no source makes a problem code by %s any more", value)
		}
	}
	documented := documentedCodes(t)
	for code := range produced {
		if !slices.Contains(documented, code) {
			t.Errorf("docs/operations.md lacks the problem code %s", code)
		}
	}
	for _, code := range documented {
		if !produced[code] {
			t.Errorf("docs/operations.md has the problem code %s, which nothing produces", code)
		}
	}
	if len(produced) < 30 {
		t.Errorf("the sources produce %d codes only: does this test still find them?", len(produced))
	}
}

// codesIn finds the values given to a Problem's Code in the package in dir, as they are written in the sources: in a
// literal with or without keys, and as the first argument of configurationFailure.
func codesIn(t *testing.T, dir string) (values []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		set := token.NewFileSet()
		parsed, err := parser.ParseFile(set, file, source, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		add := func(e ast.Expr) {
			switch e := e.(type) {
			case *ast.SelectorExpr: // a copy of another Problem's
			case *ast.Ident: // the parameter of configurationFailure
				if e.Name != "code" {
					t.Errorf("%s: a problem code from the variable %s", set.Position(e.Pos()), e.Name)
				}
			default:
				values = append(values, string(source[set.Position(e.Pos()).Offset:set.Position(e.End()).Offset]))
			}
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.KeyValueExpr:
				if name, ok := n.Key.(*ast.Ident); ok && name.Name == "Code" {
					add(n.Value)
				}
			case *ast.CompositeLit:
				if name, ok := n.Type.(*ast.Ident); ok && name.Name == "Problem" && len(n.Elts) > 0 {
					if _, keyed := n.Elts[0].(*ast.KeyValueExpr); !keyed {
						add(n.Elts[0])
					}
				}
			case *ast.CallExpr:
				if name, ok := n.Fun.(*ast.Ident); ok && name.Name == "configurationFailure" {
					add(n.Args[0])
				}
			}
			return true
		})
	}
	return values
}

// estClasses are the problem codes of the error classes of package est: ErrBadResponse is est-bad-response.
func estClasses(t *testing.T) (codes []string) {
	t.Helper()
	source, err := os.ReadFile("../../est/errors.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^\tErr(\w+) += errors\.New`).FindAllSubmatch(source, -1) {
		words := regexp.MustCompile(`[A-Z][a-z]+`).FindAllString(string(m[1]), -1)
		codes = append(codes, "est-"+strings.ToLower(strings.Join(words, "-")))
	}
	if len(codes) == 0 {
		t.Fatal("est/errors.go has no classes: does this test still find them?")
	}
	return codes
}

// documentedCodes are those in the first column of the table of problems.
func documentedCodes(t *testing.T) (codes []string) {
	t.Helper()
	page, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "\n## Problems\n")
	section, _, _ = strings.Cut(section, "\n## ")
	for line := range strings.Lines(section) {
		if !strings.HasPrefix(line, "| `") {
			continue
		}
		first, _, _ := strings.Cut(line[1:], " | ")
		for _, m := range regexp.MustCompile("`([a-z-]+)`").FindAllStringSubmatch(first, -1) {
			if slices.Contains(codes, m[1]) {
				t.Errorf("docs/operations.md has the problem code %s twice", m[1])
			}
			codes = append(codes, m[1])
		}
	}
	return codes
}
