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
)

// usage is what a process has used of the system.
type usage struct {
	voluntary      int // context switches of all threads
	ticks          int // of the processor, 10 ms each
	rss, anonymous int // KiB
}

func (f *fleet) usage() usage {
	f.tb.Helper()
	var u usage
	proc := fmt.Sprintf("/proc/%d/", f.cmd.Process.Pid)
	tasks, err := filepath.Glob(proc + "task/*/status")
	if err != nil || len(tasks) == 0 {
		f.tb.Fatalf("the agent has no threads: %v", err)
	}
	for _, task := range tasks {
		u.voluntary += field(f.tb, task, "voluntary_ctxt_switches:")
	}
	u.rss, u.anonymous = field(f.tb, proc+"smaps_rollup", "Rss:"), field(f.tb, proc+"smaps_rollup", "Anonymous:")
	stat, err := os.ReadFile(proc + "stat")
	if err != nil {
		f.tb.Fatal(err)
	}
	times := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])) // proc_pid_stat(5): utime is field 14
	for _, at := range []int{11, 12} {
		n, err := strconv.Atoi(times[at])
		if err != nil {
			f.tb.Fatal(err)
		}
		u.ticks += n
	}
	return u
}

// field is a number in a file of proc(5).
func field(tb testing.TB, file, name string) int {
	tb.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		tb.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			n, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				tb.Fatal(err)
			}
			return n
		}
	}
	tb.Fatalf("%s has no %s", file, name)
	return 0
}

// waits are the system calls in which a Go program waits for a time or for an event.
const waits = "epoll_pwait,futex,restart_syscall"

// trace is an strace(1) of an agent.
type trace struct {
	cmd  *exec.Cmd
	file string
}

// trace begins to write down the agent's waits.
func (f *fleet) trace() *trace {
	f.tb.Helper()
	t := &trace{file: f.path("log/trace")}
	t.cmd = exec.Command("strace", "-f", "-qq", "-o", t.file, "-e", "trace="+waits, "-p", strconv.Itoa(f.cmd.Process.Pid))
	if err := t.cmd.Start(); err != nil {
		f.tb.Fatal(err)
	}
	f.tb.Cleanup(t.end)
	return t
}

// end lets the agent go.
func (t *trace) end() {
	_ = t.cmd.Process.Signal(syscall.SIGINT)
	_ = t.cmd.Wait() // it ends by the signal
}

// expiries ends the trace and counts the timers that ran out in it: waits for a time that ended without an event. The short
// sleeps of the Go runtime's monitor belong to the wake-up that they follow.
func (t *trace) expiries(tb testing.TB) (n int) {
	tb.Helper()
	t.end()
	data, err := os.ReadFile(t.file)
	if err != nil {
		tb.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		timedOut := strings.Contains(line, "ETIMEDOUT")
		waited := strings.Contains(line, "epoll_pwait") && !strings.Contains(line, ", 0, NULL, 0) = 0") && strings.Contains(line, "= 0\n")
		if timedOut || waited {
			n++
		}
	}
	return n
}
