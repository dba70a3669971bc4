package main

import (
	"bytes"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"certagent/agent/status"
	"certagent/est/esttest"
	"certagent/store"
)

// TestStatusForEverybody: somebody who may read neither the configuration nor a key sees what there is to know.
func TestStatusForEverybody(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{})
	g := newGateway(t)
	g.configure(tutorial(t, s))
	if out, err := g.command("run", "--once").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	live := g.mustRead("device-id")
	// The test's directory lies below one that is its user's alone.
	for dir := g.dir; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{g.path("config.toml"), filepath.Join(live.dir, "key.pem")} {
		if err := os.Chmod(file, 0); err != nil {
			t.Fatal(err)
		}
	}
	look := func() string {
		t.Helper()
		cmd := outsider("status", "--config", g.path("config.toml"))
		cmd.Env = []string{"STATE_DIRECTORY=" + g.path("state"), raceVariable + "=" + os.Getenv(raceVariable)}
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil || stderr.Len() > 0 {
			t.Fatalf("certagent status: %v\n%s%s", err, out, &stderr)
		}
		return string(out)
	}
	out := look()
	for _, says := range []string{"device-id  valid ", "if an agent runs: renewal is due", "the configuration could not be read", "no agent is running"} {
		if !strings.Contains(out, says) {
			t.Errorf("status does not say %q:\n%s", says, out)
		}
	}
	agent, err := store.Open(g.path("state"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer agent.Close()
	if out := look(); strings.Contains(out, "no agent is running") {
		t.Errorf("while an agent runs, status says:\n%s", out)
	}
}

// TestNobodyReadsTheLog: whoever read the agent's log has died; the agent has not.
func TestNobodyReadsTheLog(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{})
	g := newGateway(t)
	g.configure(tutorial(t, s))
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	defer w.Close()
	cmd := g.command("run", "--once")
	cmd.Stderr = w
	if err := cmd.Run(); err != nil {
		t.Errorf("certagent run --once: %v", err)
	}
	g.mustRead("device-id")
}

// TestNobodyReachesTheTerminal: what a server says and what a file is called stands in errors, and cannot move the cursor
// there.
func TestNobodyReachesTheTerminal(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{})
	s.Always("simpleenroll", func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.Header().Set("Content-Type", "text/plain")
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write([]byte("no\x1b[2J\u009b31m\ncertagent: all is well\n"))
	})
	g := newGateway(t)
	g.configure(tutorial(t, s))
	all, _ := g.command("run", "--once").CombinedOutput() // that it fails is another test's
	table, _ := g.command("status").Output()
	named, _ := exec.Command("certagent", "config", "check", "no\x1b[2J.toml").CombinedOutput()
	all = slices.Concat(all, table, named)
	if !bytes.Contains(all, []byte("all is well")) {
		t.Fatalf("what the server said is not shown:\n%q", all)
	}
	for line := range strings.Lines(string(all)) {
		line = strings.TrimSuffix(line, "\n")
		if line != status.Printable(line) || strings.HasPrefix(line, "certagent: all is well") {
			t.Errorf("the terminal is reached by %q", line)
		}
	}
}
