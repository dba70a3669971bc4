package main

import (
	"bytes"
	"flag"
	"os"
	"regexp"
	"strings"
	"testing"

	"certagent/packaging/man"
)

var update = flag.Bool("update", false, "write the manual page in packaging/man anew (make docs)")

var flagLine = regexp.MustCompile(`^  (--\S+(?: [A-Z][A-Z:|]*)?) +(\S.*)$`)

// TestManPage: certagent-testca(1) is what --help prints, and certagent-testca.md.
func TestManPage(t *testing.T) {
	const dir = "../../packaging/man/"
	p := man.New("certagent-testca", 1, "throw-away CA and EST server for tests")
	p.Section("SYNOPSIS")
	p.Lines(man.Bold("certagent-testca") + " [" + man.Italic("flags") + "]")
	p.Section("DESCRIPTION")
	paragraphs := strings.Split(strings.TrimSpace(usage), "\n\n")
	var flags, example string
	for _, text := range paragraphs[1:] { // behind how it is called
		switch {
		case strings.HasPrefix(text, "  --"):
			flags = text
		case strings.HasPrefix(text, "Example"):
			example = text
		default:
			p.Paragraph(text)
		}
	}
	p.Section("OPTIONS")
	var term, meaning string
	write := func() {
		if term != "" {
			name, value, _ := strings.Cut(term, " ")
			if value != "" {
				value = " " + man.Italic(value)
			}
			p.Item(man.Bold(name)+value, meaning)
		}
	}
	written := 0
	for line := range strings.Lines(flags) {
		if m := flagLine.FindStringSubmatch(strings.TrimRight(line, "\n")); m != nil {
			write()
			term, meaning = m[1], m[2]
			written++
		} else {
			meaning += " " + strings.TrimSpace(line)
		}
	}
	write()
	if want := strings.Count(usage, "\n  --"); written != want {
		t.Errorf("%d of %d flags are on the page", written, want)
	}
	more, err := os.ReadFile(dir + "certagent-testca.md")
	if err != nil {
		t.Fatal(err)
	}
	p.Markdown(string(more))
	p.Section("EXAMPLES")
	introduction, call, _ := strings.Cut(example, "\n")
	p.Paragraph(introduction)
	p.Code(strings.TrimSpace(call))
	p.Section("SEE ALSO")
	p.Paragraph(man.Bold("certagent") + "(8)")

	file := dir + p.File()
	if *update {
		if err := os.WriteFile(file, p.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if page, err := os.ReadFile(file); err != nil || !bytes.Equal(page, p.Bytes()) {
		t.Errorf("%s is stale; make docs writes it anew (%v)", file, err)
	}
}
