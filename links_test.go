package certagent_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	linkPattern    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	headingPattern = regexp.MustCompile(`(?m)^#+ (.+)$`)
	fencePattern   = regexp.MustCompile("(?ms)^ *```.*?^ *```$")
	notInAnchor    = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// TestLinksOfPages: what a page links to in this repository is there, the heading too, of which a page has no two alike; and the
// README links to every page of docs.
func TestLinksOfPages(t *testing.T) {
	t.Parallel()
	out, err := exec.CommandContext(t.Context(), "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.md").Output()
	if err != nil {
		t.Fatal(err)
	}
	links := 0
	for page := range strings.SplitSeq(strings.Trim(string(out), "\x00"), "\x00") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		for anchor, n := range anchors(t, page) {
			if n > 1 {
				t.Errorf("%s has %d headings #%s: a link leads to the first", page, n, anchor)
			}
		}
		for _, m := range linkPattern.FindAllStringSubmatch(string(text), -1) {
			file, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(file, ":") {
				continue // elsewhere
			}
			links++
			to := page
			if file != "" {
				to = filepath.Join(filepath.Dir(page), file)
			}
			if _, err := os.Stat(to); err != nil {
				t.Errorf("%s: %s: %v", page, m[1], err)
			} else if anchor != "" && anchors(t, to)[anchor] == 0 {
				t.Errorf("%s: %s: %s has no such heading", page, m[1], to)
			}
		}
	}
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for page := range strings.SplitSeq(strings.Trim(string(out), "\x00"), "\x00") {
		if strings.HasPrefix(page, "docs/") && !strings.Contains(string(readme), "]("+page+")") {
			t.Errorf("the README does not name %s", page)
		}
	}
	if links < 40 {
		t.Errorf("only %d links were found", links)
	}
}

// TestManualPagesThatAreNamed: where a page, a program, a unit or a script names a manual page of ours, there is one.
func TestManualPagesThatAreNamed(t *testing.T) {
	t.Parallel()
	out, err := exec.CommandContext(t.Context(), "git", "grep", "-hoIE", "--untracked", `(\\fB)?certagent[a-z.\-]*(\\fR)?\([0-9]\)`).Output()
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		line = strings.NewReplacer(`\fB`, "", `\fR`, "", `\`, "", "(", ".", ")", "").Replace(strings.TrimSpace(line))
		named[line] = true
	}
	for page := range named {
		if _, err := os.Stat(filepath.Join("packaging/man", page)); err != nil {
			t.Errorf("the manual page %s is named: %v", page, err)
		}
	}
	if len(named) < 15 {
		t.Errorf("only these manual pages are named: %v", named)
	}
}

// TestTargets: CONTRIBUTING.md has every target that make lists, and a target that a page names exists.
func TestTargets(t *testing.T) {
	t.Parallel()
	makefile, err := os.ReadFile("Makefile")
	if err != nil {
		t.Fatal(err)
	}
	targets := map[string]bool{"help": true}
	for _, m := range regexp.MustCompile(`(?m)^([a-z-]+):.*## `).FindAllStringSubmatch(string(makefile), -1) {
		targets[m[1]] = true
	}
	if len(targets) < 15 {
		t.Fatalf("the Makefile has the targets %v", targets)
	}
	pages, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range append(pages, "README.md", "examples/README.md", "CONTRIBUTING.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		named := map[string]bool{"help": true}
		for _, m := range regexp.MustCompile("(?m)(?:^    |^|`| is | or )make ([a-z]+(?:-[a-z]+)*)").FindAllStringSubmatch(string(text), -1) {
			if named[m[1]] = true; !targets[m[1]] {
				t.Errorf("%s: there is no make %s", page, m[1])
			}
		}
		for target := range targets {
			if page == "CONTRIBUTING.md" && !named[target] {
				t.Errorf("%s does not have make %s", page, target)
			}
		}
	}
}

// TestContentsOfLongPages: whoever is paged at night finds the part of a long page from its head, in the order of the page.
func TestContentsOfLongPages(t *testing.T) {
	t.Parallel()
	for _, page := range []string{"docs/operations.md", "docs/troubleshooting.md"} {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		head, rest, _ := strings.Cut(string(text), "\n## ")
		var listed, parts []string
		for _, m := range regexp.MustCompile(`\[([^]]+)\]\(#[^)]+\)`).FindAllStringSubmatch(head, -1) {
			listed = append(listed, m[1])
		}
		for _, m := range regexp.MustCompile(`(?m)^## (.+)$`).FindAllStringSubmatch("\n## "+rest, -1) {
			parts = append(parts, m[1])
		}
		if !slices.Equal(listed, parts) {
			t.Errorf("%s: its head lists %q, and it has the parts %q", page, listed, parts)
		}
	}
}

// anchors are the headings of a page, as links name them, and how often there is each.
func anchors(t *testing.T, page string) map[string]int {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]int{}
	for _, m := range headingPattern.FindAllStringSubmatch(fencePattern.ReplaceAllString(string(text), ""), -1) {
		found[strings.ReplaceAll(notInAnchor.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-")]++
	}
	return found
}
