package main

import (
	"bufio"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"unicode/utf8"
)

// TestNothingIsLeft: who turns away in the middle of an act, by a signal, by closing the terminal or a pipe, leaves no process
// and no file behind, and was told no success; what he saw fits into 80 columns.
func TestNothingIsLeft(t *testing.T) {
	t.Parallel()
	bin := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", bin, ".", "../../cmd/certagent", "../../cmd/certagent-testca")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	signal := func(s syscall.Signal) func(*os.Process, io.Closer) error {
		return func(p *os.Process, _ io.Closer) error { return p.Signal(s) }
	}
	for act, turnAway := range map[string]func(*os.Process, io.Closer) error{
		"life":  signal(syscall.SIGHUP),
		"azure": signal(syscall.SIGTERM),
		"aws":   func(_ *os.Process, stdout io.Closer) error { return stdout.Close() },
	} {
		t.Run(act, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "demo"), "-act", act, "-template", "../aws-jitp/template.json",
				"-agent", filepath.Join(bin, "certagent"), "-testca", filepath.Join(bin, "certagent-testca"))
			cmd.Env = append(os.Environ(), "TMPDIR="+dir)
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			enrolled := false
			for lines := bufio.NewScanner(stdout); !enrolled && lines.Scan(); {
				if n := utf8.RuneCountInString(lines.Text()); n > 80 {
					t.Errorf("%d columns: %s", n, lines.Text())
				}
				enrolled = strings.Contains(lines.Text(), "ENROLLED:")
			}
			if err := turnAway(cmd.Process, stdout); err != nil || !enrolled {
				t.Errorf("%v; the device enrolled: %t", err, enrolled)
			}
			var exit *exec.ExitError
			if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 1 {
				t.Errorf("it ended with %v, want exit code 1", err)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("it left %v: %v", left, err)
			}
			running, err := filepath.Glob("/proc/[0-9]*/cmdline")
			if err != nil {
				t.Fatal(err)
			}
			for _, file := range running {
				if line, err := os.ReadFile(file); err == nil && strings.Contains(string(line), dir+"/") { // else it has ended
					t.Errorf("it left running: %q", line)
				}
			}
		})
	}
}
