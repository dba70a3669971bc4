package main

import (
	"bytes"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// TestEveryCommandExplainsItself holds commands and flags to one style, which CONTRIBUTING.md describes.
func TestEveryCommandExplainsItself(t *testing.T) {
	for _, c := range commands() {
		path := c.CommandPath()
		if r, _ := utf8.DecodeRuneInString(c.Short); !unicode.IsLower(r) || strings.HasSuffix(c.Short, ".") || len(c.Short) > 65 {
			t.Errorf("%s: Short %q: lower case, no full stop, at most 65 letters", path, c.Short)
		}
		if !strings.HasPrefix(c.Long, c.Name()+" ") {
			t.Errorf("%s: Long does not begin with %q", path, c.Name())
		}
		_, apart, exits := parts(c.Long)
		if exits == "" || !strings.HasSuffix(exits, ".") || !strings.HasSuffix(c.Long, exits) {
			t.Errorf("%s: Long does not end with a paragraph %q and a full stop", path, exitCodes)
		}
		for _, section := range apart {
			if len(section) < 2 {
				t.Errorf("%s: nothing stands behind %q", path, section[0])
			}
		}
		for _, text := range paragraphs(c.Long) {
			for line := range strings.Lines(text) {
				if strings.HasPrefix(line, " ") != verbatim(text) {
					t.Errorf("%s: Long: is %q text that flows, or not?", path, line)
				}
			}
		}
		for _, e := range flagEntries(c.LocalFlags()) {
			word, _, _ := strings.Cut(e.meaning, " ")
			r, _ := utf8.DecodeRuneInString(word)
			if unicode.IsUpper(r) && !strings.HasSuffix(e.term, " "+word) || strings.HasSuffix(e.meaning, ".") || strings.ContainsRune(e.meaning, '`') {
				t.Errorf("%s %s: %q: lower case, no full stop", path, e.term, e.meaning)
			}
			if value := strings.Fields(e.term); !strings.HasSuffix(value[0], ",") && len(value) > 1 && strings.ToUpper(value[1]) != value[1] {
				t.Errorf("%s %s: write what stands for the value in capitals and in `quotes`", path, e.term)
			}
		}
	}
}

var exampleCall = regexp.MustCompile(`\bcertagent( [^>|)\n]*)?`)

// TestExamplesParse: what the help shows as an example is a command line that the program understands.
func TestExamplesParse(t *testing.T) {
	for _, shown := range commands() {
		calls := exampleCall.FindAllString(strings.ReplaceAll(shown.Example, "\\\n", " "), -1)
		own := slices.ContainsFunc(calls, func(call string) bool { return strings.HasPrefix(call, shown.CommandPath()) })
		if !own {
			t.Errorf("%s: no example of it", shown.CommandPath())
		}
		for _, call := range calls {
			root := commands()[0]
			c, rest, err := root.Find(strings.Fields(call)[1:])
			if err == nil {
				err = c.ParseFlags(rest)
			}
			if err == nil {
				err = c.ValidateArgs(c.Flags().Args())
			}
			if err != nil {
				t.Errorf("%s: example %q: %v", shown.CommandPath(), call, err)
			}
		}
		for line := range strings.Lines(shown.Example) {
			if !strings.HasPrefix(line, "  ") {
				t.Errorf("%s: example %q is not indented", shown.CommandPath(), line)
			}
		}
	}
}

// TestHelpFits: help is readable on a serial console, whichever way it is asked for.
func TestHelpFits(t *testing.T) {
	for _, c := range commands() {
		path := strings.Fields(c.CommandPath())[1:]
		help := certagent(t, append(slices.Clone(path), "--help")...)
		for _, args := range [][]string{append(slices.Clone(path), "-h"), append([]string{"help"}, path...)} {
			if got := certagent(t, args...); !bytes.Equal(got, help) {
				t.Errorf("certagent %v prints something else than %v --help", args, path)
			}
		}
		for line := range strings.Lines(string(help)) {
			if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > helpWidth {
				t.Errorf("%v --help: %d wide: %s", path, n, line)
			}
			if strings.TrimRight(line, " \n") != strings.TrimRight(line, "\n") {
				t.Errorf("%v --help: blanks at the end: %q", path, line)
			}
		}
	}
}

// A flag's default is written as the flag would be.
func TestDefaultsOfFlags(t *testing.T) {
	want := map[string]string{"renew": "(default 10m)", "wait": "(default 5m)"}
	for name, text := range want {
		if help := certagent(t, name, "--help"); !bytes.Contains(help, []byte(text)) {
			t.Errorf("%s --help does not say %q:\n%s", name, text, help)
		}
	}
}
