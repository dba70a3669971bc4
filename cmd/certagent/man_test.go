package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"certagent/agent/status"
	"certagent/packaging/man"
)

var update = flag.Bool("update", false, "write the manual pages in packaging/man anew (make docs)")

const manDir = "../../packaging/man"

// exitCodeMeanings are the exit codes of all commands.
var exitCodeMeanings = []struct {
	code    int
	meaning string
}{
	{exitOK, "well: what was asked for was done"},
	{exitFailed, "it failed"},
	{exitUsage, "the command line or the configuration is wrong"},
	{status.ExitExpired, "a certificate has expired"},
	{status.ExitOverdue, "a certificate is valid, and its renewal has failed for long"},
	{status.ExitKeyMismatch, "a certificate and its key differ"},
	{status.ExitNotYetValid, "a certificate is not valid yet"},
	{status.ExitMissing, "there is no certificate yet"},
	{status.ExitDegraded, "every certificate is fine; an output, a hook, the configuration or the like is not"},
}

// commands are all that a person can call, the program itself first.
func commands() []*cobra.Command {
	root := (&program{stdout: io.Discard, stderr: io.Discard}).command()
	root.InitDefaultHelpCmd()
	all := []*cobra.Command{root}
	for i := 0; i < len(all); i++ {
		for _, e := range shown(all[i]) {
			sub, _, err := all[i].Find([]string{e.term})
			if err != nil {
				panic(err)
			}
			all = append(all, sub)
		}
	}
	return all
}

