package agent

import (
	"crypto/x509"
	"testing"
	"time"

	"certagent/agent/config"
	"certagent/agent/onboard"
	"certagent/agent/onboard/dps"
	"certagent/store"
)

// TestHeldByDPS: what DPS asked for holds nobody up at another endpoint, nor until a time that a wrong clock made of it; and
// while DPS decides anew what it decided against before, that is a problem, and the registration not at its end.
func TestHeldByDPS(t *testing.T) {
	t.Parallel()
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	p := config.Provisioning{Source: config.SourceDPS, GlobalEndpoint: "https://dps.example", IDScope: "0neA", RegistrationID: "gw-1"}
	live := &store.Generation{Leaf: new(x509.Certificate)}
	of := dps.Registration{Endpoint: p.GlobalEndpoint, IDScope: p.IDScope, RegistrationID: "gw-1", SHA256: onboard.Thumbprint(live.Leaf)}
	other := of
	other.Endpoint = "https://other.example"
	soon, never := now.Add(time.Hour), now.AddDate(8, 0, 0)
	for _, c := range []struct {
		name  string
		state dps.State
		held  time.Time
	}{
		{"here", dps.State{Of: of, RetryAfter: soon, NextTry: soon}, soon},
		{"elsewhere", dps.State{Of: other, RetryAfter: soon, NextTry: soon}, time.Time{}},
		{"by a wrong clock", dps.State{Of: of, RetryAfter: never, NextTry: never}, time.Time{}},
	} {
		d := cloudOf(p)
		d.restore(nil, c.state.Bytes())
		d.aim(p, live)
		if next := d.next(now); !next.held.Equal(c.held) || !next.at.Equal(c.held) {
			t.Errorf("%s: held until %v, next try at %v, want %v", c.name, next.held, next.at, c.held)
		}
	}

	d := &dpsCloud{state: dps.State{Of: of, Failures: 4, Problem: &onboard.Problem{Code: dps.CodeAllocation}}}
	d.aim(p, live)
	step := dps.Next(of, nil, d.state, now)
	if end := d.record(&dpsLink{}, of, step, dps.Answer{HTTP: 202, Status: "assigning", Operation: "4.x"}, nil, 0, now); end {
		t.Error("a registration that DPS has taken is at its end")
	}
	if s, problems := d.describe(now); s.Failures == 0 || len(problems) != 1 || s.NextTry.IsZero() {
		t.Errorf("meanwhile status says %+v, %+v", s, problems)
	}
}

// TestNameInOtherLetters: DPS does not tell upper from lower case, so that a registration id in other letters is the same
// registration, whose problem stands.
func TestNameInOtherLetters(t *testing.T) {
	t.Parallel()
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	p := config.Provisioning{Source: config.SourceDPS, GlobalEndpoint: "https://dps.example", IDScope: "0neA", RegistrationID: "GW-1"}
	live := &store.Generation{Leaf: new(x509.Certificate)}
	of := dps.Registration{Endpoint: p.GlobalEndpoint, IDScope: p.IDScope, RegistrationID: "gw-1", SHA256: onboard.Thumbprint(live.Leaf)}
	d := &dpsCloud{state: dps.State{Of: of, Failures: 4, Problem: &onboard.Problem{Code: dps.CodeUnauthorized}}}
	d.aim(p, live)
	d.begin(contact{}, 0, now)
	if s, problems := d.describe(now); s.Failures != 5 || len(problems) != 1 {
		t.Errorf("status says %+v, %+v", s, problems)
	}
}
