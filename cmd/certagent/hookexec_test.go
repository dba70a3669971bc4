package main

import (
	"os/exec"
	"testing"
)

// Every word is the program's, also those that would mean something to certagent.
func TestHookExecTakesNoWordForItself(t *testing.T) {
	out, err := exec.Command("certagent", hookExec, "/bin/sh", "-c", `printf '%s|' "$0" "$@"`,
		"--config", "x", "-h", "--help", "--", "two words", "").CombinedOutput()
	if want := "--config|x|-h|--help|--|two words||"; err != nil || string(out) != want {
		t.Errorf("%v, got %q, want %q", err, out, want)
	}
}

func TestHookExecThatCannot(t *testing.T) {
	for _, words := range [][]string{{}, {"/nonexistent", "x"}} {
		out, err := exec.Command("certagent", append([]string{hookExec}, words...)...).CombinedOutput()
		exit, is := err.(*exec.ExitError)
		if !is || exit.ExitCode() != exitFailed || len(out) == 0 {
			t.Errorf("%q: %v, %q", words, err, out)
		}
	}
}
