package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain lets this test binary be the program: "certagent" on the PATH of scripts and tests is the real main, run in a
// process of its own.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"certagent": main})
}

// TestScripts are the commands as a person types them; testdata/script/*.txtar read as their specification. Beside the
// usual words of such scripts there are
//
//	exits CODE COMMAND ARG...      as exec, and the exit code must be CODE
//	outsider CODE certagent ARG... the same as a user who has no right to what is 0600 here
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			// Whoever runs the tests may have these set for reasons of their own.
			for _, name := range []string{"STATE_DIRECTORY", "RUNTIME_DIRECTORY", "NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY", "HTTPS_PROXY"} {
				e.Setenv(name, "")
			}
			// An outsider must come as far as the script's directory.
			return errors.Join(os.Chmod(filepath.Dir(e.WorkDir), 0o755), os.Chmod(e.WorkDir, 0o755))
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": func(ts *testscript.TestScript, neg bool, args []string) {
				if neg || len(args) < 2 {
					ts.Fatalf("usage: exits CODE COMMAND ARG...")
				}
				mustExit(ts, args, ts.Exec(args[1], args[2:]...))
			},
			"outsider": func(ts *testscript.TestScript, neg bool, args []string) {
				if neg || len(args) < 2 || args[1] != "certagent" {
					ts.Fatalf("usage: outsider CODE certagent ARG...")
				}
				cmd := outsider(args[2:]...)
				cmd.Dir = ts.MkAbs(".")
				cmd.Env = []string{"STATE_DIRECTORY=" + ts.Getenv("STATE_DIRECTORY")}
				cmd.Stdout, cmd.Stderr = ts.Stdout(), ts.Stderr()
				mustExit(ts, args, cmd.Run())
			},
		},
	})
}

func mustExit(ts *testscript.TestScript, args []string, err error) {
	want, wrong := strconv.Atoi(args[0])
	ts.Check(wrong)
	code := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if code != want {
		ts.Fatalf("exit code %d, want %d", code, want)
	}
}

// outsider is the program run by somebody without rights. Root becomes nobody; anybody else has no right to files of mode 0
// as it is. The program is named by what the kernel has open: its path leads through directories closed to others.
func outsider(args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = append([]string{"certagent"}, args...)
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	return cmd
}
