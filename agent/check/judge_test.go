package check

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"

	"certagent/agent"
	"certagent/agent/config"
	"certagent/agent/hook"
	"certagent/agent/status"
)

var now = time.Date(2026, 11, 21, 20, 30, 0, 0, time.UTC)

const day = 24 * time.Hour

func lasting(from, until time.Duration) *x509.Certificate {
	return &x509.Certificate{Subject: pkix.Name{CommonName: "x"}, NotBefore: now.Add(from), NotAfter: now.Add(until)}
}

// TestValidity: the threshold scales with the lifetime, so that a certificate of a day is well for most of it.
func TestValidity(t *testing.T) {
	for _, tc := range []struct {
		name        string
		from, until time.Duration
		want        Verdict
	}{
		{"a day, fresh", -time.Hour, 23 * time.Hour, OK},
		{"a day, near its end", -20 * time.Hour, 4 * time.Hour, OK},
		{"a day, in its last tenth", -22 * time.Hour, 2 * time.Hour, Warning},
		{"a year, 37 days left", -328 * day, 37 * day, OK},
		{"a year, 36 days left", -329 * day, 36 * day, Warning},
		{"ten years, 61 days left", -3600 * day, 61 * day, OK},
		{"ten years, 59 days left", -3600 * day, 59 * day, Warning},
		{"expired", -2 * day, -time.Second, Failed},
		{"not yet", time.Minute, day, Failed},
	} {
		p := &probes{Options: Options{Now: now}}
		if r := p.validity("anchor-expiry", "f", "it", lasting(tc.from, tc.until), "hint"); r.Verdict != tc.want || (r.Hint == "") != (r.Verdict == OK) {
			t.Errorf("%s: %s: %s (%s), want %s", tc.name, r.Verdict, r.Text, r.Hint, tc.want)
		}
		p.clock.Doubted = "1970"
		if r := p.validity("anchor-expiry", "f", "it", lasting(tc.from, tc.until), "hint"); r.Verdict != Skipped {
			t.Errorf("%s, by a clock that is not credible: %s", tc.name, r.Verdict)
		}
	}
}

// TestAnchors: one that holds is enough, and what has expired beside it is told.
func TestAnchors(t *testing.T) {
	good, old, ending := lasting(-day, 100*day), lasting(-100*day, -day), lasting(-1000*day, day)
	for _, tc := range []struct {
		name  string
		look  agent.AnchorLook
		wants []Verdict
	}{
		{"well", agent.AnchorLook{Certs: []*x509.Certificate{good, good}}, []Verdict{OK, OK}},
		{"all expired", agent.AnchorLook{Certs: []*x509.Certificate{old}}, []Verdict{OK, Failed}},
		{"one of two expired", agent.AnchorLook{Certs: []*x509.Certificate{old, good}}, []Verdict{OK, Warning}},
		{"one ends soon", agent.AnchorLook{Certs: []*x509.Certificate{good, ending}}, []Verdict{OK, Warning}},
		{"no certificate in it", agent.AnchorLook{Err: errors.New("no PEM certificate in it")}, []Verdict{Failed}},
		{"not to be seen", agent.AnchorLook{Err: fs.ErrPermission}, []Verdict{Skipped}},
	} {
		p := &probes{Options: Options{Now: now}}
		var got []Verdict
		for _, r := range p.anchors(&tc.look) {
			got = append(got, r.Verdict)
		}
		if len(got) != len(tc.wants) || got[0] != tc.wants[0] || got[len(got)-1] != tc.wants[len(tc.wants)-1] {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.wants)
		}
	}
}

func TestPassword(t *testing.T) {
	for _, tc := range []struct {
		look agent.PasswordLook
		want Verdict
	}{
		{agent.PasswordLook{File: "/p", Alone: true}, OK},
		{agent.PasswordLook{File: "/p", Alone: true, Empty: true}, Failed},
		{agent.PasswordLook{File: "/p", Empty: true}, Warning},
		{agent.PasswordLook{File: "/p", Alone: true, Err: fs.ErrNotExist}, Failed},
		{agent.PasswordLook{File: "/p", Err: fs.ErrNotExist}, Warning},
		{agent.PasswordLook{File: "/p", Err: fs.ErrPermission}, Skipped},
		{agent.PasswordLook{File: "credential:est", Alone: true, Err: errors.New("find credential:est")}, Skipped},
	} {
		if r := (&probes{}).password(&tc.look); r.Verdict != tc.want {
			t.Errorf("%+v: %s (%s), want %s", tc.look, r.Verdict, r.Text, tc.want)
		}
	}
}

