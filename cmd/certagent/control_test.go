package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"certagent/agent/status"
	"certagent/est/esttest"
	"certagent/store"
)

// told is what a command said and how it ended.
type told struct {
	stdout, stderr string
	code           int
}

// tell runs a command of the program to its end.
func (g *gateway) tell(args ...string) told {
	g.t.Helper()
	return finish(g.t, g.command(args...))
}

func finish(t *testing.T, cmd *exec.Cmd) told {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		if cmd.Process != nil {
			_ = cmd.Process.Kill() // it hangs
		}
	})()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || !exit.Exited()) {
		t.Errorf("%v: %v\n%s", cmd.Args, err, &stderr)
	}
	return told{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// want fails the test unless the command ended so; the patterns are those of package regexp, "" being nothing at all.
func (r told) want(t *testing.T, code int, stdout, stderr string) {
	t.Helper()
	matches := func(pattern, text string) bool {
		if pattern == "" {
			return text == ""
		}
		return regexp.MustCompile(pattern).MatchString(text)
	}
	if r.code != code || !matches(stdout, r.stdout) || !matches(stderr, r.stderr) {
		t.Errorf("exit code %d, want %d\nstdout, want %q:\n%s\nstderr, want %q:\n%s", r.code, code, stdout, r.stdout, stderr, r.stderr)
	}
}

// TestRenew: a person has one certificate issued anew, and sees what came of it.
func TestRenew(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{})
	g := newGateway(t)
	g.configure(served(s) + "[cert_issuance.certs.other]\ncommon_name = \"other\"\n")
	g.tell("renew").want(t, 1, "", `no agent answers at .*/run/control\.sock\ncertagent: hint: start it .*run --once`)
	g.start()
	mqtt, other := g.next("mqtt", nil), g.next("other", nil)

	g.tell("renew", "mqt").want(t, 2, "", `^certagent: there is no certificate "mqt"\ncertagent: hint: did you mean mqtt\?\n$`)
	g.tell("renew", "--wait", "mqtt").want(t, 0, `^mqtt: issued, valid until .*: .*/certs/mqtt/gen-000002\n$`, `.*`)
	after := g.mustRead("mqtt")
	if after.leaf.SerialNumber.Cmp(mqtt.leaf.SerialNumber) == 0 || g.mustRead("other").dir != other.dir {
		t.Error("not this certificate, or not this one alone, was issued anew")
	}
	g.tell("renew").want(t, 0, `^mqtt: asked for\nother: asked for\n$`, "")
	g.next("other", &other)
	g.next("mqtt", &after)

	// The reason of a failure is the reason that is said; the wish stands.
	s.Stop()
	both := g.tell("renew", "--wait") // they end in any order
	both.want(t, 1, "", `(?s)mqtt: not renewed: est .*refused\n.*hint: check host and port`)
	both.want(t, 1, "", `other: not renewed: est .*refused\n`)
	if c := g.certificate("mqtt"); c.Ordered || c.Failures != 1 || c.LastClass != "unavailable" {
		t.Errorf("after the failure: %+v", c)
	}
	g.tell("renew", "--wait", "--timeout", "0s", "mqtt").want(t, 1, "", `mqtt: not renewed: not done within 0s`)
	g.tell("renew", "--wait", "--timeout", "-1s", "mqtt").want(t, 2, "", `--timeout is -1s, and cannot be negative`)
	g.until("the failure that nobody waited for", func() bool { return g.certificate("mqtt").Failures == 2 })
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	g.tell("renew", "--wait", "mqtt").want(t, 0, `^mqtt: issued`, `.*`)
	g.stop()
}

// TestRenewWithANewKey: rotate_key = false keeps the key over renewals, but not over this.
func TestRenewWithANewKey(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{})
	g := newGateway(t)
	g.configure(strings.Replace(served(s), `"0%"`, `"0%", rotate_key = false`, 1))
	g.start()
	first := g.next("mqtt", nil)
	g.tell("renew", "--wait").want(t, 0, "issued", `.*`)
	kept := g.mustRead("mqtt")
	g.tell("renew", "--wait", "--new-key").want(t, 0, "issued", `.*`)
	changed := g.mustRead("mqtt")
	g.tell("renew", "--wait").want(t, 0, "issued", `.*`)
	again := g.mustRead("mqtt")
	if !bytes.Equal(first.key, kept.key) || bytes.Equal(kept.key, changed.key) || !bytes.Equal(changed.key, again.key) {
		t.Error("the key changed at another renewal than the one that asked for it")
	}
	g.stop()
}

