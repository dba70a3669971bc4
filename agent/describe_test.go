package agent

import (
	"crypto/x509"
	"fmt"
	"io/fs"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"certagent/agent/config"
	"certagent/agent/status"
	"certagent/renew"
	"certagent/store"
	"certagent/store/export"
)

func TestOrderOfCertificates(t *testing.T) {
	identity, other := string(config.RoleESTIdentity), string(config.RoleDevice)
	all := []status.Certificate{
		{ID: "b-gone", Role: identity, State: status.Unmanaged},
		{ID: "c-gone", State: status.Unmanaged},
		{ID: "a-gone", State: status.Unmanaged},
		{ID: "mqtt", State: status.Valid},
		{ID: "device-id", Role: other, State: status.Missing},
		{ID: "est-id", Role: identity, State: status.Valid},
	}
	want := []string{"est-id", "device-id", "mqtt", "b-gone", "a-gone", "c-gone"}
	for range len(all) { // whatever comes first
		all = append(all[1:], all[0])
		sorted := slices.Clone(all)
		sortCertificates(sorted)
		var got []string
		for _, c := range sorted {
			got = append(got, c.ID)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// TestRemedies are not circular, and fit who must do something.
func TestRemedies(t *testing.T) {
	unreadable := fmt.Errorf("read configuration: %w", &fs.PathError{Op: "open", Path: "/etc/certagent/config.toml", Err: fs.ErrPermission})
	if p := agentProblems("", "", unreadable, time.Time{}); strings.Contains(p[0].Hint, "mend the file") || !strings.Contains(p[0].Hint, "chgrp") {
		t.Errorf("a file that is right and that the agent may not read: %+v", p)
	}
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	v := view{id: "mqtt", now: now, live: &store.Generation{Leaf: &x509.Certificate{SerialNumber: new(big.Int), NotBefore: now.Add(-2 * time.Hour), NotAfter: now.Add(-time.Hour)}}}
	for enabled, says := range map[bool]string{true: "it goes on trying", false: "not renewed by itself"} {
		v.cfg = &config.Certificate{ID: "mqtt", Policy: renew.DefaultPolicy()}
		v.cfg.Policy.Enabled = enabled
		if c := describe(v); len(c.Problems) != 1 || !strings.Contains(c.Problems[0].Hint, says) {
			t.Errorf("expired, auto_renew.enabled = %v: %+v", enabled, c.Problems)
		}
	}
}

// TestThresholdWithoutConfiguration: what the agent planned is known, and from when on it might have is not.
func TestThresholdWithoutConfiguration(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	v := view{id: "mqtt", now: now, live: &store.Generation{Leaf: &x509.Certificate{SerialNumber: new(big.Int), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour)}}}
	v.retry.RenewAt = now.Add(20 * time.Minute)
	if c := describe(v); !c.RenewAt.Equal(v.retry.RenewAt) || !c.Threshold.IsZero() {
		t.Errorf("renew_at %v, threshold %v", c.RenewAt, c.Threshold)
	}
}

// TestSinceOfDeliveries: what waits for outputs has done so since the first of them failed, and nothing does since a time that is
// yet to come.
func TestSinceOfDeliveries(t *testing.T) {
	noon := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	var first, second store.DeliveredOutput
	refused := export.Result{Err: fs.ErrPermission}
	recordOutput(&first, refused, noon.Add(24*time.Hour))
	recordOutput(&first, refused, noon) // the clock was set back
	recordOutput(&second, refused, noon.Add(-time.Hour))
	recordOutput(&second, refused, noon)
	if !first.Since.Equal(noon) || !second.Since.Equal(noon.Add(-time.Hour)) {
		t.Errorf("since %v and %v", first.Since, second.Since)
	}
	first.Path, second.Path = "/a", "/b"
	v := view{id: "mqtt", now: noon}
	v.delivery.Outputs = []store.DeliveredOutput{first, second}
	v.delivery.Hooks = []store.DeliveredHook{{Hook: "reload x.service", State: store.StepPending}}
	c := describe(v)
	i := slices.IndexFunc(c.Problems, func(p Problem) bool { return p.Code == "hooks-waiting" })
	if i < 0 || !c.Problems[i].Since.Equal(second.Since) {
		t.Errorf("%+v", c.Problems)
	}
}

// TestTryingAgainSaysWhat where the state does not: an older generation serves, and one must know why it is not good enough.
func TestTryingAgainSaysWhat(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	for wish, want := range map[reason]string{"": "trying again", reasonBroken: "trying again: the certificate or its key was damaged"} {
		q := question{now: now, credible: true, policy: renew.DefaultPolicy()}
		q.retry = store.Retry{Failures: 1, LastTry: now, NextTry: now.Add(5 * time.Minute), Reissue: string(wish)}
		if got := decide(q).why; got != want {
			t.Errorf("%q: %q, want %q", wish, got, want)
		}
	}
}