func TestClock(t *testing.T) {
	for _, tc := range []struct {
		name   string
		look   agent.ClockLook
		first  Verdict
		second Verdict
	}{
		{"well", agent.ClockLook{Synced: true}, OK, OK},
		{"nobody keeps it right", agent.ClockLook{}, OK, Warning},
		{"not credible", agent.ClockLook{Doubted: "the clock says 1970"}, Failed, Warning},
		{"contradicts the build date", agent.ClockLook{Contrary: "one of the two is wrong", Synced: true}, Warning, OK},
		{"nobody asks", agent.ClockLook{Ignored: true}, Skipped, Skipped},
	} {
		r := clock(tc.look)
		if len(r) != 2 || r[0].Verdict != tc.first || r[1].Verdict != tc.second {
			t.Errorf("%s: %+v", tc.name, r)
		}
	}
}

// TestCertificate: what status says decides; a certificate that is renewed in time is well however near its end is.
func TestCertificate(t *testing.T) {
	for _, tc := range []struct {
		name                 string
		cert                 status.Certificate
		running              bool
		expiry, schedule     Verdict
		expirySays, schedSay string
	}{
		{"valid", status.Certificate{State: status.Valid, NextTry: now.Add(time.Hour), NextWhy: "renewal is due"}, true, OK, OK, "", "in 60 minutes: renewal is due"},
		{"due", status.Certificate{State: status.Due, NextTry: now, NextWhy: "renewal is due"}, true, OK, OK, "", "now: renewal"},
		{"due, and a try failed", status.Certificate{State: status.Due, Failures: 1, LastError: "HTTP 503"}, true, OK, Warning, "", "HTTP 503"},
		{"overdue", status.Certificate{State: status.Overdue, Failures: 5, LastError: "HTTP 503"}, true, Warning, Failed, "overdue", "5, all failed"},
		{"expired", status.Certificate{State: status.Expired, Failures: 9, LastError: "x"}, true, Failed, Failed, "expired", ""},
		{"missing", status.Certificate{State: status.Missing, LastTry: now}, true, Failed, OK, "there is none", ""},
		{"lost, and nobody gets it", status.Certificate{State: status.Missing, LastTry: now}, false, Failed, OK, "no agent runs", ""},
		{"missing before the first start", status.Certificate{State: status.Missing}, false, Warning, OK, "no agent runs", ""},
		{"damaged", status.Certificate{State: status.KeyMismatch}, true, Failed, OK, "damaged", ""},
		{"not yet valid", status.Certificate{State: status.NotYetValid}, true, Failed, OK, "becomes valid", ""},
		{"waits for approval", status.Certificate{State: status.Valid, Pending: true}, true, OK, Warning, "", "approval"},
		{"unmanaged", status.Certificate{State: status.Unmanaged}, true, Warning, Skipped, "nobody renews it", ""},
	} {
		p := &probes{Options: Options{Now: now, Snapshot: status.Snapshot{Running: tc.running}}}
		tc.cert.ID = "mqtt"
		r := p.certificate(&tc.cert, nil)
		if len(r) != 2 || r[0].Verdict != tc.expiry || r[1].Verdict != tc.schedule ||
			!strings.Contains(r[0].Text, tc.expirySays) || !strings.Contains(r[1].Text, tc.schedSay) {
			t.Errorf("%s: %+v", tc.name, r)
		}
	}
	p := &probes{Options: Options{Now: now}}
	with := status.Certificate{ID: "mqtt", State: status.Valid, Problems: []status.Problem{
		{Code: "expired"}, {Code: "drift", Text: "t", Hint: "h"}, {Code: "altered-by-ca", Text: "n", Notice: true},
	}}
	r := p.certificate(&with, nil)
	if len(r) != 4 || r[2].Verdict != Failed || r[2].Text != "drift: t" || r[2].Hint != "h" || r[3].Verdict != Warning {
		t.Errorf("problems: %+v", r)
	}
}