// TestRenewWhatWaitsForApproval: a request that the server took and has not decided is not forced over; --discard drops it.
func TestRenewWhatWaitsForApproval(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{})
	s.Always("simpleenroll", esttest.Pending202(time.Hour))
	g := newGateway(t)
	g.configure(served(s))
	g.tell("run", "--once").want(t, 1, "", `not issued yet \(HTTP 202, .*\ncertagent: hint: certagent status says what to do`)
	g.start()
	g.until("the server's 202", func() bool { return g.certificate("mqtt").Pending })
	pending := func() []byte {
		data, err := os.ReadFile(g.path("state", "certs", "mqtt", "pending", "key.pem"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		return data
	}
	before := pending()
	for _, args := range [][]string{{"renew"}, {"renew", "--wait", "mqtt"}} {
		g.tell(args...).want(t, 1, "", `^certagent: mqtt: not renewed: the request waits for approval at the server until .*\ncertagent: hint: .*--discard`)
	}
	g.tell("renew", "--wait", "--discard").want(t, 1, "", `mqtt: not renewed: the request waits for approval at the server\n.*hint: approve it`)
	if after := pending(); before == nil || after == nil || bytes.Equal(before, after) {
		t.Error("the request that waited is still the one that waits")
	}
	s.Clear()
	g.tell("renew", "--wait", "--discard").want(t, 0, "mqtt: issued", `.*`)
	g.stop()
}

// TestReload is what ExecReload= makes of a good file and of a bad one.
func TestReload(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{})
	g := newGateway(t)
	g.configure(served(s))
	g.tell("reload").want(t, 1, "", `no agent answers.*\ncertagent: hint: start it`)
	g.start()
	g.next("mqtt", nil)
	g.configure(served(s) + "frob = 1\n[cert_issuance.certs.mqtt2]\nkay = 1\n")
	g.tell("reload").want(t, 2, "", `(?s)^certagent: \S*config.toml:\d+:\d+: cert_issuance.certs.mqtt.frob: .*certagent: .*kay: .*certagent: hint: nothing was changed`)
	if p := g.status().Problems; len(p) != 1 || p[0].Code != "config-invalid" {
		t.Errorf("problems after a bad file: %+v", p)
	}
	g.configure(served(s) + "[cert_issuance.certs.second]\ncommon_name = \"second\"\n")
	g.tell("reload").want(t, 0, "", "")
	g.tell("wait", "second").want(t, 0, "", `.*`)
	g.mustRead("second")

	// The place of the socket itself: who asks for the reload reads the new one, and whoever comes next finds the agent there.
	g.write("config.toml", fmt.Sprintf("state_dir = %q\nrun_dir = %q\n", g.path("state"), g.path("elsewhere"))+served(s))
	g.tell("reload").want(t, 0, "", "")
	if snapshot := g.status(); snapshot.Started.IsZero() || len(snapshot.Problems) > 0 {
		t.Errorf("the agent is not asked at its new socket: %+v", snapshot.Problems)
	}
	if _, err := os.Lstat(g.path("run", "control.sock")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the old socket is left behind: %v", err)
	}
	g.write("config.toml", fmt.Sprintf("state_dir = %q\n[control]\nsocket = %q\n", g.path("state"), g.path("elsewhere", "named.sock"))+served(s))
	g.tell("reload").want(t, 0, "", "")
	g.tell("renew", "--wait").want(t, 0, "mqtt: issued", "")
	g.stop()
}

// TestRenewOverARestart: the agent is killed while it renews, and started again; who waits hears of the end.
func TestRenewOverARestart(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{})
	g := newGateway(t)
	g.configure(served(s))
	g.start()
	first := g.next("mqtt", nil)
	reached := make(chan struct{}, 16)
	s.Always("simplereenroll", func(w http.ResponseWriter, r *http.Request, real http.Handler) {
		reached <- struct{}{}
		esttest.Hang(t.Context())(w, r, real)
	})
	waiting := make(chan told, 1)
	go func() { waiting <- finish(t, g.command("renew", "--wait")) }()
	select {
	case <-reached:
	case <-time.After(patience):
		t.Fatal("nothing is renewed")
	}
	g.kill()
	s.Clear()
	if c := g.certificate("mqtt"); !c.Ordered {
		t.Errorf("on disk: %+v", c)
	}
	g.start()
	(<-waiting).want(t, 0, "mqtt: issued, .*gen-000002\n", "")
	g.next("mqtt", &first)
	g.stop()
}

