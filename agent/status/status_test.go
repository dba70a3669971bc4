package status_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"certagent/agent/golden"
	"certagent/agent/status"
)

var update = flag.Bool("update", false, "write the golden files anew; look at the difference before you keep it")

// now is in a zone with an offset of its own: what people read is in the zone of the Snapshot.
var now = time.Date(2026, 11, 21, 20, 30, 0, 0, time.FixedZone("CET", 3600))

func in(d time.Duration) time.Time { return now.Add(d) }

const day = 24 * time.Hour

// failing is c, whose server has been away for three days.
func failing(c status.Certificate, failures int) status.Certificate {
	c.Failures, c.LastTry, c.NextTry, c.NextWhy = failures, in(-time.Minute), in(90*time.Second), "trying again"
	c.LastClass = "unavailable"
	c.LastError = "est simplereenroll at https://est.example:8085/.well-known/est: server unavailable: dial tcp 192.0.2.7:8085: connect: connection refused"
	c.Problems = append(c.Problems, status.Problem{
		Code: "est-unavailable", Text: c.LastError, Since: in(-3 * day),
		Hint: "check host and port in the URL, the network, and that the server runs",
	})
	return c
}

// everything has every state once, each in the way it looks in life, and an id that no column is wide enough for.
func everything() status.Snapshot {
	issued := func(id string, state status.State, from, until time.Duration) status.Certificate {
		life := until - from
		return status.Certificate{
			ID: id, Role: "other", State: state, Generation: 7, Directory: "/var/lib/certagent/certs/" + id + "/gen-000007",
			Subject: "CN=" + id, Serial: "0a1b", SHA256: "5c77e6", NotBefore: in(from), NotAfter: in(until),
			Threshold: in(from + life*4/5), RenewAt: in(from + life*4/5), NextTry: in(from + life*4/5), NextWhy: "renewal is due",
			LastTry: in(from), LastSuccess: in(from), LastIdentity: "certificate", Problems: []status.Problem{},
			Outputs: []status.Output{}, Hooks: []status.Hook{},
		}
	}
	young := issued("not-yet", status.NotYetValid, 20*time.Minute, 7*day)
	young.NextTry, young.NextWhy = young.NotBefore, "not valid before then"
	young.LastTry, young.LastSuccess, young.LastIdentity = in(-time.Minute), in(-time.Minute), "bootstrap-certificate"
	known := issued("device-id", status.Valid, -5*time.Hour, 19*time.Hour)
	known.Onboarding = &status.Onboarding{
		Cloud: "dps", State: status.Registered, Endpoint: "https://global.azure-devices-provisioning.net", Hub: "hub-1.azure-devices.net",
		DeviceID: "gateway-7", Registered: in(-5 * time.Hour), SHA256: known.SHA256, File: "/var/lib/certagent/onboard/dps.json",
		LastTry: in(-5 * time.Hour),
	}
	untold := issued("second-device", status.Valid, -time.Hour, 23*time.Hour)
	untold.Onboarding = &status.Onboarding{
		Cloud: "dps", State: status.Failed, Endpoint: "https://global.azure-devices-provisioning.net", Hub: "hub-1.azure-devices.net",
		DeviceID: "gateway-8", Registered: in(-25 * time.Hour), SHA256: "77ab", File: "/var/lib/certagent/onboard/dps.json", Why: "renewed",
		Ordered: true, Failures: 3, LastTry: in(-5 * time.Minute), NextTry: in(4 * time.Minute),
	}
	untold.Problems = append(untold.Problems, status.Problem{
		Code: "dps-unauthorized", Text: `register "gateway-8": DPS refused the device (HTTP 401, error 401002)`, Since: in(-time.Hour),
		Hint: "see that the group enrolment is enabled",
	})
	left := issued("left-behind", status.Unmanaged, -10*day, 355*day)
	left.NextTry, left.NextWhy = time.Time{}, ""
	dropped := issued("sixteen-letters-", status.Valid, -10*day, 20*365*day)
	dropped.Problems = append(dropped.Problems, status.Problem{
		Code: "altered-by-ca", Text: "the CA left out the extended key usages clientAuth", Notice: true,
		Hint: "only if a consumer misses it: have the CA copy it from requests",
	})
	served := issued("served", status.Valid, -5*time.Hour, 19*time.Hour)
	served.Outputs = []status.Output{
		{Path: "/etc/mosquitto/certs/gateway.pem", Format: "combined", State: "ok", Written: in(-5 * time.Hour)},
		{Path: "/etc/mosquitto/certs/ca.pem", Format: "ca", State: "ok", Written: in(-30 * day)},
	}
	served.Hooks = []status.Hook{
		{Hook: "reload nginx.service", State: "ok", Tries: 1, LastTry: in(-5 * time.Hour), Skipped: "nginx.service is inactive"},
		{
			Hook: `exec "/usr/bin/tell" "broker"`, State: "failed", Tries: 3, LastTry: in(-time.Minute), NextTry: in(14 * time.Minute),
			Output: "no route to host\n", Class: "failed", Error: `exec "/usr/bin/tell" "broker": failed: exit status 1`,
		},
		{Hook: "restart haproxy.service", State: "pending"},
	}
	served.Problems = append(served.Problems, status.Problem{
		Code: "hook-failed", Text: `exec "/usr/bin/tell" "broker": failed: exit status 1; the last that it wrote: no route to host`,
		Hint: "its output says why, if it writes any", Since: in(-21 * time.Minute),
	})
	refused := issued("mqtt", status.Valid, -5*time.Hour, 19*time.Hour)
	refused.Outputs = []status.Output{{
		Path: "/etc/ssl/mqtt.pem", Format: "fullchain", State: "failed", Error: "write /etc/ssl/mqtt.pem: the agent may not write in /etc/ssl",
	}}
	refused.OutputsNextTry = in(time.Hour)
	refused.Problems = append(refused.Problems, status.Problem{
		Code: "output-refused", Text: refused.Outputs[0].Error, Since: in(-day),
		Hint: "chown certagent /etc/ssl, or give its group the right to write there",
	})
	return status.Snapshot{
		Servers: []status.Server{{
			URL: "https://est.example:8085/.well-known/est", Fetched: in(-2 * day), CAs: 3, NextRefresh: in(4 * day), Failures: 1,
		}},
		Schema: status.Schema, Time: now, Version: "1.0.0", Config: "/etc/certagent/config.toml", StateDir: "/var/lib/certagent", Running: true,
		Started: in(-3 * day), PID: 4711,
		Problems: []status.Problem{{
			Code: "config-invalid", Text: "the configuration on disk is not in force: /etc/certagent/config.toml:2:1: renw_at: unknown key",
			Hint: "mend the file; certagent config check says when it is right", Since: in(-2 * time.Hour),
		}},
		Certificates: []status.Certificate{
			known,
			served,
			refused,
			failing(issued("due", status.Due, -20*time.Hour, 4*time.Hour), 1),
			failing(issued("overdue", status.Overdue, -29*day, day), 5),
			failing(issued("expired", status.Expired, -32*day, -119*time.Minute), 12),
			young,
			{
				ID: "missing", Role: "other", State: status.Missing, NextWhy: "waiting for the first attempt of the EST identity est-id",
				Pending: true, Outputs: []status.Output{}, Hooks: []status.Hook{}, Problems: []status.Problem{},
			},
			{
				ID: "key-mismatch", Role: "other", State: status.KeyMismatch, NextTry: now, NextWhy: "the certificate or its key was damaged",
				LastSuccess: in(-9 * day), LastIdentity: "password", Outputs: []status.Output{}, Hooks: []status.Hook{},
				Problems: []status.Problem{{
					Code: "broken", Text: "key.pem in /var/lib/certagent/certs/key-mismatch/gen-000007 is not the key of cert.pem",
					Hint: "nothing by hand: it is being issued anew",
				}},
			},
			dropped,
			untold,
			left,
		},
	}
}