func TestSpace(t *testing.T) {
	for _, tc := range []struct {
		left room
		want Verdict
	}{
		{room{bytes: 1 << 30, inodes: 1000, counted: true}, OK},
		{room{bytes: 1 << 30}, OK}, // a file system without inodes, as btrfs
		{room{bytes: 1 << 19}, Warning},
		{room{bytes: 1 << 10}, Failed},
		{room{bytes: 1 << 30, inodes: 50, counted: true}, Warning},
		{room{bytes: 1 << 30, inodes: 0, counted: true}, Failed},
		{room{bytes: 1 << 30, readOnly: true}, Failed},
	} {
		if r := spaceOf("state-space", "/s", tc.left); r.Verdict != tc.want {
			t.Errorf("%+v: %s, want %s", tc.left, r.Verdict, tc.want)
		}
	}
}

func TestUnit(t *testing.T) {
	for _, tc := range []struct {
		state string
		err   error
		want  Verdict
	}{
		{"loaded", nil, OK},
		{"not-found", nil, Failed},
		{"masked", nil, Warning},
		{"bad-setting", nil, Failed},
		{"", &hook.Error{Class: hook.ErrNoBus, Hint: "h"}, Failed},
	} {
		if r := unitState("hook-unit", "s", "nginx.service", tc.state, tc.err); r.Verdict != tc.want || (r.Hint == "") == (tc.want != OK) {
			t.Errorf("%q %v: %s (%s), want %s", tc.state, tc.err, r.Verdict, r.Hint, tc.want)
		}
	}
}

// TestRunning: an agent that runs, is silent, is another version, or does not run.
func TestRunning(t *testing.T) {
	silent := []status.Problem{{Code: "control-socket", Text: "does not answer in time", Hint: "see its log"}}
	for _, tc := range []struct {
		name string
		o    Options
		want Verdict
	}{
		{"answers", Options{Asked: true, Snapshot: status.Snapshot{Running: true}}, OK},
		{"another version", Options{Asked: true, Version: "2", Snapshot: status.Snapshot{Running: true, Version: "1"}}, Warning},
		{"stuck", Options{Snapshot: status.Snapshot{Running: true, Problems: silent}}, Failed},
		{"not there", Options{}, Warning},
		{"runs on an older configuration", Options{Asked: true, Snapshot: status.Snapshot{Problems: []status.Problem{{Code: "config-invalid"}}}}, Failed},
	} {
		if r := (&probes{Options: tc.o}).running(); r.Verdict != tc.want {
			t.Errorf("%s: %s (%s), want %s", tc.name, r.Verdict, r.Text, tc.want)
		}
	}
}

// TestPrivate: a group of strangers is told; the one by which the agent gets at the secret is how it is meant (ssl-cert on Debian).
func TestPrivate(t *testing.T) {
	u := User{UID: 990, GIDs: []int{990, 50}, Name: "certagent"}
	for _, tc := range []struct {
		name string
		file File
		want Verdict
	}{
		{"for the agent alone", File{Mode: 0o600, UID: 990}, OK},
		{"by a group that the agent is in", File{Mode: 0o640, GID: 50}, OK},
		{"by a group that the agent does not need", File{Mode: 0o640, UID: 990, GID: 50}, Warning},
		{"by a group of strangers", File{Mode: 0o640, GID: 51}, Warning},
		{"for everybody", File{Mode: 0o644, GID: 50}, Failed},
	} {
		if r := u.private("file-private", "/key", Way{End: tc.file}); r.Verdict != tc.want {
			t.Errorf("%s: %s (%s), want %s", tc.name, r.Verdict, r.Text, tc.want)
		}
	}
}

// TestDirectoryForAFile: of a directory that is named where a key should be no more is said than that.
func TestDirectoryForAFile(t *testing.T) {
	p := &probes{Options: Options{User: UserOf(os.Getuid(), os.Getgid())}}
	all := p.namedFile(&config.NamedFile{Path: t.TempDir(), Secret: true})
	if len(all) != 1 || all[0].ID != "file-readable" || all[0].Verdict != Failed || all[0].Hint != "name a file" {
		t.Errorf("%+v", all)
	}
}

// TestPending: nothing is late where there is no certificate yet.
func TestPending(t *testing.T) {
	for state, want := range map[status.State]Verdict{status.Missing: Skipped, status.Valid: Warning} {
		if r := pending("output-state", "/o", "not yet", &status.Certificate{State: state}); r.Verdict != want {
			t.Errorf("%s: %s, want %s", state, r.Verdict, want)
		}
	}
}