// TestInterrupted: an interrupt ends what waits at once; what was asked for stands, and no key is left behind.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{})
	g := newGateway(t)
	g.configure(served(s))
	g.start()
	was := g.next("mqtt", nil)
	s.Always("simplereenroll", esttest.Hang(t.Context()))
	interrupt := func(ready func(), args ...string) {
		t.Helper()
		cmd := g.command(args...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		ready()
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-ended:
			if err == nil {
				t.Errorf("%q ends well", args)
			}
		case <-time.After(patience):
			_ = cmd.Process.Kill()
			t.Fatalf("%q goes on", args)
		}
	}
	interrupt(func() { g.until("the order", func() bool { return g.certificate("mqtt").Ordered }) }, "renew", "--wait")
	if !g.certificate("mqtt").Ordered {
		t.Error("what was asked for is forgotten")
	}
	s.Clear()
	g.stop()

	// A key on its way to an agent that does not take it.
	cert, key := g.brought(s, "mqtt")
	l := mute(t, g, g.path("run", "control.sock"))
	lock, err := store.Open(g.path("state"), store.Options{}) // an agent runs, as it were
	if err != nil {
		t.Fatal(err)
	}
	brought := func() []string {
		names, err := filepath.Glob(g.path("run", "import-*"))
		if err != nil {
			t.Fatal(err)
		}
		return names
	}
	interrupt(func() { g.until("a key beside the socket", func() bool { return len(brought()) > 0 }) },
		"import", "mqtt", "--cert", cert, "--key", key, "--replace")
	if left := brought(); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	l.Close()
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	g.start()
	g.next("mqtt", &was)
	g.stop()
}

// mute is an agent at a socket that answers to what is asked for and never to what is to be changed.
func mute(t *testing.T, g *gateway, socket string) net.Listener {
	t.Helper()
	state, err := filepath.EvalSymlinks(g.path("state"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	go func() { // ends with l
		_ = http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost {
				_, _ = io.Copy(io.Discard, r.Body)
				<-r.Context().Done()
				return
			}
			_ = status.Snapshot{Schema: status.Schema, StateDir: state}.WriteJSON(w)
		}))
	}()
	return l
}

// TestRenewOnATerminal: progress is for people; the outcome is data.
func TestRenewOnATerminal(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{})
	g := newGateway(t)
	g.configure(served(s))
	g.start()
	g.next("mqtt", nil)
	s.Always("simplereenroll", esttest.Hang(t.Context()))
	keyboard, screen := terminal(t)
	cmd := g.command("renew", "--wait")
	var stdout bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, screen
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	screen.Close()
	if err := keyboard.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(keyboard).ReadString('\n'); err != nil || line != "certagent: mqtt: an attempt is under way\r\n" {
		t.Errorf("the terminal shows %q, %v", line, err)
	}
	s.Clear()
	g.signal(syscall.SIGHUP) // nothing but news
	g.kill()
	g.start()
	if err := cmd.Wait(); err != nil || !strings.HasPrefix(stdout.String(), "mqtt: issued, ") {
		t.Errorf("%v\n%s", err, &stdout)
	}
	g.stop()
}

// terminal is a new pseudo-terminal (pty(7)): the side of the person, and that of the program.
func terminal(t *testing.T) (keyboard, screen *os.File) {
	t.Helper()
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { keyboard.Close() })
	fd := int(keyboard.Fd())
	if err := unix.SetNonblock(fd, true); err != nil { // Fd makes it wait, and then no deadline ends a Read
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if screen, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	return keyboard, screen
}

