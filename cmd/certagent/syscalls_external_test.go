//go:build external

package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"certagent/agent/status"
	"certagent/est/esttest"
	"certagent/store/durable/durabletest"
	"certagent/store/storetest"
)

// calls are the system calls that change or sync what the agent keeps, or lead to it.
const calls = "fsync,fdatasync,rename,renameat,renameat2,openat,write,fchmod,mkdirat,unlinkat,symlinkat"

// TestEverySystemCallFails has strace fail the n-th system call of each thread of the program as it is shipped, for every n, by
// EIO, and kill it there. It comes back in each case, and says what failed if it fails; the old pair or a new one is live,
// and the next run completes.
func TestEverySystemCallFails(t *testing.T) {
	program := filepath.Join(t.TempDir(), "certagent")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	s := esttest.New(t, esttest.Options{})
	for name, fault := range map[string]string{"error": "error=EIO", "kill": "signal=SIGKILL"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			before := withOneCertificate(t, s)
			before.force(t)
			reached := 0
			for n := 1; before.failsAt(t, program, fault, n); n += durabletest.Stride(11) {
				reached = n
			}
			t.Logf("up to system call %d of a thread", reached)
			// How threads share the calls of a run is the scheduler's affair.
			if reached < 20 {
				t.Errorf("only up to system call %d of a thread", reached)
			}
		})
	}
}

// failsAt has system call n fail on a copy of the gateway, checks, and reports whether there were that many.
func (before *gateway) failsAt(t *testing.T, program, fault string, n int) bool {
	t.Helper()
	g := newGateway(t)
	state := g.path("state")
	config, err := os.ReadFile(before.path("config.toml"))
	if err == nil {
		err = storetest.Copy(before.path("state"), state)
	}
	if err != nil {
		t.Fatal(err)
	}
	g.write("config.toml", strings.ReplaceAll(string(config), before.dir, g.dir))
	old, err := storetest.Live(state, "mqtt")
	if err != nil {
		t.Fatal(err)
	}
	at := fmt.Sprintf("%s at system call %d", fault, n)
	cmd := g.command("run", "--once")
	traced := exec.CommandContext(t.Context(), "strace", append([]string{
		"-f", "-qq", "-o", g.path("trace"), "-e", "trace=" + calls,
		"-e", "inject=" + calls + ":" + fault + ":when=" + strconv.Itoa(n), program,
	}, cmd.Args[1:]...)...)
	traced.Env = append(cmd.Env, "GOMAXPROCS=1") // so that calls keep to few threads
	out, err := traced.CombinedOutput()
	trace, traceErr := os.ReadFile(g.path("trace"))
	if traceErr != nil {
		t.Fatalf("strace: %v, %v\n%s", traceErr, err, out)
	}
	hit := bytes.Contains(trace, []byte("INJECTED")) || bytes.Contains(trace, []byte("killed by SIGKILL"))
	switch {
	case err == nil:
	case !hit:
		t.Fatalf("without a fault: %v\n%s", err, out)
	case strings.HasPrefix(fault, "error") && len(out) == 0 && !bytes.Contains(trace, []byte("write(2,")):
		t.Errorf("%s: it failed and said nothing: %v", at, err)
	case bytes.Contains(out, []byte("\ngoroutine ")) && !bytes.Contains(out, []byte("fatal error: ")):
		t.Errorf("%s: a panic:\n%s", at, out)
	}
	now, liveErr := storetest.Live(state, "mqtt")
	if liveErr != nil {
		t.Fatalf("%s: live: %v\n%s", at, liveErr, out)
	}
	if wrong := storetest.Wrong(state); len(wrong) > 0 {
		t.Errorf("%s: on disk: %v", at, wrong)
	}
	if err == nil && hit && now.Leaf.Equal(old.Leaf) {
		t.Errorf("%s: it said that all is well, and did not renew\n%s", at, out)
	}
	if code, out := g.runs(t, "run", "--once"); code != exitOK {
		t.Errorf("%s: the next run: %d\n%s", at, code, out)
	}
	if now, err = storetest.Live(state, "mqtt"); err != nil || now.Leaf.Equal(old.Leaf) {
		t.Errorf("%s: the next run did not complete: %v", at, err)
	}
	if left, err := storetest.Leftovers(state); err != nil || len(left) > 0 {
		t.Errorf("%s: left over: %v, %v", at, left, err)
	}
	if c := g.certificate("mqtt"); c.State != status.Valid {
		t.Errorf("%s: in the end it is %s", at, c.State)
	}
	return hit
}

// TestADiskWithErrors: strace comes over a running daemon and makes each sync fail; the daemon says so, keeps what it has,
// and renews by itself when strace has gone.
func TestADiskWithErrors(t *testing.T) {
	s := esttest.New(t, esttest.Options{Lifetime: time.Minute})
	g, old := onMedium(t, s, func(g *gateway) {
		if err := os.Mkdir(g.path("medium"), 0o755); err != nil {
			t.Fatal(err)
		}
	})
	var said bytes.Buffer
	strace := exec.Command("strace", "-f", "-o", g.path("trace"), "-p", strconv.Itoa(g.cmd.Process.Pid),
		"-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:error=EIO")
	stderr, err := strace.StderrPipe()
	if err == nil {
		err = strace.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	for line := make([]byte, 256); !strings.Contains(said.String(), "attached"); {
		n, err := stderr.Read(line)
		said.Write(line[:n])
		if err != nil {
			t.Fatalf("strace: %v\n%s", err, &said)
		}
	}
	g.signal(syscall.SIGUSR1)
	g.sick(old, "input/output error")
	if err := strace.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	_ = strace.Wait() // it ends by the signal
	g.another(old)
	g.tidy()
}
