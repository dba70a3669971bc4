package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// raceVariable has the options of the race detector (https://go.dev/doc/articles/race_detector#Options). Whoever makes an
// environment of his own hands it on: without them each program waits for a second before it ends (make check).
const raceVariable = "GORACE"

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
//	testca FLAG...                 start certagent-testca; it ends with the script. $URL is where its operations are,
//	                               $HOSTPORT where it listens
//	fingerprint VAR FILE           set $VAR to the SHA-256 of the certificate in FILE, in hex with colons
func TestScripts(t *testing.T) { runScripts(t, "testdata/script", nil) }

// runScripts runs the scripts of a directory with more variables in their environment.
func runScripts(t *testing.T, dir string, env map[string]string) {
	testca := sync.OnceValues(func() (string, error) {
		program := filepath.Join(t.TempDir(), "certagent-testca")
		build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "certagent/cmd/certagent-testca")
		if out, err := build.CombinedOutput(); err != nil {
			return "", fmt.Errorf("build certagent-testca: %w\n%s", err, out)
		}
		return program, nil
	})
	testscript.Run(t, testscript.Params{
		Dir: dir,
		Setup: func(e *testscript.Env) error {
			// Whoever runs the tests may have these set for reasons of their own.
			for _, name := range []string{"STATE_DIRECTORY", "RUNTIME_DIRECTORY", "NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY", "HTTPS_PROXY"} {
				e.Setenv(name, "")
			}
			for name, value := range env {
				e.Setenv(name, value)
			}
			e.Setenv(raceVariable, os.Getenv(raceVariable))
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
				cmd.Env = []string{"STATE_DIRECTORY=" + ts.Getenv("STATE_DIRECTORY"), raceVariable + "=" + os.Getenv(raceVariable)}
				cmd.Stdout, cmd.Stderr = ts.Stdout(), ts.Stderr()
				mustExit(ts, args, cmd.Run())
			},
			"testca": func(ts *testscript.TestScript, _ bool, args []string) {
				program, err := testca()
				ts.Check(err)
				startTestCA(ts, program, args)
			},
			"fingerprint": func(ts *testscript.TestScript, _ bool, args []string) {
				if len(args) != 2 {
					ts.Fatalf("usage: fingerprint VAR FILE")
				}
				block, _ := pem.Decode([]byte(ts.ReadFile(args[1])))
				if block == nil {
					ts.Fatalf("%s is not PEM", args[1])
				}
				var pairs []string
				for _, b := range sha256.Sum256(block.Bytes) {
					pairs = append(pairs, fmt.Sprintf("%02X", b))
				}
				ts.Setenv(args[0], strings.Join(pairs, ":"))
			},
		},
	})
}

// startTestCA starts the program in the script's directory and returns when it is ready.
func startTestCA(ts *testscript.TestScript, program string, args []string) {
	cmd := exec.Command(program, append([]string{"--listen", "localhost:0"}, args...)...)
	cmd.Dir = ts.MkAbs(".")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	drained := make(chan struct{})
	ts.Defer(func() {
		_ = cmd.Process.Kill() // it may have ended
		<-drained
		_ = cmd.Wait() // it was killed
	})
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		if at, ok := strings.CutPrefix(lines.Text(), "ready on "); ok {
			u, err := url.Parse(at)
			ts.Check(err)
			ts.Setenv("URL", at)
			ts.Setenv("HOSTPORT", u.Host)
			go func() { // ends with the process
				defer close(drained)
				_, _ = io.Copy(io.Discard, stdout) // its record of requests
			}()
			return
		}
	}
	close(drained)
	ts.Fatalf("certagent-testca ended before it was ready: %v\n%s", cmd.Wait(), &stderr)
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