// TestSocketAndDiskAgree: what the agent says of its certificates is what stands on disk.
func TestSocketAndDiskAgree(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{})
	g := newGateway(t)
	text := consumers(t, s, g, "true") + "[cert_issuance.certs.other]\ncommon_name = \"other\"\n[cert_issuance.certs.never]\ncommon_name = \"never\"\n" +
		"url = \"https://localhost:1/est\"\n"
	g.configure(text)
	g.write("disk.toml", fmt.Sprintf("state_dir = %q\nrun_dir = %q\n", g.path("state"), g.path("nowhere"))+text)
	g.start()
	g.next("mqtt", nil)
	g.next("other", nil)
	g.until("the consumers are told", func() bool {
		c := g.certificate("mqtt")
		return len(c.Hooks) > 0 && c.Hooks[0].State == "ok" && g.certificate("never").Failures == 1
	})
	g.tell("renew", "--wait", "other").want(t, 0, "issued", "")
	asked := g.status()
	cmd := exec.Command("certagent", "status", "--json", "--config", g.path("disk.toml"))
	out, _ := cmd.Output() // one is missing
	var read status.Snapshot
	if err := json.Unmarshal(out, &read); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if asked.Started.IsZero() || !read.Started.IsZero() || !read.Running {
		t.Fatalf("asked: started %v; read: started %v, running %v", asked.Started, read.Started, read.Running)
	}
	for i := range asked.Certificates {
		asked.Certificates[i].Attempts = nil // counted since the agent was started
	}
	as := func(v any) string {
		text, err := json.MarshalIndent(v, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	if a, r := as(asked.Certificates), as(read.Certificates); a != r {
		t.Errorf("the agent says\n%s\nthe disk says\n%s", a, r)
	}
	if a, r := as(asked.Servers), as(read.Servers); a != r {
		t.Errorf("the agent says\n%s\nthe disk says\n%s", a, r)
	}
	g.stop()
}

// TestWait: a consumer that starts before the agent, and has no right to its configuration, begins when its certificate and
// its output are there.
func TestWait(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{})
	g := newGateway(t)
	g.configure(consumers(t, s, g, "sleep 600"))
	for dir := g.dir; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	as := func(args ...string) *exec.Cmd {
		cmd := outsider(append(args, "--config", g.path("config.toml"))...)
		cmd.Env = []string{"STATE_DIRECTORY=" + g.path("state"), "RUNTIME_DIRECTORY=" + g.path("run")}
		return cmd
	}
	finish(t, as("wait", "--timeout", "0s", "mqtt")).want(t, 1, "", `nothing is known of mqtt after 0s`)
	finish(t, as("wait", "--timeout", "-1s", "mqtt")).want(t, 2, "", `cannot be negative`)
	waiting := make(chan told, 1)
	go func() { waiting <- finish(t, as("wait", "mqtt")) }()
	g.start()
	(<-waiting).want(t, 0, "", `^certagent: waiting for mqtt: nothing is known of it yet \(no agent answers at .*`)
	if _, err := os.Stat(g.path("out", "pkcs12")); err != nil {
		t.Error(err)
	}
	if c := g.certificate("mqtt"); c.Hooks[0].State != "pending" {
		t.Errorf("the hook has ended: %+v", c.Hooks)
	}
	finish(t, as("wait", "mqt")).want(t, 2, "", `there is no certificate "mqt"\n.*did you mean mqtt`)
	finish(t, as("renew", "mqtt")).want(t, 1, "", `only root, the agent's user and members of the socket's group may change something; this is user \d+`)
	finish(t, as("reload")).want(t, 1, "", `only root`)
	g.stop()
	finish(t, as("wait", "--timeout", "0s", "mqtt")).want(t, 0, "", "") // from disk
	g.tell("wait", "other", "--timeout", "0s").want(t, 2, "", `there is no certificate "other"`)
	if err := os.Remove(g.path("state", "certs", "mqtt", "live")); err != nil {
		t.Fatal(err)
	}
	g.tell("wait", "--timeout", "0s", "mqtt").want(t, status.ExitMissing, "", `(?s)^1 certificate: 1 missing.*\nID .*mqtt  missing .*certagent: mqtt cannot be used after 0s: missing\n$`)
}

