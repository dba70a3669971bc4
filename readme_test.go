package certagent_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// strangersPatience is how long the path through the README may take at most: it builds two programs, beside other tests.
const strangersPatience = 10 * time.Minute

// allEnded is said when no program runs any more that the commands have started.
const allEnded = "all have ended\n"

// block is a fenced block of a page.
type block struct{ language, text string }

// commands are blocks of commands, each with what its reader is told to expect of it.
type commands struct {
	text string
	sees []string
}

// TestStrangersPath types all commands of the README, word for word and in their order, into one shell in a fresh copy of the
// sources, with an environment of PATH and HOME, and expects what the README says is to be seen.
func TestStrangersPath(t *testing.T) {
	t.Parallel()
	path, configurations := readmeBlocks(t)
	dir := freshCopy(t)
	var script strings.Builder
	script.WriteString("set -e\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n")
	for i, c := range path {
		// Neither ends well below another test: the one is played by CI (.ci/run), the other is what runs this.
		for _, instead := range []string{"make demo", "make test"} {
			if c.text == instead+"\n" {
				c.text = strings.Replace(c.text, "make", "make --dry-run", 1)
			}
		}
		fmt.Fprintf(&script, "%s\necho 'end of block %d'\n", c.text, i)
	}
	script.WriteString("wait\necho '" + strings.TrimSpace(allEnded) + "'\n") // by its last commands; else this waits in vain
	said := inShell(t, dir, script.String())
	for i, c := range path {
		here, rest, ended := strings.Cut(said, fmt.Sprintf("end of block %d\n", i))
		if !ended {
			t.Fatalf("this ends badly:\n%s\nIt says:\n%s\n%s", c.text, here, logsIn(t, dir))
		}
		for _, want := range c.sees {
			if !sees(want, here) {
				t.Errorf("after\n%s\nthe README says that one sees\n%s\nand there is\n%s", c.text, want, here)
			}
		}
		said = rest
	}
	if said != allEnded {
		t.Errorf("in the end something runs, or says more: %q", said)
	}
	loads(t, dir, configurations)
}

// TestFigures: what the README says of size and memory is what was measured last (make footprint), rounded up.
func TestFigures(t *testing.T) {
	t.Parallel()
	read := func(file string) string {
		t.Helper()
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	readme, measured := read("README.md"), read("docs/performance.md")
	for _, c := range []struct{ row, says string }{
		{"program, stripped, amd64, MiB", "one static program of less than %.0f MiB,"},
		{"resident, idle, 1 certificate, MB", "MiB, %.0f MB of memory,"},
	} {
		m := regexp.MustCompile(`(?m)^\| ` + regexp.QuoteMeta(c.row) + ` \| ([0-9.]+) \|`).FindStringSubmatch(measured)
		if m == nil {
			t.Fatalf("docs/performance.md has no row %q", c.row)
		}
		figure, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf(c.says, math.Ceil(figure)); !strings.Contains(readme, want) {
			t.Errorf("the README has no %q", want)
		}
	}
}

// loads expects that what the README says belongs into /etc/certagent/config.toml is right, with either login.
func loads(t *testing.T, dir string, configurations []string) {
	t.Helper()
	login := regexp.MustCompile(`(?s)\[cert_issuance\.est\.auth\]\n.*?\n\n`)
	if len(configurations) != 2 || !login.MatchString(configurations[0]) {
		t.Fatal("the README wants one configuration, whose login ends with an empty line, and one more login for it")
	}
	for _, text := range []string{configurations[0], login.ReplaceAllLiteralString(configurations[0], configurations[1]+"\n")} {
		file := filepath.Join(t.TempDir(), "config.toml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), filepath.Join(dir, "bin/certagent"), "config", "check", "--config", file).CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte("well, 1 certificate: device-id")) {
			t.Errorf("%v\n%s\nin\n%s", err, out, text)
		}
	}
}

// readmeBlocks gives the commands of the README and its configurations. Another kind of block is not expected in it.
func readmeBlocks(t *testing.T) (path []commands, configurations []string) {
	t.Helper()
	page, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for i, line := range strings.Split(string(page), "\n") {
		if strings.HasPrefix(line, "    ") {
			t.Errorf("README.md:%d: commands stand between ```sh and ```, where they are tested", i+1)
		}
	}
	for _, b := range fenced(string(page)) {
		switch {
		case b.language == "sh":
			path = append(path, commands{text: b.text})
		case b.language == "toml":
			configurations = append(configurations, b.text)
		case b.language == "text" && len(path) > 0:
			last := &path[len(path)-1]
			last.sees = slices.Collect(strings.Lines(b.text))
		default:
			t.Errorf("the README has a block of %q", b.language)
		}
	}
	if len(path) < 5 {
		t.Fatalf("the README has %d blocks of commands", len(path))
	}
	return path, configurations
}

// fenced gives the fenced blocks of a page in Markdown.
func fenced(page string) (blocks []block) {
	for _, m := range regexp.MustCompile("(?ms)^```([a-z]*)\n(.*?)^```$").FindAllStringSubmatch(page, -1) {
		blocks = append(blocks, block{m[1], m[2]})
	}
	return blocks
}

// sees tells whether a line, or the beginning of one, is among what was said. "…" stands for anything, a space for spaces.
func sees(line, said string) bool {
	var words []string
	for word := range strings.FieldsSeq(line) {
		words = append(words, strings.ReplaceAll(regexp.QuoteMeta(word), "…", ".*"))
	}
	return regexp.MustCompile(`(?m)^ *` + strings.Join(words, " +")).MatchString(said)
}

// freshCopy copies the sources, as a clone of them would be, with what is changed and not committed.
func freshCopy(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").Output()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name := range strings.SplitSeq(strings.Trim(string(out), "\x00"), "\x00") {
		info, err := os.Lstat(name)
		if errors.Is(err, os.ErrNotExist) {
			continue // removed, and not committed
		}
		to := filepath.Join(dir, name)
		if err == nil {
			err = os.MkdirAll(filepath.Dir(to), 0o755)
		}
		var data []byte
		if err == nil {
			data, err = os.ReadFile(name)
		}
		if err == nil {
			err = os.WriteFile(to, data, info.Mode().Perm())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// inShell has bash read a script from a stranger's hands, and gives all that was said.
func inShell(t *testing.T, dir, script string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), strangersPatience)
	defer cancel()
	said, err := os.Create(filepath.Join(t.TempDir(), "said")) // a file: programs in the background keep a pipe open
	if err != nil {
		t.Fatal(err)
	}
	defer said.Close()
	cmd := exec.CommandContext(ctx, "bash")
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME")}
	cmd.Stdin = strings.NewReader(script)
	cmd.Stdout, cmd.Stderr = said, said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	err = cmd.Run()
	text, readErr := os.ReadFile(said.Name())
	if readErr != nil {
		t.Fatal(readErr)
	}
	if err != nil {
		t.Errorf("bash: %v", err)
	}
	return string(text)
}

// logsIn are the logs that the commands have written.
func logsIn(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	for _, name := range []string{"certagent.log", "testca.log"} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		fmt.Fprintf(&b, "%s (%v):\n%s", name, err, text)
	}
	return b.String()
}
