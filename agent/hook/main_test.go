package hook_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"certagent/agent/hook"
)

// What the test binary is when its first argument says so: a process that becomes a hook's program, or one of the
// programs below. Hooks are given no environment by which to ask for that.
const (
	becomeWord = "become"
	threadWord = "become-in-another-thread" // than the process began with
	argvWord   = "print-argv"               // as JSON
	environ    = "print-environ"            // as JSON
	agentWord  = "be-an-agent"              // runs the rest as a hook by means of the word that follows, until it is killed
	stormWord  = "be-a-storm"               // sends SIGUSR1 to all of its namespace while it runs hooks
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case becomeWord:
			fmt.Fprintln(os.Stderr, hook.Become(os.Args[2:]))
			os.Exit(127)
		case threadWord:
			inAnotherThread(func() { fmt.Fprintln(os.Stderr, hook.Become(os.Args[2:])) })
			os.Exit(127)
		case argvWord:
			json.NewEncoder(os.Stdout).Encode(os.Args)
			os.Exit(0)
		case environ:
			json.NewEncoder(os.Stdout).Encode(os.Environ())
			os.Exit(0)
		case agentWord:
			r := hook.Runner{Self: []string{"hook.test", os.Args[2]}}
			res := r.Run(context.Background(), hook.Hook{Action: hook.Exec, Argv: os.Args[3:], Timeout: time.Hour}, event())
			fmt.Println(res.Err)
			os.Exit(1)
		case stormWord:
			fmt.Println(storm())
			os.Exit(0)
		}
	}
	os.Exit(m.Run())
}

// inAnotherThread calls f in a thread that is not the process's first.
func inAnotherThread(f func()) {
	done := make(chan struct{})
	go func() { // ends with f
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			f()
			return
		}
		other := make(chan struct{})
		go func() { // ends with f; this thread is taken
			defer close(other)
			runtime.LockOSThread()
			f()
		}()
		<-other
	}()
	<-done
}

func runner() hook.Runner { return hook.Runner{Self: []string{"hook.test", becomeWord}} }

func event() hook.Event {
	dir := "/var/lib/certagent/certs/mqtt/gen-000007"
	return hook.Event{
		ID: "mqtt", Generation: 7, Directory: dir,
		Cert: dir + "/cert.pem", Chain: dir + "/chain.pem", FullChain: dir + "/fullchain.pem", CA: dir + "/ca.pem", Key: dir + "/key.pem",
		Serial: "2a", Fingerprint: "9f86d0", NotAfter: time.Date(2026, 3, 1, 13, 0, 0, 0, time.FixedZone("CET", 3600)),
		Reason: "threshold",
	}
}

func run(ctx context.Context, timeout time.Duration, argv ...string) hook.Result {
	return runner().Run(ctx, hook.Hook{Action: hook.Exec, Argv: argv, Timeout: timeout}, event())
}

// ok runs a program that must succeed and returns its output.
func ok(t *testing.T, argv ...string) string {
	t.Helper()
	res := run(t.Context(), time.Minute, argv...)
	if res.Err != nil || res.Skipped != "" {
		t.Fatalf("%v, skipped %q, output %q", res.Err, res.Skipped, res.Output)
	}
	return res.Output
}

// self is this program, for hooks to run.
func self(t *testing.T) string {
	t.Helper()
	exe, err := os.Executable()
	must(t, err)
	return exe
}

// life is a FIFO that tells of processes which hold it open for writing: that they are ready, and that all are dead.
type life struct {
	path     string
	from, to *os.File
}

func newLife(t *testing.T) *life {
	t.Helper()
	l := &life{path: filepath.Join(t.TempDir(), "life")}
	must(t, unix.Mkfifo(l.path, 0o600))
	var err error
	l.from, err = os.OpenFile(l.path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	must(t, err)
	l.to, err = os.OpenFile(l.path, os.O_WRONLY, 0) // until over, so that from does not end before the first writer
	must(t, err, l.from.SetReadDeadline(time.Now().Add(time.Minute)))
	t.Cleanup(func() { l.from.Close(); l.to.Close() })
	return l
}

// ready waits until so many lines were written to it.
func (l *life) ready(t *testing.T, lines int) {
	t.Helper()
	for buf := make([]byte, 1); lines > 0; {
		_, err := l.from.Read(buf)
		must(t, err)
		if buf[0] == '\n' {
			lines--
		}
	}
}

// over waits until nobody holds it open any more.
func (l *life) over(t *testing.T) {
	t.Helper()
	must(t, l.to.Close())
	if _, err := io.Copy(io.Discard, l.from); err != nil {
		t.Fatalf("a process is still alive: %v", err)
	}
}

// script writes an executable shell script.
func script(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	must(t, os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755))
	return path
}

// handleUser1 has this process handle SIGUSR1, as the agent does.
func handleUser1(t *testing.T) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGUSR1)
	t.Cleanup(func() { signal.Stop(c) })
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}