// TestStuckAgent: an agent that does not answer is not waited for, and what is on disk is shown, as such.
func TestStuckAgent(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{})
	g := newGateway(t)
	g.configure(served(s))
	g.start()
	g.next("mqtt", nil)
	if snapshot := g.status(); snapshot.Started.IsZero() || len(snapshot.Problems) > 0 {
		t.Errorf("status is not the agent's: %+v", snapshot)
	}
	g.signal(syscall.SIGSTOP)
	all := []*exec.Cmd{g.command("status"), g.command("renew"), g.command("wait", "--timeout", "0s", "mqtt")}
	ended := make([]told, len(all))
	var wg sync.WaitGroup
	for i, cmd := range all { // each waits for its own 3 s
		wg.Go(func() { ended[i] = finish(t, cmd) })
	}
	wg.Wait()
	r := ended[0]
	r.want(t, status.ExitDegraded, `(?s)mqtt  valid .*control-socket: the agent at .*/run/control.sock\s+does not answer in time`, "")
	if strings.Contains(r.stdout, "no agent is running") {
		t.Errorf("status says that there is no agent:\n%s", r.stdout)
	}
	ended[1].want(t, 1, "", `does not answer in time.*\ncertagent: hint: its log`)
	ended[2].want(t, 0, "", "")
	g.signal(syscall.SIGCONT)
	g.stop()
}

// TestControlSocket: one of an agent that was killed is taken over, one that a person removed comes back, and one that cannot
// be had keeps nobody from anything else.
func TestControlSocket(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{})
	g := newGateway(t)
	g.configure(served(s))
	socket := g.path("run", "control.sock")
	g.start()
	was := g.next("mqtt", nil)
	g.kill()
	if _, err := os.Lstat(socket); err != nil {
		t.Fatalf("a killed agent leaves its socket behind: %v", err)
	}
	g.start()
	g.until("the agent at its socket", func() bool { return !g.status().Started.IsZero() })
	if err := os.RemoveAll(g.path("run")); err != nil {
		t.Fatal(err)
	}
	if p := g.status().Problems; len(p) != 1 || p[0].Code != "control-socket" || !p[0].Notice {
		t.Errorf("without a socket status says: %+v", p)
	}
	g.tell("renew").want(t, 1, "", `an agent runs, and listens elsewhere`)
	g.signal(syscall.SIGHUP)
	g.until("the socket back", func() bool { return !g.status().Started.IsZero() })

	// A second agent with the same run_dir gets no socket, and is not mistaken for the first.
	second := newGateway(t)
	second.write("config.toml", fmt.Sprintf("state_dir = %q\nrun_dir = %q\n", second.path("state"), g.path("run"))+served(s))
	second.start()
	other := second.next("mqtt", nil)
	if !strings.Contains(second.log.String(), "another program answers there") {
		t.Error("the second agent does not say that it has no socket")
	}
	if c := second.certificate("mqtt"); c.Directory != other.dir {
		t.Errorf("status of the second agent is about %s", c.Directory)
	}
	second.tell("renew").want(t, 1, "", `no agent answers for .*: the agent at .* keeps `)
	second.signal(syscall.SIGUSR1)
	second.next("mqtt", &other)
	second.stop()
	g.tell("renew", "--wait").want(t, 0, "issued", `.*`)
	g.next("mqtt", &was)
	g.stop()
	if _, err := os.Lstat(socket); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an agent that was stopped leaves its socket behind: %v", err)
	}
}

// TestNoControlSocket: where its directory cannot be had the agent does everything else, and systemd shows why.
func TestNoControlSocket(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{})
	g := newGateway(t)
	g.configure(served(s))
	g.write("run", "in the way")
	variable, hear := g.manager()
	g.start(variable)
	if line := hear("READY=1"); !strings.Contains(line, "control-socket") {
		t.Errorf("systemd hears %q", line)
	}
	g.next("mqtt", nil)
	if log := g.log.String(); !strings.Contains(log, "run is a regular file, not a directory") || !strings.Contains(log, "control socket cannot be had") {
		t.Error("the log does not say why")
	}
	if err := os.Remove(g.path("run")); err != nil {
		t.Fatal(err)
	}
	g.signal(syscall.SIGHUP)
	g.until("the agent at its socket", func() bool { return !g.status().Started.IsZero() })
	g.tell("renew", "--wait").want(t, 0, "issued", `.*`)
	g.stop()
}

// TestStuckControlClients: the agent renews, answers and stops as if they were not there.
func TestStuckControlClients(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{})
	g := newGateway(t)
	g.configure(served(s))
	g.start()
	was := g.next("mqtt", nil)
	for n := range 30 {
		c, err := net.Dial("unix", g.path("run", "control.sock"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if n%2 == 0 {
			_, _ = io.WriteString(c, "GET /v1/status HTTP/1.1\r\nHost: x\r\nIf-None-Match: \"x\"\r\nPrefer: wait=30\r\n\r\nGET /v1") // never read
		}
	}
	g.tell("renew", "--wait").want(t, 0, "issued", `.*`)
	g.next("mqtt", &was)
	g.stop()
}

// socketClient speaks HTTP at the control socket.
func (g *gateway) socketClient() *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", g.path("run", "control.sock"))
	}}}
}