// unread is what somebody sees who may not read the configuration, while no agent runs.
func unread() status.Snapshot {
	s := everything()
	s.Config, s.Running, s.Started, s.PID, s.Servers = "", false, time.Time{}, 0, []status.Server{}
	s.Problems = []status.Problem{{
		Code: "agent-not-running", Text: "no agent is running: nothing is renewed", Hint: "start it", Notice: true,
	}}
	s.Certificates = s.Certificates[:1]
	s.Certificates[0].Role = ""
	return s
}

// crowd are so many certificates of one server that those that are well have one line. The server went away: three of them have
// expired and six fail.
func crowd() status.Snapshot {
	s := everything()
	well, bad := s.Certificates[0], s.Certificates[5]
	s.Problems, s.Certificates = nil, nil
	for i := range 60 {
		c := well
		switch {
		case i%25 == 7:
			c = bad
		case i%10 == 3:
			c = failing(c, 2)
		}
		c.ID = fmt.Sprintf("device-%02d", i)
		c.Problems = slices.Clone(c.Problems)
		for j := range c.Problems {
			c.Problems[j].Text = strings.ReplaceAll(c.Problems[j].Text, "simplereenroll", "simplereenroll as certificate "+c.ID)
		}
		s.Certificates = append(s.Certificates, c)
	}
	return s
}

