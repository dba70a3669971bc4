//go:build external

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"certagent/agent/status"
	"certagent/est/esttest"
)

// The wall clock of the program as it is shipped, moved from outside. libfaketime cannot move that of a static program, but it
// can that of qemu-user, which asks the C library for the time on the program's behalf: it jumps whenever a file says so, and
// the monotonic clock goes on undisturbed. So a jump forward is what a suspend looks like, too. strace answers for the
// kernel to adjtimex(2), so that it does not matter whether this machine is synchronised. The machine's own clock is
// never touched.

// astray is a gateway whose clock the test moves, and an EST server whose clock it can move along.
type astray struct {
	*gateway
	program string
	server  *esttest.Server
	off     *atomic.Int64 // by how much the server's clock is ahead
}

func newAstray(t *testing.T, program string, lifetime time.Duration) *astray {
	a := &astray{gateway: newGateway(t), program: program, off: new(atomic.Int64)}
	a.server = esttest.New(t, esttest.Options{Lifetime: lifetime, Now: func() time.Time {
		return time.Now().Add(time.Duration(a.off.Load()))
	}})
	a.configure(fmt.Sprintf(`[cert_issuance.est]
trusted_certs = ["file://%s"]
[cert_issuance.est.auth]
username = "estuser"
password = "estpwd"
[cert_issuance.est.urls]
default = %q
[cert_issuance.certs.device-id]
method = "est"
common_name = "gateway"
[cert_issuance.certs.device-id.auto_renew]
rotate_key = false
jitter = "0%%"
`, a.server.CAFile(), a.server.URL()))
	a.set(0)
	return a
}

// set sets the wall clock; ahead is by how much it is ahead of this machine's.
func (a *astray) set(ahead time.Duration) {
	a.t.Helper()
	a.write("clock.new", fmt.Sprintf("%+d", int64(ahead/time.Second))) // libfaketime may be reading
	if err := os.Rename(a.path("clock.new"), a.path("clock")); err != nil {
		a.t.Fatal(err)
	}
}

// both sets the server's clock as well.
func (a *astray) both(ahead time.Duration) { a.off.Store(int64(ahead)); a.set(ahead) }

const (
	notSynced = "error=EPERM"
	// synced has clock_adjtime(2) fill the beginning of its second argument, maxerror included, with zeros.
	synced = "retval=0:poke_exit=@arg2=0000000000000000000000000000000000000000000000000000000000000000"
)

// under is the command by the gateway's clock; kernel is what adjtimex(2) says.
func (a *astray) under(kernel string, args ...string) *exec.Cmd {
	a.t.Helper()
	library, err := filepath.Glob("/usr/lib/*/faketime/libfaketimeMT.so.1")
	if err != nil || len(library) == 0 {
		a.t.Fatalf("libfaketime is not installed: %v", err)
	}
	plain := a.command(args...)
	// With -D the process is the program itself, and strace a grandchild of its own.
	cmd := exec.Command("strace", append([]string{
		"-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=adjtimex,clock_adjtime", "-e", "inject=adjtimex,clock_adjtime:" + kernel,
		"-E", "LD_PRELOAD=" + library[0], "qemu-x86_64", a.program,
	}, plain.Args[1:]...)...)
	cmd.Env = append(plain.Env,
		"FAKETIME_TIMESTAMP_FILE="+a.path("clock"), "FAKETIME_NO_CACHE=1", "FAKETIME_DONT_FAKE_MONOTONIC=1",
		// The service manager's watchdog has the clock task look each second in place of each minute.
		"WATCHDOG_USEC=3000000", "WATCHDOG_PID=", "TZ=Pacific/Kiritimati")
	return cmd
}

func (a *astray) boot() {
	a.t.Helper()
	a.cmd = a.under(notSynced, "run")
	a.cmd.Stderr = a.log
	if err := a.cmd.Start(); err != nil {
		a.t.Fatal(err)
	}
	a.end = make(chan error, 1)
	cmd, end := a.cmd, a.end
	go func() { end <- cmd.Wait() }() // ends with the agent
}

// says is what status says by the gateway's clock, and its exit code.
func (a *astray) says() (code int, text string) {
	a.t.Helper()
	out, err := a.under(notSynced, "status").CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode(), string(out)
	}
	if err != nil {
		a.t.Fatalf("certagent status: %v", err)
	}
	return 0, string(out)
}

// logged waits until the agent has said so in what it logged since the mark.
func (a *astray) logged(since int, what string) {
	a.t.Helper()
	a.until(what+" in the log", func() bool { return strings.Contains(a.log.String()[since:], what) })
}

func (a *astray) issued() (n int) {
	for _, l := range a.server.Logins() {
		if l.Issued != nil {
			n++
		}
	}
	return n
}

// buildAt builds the program as it is shipped, from sources of that time.
func buildAt(t *testing.T, committed time.Time) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "certagent")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath",
		"-ldflags", fmt.Sprintf("-X main.committed=%d", committed.Unix()), "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return program
}

