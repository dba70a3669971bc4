//go:build system

package rig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// machine is a booted systemd: a gateway.
type machine struct {
	root    root
	leader  int // process id of its systemd, as the host sees it
	est     *estServer
	console *console
}

// patience is how long the rig waits for what must come, on a machine that does something else besides.
const patience = 2 * time.Minute

// boot starts a machine. It ends with the test, or with this process, and leaves nothing.
func boot(t *testing.T, r root, share string) *machine {
	t.Helper()
	return bootWith(t, r, share, "", 0)
}

// bootWith starts a machine that has the files of a directory as well, unless that is "", and the network of a process,
// unless that is 0.
func bootWith(t *testing.T, r root, share, files string, network int) *machine {
	t.Helper()
	m := &machine{root: r, console: new(console)}
	name := fmt.Sprintf("certagent-rig-%s-%d", r.name, os.Getpid())
	directory := r.held(t)
	if files != "" {
		directory = files + ":" + directory // as overlayfs takes it
	}
	cmd := exec.Command("./boot", directory, t.TempDir(), name, share)
	if network != 0 {
		space, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", network))
		must(t, err)
		defer space.Close()
		cmd.ExtraFiles = []*os.File{space}
		cmd.Args = append(cmd.Args, "--network-namespace-path=/proc/self/fd/3")
	}
	cmd.Stdout, cmd.Stderr = m.console, m.console
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID}
	ended := start(t, cmd)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("console of %s:\n%s", r.name, m.console)
		}
		cmd.Process.Kill() // and, as the first process of its namespace, all others
		<-ended
		removeCgroup(t, name)
	})
	m.until(t, "systemd is started", func() bool {
		select {
		case <-ended:
			t.Fatalf("the machine %s does not boot:\n%s", r.name, m.console)
		default:
		}
		m.leader = firstOf(cmd.Process.Pid)
		return m.leader != 0
	})
	state := ""
	m.until(t, "systemd has booted", func() bool {
		state, _ = m.try("systemctl is-system-running --wait 2>/dev/null")
		return state == "running" || state == "degraded"
	})
	if state != "running" {
		failed, _ := m.try("systemctl --failed")
		t.Fatalf("%s: %s\n%s", r.name, failed, m.console)
	}
	return m
}

// start starts a process that ends when this one does, and closes the channel once it has ended.
func start(t *testing.T, cmd *exec.Cmd) <-chan struct{} {
	t.Helper()
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	started, ended := make(chan error), make(chan struct{})
	go func() { // ends with the process
		defer close(ended)
		// The signal comes when the thread ends that started the process (prctl(2), PR_SET_PDEATHSIG).
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		t.Fatalf("start %s: %v", cmd.Path, err)
	}
	return ended
}

// firstOf is the child of a process that is the first in a PID namespace of its own, 0 if there is none yet.
func firstOf(parent int) int {
	processes, _ := filepath.Glob("/proc/[0-9]*/status")
	for _, file := range processes {
		status, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		var ppid int
		var ids []string
		for line := range strings.Lines(string(status)) {
			switch key, value, _ := strings.Cut(line, ":"); key {
			case "PPid":
				ppid, _ = strconv.Atoi(strings.TrimSpace(value))
			case "NSpid":
				ids = strings.Fields(value)
			}
		}
		if ppid == parent && len(ids) > 1 && ids[len(ids)-1] == "1" {
			pid, _ := strconv.Atoi(ids[0])
			return pid
		}
	}
	return 0
}

// command is a program inside the machine, run as root.
func (m *machine) command(ctx context.Context, argv ...string) *exec.Cmd {
	enter := []string{"--target=" + strconv.Itoa(m.leader), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup",
		"--root", "--wd", "--", "env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/root", "LANG=C.UTF-8", "DEBIAN_FRONTEND=noninteractive", "SYSTEMD_PAGER=", "SYSTEMD_COLORS=0"}
	return exec.CommandContext(ctx, "nsenter", append(enter, argv...)...)
}

// try runs a script of the shell inside and returns what it said, without the last line break, and its exit code.
func (m *machine) try(script string) (said string, code int) { return m.tryFor(patience, script) }

// tryFor is try for what may take longer.
func (m *machine) tryFor(most time.Duration, script string) (said string, code int) {
	ctx, cancel := context.WithTimeout(context.Background(), most)
	defer cancel()
	out, err := m.command(ctx, "sh", "-euc", script).CombinedOutput()
	said = strings.TrimSuffix(string(out), "\n")
	if ctx.Err() != nil {
		return said + "\n(it took too long)", -1
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return said, exit.ExitCode()
	} else if err != nil {
		return err.Error(), -1
	}
	return said, 0
}

// run runs a script that must succeed.
func (m *machine) run(t *testing.T, script string) string {
	t.Helper()
	said, code := m.try(script)
	if code != 0 {
		t.Fatalf("%s\nexit code %d:\n%s\n%s", script, code, said, m.journal())
	}
	return said
}

// fails runs a script that must fail, with this exit code.
func (m *machine) fails(t *testing.T, code int, script string) string {
	t.Helper()
	said, got := m.try(script)
	if got != code {
		t.Fatalf("%s\nexit code %d, want %d:\n%s\n%s", script, got, code, said, m.journal())
	}
	return said
}

// write makes a file inside, with the directories on the way to it.
func (m *machine) write(t *testing.T, path, mode, owner, content string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience) // in a cleanup t.Context has ended
	defer cancel()
	cmd := m.command(ctx, "sh", "-euc",
		`mkdir -p "$(dirname "$1")"; umask 077; cat >"$1"; chown "$3" "$1"; chmod "$2" "$1"`, "sh", path, mode, owner)
	cmd.Stdin = strings.NewReader(content)
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("write %s: %v\n%s", path, err, said)
	}
}

// until waits for something.
func (m *machine) until(t *testing.T, what string, happened func() bool) {
	t.Helper()
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	for late := time.After(patience); !happened(); {
		select {
		case <-look.C:
		case <-late:
			t.Fatalf("it has not come to this in %v: %s\n%s", patience, what, m.journal())
		}
	}
}

// journal is the end of certagent's part of it, with what the agent says of itself.
func (m *machine) journal() string {
	if m.leader == 0 {
		return ""
	}
	said, _ := m.try("certagent status || true; systemctl status --no-pager -n 0 certagent || true\n" +
		"journalctl --sync && journalctl --no-pager -o short-monotonic -u certagent -u 'certagent-*' |" +
		" grep -v 'Unknown key' | tail -n 30")
	return said
}

// property is one of certagent's unit, as systemctl show(1) has it.
func (m *machine) property(t *testing.T, name string) string {
	t.Helper()
	return m.run(t, "systemctl show --value -p "+name+" certagent")
}

// removeCgroup removes what a machine had of the host's tree of control groups, where the host sees that.
func removeCgroup(t *testing.T, name string) {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); strings.Contains(line, " - cgroup2 ") {
			var dirs []string
			filepath.WalkDir(filepath.Join(fields[4], name), func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					dirs = append(dirs, path)
				}
				return nil
			})
			for i := len(dirs) - 1; i >= 0; i-- {
				if err := os.Remove(dirs[i]); err != nil {
					t.Errorf("remove control group: %v", err)
				}
			}
		}
	}
}

// console is what a machine prints.
type console struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.Write(p)
}

func (c *console) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.String()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