// TestTheAPIByHand follows docs/control-api.md with nothing but HTTP.
func TestTheAPIByHand(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/control-api.md")
	if err != nil {
		t.Fatal(err)
	}
	s := esttest.New(t, esttest.Options{})
	g := newGateway(t)
	g.configure(served(s))
	g.start()
	g.next("mqtt", nil)
	client := g.socketClient()
	examples := regexp.MustCompile("(?ms)^    (GET|POST) (/\\S+)$(?:\n    ([{].*?)$)?").FindAllStringSubmatch(string(page), -1)
	if len(examples) < 5 {
		t.Fatalf("docs/control-api.md has %d examples", len(examples))
	}
	for _, e := range examples {
		if e[2] == "/v1/import" {
			continue // its file is TestImport's
		}
		mediaType := "application/json"
		if e[2] == "/metrics" {
			mediaType = status.MetricsType
		}
		r, err := http.NewRequestWithContext(t.Context(), e[1], "http://localhost"+e[2], strings.NewReader(e[3]))
		if err != nil {
			t.Fatal(err)
		}
		answer, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err != nil || answer.StatusCode != http.StatusOK || answer.Header.Get("Content-Type") != mediaType {
			t.Errorf("%s %s %s: %s, %v\n%s", e[1], e[2], e[3], answer.Status, err, body)
		}
	}
	g.stop()
}

// brought writes a pair as a person brings it, and gives the paths of certificate and key.
func (g *gateway) brought(s *esttest.Server, cn string, alter ...func(*x509.Certificate)) (cert, key string) {
	g.t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		g.t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: cn}}, private)
	if err != nil {
		g.t.Fatal(err)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		g.t.Fatal(err)
	}
	leaf, err := s.Issue(csr, alter...)
	if err != nil {
		g.t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		g.t.Fatal(err)
	}
	g.write(cn+".key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})))
	// The root first: the certificate is the one that belongs to the key, wherever it stands.
	g.write(cn+".pem", string(s.RootPEM())+string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw})))
	return g.path(cn + ".pem"), g.path(cn + ".key")
}

