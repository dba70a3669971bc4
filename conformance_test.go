package certagent_test

import (
	"errors"
	"fmt"
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// conformanceRules is how many rules docs/est-conformance.md has.
const conformanceRules = 62

// rule is one row of the page.
type rule struct {
	number int
	state  string   // "met" or "declined"
	why    string   // what follows the state
	tests  []string // as "est.TestName/subtest", with the package's directory before the dot
}

var (
	rowPattern    = regexp.MustCompile(`^\| (\d+) \| .+ \| .+ \| .+ \| (met|declined)\b(.*) \|(.*)\|$`)
	quotedPattern = regexp.MustCompile("`[^`]+`")
	testPattern   = regexp.MustCompile("^`([a-z0-9/-]+)\\.((?:Test|Fuzz)[^a-z][A-Za-z0-9_]*)((?:/[^`]+)?)`$")
)

func readRules(t *testing.T) []rule {
	t.Helper()
	page, err := os.ReadFile("docs/est-conformance.md")
	if err != nil {
		t.Fatal(err)
	}
	var rules []rule
	for line := range strings.Lines(string(page)) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| #") || strings.HasPrefix(line, "| ---") {
			continue
		}
		cells := rowPattern.FindStringSubmatch(line)
		if cells == nil {
			t.Errorf("not a row of six cells whose fifth begins with met or declined:\n%s", line)
			continue
		}
		r := rule{state: cells[2], why: cells[3], tests: quotedPattern.FindAllString(cells[4], -1)}
		r.number, _ = strconv.Atoi(cells[1]) // digits
		if rest := strings.Trim(quotedPattern.ReplaceAllString(cells[4], ""), " ,"); rest != "" {
			t.Errorf("rule %d: among its tests stands %q", r.number, rest)
		}
		rules = append(rules, r)
	}
	return rules
}

// Each rule is there once, in order, and says whether it is met: by a test, or declined, and then why.
func TestConformanceHasEveryRule(t *testing.T) {
	rules := readRules(t)
	for i, r := range rules {
		if r.number != i+1 {
			t.Fatalf("row %d has number %d", i+1, r.number)
		}
		switch {
		case r.state == "met" && len(r.tests) == 0:
			t.Errorf("rule %d is met, and no test shows it", r.number)
		case r.state == "declined" && len(strings.Fields(r.why)) < 4:
			t.Errorf("rule %d is declined, and the page does not say why", r.number)
		}
	}
	if len(rules) != conformanceRules {
		t.Errorf("%d rules, want %d", len(rules), conformanceRules)
	}
}

// Every test that the page names exists, and `go test ./...` runs it: it stands in a file that no build tag leaves out,
// its signature is that of a test, nothing in its package skips, and the names of its subtests stand in it, or in a
// table or function of its package that it names.
func TestConformanceNamesTestsThatRun(t *testing.T) {
	sources := map[string]testSources{}
	for _, r := range readRules(t) {
		for _, named := range r.tests {
			parts := testPattern.FindStringSubmatch(named)
			if parts == nil {
				t.Errorf("rule %d: %s is not `package.TestName/subtest`", r.number, named)
				continue
			}
			dir, name, sub := parts[1], parts[2], parts[3]
			if sources[dir] == nil {
				sources[dir] = parseTests(t, dir)
			}
			if err := sources[dir].runs(name, strings.Split(sub, "/")[1:]); err != nil {
				t.Errorf("rule %d: %s: %v", r.number, named, err)
			}
		}
	}
}

// testSources are the declarations at the top of a package's test files, by name; methods are left out.
type testSources map[string]ast.Node

// parseTests reads the test files of the package in dir that `go test` compiles without tags and without cgo, and fails
// the test if anything in them skips.
func parseTests(t *testing.T, dir string) testSources {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no test files in %s (%v)", dir, err)
	}
	context := build.Default
	context.CgoEnabled, context.BuildTags = false, nil
	s := testSources{}
	for _, file := range files {
		if match, err := context.MatchFile(dir, filepath.Base(file)); err != nil {
			t.Fatal(err)
		} else if !match {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			if call, ok := n.(*ast.SelectorExpr); ok && slices.Contains([]string{"Skip", "Skipf", "SkipNow"}, call.Sel.Name) {
				t.Errorf("%s has a test that can be skipped: %s", file, call.Sel.Name)
			}
			return true
		})
		for _, decl := range parsed.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil {
					s[d.Name.Name] = d
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					if v, ok := spec.(*ast.ValueSpec); ok {
						for _, name := range v.Names {
							s[name.Name] = v
						}
					}
				}
			}
		}
	}
	return s
}

// runs returns nil if the test of that name is one that runs, and has these subtests, one below the other.
func (s testSources) runs(name string, subtests []string) error {
	if !isTest(s[name]) {
		return errors.New("there is no such test")
	}
	literals := map[string]bool{}
	seen := map[string]bool{name: true}
	for todo := []ast.Node{s[name]}; len(todo) > 0; todo = todo[1:] {
		ast.Inspect(todo[0], func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.Ident:
				if decl := s[n.Name]; decl != nil && !seen[n.Name] {
					seen[n.Name] = true
					todo = append(todo, decl)
				}
			case *ast.BasicLit:
				if text, err := strconv.Unquote(n.Value); err == nil && n.Kind == token.STRING {
					literals[text] = true
				}
			}
			return true
		})
	}
	for _, sub := range subtests {
		if !literals[sub] {
			return fmt.Errorf("the name %q stands nowhere in it", sub)
		}
	}
	return nil
}

// isTest reports whether a declaration is one that `go test` runs: a function of one argument, *testing.T or *testing.F.
func isTest(n ast.Node) bool {
	f, ok := n.(*ast.FuncDecl)
	if !ok || f.Recv != nil || f.Body == nil || f.Type.Results != nil || len(f.Type.Params.List) != 1 {
		return false
	}
	pointer, ok := f.Type.Params.List[0].Type.(*ast.StarExpr)
	if !ok {
		return false
	}
	of, ok := pointer.X.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	in, ok := of.X.(*ast.Ident)
	return ok && in.Name == "testing" &&
		(of.Sel.Name == "T" && strings.HasPrefix(f.Name.Name, "Test") ||
			of.Sel.Name == "F" && strings.HasPrefix(f.Name.Name, "Fuzz"))
}