func table(t *testing.T, s status.Snapshot, look status.Look) string {
	t.Helper()
	var b bytes.Buffer
	if err := s.WriteTable(&b, look); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestFaces(t *testing.T) {
	for name, s := range map[string]status.Snapshot{"everything": everything(), "unread": unread(), "crowd": crowd()} {
		golden.Match(t, "testdata/"+name+".txt", []byte(table(t, s, status.Look{})), *update)
		if name == "crowd" {
			continue // its JSON says nothing new
		}
		var b bytes.Buffer
		if err := s.WriteJSON(&b); err != nil {
			t.Fatal(err)
		}
		golden.Match(t, "testdata/"+name+".json", b.Bytes(), *update)
	}
	golden.Match(t, "testdata/wide.txt", []byte(table(t, everything(), status.Look{Columns: 132, Unicode: true, Colour: true})), *update)
}

// TestExampleOfThePage: docs/operations.md shows what the program writes.
func TestExampleOfThePage(t *testing.T) {
	s := everything()
	c := s.Certificates[3]
	c.ID, c.Problems = "device-id", slices.Clone(c.Problems)
	c.Problems[0].Since = c.RenewAt
	s.Problems, s.Certificates = nil, []status.Certificate{c}
	page, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	var example strings.Builder
	for line := range strings.Lines(table(t, s, status.Look{})) {
		if line != "\n" {
			line = "    " + line
		}
		example.WriteString(line)
	}
	if !strings.Contains(string(page), "\n\n"+example.String()+"\n") {
		t.Errorf("docs/operations.md has not this example:\n%s", &example)
	}
}

// TestTableOfExitCodes: the page has every exit code once, beside the states that it is for.
func TestTableOfExitCodes(t *testing.T) {
	page, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "\n## Exit codes\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var got []string
	for _, row := range regexp.MustCompile(`(?m)^\| ([0-9]+) \|([^|]*)\|`).FindAllStringSubmatch(section, -1) {
		got = append(got, strings.TrimSpace(row[1]+" "+strings.TrimSpace(row[2])))
	}
	states := map[int]string{1: "", 2: "", status.ExitDegraded: ""}
	for _, state := range []status.State{
		status.Valid, status.Due, status.Unmanaged, status.Expired, status.Overdue, status.KeyMismatch, status.NotYetValid, status.Missing,
	} {
		code := status.Snapshot{Certificates: []status.Certificate{{State: state}}}.ExitCode()
		if states[code] != "" {
			states[code] += ", "
		}
		states[code] += "`" + string(state) + "`"
	}
	var want []string
	for code := range len(states) {
		want = append(want, strings.TrimSpace(fmt.Sprintf("%d %s", code, states[code])))
	}
	if !slices.Equal(got, want) {
		t.Errorf("the page has %q, the program %q", got, want)
	}
}

func TestExitCode(t *testing.T) {
	notice := status.Problem{Code: "altered-by-ca", Notice: true}
	problem := status.Problem{Code: "key-group"}
	for _, tc := range []struct {
		name         string
		agent        []status.Problem
		certificates string // states; one with + has a problem, one with ~ a notice
		want         int
	}{
		{"nothing", nil, "", 0},
		{"valid", nil, "valid", 0},
		{"due is well", nil, "valid due", 0},
		{"unmanaged is nobody's business", nil, "unmanaged+", 0},
		{"a notice is no trouble", []status.Problem{notice}, "valid~", 0},
		{"expired", nil, "expired", 3},
		{"overdue", nil, "overdue", 4},
		{"key mismatch", nil, "key-mismatch", 5},
		{"not yet valid", nil, "not-yet-valid", 6},
		{"missing", nil, "missing", 7},
		{"degraded by its own problem", nil, "valid valid+", 8},
		{"degraded by the agent's problem", []status.Problem{problem}, "valid", 8},
		{"agent's problem without certificates", []status.Problem{problem}, "", 8},
		{"expired before all", []status.Problem{problem}, "valid+ overdue not-yet-valid missing key-mismatch expired", 3},
		{"then key mismatch", []status.Problem{problem}, "valid+ overdue not-yet-valid missing key-mismatch", 5},
		{"then missing", []status.Problem{problem}, "valid+ overdue not-yet-valid missing", 7},
		{"then not yet valid", []status.Problem{problem}, "valid+ overdue not-yet-valid", 6},
		{"then overdue", []status.Problem{problem}, "valid+ overdue", 4},
	} {
		s := status.Snapshot{Problems: tc.agent}
		for word := range strings.FieldsSeq(tc.certificates) {
			c := status.Certificate{State: status.State(strings.TrimRight(word, "+~"))}
			switch {
			case strings.HasSuffix(word, "+"):
				c.Problems = []status.Problem{problem}
			case strings.HasSuffix(word, "~"):
				c.Problems = []status.Problem{notice}
			}
			s.Certificates = append(s.Certificates, c)
		}
		if got := s.ExitCode(); got != tc.want {
			t.Errorf("%s: exit code %d, want %d", tc.name, got, tc.want)
		}
	}
}

// TestLine: what systemctl status shows says the worst, and never more than one line.
func TestLine(t *testing.T) {
	all := everything()
	only := func(ids ...string) status.Snapshot {
		s := all
		s.Problems, s.Certificates = nil, nil
		for _, c := range all.Certificates {
			for _, id := range ids {
				if c.ID == id {
					s.Certificates = append(s.Certificates, c)
				}
			}
		}
		return s
	}
	forced := only("device-id")
	forced.Certificates = append([]status.Certificate{}, forced.Certificates...)
	forced.Certificates[0].Failures, forced.Certificates[0].LastClass = 1, "unauthorized"
	degraded := only("device-id")
	degraded.Certificates = append([]status.Certificate{}, degraded.Certificates...)
	degraded.Certificates[0].Problems = []status.Problem{{Code: "key-group"}}
	for _, tc := range []struct {
		s    status.Snapshot
		want string
	}{
		{status.Snapshot{}, "0 of 0 certificates valid"},
		{only("device-id", "sixteen-letters-", "left-behind"), "2 of 2 certificates valid"},
		{only("device-id", "due"), "2 of 2 certificates valid; due: due, unavailable, next try Nov 21 20:31:30"},
		{only("due", "overdue"), "2 of 2 certificates valid; overdue: overdue, unavailable, next try Nov 21 20:31:30"},
		{only("missing", "overdue", "key-mismatch"), "1 of 3 certificates valid; key-mismatch: key-mismatch, broken, next try Nov 21 20:30:00"},
		{only("missing"), "0 of 1 certificates valid; missing: missing"},
		{forced, "1 of 1 certificates valid; device-id: valid, unauthorized, next try Nov 22 10:42:00"},
		{degraded, "1 of 1 certificates valid; device-id: valid, key-group, next try Nov 22 10:42:00"},
		{only("device-id", "served"), "2 of 2 certificates valid; served: valid, hook-failed, next try Nov 21 20:44:00"},
		{all, "7 of 11 certificates valid; expired: expired, unavailable, next try Nov 21 20:31:30; config-invalid"},
	} {
		if got := tc.s.Line(); got != tc.want {
			t.Errorf("got  %s\nwant %s", got, tc.want)
		}
	}
}