// TestImport: a certificate that was got in another way is taken over, with an agent and without, and is renewed from then on.
func TestImport(t *testing.T) {
	t.Parallel()
	for _, running := range []bool{false, true} {
		t.Run(fmt.Sprintf("running=%v", running), func(t *testing.T) {
			t.Parallel()
			s := esttest.New(t, esttest.Options{})
			s.Always("simpleenroll", esttest.Status(http.StatusServiceUnavailable)) // there is no other way to a certificate
			g := newGateway(t)
			// What is asked for is not what is brought, which is no drift.
			g.configure(strings.Replace(served(s), `common_name = "mqtt"`, "common_name = \"gateway-7\"\nkey = \"ec-p384\"", 1))
			cert, key := g.brought(s, "old-name")
			other, _ := g.brought(s, "another")
			expired, expiredKey := g.brought(s, "expired", func(c *x509.Certificate) {
				c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
			})
			far, farKey := g.brought(s, "far", func(c *x509.Certificate) {
				c.NotBefore, c.NotAfter = time.Now().Add(72*time.Hour), time.Now().Add(96*time.Hour)
			})
			ca, caKey := g.brought(s, "ca", func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true })
			g.write("locked.key", string(pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte("x")})))
			g.write("der", string(s.Root.Raw))
			if running {
				g.start()
				g.until("the first failure", func() bool { return g.certificate("mqtt").Failures > 0 })
			}
			take := func(args ...string) told { return g.tell(append([]string{"import"}, args...)...) }
			take("mqt", "--cert", cert, "--key", key).want(t, 2, "", `there is no certificate "mqt"\n.*did you mean mqtt`)
			take("mqtt", "--cert", cert).want(t, 2, "", `import needs --cert and --key`)
			take("mqtt", "--cert", other, "--key", key).want(t, 1, "", `old-name.key is not the key of .*another.pem`)
			take("mqtt", "--cert", key, "--key", key).want(t, 1, "", `no PEM certificate`)
			take("mqtt", "--cert", cert, "--key", cert).want(t, 1, "", `holds no private key`)
			take("mqtt", "--cert", far, "--key", farKey).want(t, 1, "", `the certificate becomes valid in .* only\ncertagent: hint: compare this device's clock`)
			take("mqtt", "--cert", ca, "--key", caKey).want(t, 1, "", `the certificate is a CA certificate, and mqtt is none`)
			take("mqtt", "--cert", cert, "--key", g.path("locked.key")).want(t, 1, "", `locked.key is encrypted; certagent needs the key unencrypted`)
			take("mqtt", "--cert", g.path("der"), "--key", key).want(t, 1, "", `no PEM certificate in it\ncertagent: hint: certagent import --help`)
			take("mqtt", "--cert", expired, "--key", expiredKey).want(t, 1, "", `the certificate expired .* ago .*\ncertagent: hint: it cannot log in`)
			if _, err := g.read("mqtt"); !errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("what was refused is there: %v", err)
			}

			take("mqtt", "--cert", cert, "--key", key).want(t, 0, `^mqtt: imported: .*/gen-000001\n$`,
				`(?s)kind ec-p256, and the configuration asks for ec-p384.*warning: its subject is "CN=old-name", and the configuration asks for "CN=gateway-7"`)
			first := g.mustRead("mqtt")
			take("mqtt", "--cert", cert, "--key", key).want(t, 1, "", `mqtt has a certificate already: .*gen-000001.*\ncertagent: hint: .*--replace`)
			take("mqtt", "--cert", cert, "--key", key, "--replace").want(t, 0, `gen-000002`, `.*`)
			if left, _ := filepath.Glob(g.path("run", "import-*")); len(left) > 0 {
				t.Errorf("keys are left behind: %q", left)
			}
			if !running {
				g.start()
				g.until("the agent at its socket", func() bool { return !g.status().Started.IsZero() })
			}
			g.tell("wait", "mqtt").want(t, 0, "", "")
			g.tell("status").want(t, 0, `\n +imported: \d+ seconds? ago`, "")
			c := g.certificate("mqtt")
			if c.State != status.Valid || c.Failures > 0 || len(c.Problems) > 0 || c.Subject != "CN=old-name" || !c.Imported {
				t.Errorf("imported: %+v", c)
			}
			g.tell("renew", "--wait").want(t, 0, "issued", `.*`)
			h := g.mustRead("mqtt")
			if c := g.certificate("mqtt"); c.Imported {
				t.Errorf("renewed, and still imported: %+v", c)
			}
			if h.leaf.Subject.String() != "CN=old-name" || bytes.Equal(h.key, first.key) {
				t.Errorf("renewed as %s", h.leaf.Subject)
			}
			g.stop()
		})
	}
}

// TestImportOfAChain: what is missing is said; what comes along is put in order, and what does not belong to it left out.
func TestImportOfAChain(t *testing.T) {
	t.Parallel()
	s, other := esttest.New(t, esttest.Options{Intermediate: true}), esttest.New(t, esttest.Options{})
	g := newGateway(t)
	g.configure(served(s))
	cert, key := g.brought(s, "mqtt")
	g.tell("import", "mqtt", "--cert", cert, "--key", key).want(t, 0, "imported",
		`^certagent: warning: "CN=.*", which issued it, did not come along and is not trusted \(trusted_certs\): .*\n$`)
	var all []byte
	for _, file := range []string{key, cert} {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, "Bag Attributes\n    friendlyName: mqtt\n"...)
		all = append(all, data...)
	}
	all = append(all, other.RootPEM()...)
	stray, _ := g.brought(other, "stray")
	data, err := os.ReadFile(stray)
	if err != nil {
		t.Fatal(err)
	}
	all = append(all, data...)
	all = append(all, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Issuer.Raw})...)
	g.write("all.pem", string(all))
	g.tell("import", "mqtt", "--cert", g.path("all.pem"), "--key", g.path("all.pem"), "--replace").want(t, 0, "imported",
		`^certagent: warning: left out, being neither its chain nor a root: .*stray.*\n$`)
	chain, err := os.ReadFile(g.path("state", "certs", "mqtt", "live", "chain.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if b, rest := pem.Decode(chain); b == nil || !bytes.Equal(b.Bytes, s.Issuer.Raw) || len(rest) > 0 {
		t.Errorf("the chain is\n%s", chain)
	}
	g.start()
	g.until("the agent at its socket", func() bool { return !g.status().Started.IsZero() })
	g.tell("wait", "mqtt").want(t, 0, "", `.*`)
	g.tell("renew", "--wait").want(t, 0, "mqtt: issued", "")
	g.stop()
}

