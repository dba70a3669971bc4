package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io"
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
	`outputProblem(o)`:     {"output-failed", "output-refused"},
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
				if valueOf(n, "Code") != nil {
					remedied(t, set, n, valueOf(n, "Hint"))
				}
				if name, ok := n.Type.(*ast.Ident); ok && name.Name == "Problem" && len(n.Elts) > 0 {
					if _, keyed := n.Elts[0].(*ast.KeyValueExpr); !keyed {
						add(n.Elts[0])
					}
				}
			case *ast.CallExpr:
				if name, ok := n.Fun.(*ast.Ident); ok && name.Name == "configurationFailure" {
					add(n.Args[0])
					remedied(t, set, n, n.Args[2])
				}
			}
			return true
		})
	}
	return values
}

// remedied checks that a problem says what to do about it.
func remedied(t *testing.T, set *token.FileSet, problem ast.Node, hint ast.Expr) {
	t.Helper()
	if text, ok := hint.(*ast.BasicLit); hint == nil || ok && text.Value == `""` {
		t.Errorf("%s: a problem without a remedy", set.Position(problem.Pos()))
	}
}

// valueOf is the value of a key in a literal; nil where it has none.
func valueOf(literal *ast.CompositeLit, key string) ast.Expr {
	for _, e := range literal.Elts {
		if pair, ok := e.(*ast.KeyValueExpr); ok {
			if name, ok := pair.Key.(*ast.Ident); ok && name.Name == key {
				return pair.Value
			}
		}
	}
	return nil
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

// commandIn finds what is typed: the word certagent, unless it is a unit's name or a verb follows, and what comes after it.
var commandIn = regexp.MustCompile(`(-u |systemctl [a-z-]+ |edit |SupplementaryGroups=|chown |User=|group |user )?\bcertagent((?: (?:--)?[a-z][a-z-]*)+)`)

// TestRemediesNameCommands: a command and its flags that a text of the program or the page of operations tells somebody to type exist.
func TestRemediesNameCommands(t *testing.T) {
	said := map[string]string{} // where, by what
	for _, dir := range []string{"../../agent", "../../agent/config", "../../agent/control", "../../agent/hook", "../../agent/status", "../../est", "../../store", "../../store/export", "."} {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			set := token.NewFileSet()
			parsed, err := parser.ParseFile(set, file, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(parsed, func(n ast.Node) bool {
				text, ok := n.(*ast.BasicLit)
				if !ok || text.Kind != token.STRING {
					return true
				}
				for _, m := range commandIn.FindAllStringSubmatch(text.Value, -1) {
					if m[1] == "" {
						said[m[2]] = set.Position(n.Pos()).String()
					}
				}
				return true
			})
		}
	}
	page, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, span := range regexp.MustCompile("`certagent( [^`]*)`").FindAllStringSubmatch(string(page), -1) {
		said[span[1]] = "docs/operations.md"
	}
	if len(said) < 20 {
		t.Errorf("only %d commands are named: does this test still find them?", len(said))
	}
	p := &program{stdout: io.Discard, stderr: io.Discard}
	// Of these sentences certagent is the subject.
	prose := []string{"does", "can", "pkcs", "replaces", "enrols", "reads", "adds", "leaves", "this"}
	for text, where := range said {
		words := strings.Fields(text)
		if slices.Contains(prose, words[0]) {
			continue
		}
		root := p.command()
		root.InitDefaultHelpCmd()
		command, rest, err := root.Find(words)
		if err != nil || !command.HasParent() {
			t.Errorf("%s: there is no command certagent%s", where, text)
			continue
		}
		command.InitDefaultHelpFlag()
		for _, word := range rest {
			if name, ok := strings.CutPrefix(word, "--"); ok && command.Flags().Lookup(name) == nil && command.InheritedFlags().Lookup(name) == nil {
				t.Errorf("%s: certagent%s: there is no flag --%s", where, text, name)
			}
		}
	}
}

// TestRemediesNameKeys: the keys in the table of problems are in the reference of the configuration, which another test holds
// against the program.
func TestRemediesNameKeys(t *testing.T) {
	reference, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "\n## Problems\n")
	section, _, _ = strings.Cut(section, "\n## ")
	found := 0
	for line := range strings.Lines(section) {
		cells := strings.Split(line, " | ")
		if len(cells) != 4 {
			continue
		}
		for _, m := range regexp.MustCompile("`(?:\\[[a-z_.]+\\] ?)?([a-z]+(?:_[a-z]+)*)?(?: = [^`]*)?`").FindAllStringSubmatch(cells[3], -1) {
			if found++; m[1] != "" && !strings.Contains(string(reference), "`"+m[1]) && !strings.Contains(string(reference), m[1]+"`") && !strings.Contains(string(reference), m[1]+" =") {
				t.Errorf("docs/configuration.md has no key %s", m[1])
			}
		}
	}
	if found < 10 {
		t.Errorf("only %d keys are named: does this test still find them?", found)
	}
}
