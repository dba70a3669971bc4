package hook_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"certagent/agent/hook"
)

// `systemctl kill -s USR1 certagent` reaches whatever the unit runs at that moment. Nobody but the agent takes notice.
func TestUser1KillsNoHook(t *testing.T) {
	handleUser1(t)
	const enough = 100
	var stop atomic.Pointer[string] // the file that lets the hook end
	done, stopped := make(chan struct{}), make(chan struct{})
	go func() { // ends with done
		defer close(stopped)
		for sent := 0; ; {
			select {
			case <-done:
				return
			default:
			}
			for _, pid := range children(t) {
				if syscall.Kill(pid, syscall.SIGUSR1) == nil {
					sent++
				}
			}
			// Taken before the file is written: after that the next may be there.
			if path := stop.Load(); path != nil && sent >= enough && stop.CompareAndSwap(path, nil) {
				if err := os.WriteFile(*path, nil, 0o600); err != nil {
					t.Error(err)
				}
				sent = 0
			}
		}
	}()
	for i := range 20 {
		path := filepath.Join(t.TempDir(), strconv.Itoa(i))
		stop.Store(&path)
		if got := ok(t, "/bin/sh", "-c", `while [ ! -e "$1" ]; do :; done; echo well`, "sh", path); got != "well\n" {
			t.Errorf("output %q", got)
		}
	}
	// A process that is not shielded does not survive this.
	if err := exec.Command("/bin/sh", "-c", "while :; do :; done").Run(); err == nil || err.Error() != "signal: user defined signal 1" {
		t.Errorf("without the shield: %v", err)
	}
	close(done)
	<-stopped
}

// children are the processes that this one's threads have started (proc_pid_task_children(5)).
func children(t *testing.T) (pids []int) {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Error(err)
	}
	for _, thread := range threads {
		line, err := os.ReadFile("/proc/self/task/" + thread.Name() + "/children")
		if err != nil {
			continue // the thread has ended
		}
		for word := range strings.FieldsSeq(string(line)) {
			if pid, err := strconv.Atoi(word); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// storm runs hooks while it sends SIGUSR1 to every process in its PID namespace, whose first it is: a hook's process
// gets it from the very fork on. It says what went wrong.
func storm() string {
	var sent atomic.Int64
	go func() { // ends with the process
		for {
			if syscall.Kill(-1, syscall.SIGUSR1) == nil {
				sent.Add(1)
			}
		}
	}()
	var bad []string
	for i := range 200 {
		h := hook.Hook{Action: hook.Exec, Argv: []string{"/bin/true"}, Timeout: time.Minute}
		if res := runner().Run(context.Background(), h, event()); res.Err != nil {
			bad = append(bad, fmt.Sprintf("%d: %v", i, res.Err))
		}
	}
	if n := sent.Load(); n < 1000 {
		bad = append(bad, fmt.Sprintf("only %d signals met somebody", n))
	}
	return strings.Join(append(bad, "end"), "\n")
}

// An agent that is killed does not leave a program behind that would run beside that of its successor; whichever thread
// became the program: what execve(2) keeps of PR_SET_PDEATHSIG is the setting of the thread that calls it.
func TestAProgramDiesWithTheAgent(t *testing.T) {
	t.Parallel()
	for _, word := range []string{becomeWord, threadWord} {
		t.Run(word, func(t *testing.T) {
			t.Parallel()
			l := newLife(t)
			agent := exec.Command(self(t), agentWord, word, "/bin/sh", "-c", "exec 9> "+l.path+"; echo >&9; exec sleep infinity")
			must(t, agent.Start())
			l.ready(t, 1)
			must(t, agent.Process.Kill())
			if err := agent.Wait(); err == nil || err.Error() != "signal: killed" {
				t.Errorf("the agent: %v", err)
			}
			l.over(t)
		})
	}
}
