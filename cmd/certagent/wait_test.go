package main

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"certagent/agent/status"
	"certagent/est/esttest"
	"certagent/store"
)

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
		cmd.Env = []string{"STATE_DIRECTORY=" + g.path("state"), "RUNTIME_DIRECTORY=" + g.path("run"), raceVariable + "=" + os.Getenv(raceVariable)}
		return cmd
	}
	finish(t, as("wait", "--timeout", "0s", "mqtt")).want(t, 1, "", `nothing is known of mqtt after 0s`)
	finish(t, as("wait", "--timeout", "-1s", "mqtt")).want(t, 2, "", `cannot be negative`)
	var said logBuffer
	waiting := as("wait", "mqtt")
	waiting.Stderr = &said
	if err := waiting.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- waiting.Wait(); close(ended) }() // ends with the command
	t.Cleanup(func() {
		_ = waiting.Process.Kill() // it may have ended
		for range ended {
		}
	})
	g.until("it waits", func() bool { return strings.HasPrefix(said.String(), "certagent: waiting for mqtt: ") })
	g.start()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("certagent wait: %v\n%s", err, &said)
		}
	case <-time.After(2 * patience):
		t.Fatalf("it goes on waiting:\n%s", &said)
	}
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

// TestWaitForAnOutput: a certificate whose output could never be written is not there for its consumer; one whose output cannot
// be replaced is, with the certificate before.
func TestWaitForAnOutput(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{})
	g := newGateway(t)
	g.configure(served(s) + outputsFor(g, "cert"))
	failed := func(c status.Certificate) bool { return len(c.Outputs) == 1 && c.Outputs[0].State == "failed" }
	g.start()
	g.until("the output has failed", func() bool { return failed(g.certificate("mqtt")) })
	if said := waitsFor(g.status(), "mqtt", nil); !strings.HasSuffix(said, "written yet: write "+g.path("out", "cert")+": the directory "+g.path("out")+" does not exist") {
		t.Error(said)
	}
	g.tell("wait", "--timeout", "0s", "mqtt").want(t, 1, "", `(?s)output-refused: .*mqtt cannot be used after 0s: valid, and its outputs are not written yet\n$`)
	if err := os.Mkdir(g.path("out"), 0o755); err != nil {
		t.Fatal(err)
	}
	g.tell("reload").want(t, 0, "", "")
	g.until("the output is written", func() bool { return !failed(g.certificate("mqtt")) })
	g.tell("wait", "mqtt").want(t, 0, "", "")
	if _, err := os.Stat(g.path("out", "cert")); err != nil {
		t.Error(err)
	}
	if err := os.Rename(g.path("out"), g.path("elsewhere")); err != nil {
		t.Fatal(err)
	}
	g.tell("renew", "--wait", "mqtt").want(t, 0, `issued`, "")
	g.until("it has failed again", func() bool { return failed(g.certificate("mqtt")) })
	g.tell("wait", "--timeout", "0s", "mqtt").want(t, 0, "", "")
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
