package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"certagent/agent/control"
	"certagent/agent/status"
	"certagent/est/esttest"
)

// answering has something that is not this program's agent answer at the gateway's control socket, until the test ends.
func (g *gateway) answering(answer func() string) {
	g.t.Helper()
	if err := os.Mkdir(g.path("run"), 0o755); err != nil {
		g.t.Fatal(err)
	}
	l, err := net.Listen("unix", g.path("run", "control.sock"))
	if err != nil {
		g.t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/status" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, answer()) // the client says what it did not get
	})}
	go func() { _ = s.Serve(l) }() // ends with the test
	g.t.Cleanup(func() { _ = s.Close() })
}

// TestStatusOfAnotherVersion: an agent that was started before the program was replaced has other fields; one of another schema
// is not understood, and the disk is read. What an agent says is not obeyed by the terminal.
func TestStatusOfAnotherVersion(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	g.configure("[cert_issuance.est.urls]\ndefault = \"https://localhost:1/.well-known/est\"\n[cert_issuance.certs.mqtt]\ncommon_name = \"x\"\n")
	var answer atomic.Value
	g.answering(func() string { return answer.Load().(string) })
	said := func(schema int, more string) string {
		return fmt.Sprintf(`{"schema": %d, "time": "2026-11-22T12:00:00Z", "version": "0.9\u001b[2J", "running": true, "state_dir": %q%s}`, schema, g.path("state"), more)
	}
	one := func(fields string) string { return said(1, `, "certificates": [{"id": "mqtt", `+fields+`}]`) }
	for _, tc := range []struct {
		answer string
		code   int
		stdout string
	}{
		{said(1, ""), 0, `^0 certificates\n`},
		{one(`"state": "valid"`), 0, `^1 certificate: 1 valid\n`},
		{one(`"state": "due", "colour": "green", "outputs": [{"path": "/x", "sort": 1}]`), 0, `1 due`},
		{one(`"state": "unmanaged"`), 0, `1 unmanaged`},
		{one(`"state": "expired"`), status.ExitExpired, `1 expired`},
		{one(`"state": "overdue"`), status.ExitOverdue, `1 overdue`},
		{one(`"state": "key-mismatch"`), status.ExitKeyMismatch, `1 key-mismatch`},
		{one(`"state": "not-yet-valid"`), status.ExitNotYetValid, `1 not-yet-valid`},
		{one(`"state": "missing"`), status.ExitMissing, `1 missing`},
		{one(`"state": "revoked"`), status.ExitDegraded, `(?m)^mqtt  revoked `},
		{one(`"state": "valid", "problems": [{"code": "brand-new", "text": "what this\u009b31m program does not know"}]`), status.ExitDegraded,
			`(?m)^mqtt: brand-new: what this\?31m program does not know$`},
		{one(`"state": "valid", "problems": [{"code": "brand-new", "text": "x", "notice": true}]`), 0, `(?m)^mqtt: brand-new \(notice\): x$`},
		{said(2, ""), status.ExitMissing, `^1 certificate: 1 missing; `},
		{`{"schema": "two"`, status.ExitMissing, `^1 certificate: 1 missing; `},
	} {
		answer.Store(tc.answer)
		g.tell("status").want(t, tc.code, tc.stdout, "")
		r := g.tell("status", "--json")
		r.want(t, tc.code, `^{\n  "schema": 1,\n`, "")
		if strings.Contains(r.stdout, "null") || strings.ContainsAny(r.stdout, "\x1b\u009b") {
			t.Errorf("the JSON form has null, or what a terminal obeys:\n%s", r.stdout)
		}
	}
}

// TestUnmanaged: what has left the configuration is shown by the agent as it is from the disk, and troubles nobody.
func TestUnmanaged(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{})
	g := newGateway(t)
	g.configure(tutorial(t, s) + "\n[cert_issuance.certs.web]\ncommon_name = \"web\"\n")
	g.start()
	g.next("web", nil)
	g.next("device-id", nil)
	g.configure(tutorial(t, s))
	g.tell("reload").want(t, 0, "", "")
	asked := g.status()
	states := func(s status.Snapshot) (all []string) {
		for _, c := range s.Certificates {
			all = append(all, c.ID+" "+string(c.State))
		}
		return all
	}
	if got, want := states(asked), []string{"device-id valid", "web unmanaged"}; !slices.Equal(got, want) {
		t.Errorf("the agent shows %q, want %q", got, want)
	}
	// The tutorial's own problems are there; this certificate adds none.
	g.tell("status").want(t, status.ExitDegraded, `(?m)^2 certificates: 1 valid, 1 unmanaged; 1 problem\n(.*\n)*web        unmanaged  .*\n           issued: `, "")
	g.stop()
	if read := g.status(); asked.Started.IsZero() || !slices.Equal(states(read), states(asked)) {
		t.Errorf("from disk %q, from the agent %q", states(read), states(asked))
	}
	g.start()
	g.until("an agent that knows of both", func() bool {
		s := g.status()
		return !s.Started.IsZero() && slices.Equal(states(s), states(asked))
	})
	g.configure(tutorial(t, s) + "\n[cert_issuance.certs.web]\ncommon_name = \"web\"\n")
	g.tell("reload").want(t, 0, "", "")
	if c := g.certificate("web"); c.State != status.Valid {
		t.Errorf("when it is back in the configuration it is %s", c.State)
	}
	g.stop()
}

// TestSince: since when a problem is there is told, also of one of which nothing on disk tells, and a repair ends it.
func TestSince(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{})
	g := newGateway(t)
	g.configure(tutorial(t, s))
	g.start()
	g.next("device-id", nil)
	file := filepath.Join(g.dir, "config.toml")
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		g.write("config.toml", string(good)+"\nfrob = 1\n")
		g.tell("reload").want(t, exitUsage, "", "frob")
		first, second := g.status(), g.status()
		if len(first.Problems) != 1 || first.Problems[0].Since.IsZero() || !first.Problems[0].Since.Equal(second.Problems[0].Since) {
			t.Errorf("the problems are %+v, then %+v", first.Problems, second.Problems)
		}
		g.write("config.toml", string(good))
		g.tell("reload").want(t, 0, "", "")
	}
	g.stop()
	if p := g.status().Problems; len(p) != 1 || p[0].Code != "agent-not-running" || !p[0].Notice {
		t.Errorf("without an agent the problems are %+v", p)
	}
}

// TestOneTooMany: that a gateway's agent has visitors enough is nothing wrong with its certificates; that it is stuck is.
func TestOneTooMany(t *testing.T) {
	for _, tc := range []struct {
		why    error
		notice bool
	}{{control.ErrNobody, true}, {control.ErrShut, true}, {control.ErrSilent, false}} {
		if p := notAsked(fmt.Errorf("the agent: %w", tc.why)); p.Notice != tc.notice {
			t.Errorf("%+v", p)
		}
	}
}