// TestDirectoriesOfAConsumer: in the unit of a consumer systemd hands over the consumer's own directories (StateDirectory=), which
// are not the agent's unless an agent has made them so.
func TestDirectoriesOfAConsumer(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("STATE_DIRECTORY", filepath.Join(dir, "none-yet"))
	if d := (&program{ofConsumer: true}).defaults(); d.StateDir != filepath.Join(dir, "none-yet") {
		t.Errorf("systemd makes what it hands to a consumer, so that this is none: %+v", d)
	}
	t.Setenv("STATE_DIRECTORY", dir)
	t.Setenv("RUNTIME_DIRECTORY", dir)
	g := newGateway(t)
	g.write("config.toml", "frob = 1\n")
	cmd := g.command("status")
	cmd.Env = append(cmd.Env, "STATE_DIRECTORY="+dir, "RUNTIME_DIRECTORY="+dir)
	if out, _ := cmd.CombinedOutput(); strings.Contains(string(out), "disk in "+dir) {
		t.Errorf("status takes a consumer's directory for the agent's:\n%s", out)
	}
	consumer, agent := &program{ofConsumer: true}, &program{}
	if d := consumer.defaults(); d.StateDir != "" || d.RunDir != "" {
		t.Errorf("the consumer's own directories are taken for the agent's: %+v", d)
	}
	if d := agent.defaults(); d.StateDir != dir || d.RunDir != dir {
		t.Errorf("the agent's own directories: %+v", d)
	}
	s, err := store.Open(dir, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	l, err := net.Listen("unix", filepath.Join(dir, "control.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if d := consumer.defaults(); d.StateDir != dir || d.RunDir != dir {
		t.Errorf("an agent's directories: %+v", d)
	}
}

// TestImportLeavesNothingToOthers: a file that is not root's or the agent's alone is no pair to take over, and what was left
// beside the socket goes at the next start.
func TestImportLeavesNothingToOthers(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{})
	g := newGateway(t)
	g.configure(served(s))
	cert, key := g.brought(s, "mqtt")
	var pair []byte
	for _, file := range []string{key, cert} {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		pair = append(pair, data...)
	}
	if err := os.Mkdir(g.path("run"), 0o755); err != nil {
		t.Fatal(err)
	}
	leave := func(name string, mode fs.FileMode) {
		t.Helper()
		if err := os.WriteFile(g.path("run", name), pair, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(g.path("run", name), mode); err != nil {
			t.Fatal(err)
		}
	}
	leave("import-left.pem", 0o600)
	if err := os.Chtimes(g.path("run", "import-left.pem"), time.Time{}, time.Now().Add(-2*time.Minute)); err != nil {
		t.Fatal(err)
	}
	g.start()
	g.next("mqtt", nil)
	if _, err := os.Lstat(g.path("run", "import-left.pem")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a key was left beside the socket: %v", err)
	}
	leave("import-open.pem", 0o644)
	if err := os.Symlink(key, g.path("run", "import-link.pem")); err != nil {
		t.Fatal(err)
	}
	for file, says := range map[string]string{
		"import-open.pem":          "is not for the agent's user alone",
		"import-link.pem":          "symbolic link",
		"../" + filepath.Base(key): "is no name of a file in",
		"import-/../../x":          "is no name of a file in",
		"import-none.pem":          "no such file",
	} {
		body := fmt.Sprintf(`{"id":"mqtt","file":%q,"replace":true}`, file)
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://x/v1/import", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", g.path("run", "control.sock"))
		}}
		defer transport.CloseIdleConnections()
		answer, err := transport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(answer.Body)
		answer.Body.Close()
		if answer.StatusCode != http.StatusUnprocessableEntity || !strings.Contains(string(text), says) {
			t.Errorf("%s: %s %s, want %q", file, answer.Status, text, says)
		}
	}
	g.stop()
}