func pageName(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

// manPages are the pages of section 8, by file. A page is made of the command's text and flags, and of NAME.md beside it
// where that exists: sections of its own, which go in front of EXAMPLES.
func manPages(t *testing.T) map[string][]byte {
	t.Helper()
	pages := map[string][]byte{}
	all := commands()
	for _, c := range all {
		if c.Name() == "help" {
			continue // man(1) is what it is for
		}
		p := manPage(t, c, all)
		pages[p.File()] = p.Bytes()
	}
	return pages
}

func manPage(t *testing.T, c *cobra.Command, all []*cobra.Command) *man.Page {
	t.Helper()
	p := man.New(pageName(c), 8, c.Short)
	p.Section("SYNOPSIS")
	for i, line := range synopsis(c) {
		if i > 0 {
			p.Break()
		}
		p.Lines(markedUsage(line))
	}
	p.Section("DESCRIPTION")
	about, apart, exits := parts(c.Long)
	prose(p, about)
	if below := shown(c); len(below) > 0 {
		p.Section("COMMANDS")
		for _, e := range below {
			p.Item(man.Bold(e.term), e.meaning)
		}
	}
	p.Section("OPTIONS")
	for _, e := range append(flagEntries(c.LocalNonPersistentFlags()), flagEntries(c.Root().PersistentFlags())...) {
		p.Item(markedUsage(e.term), marked(e.meaning))
	}
	for _, section := range apart {
		p.Section(strings.TrimSuffix(section[0], ":"))
		prose(p, section[1:])
	}
	p.Section("EXIT STATUS")
	if c.HasParent() {
		p.Paragraph(marked(exits))
	} else {
		for _, e := range exitCodeMeanings {
			p.Item(fmt.Sprint(e.code), e.meaning)
		}
		p.Paragraph("Each command says which of them it has, and when.")
	}
	more, err := os.ReadFile(filepath.Join(manDir, pageName(c)+".md"))
	if err == nil {
		p.Markdown(string(more))
	} else if !os.IsNotExist(err) {
		t.Fatal(err)
	}
	if c.Example != "" {
		p.Section("EXAMPLES")
		block(p, c.Example)
	}
	p.Section("SEE ALSO")
	p.Paragraph(seeAlso(c, all))
	return p
}

var sectionLine = regexp.MustCompile(`^[A-Z][a-z ]+:$`)

// parts are those of a command's text: what it is about, sections each behind its heading, and how it ends.
func parts(long string) (about []string, apart [][]string, exits string) {
	for _, text := range paragraphs(long) {
		switch codes, found := strings.CutPrefix(text, exitCodes); {
		case found:
			exits = codes
		case sectionLine.MatchString(text):
			apart = append(apart, []string{text})
		case apart != nil:
			apart[len(apart)-1] = append(apart[len(apart)-1], text)
		default:
			about = append(about, text)
		}
	}
	return about, apart, exits
}

func prose(p *man.Page, paragraphs []string) {
	for _, text := range paragraphs {
		if verbatim(text) {
			block(p, text)
		} else {
			p.Paragraph(marked(text))
		}
	}
}

// seeAlso lists the pages near to a command's: those above and below it, and the configuration's. The program's own has all.
func seeAlso(c *cobra.Command, all []*cobra.Command) string {
	var refs []string
	for _, other := range all {
		near := c.HasParent() && (other == c.Parent() || other.Parent() == c || other == c.Root()) || !c.HasParent()
		if near && other != c && other.Name() != "help" {
			refs = append(refs, man.Bold(pageName(other))+"(8)")
		}
	}
	return strings.Join(append(refs, man.Bold("certagent-config.toml")+"(5)"), ", ")
}

// block writes a paragraph that stays as it is: as a list if each line is a term, two blanks and its meaning.
func block(p *man.Page, text string) {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	var terms [][]string
	for _, line := range lines {
		if m := termLine.FindStringSubmatch(line); m != nil {
			terms = append(terms, m[1:])
		}
	}
	if len(terms) == len(lines) {
		for _, t := range terms {
			p.Item(man.Bold(t[0]), marked(t[1]))
		}
		return
	}
	for i, line := range lines {
		lines[i] = strings.TrimPrefix(line, "  ")
	}
	p.Code(lines...)
}

var (
	termLine = regexp.MustCompile(`^  (\S+(?: \S+)*)  +(\S.*)$`)
	flagWord = regexp.MustCompile(`(^|[\s(\[])(--?[a-z][a-z-]*)`)
	nameWord = regexp.MustCompile(`[A-Z][A-Z0-9]+`)
)

// marked is running text with its flags in bold.
func marked(text string) string { return flagWord.ReplaceAllString(text, "$1"+man.Bold("$2")) }

// markedUsage is a line that says how something is called: what is replaced in italic, the rest in bold.
func markedUsage(line string) string {
	words := strings.Fields(line)
	for i, word := range words {
		if nameWord.MatchString(word) {
			words[i] = nameWord.ReplaceAllStringFunc(word, man.Italic)
		} else {
			words[i] = man.Bold(word)
		}
	}
	return strings.Join(words, " ")
}

// TestManPages: packaging/man has a page for each command, made from what the command says of itself, and no other.
func TestManPages(t *testing.T) {
	generated(t, manDir, "*.8", manPages(t))
}

// certagent is what the program prints, which must be well.
func certagent(t *testing.T, args ...string) []byte {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), args, &stdout, &stderr); code != exitOK || stderr.Len() > 0 {
		t.Fatalf("certagent %v: exit code %d\n%s", args, code, &stderr)
	}
	return stdout.Bytes()
}

// generated holds the files of a directory against what they are to be, or writes them with -update.
func generated(t *testing.T, dir, pattern string, want map[string][]byte) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	there, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range there {
		if want[filepath.Base(file)] != nil {
			continue
		}
		if !*update {
			t.Errorf("%s is of nothing that exists; make docs removes it", file)
		} else if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		file := filepath.Join(dir, name)
		old, err := os.ReadFile(file)
		if bytes.Equal(old, want[name]) && err == nil {
			continue
		}
		if !*update {
			t.Errorf("%s is stale; make docs writes it anew", file)
		} else if err := os.WriteFile(file, want[name], 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

var environmentRead = regexp.MustCompile(`os\.(?:Getenv|LookupEnv)\("([A-Z_]+)"\)`)

// TestEnvironmentPage: certagent(8) has every variable that our sources read.
func TestEnvironmentPage(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(manDir, "certagent.md"))
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, pattern := range []string{"*.go", "../../agent/*.go", "../../agent/*/*.go", "../../est/*.go", "../../store/*.go"} {
		files, err := filepath.Glob(pattern)
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
			for _, m := range environmentRead.FindAllSubmatch(source, -1) {
				found++
				if !bytes.Contains(page, []byte("`"+string(m[1])+"`")) {
					t.Errorf("%s reads %s, which %s does not name", file, m[1], "packaging/man/certagent.md")
				}
			}
		}
	}
	if found < 4 {
		t.Errorf("only %d variables found", found)
	}
}
