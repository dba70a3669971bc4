package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"

	"certagent/agent/status"
	"certagent/est/esttest"
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

// TestStuckAgent: an agent that does not answer is not waited for, and what is on disk is shown, as such.
func TestStuckAgent(t *testing.T) {
	t.Parallel()
	_, g, _ := running(t)
	if snapshot := g.status(); snapshot.Started.IsZero() || len(snapshot.Problems) > 0 {
		t.Errorf("status is not the agent's: %+v", snapshot)
	}
	g.signal(syscall.SIGSTOP)
	g.until("the agent stands still", func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", g.cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		return bytes.Contains(stat, []byte(") T ")) // proc_pid_stat(5)
	})
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
	// Who gives less time than the agent has sees the disk as well: it is not the files that do not answer.
	g.until("what is on disk, within 2 s", func() bool {
		return g.tell("status", "--timeout", "2s").code == status.ExitDegraded
	})
	g.until("a doctor that does not blame the disk", func() bool {
		said := g.tell("check", "--offline", "--timeout", "4s").stdout
		return regexp.MustCompile(`ok +state-permissions: `).MatchString(said) && strings.Contains(said, "control-socket")
	})
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
	hear("READY=1")
	if line := hear("certificates valid"); !strings.Contains(line, "control-socket") {
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
	_, g, was := running(t)
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
	_, g, _ := running(t)
	client := g.socketClient()
	examples := regexp.MustCompile("(?ms)^    (GET|POST) (/\\S+)$(?:\n    ([{].*?)$)?").FindAllStringSubmatch(string(page), -1)
	if len(examples) < 5 {
		t.Fatalf("docs/control-api.md has %d examples", len(examples))
	}
	for _, e := range examples {
		if e[2] == "/v1/import" || e[2] == "/v1/onboard" {
			continue // its file is TestImport's, the cloud TestTutorialReachesItsCloud's
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
