package hook_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"certagent/agent/hook"
)

// No shell and nobody else splits, expands or interprets a word.
func TestArgvIsUntouched(t *testing.T) {
	t.Parallel()
	argv := []string{self(t), argvWord, "two words", "two\nlines", "", "$HOME *;`id`", `"'\`, "--", "--config", "-h", "ü"}
	var got []string
	must(t, json.Unmarshal([]byte(ok(t, argv...)), &got))
	if !slices.Equal(got, argv) {
		t.Errorf("got %q, want %q", got, argv)
	}
}

func TestTheEnvironmentIsTheListAndNothingElse(t *testing.T) {
	for _, name := range []string{"NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY", "LISTEN_FDS", "WATCHDOG_USEC", "STATE_DIRECTORY", "https_proxy", "LD_PRELOAD_NOT", "LC_ALL"} {
		t.Setenv(name, "x")
	}
	var got []string
	must(t, json.Unmarshal([]byte(ok(t, self(t), environ)), &got))
	want := []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/",
		"LANG=C.UTF-8",
		"CERTAGENT_ID=mqtt",
		"CERTAGENT_GENERATION=7",
		"CERTAGENT_DIRECTORY=/var/lib/certagent/certs/mqtt/gen-000007",
		"CERTAGENT_CERT=/var/lib/certagent/certs/mqtt/gen-000007/cert.pem",
		"CERTAGENT_CHAIN=/var/lib/certagent/certs/mqtt/gen-000007/chain.pem",
		"CERTAGENT_FULLCHAIN=/var/lib/certagent/certs/mqtt/gen-000007/fullchain.pem",
		"CERTAGENT_CA=/var/lib/certagent/certs/mqtt/gen-000007/ca.pem",
		"CERTAGENT_KEY=/var/lib/certagent/certs/mqtt/gen-000007/key.pem",
		"CERTAGENT_SERIAL=2a",
		"CERTAGENT_FINGERPRINT=9f86d0",
		"CERTAGENT_NOT_AFTER=2026-03-01T12:00:00Z",
		"CERTAGENT_REASON=threshold",
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
	page, err := os.ReadFile("../../docs/operations.md")
	must(t, err)
	for _, line := range want {
		name, _, _ := strings.Cut(line, "=")
		if !strings.Contains(string(page), "`"+name+"`") {
			t.Errorf("docs/operations.md does not tell of %s", name)
		}
	}
}

// The agent ignores and handles signals, may have been started with others ignored and with descriptors that it does
// not know: none of that reaches a program.
func TestAProgramStartsClean(t *testing.T) {
	handleUser1(t)
	ignored := []os.Signal{syscall.SIGPIPE, syscall.SIGHUP, syscall.SIGTSTP, syscall.Signal(40)}
	signal.Ignore(ignored...)
	t.Cleanup(func() { signal.Reset(ignored...) })
	fd, err := syscall.Dup(1) // without close-on-exec
	must(t, err)
	t.Cleanup(func() { syscall.Close(fd) })

	status := ok(t, "/bin/cat", "/proc/self/status")
	for name, want := range map[string]string{
		"Umask": "0077", "SigBlk": "0000000000000000", "SigCgt": "0000000000000000",
	} {
		if !strings.Contains(status, name+":\t"+want+"\n") {
			t.Errorf("%s is not %s in\n%s", name, want, status)
		}
	}
	// Programs that start others by posix_spawn(3), as make does, leave the C library's own signals ignored.
	const user1, libc = 1 << (10 - 1), 1<<(32-1) | 1<<(33-1)
	_, mask, _ := strings.Cut(status, "SigIgn:\t")
	mask, _, _ = strings.Cut(mask, "\n")
	if bits, err := strconv.ParseUint(mask, 16, 64); err != nil || bits&^libc != user1 {
		t.Errorf("ignored signals: %s, %v; want SIGUSR1 alone", mask, err)
	}
	if got := ok(t, "/bin/sh", "-c", "pwd; readlink /proc/$$/fd/0"); got != "/\n/dev/null\n" {
		t.Errorf("directory and standard input: %q", got)
	}
	// Without a pipe or a glob, for which the shell would open something itself.
	open := ok(t, "/bin/sh", "-c", "i=0; while [ $i -lt 256 ]; do [ -e /proc/$$/fd/$i ] && echo $i; i=$((i+1)); done; :")
	if open != "0\n1\n2\n" {
		t.Errorf("open descriptors: %q", open)
	}
	group := ok(t, "/bin/sh", "-c", "read pid name state parent group rest < /proc/$$/stat; test $group = $$ && echo own")
	if group != "own\n" {
		t.Errorf("it is in the process group of somebody else: %q", group)
	}
}

func TestHowAProgramEnds(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	must(t,
		os.WriteFile(dir+"/plain", []byte("#!/bin/sh\n"), 0o644),
		os.WriteFile(dir+"/text", []byte("echo hello\n"), 0o755),
		os.WriteFile(dir+"/dos", []byte("#!/bin/sh\r\necho hello\r\n"), 0o755),
		os.Symlink("loop", dir+"/loop"),
		os.WriteFile(dir+"/open", []byte("#!/bin/sh\n"), 0o755), os.Chmod(dir+"/open", 0o777), os.Symlink("open", dir+"/link-to-open"),
	)
	busy, err := os.OpenFile(script(t, "busy", "exit 0"), os.O_WRONLY, 0)
	must(t, err)
	t.Cleanup(func() { busy.Close() })
	tests := []struct {
		name  string
		argv  []string
		class error
		text  string // of the error
		hint  string
	}{
		{name: "well", argv: []string{"/bin/sh", "-c", "exit 0"}},
		{"exit status", []string{"/bin/sh", "-c", "exit 3"}, hook.ErrFailed, "exit status 3", "output"},
		{"exit status of a shell's own", []string{"/bin/sh", "-c", "/nonexistent"}, hook.ErrFailed, "exit status 127", "output"},
		{"signal", []string{"/bin/sh", "-c", "kill -KILL $$"}, hook.ErrFailed, "signal: killed", "output"},
		{"missing", []string{dir + "/missing"}, hook.ErrNotFound, dir + "/missing", "install"},
		{"nobody looks it up", []string{"true"}, hook.ErrNotFound, "no such file", "correct its path"},
		{"open to everybody", []string{dir + "/link-to-open"}, hook.ErrNotExecutable, "everybody may write it", "chmod o-w"},
		{"no interpreter", []string{dir + "/dos"}, hook.ErrNotFound, "interpreter", "carriage return"},
		{"not executable", []string{dir + "/plain"}, hook.ErrNotExecutable, "permission denied", "chmod"},
		{"directory", []string{dir}, hook.ErrNotExecutable, "permission denied", "directory"},
		{"below a file", []string{dir + "/plain/x"}, hook.ErrNotExecutable, "not a directory", ""},
		{"link to itself", []string{dir + "/loop"}, hook.ErrNotExecutable, "symbolic links", ""},
		{"no program", []string{dir + "/text"}, hook.ErrNotExecutable, "exec format error", "#!"},
		{"being written", []string{busy.Name()}, hook.ErrFailed, "text file busy", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			res := run(t.Context(), time.Minute, tt.argv...)
			if tt.class == nil {
				if res.Err != nil {
					t.Error(res.Err)
				}
				return
			}
			e, is := errors.AsType[*hook.Error](res.Err)
			if !is || !errors.Is(e, tt.class) || e.Class != tt.class {
				t.Fatalf("got %v, want %v", res.Err, tt.class)
			}
			if !strings.Contains(e.Error(), tt.text) || !strings.HasPrefix(e.Error(), "exec ") || !strings.Contains(e.Hint, tt.hint) {
				t.Errorf("error %q, hint %q; want %q, hint %q", e, e.Hint, tt.text, tt.hint)
			}
		})
	}
}

// A program is ended with all that it started: first SIGTERM, then, Grace later, SIGKILL.
func TestTheWholeTreeIsEnded(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, script string
		ready        int // lines until all are there
		output       string
		patient      bool // somebody does not obey SIGTERM
	}{
		{"a shell waits for its children", `sh -c 'echo >&9; exec sleep infinity' & echo >&9; wait`, 2, "", false},
		{"it cleans up", `trap 'echo cleaned; exit' TERM; sh -c 'echo >&9; exec sleep infinity' & echo >&9; wait`, 2, "cleaned\n", false},
		{"it does not obey", `trap '' TERM; echo >&9; exec sleep infinity`, 1, "", true},
		{"a child does not obey", `sh -c 'trap "" TERM; echo >&9; exec sleep infinity' & wait`, 1, "", true},
		{"a child of a child does not obey", `(sh -c 'trap "" TERM; echo >&9; exec sleep infinity' & wait) & wait`, 1, "", true},
		{
			"a child with its output elsewhere does not obey",
			`sh -c 'trap "" TERM; echo >&9; exec sleep infinity' > /dev/null 2>&1 & wait`, 1, "", false,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			least := time.Duration(0)
			if tt.patient {
				least = hook.Grace
			}
			takes(t, least, func() time.Duration {
				l := newLife(t)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				results := make(chan hook.Result, 1)
				go func() { results <- run(ctx, time.Hour, "/bin/sh", "-c", "exec 9> "+l.path+"; "+tt.script) }()
				l.ready(t, tt.ready)
				began := time.Now()
				cancel()
				res := <-results
				took := time.Since(began)
				l.over(t)
				inTime := tt.patient || took < hook.Grace // who is too slow to obey is killed
				if !errors.Is(res.Err, hook.ErrStopped) || inTime && res.Output != tt.output {
					t.Errorf("%v, output %q", res.Err, res.Output)
				}
				return took
			})
		})
	}
}

// takes expects that do never takes less than least, and that it can take less than a second more. Each time that it takes
// longer a busy machine may be the reason, but not time after time.
func takes(t *testing.T, least time.Duration, do func() time.Duration) {
	t.Helper()
	var all []time.Duration
	for len(all) < 5 {
		took := do()
		if took < least {
			t.Fatalf("it took %v, want at least %v", took, least)
		}
		if took < least+time.Second {
			return
		}
		all = append(all, took)
	}
	t.Errorf("it took %v", all)
}

func TestTimeout(t *testing.T) {
	t.Parallel()
	takes(t, time.Second, func() time.Duration {
		l := newLife(t)
		res := run(t.Context(), time.Second, "/bin/sh", "-c", "exec 9> "+l.path+"; echo begun; sh -c 'echo >&9; exec sleep infinity'")
		l.over(t)
		e, is := errors.AsType[*hook.Error](res.Err)
		if !is || e.Class != hook.ErrTimeout || errors.Is(res.Err, hook.ErrStopped) || !strings.Contains(e.Hint, "on_renew.timeout") {
			t.Errorf("%v, hint of %+v", res.Err, e)
		}
		return res.Took
	})
}

// The agent is stopping: what has not begun does not begin.
func TestNothingBeginsAfterTheEnd(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	made := filepath.Join(t.TempDir(), "made")
	if res := run(ctx, time.Minute, "/usr/bin/touch", made); !errors.Is(res.Err, hook.ErrStopped) {
		t.Error(res.Err)
	}
	if _, err := os.Stat(made); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it ran: %v", err)
	}
}

func TestManyAtOnceLeaveNothingOpen(t *testing.T) {
	open := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		must(t, err)
		return len(entries)
	}
	ok(t, "/bin/true")
	before := open()
	var all sync.WaitGroup
	for range 30 {
		all.Go(func() {
			for _, argv := range [][]string{{"/bin/sh", "-c", "echo a; sh -c 'echo b'"}, {"/nonexistent"}} {
				if res := run(t.Context(), time.Minute, argv...); (res.Err == nil) != (res.Output == "a\nb\n") {
					t.Errorf("%v, output %q", res.Err, res.Output)
				}
			}
		})
	}
	all.Wait()
	if after := open(); after > before {
		t.Errorf("%d descriptors, before that %d", after, before)
	}
}