const year = 365 * 24 * time.Hour

// TestClockFromOutside moves the clock under the running program.
func TestClockFromOutside(t *testing.T) {
	program := buildAt(t, time.Now().Add(-30*24*time.Hour))

	t.Run("1970", func(t *testing.T) {
		t.Parallel()
		a := newAstray(t, program, 10*time.Hour)
		a.boot()
		first := a.next("device-id", nil)
		a.stop()

		a.set(-55 * year)
		a.boot()
		a.logged(0, "the clock is not credible")
		a.signal(syscall.SIGHUP)
		a.logged(0, `"message":"configuration loaded"`)
		code, text := a.says()
		if code != status.ExitNotYetValid || !strings.Contains(text, "clock-not-credible") || !strings.Contains(text, "the clock says 197") {
			t.Errorf("status in 1970: exit code %d\n%s", code, text)
		}
		if out, err := a.under(notSynced, "run", "--once").CombinedOutput(); err == nil {
			t.Errorf("run --once beside it: %s", out)
		}
		if n := a.issued(); n != 1 {
			t.Errorf("%d certificates were issued", n)
		}
		if now := a.mustRead("device-id"); !now.leaf.Equal(first.leaf) {
			t.Error("another certificate is live")
		}

		a.both(11 * time.Hour) // the certificate has expired meanwhile
		a.logged(0, "the clock is credible again")
		second := a.next("device-id", &first)
		if !bytes.Equal(first.key, second.key) {
			t.Error("the key has changed")
		}
		a.until("status well", func() bool { code, _ := a.says(); return code == 0 })
		a.stop()
	})

	t.Run("thirty years ahead and back", func(t *testing.T) {
		t.Parallel()
		a := newAstray(t, program, 10*time.Hour)
		a.boot()
		first := a.next("device-id", nil)
		a.set(30 * year)
		// A set clock ends a back-off: only the try after that is the last one for a while, and none is under way when the
		// clock goes back.
		a.logged(0, "the clock was set")
		a.logged(strings.Index(a.log.String(), "the clock was set"), "certificate not issued")
		code, text := a.says()
		if code != status.ExitExpired || !strings.Contains(text, "est-untrusted") || !strings.Contains(text, "check the clock") {
			t.Errorf("status in the glitch: exit code %d\n%s", code, text)
		}
		said := len(a.log.String())
		a.set(0)
		a.logged(said, "the clock was set")
		a.until("status well", func() bool { code, _ := a.says(); return code == 0 })
		if now := a.mustRead("device-id"); !now.leaf.Equal(first.leaf) || a.issued() != 1 {
			t.Error("another certificate is live")
		}
		a.signal(syscall.SIGUSR1)
		second := a.next("device-id", &first)
		if all := a.server.Logins(); all[len(all)-1].Operation != "simplereenroll" || !bytes.Equal(first.key, second.key) {
			t.Errorf("renewed another way, or with another key:\n%s", describe(all))
		}
		a.stop()
	})

	t.Run("asleep over the threshold, and set back", func(t *testing.T) {
		t.Parallel()
		a := newAstray(t, program, 10*time.Hour)
		a.boot()
		first := a.next("device-id", nil)
		a.both(9*time.Hour + 50*time.Minute)
		second := a.next("device-id", &first)
		if all := a.server.Logins(); all[len(all)-1].Operation != "simplereenroll" {
			t.Errorf("it was not renewed:\n%s", describe(all))
		}
		// Both were wrong. What was issued then begins in ten hours; the one before is still good, and logs in.
		a.both(0)
		third := a.next("device-id", &second)
		if all := a.server.Logins(); all[len(all)-1].Operation != "simplereenroll" || time.Until(third.leaf.NotBefore) > 0 {
			t.Errorf("it was not replaced by a renewal:\n%s", describe(all))
		}
		a.stop()
	})

	t.Run("a build date ahead", func(t *testing.T) {
		t.Parallel()
		a := newAstray(t, buildAt(t, time.Now().Add(4*year)), 10*time.Hour)
		out, err := a.under(notSynced, "run", "--once").CombinedOutput()
		if err == nil || !strings.Contains(string(out), "this program was built from sources of") || a.issued() != 0 {
			t.Errorf("with a clock that nothing corroborates: %v\n%s", err, out)
		}
		if out, err := a.under(synced, "run", "--once").CombinedOutput(); err != nil {
			t.Fatalf("with a synchronised clock: %v\n%s", err, out)
		}
		a.mustRead("device-id")
		if code, text := a.says(); code != 0 || !strings.Contains(text, "build-date") {
			t.Errorf("status: exit code %d\n%s", code, text)
		}
		codes := []string{}
		for _, p := range a.status().Problems { // by the test's own program, whose build date is not known
			codes = append(codes, p.Code)
		}
		if slices.Contains(codes, "clock-not-credible") {
			t.Errorf("problems: %v", codes)
		}
	})
}
