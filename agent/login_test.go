package agent

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"certagent/agent/status"
	"certagent/est"
)

// TestOutageLongerThanTheCertificate: an expired certificate cannot log in, so the bootstrap certificate brings it back,
// and the wait after the outage is short although it has failed for days.
func TestOutageLongerThanTheCertificate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, 10*day, oneCertificate)
		a, stop := d.boot()
		defer stop()
		settle()
		time.Sleep(6 * day)
		down := time.Now()
		d.ca.fail(unavailable)
		time.Sleep(7 * day) // it expires after four of them
		settle()

		tries := d.ca.since(down)
		if n := len(tries); n < 10 || n > 60 {
			t.Errorf("%d tries in a week of outage", n)
		}
		if last := tries[len(tries)-1]; last.identity != identityBootstrap || last.op != opEnroll {
			t.Errorf("the last try after expiry was %s by %s", last.op, last.identity)
		}
		expired := d.live("device-id").Leaf.NotAfter
		if i := slices.IndexFunc(tries, func(c call) bool { return !c.at.Before(expired) }); tries[i].at.Sub(expired) > time.Minute {
			t.Errorf("the first try after expiry came %v later, want at once", tries[i].at.Sub(expired))
		}
		s := a.Snapshot()
		if c := s.Certificates[0]; c.State != status.Expired || c.LastClass != "unavailable" || s.ExitCode() != status.ExitExpired {
			t.Errorf("status: %s, %s, exit code %d", c.State, c.LastClass, s.ExitCode())
		}

		d.ca.fail(nil)
		up := time.Now()
		for d.live("device-id").Number == 1 && time.Since(up) < 3*day {
			time.Sleep(time.Minute)
		}
		if g := d.live("device-id"); g.Number != 2 || g.Meta.Identity != string(identityBootstrap) {
			t.Errorf("three days after the outage: generation %d by %s", g.Number, g.Meta.Identity)
		}
	})
}

func TestRefusedIdentityIsPassedOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, day, oneCertificate)
		_, stop := d.boot()
		defer stop()
		settle()
		time.Sleep(time.Minute)
		d.ca.fail(func(c call) error {
			if c.identity == identitySelf {
				return &est.Error{Op: c.op, Class: est.ErrUnauthorized, Status: 401, Refusal: true}
			}
			return nil
		})
		start := time.Now()
		time.Sleep(day - time.Hour)
		settle()
		var who []identityName
		for _, c := range d.ca.since(start) {
			who = append(who, c.identity)
		}
		if want := []identityName{identitySelf, identitySelf, identityBootstrap}; !slices.Equal(who, want) {
			t.Errorf("tried %v, want %v", who, want)
		}
	})
}

func TestESTIdentity(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, day, withESTIdentity)
		_, stop := d.boot()
		defer stop()
		time.Sleep(5 * day)
		settle()
		calls := d.ca.seen()
		if c := calls[0]; c.id != "est-id" || c.identity != identityBootstrap {
			t.Fatalf("first request: for %s by %s", c.id, c.identity)
		}
		if c := calls[1]; c.id != "device-id" || c.identity != identityEST {
			t.Fatalf("second request: for %s by %s", c.id, c.identity)
		}
		for _, c := range calls[2:] {
			if c.identity == identityBootstrap {
				t.Errorf("the bootstrap certificate was used again, for %s", c.id)
			}
		}

		down := time.Now()
		d.ca.fail(unavailable)
		time.Sleep(2 * day)
		d.ca.fail(nil)
		up := time.Now()
		time.Sleep(6 * time.Hour)
		settle()
		back := d.ca.since(up)
		if len(back) < 2 || back[0].identity != identityBootstrap {
			t.Fatalf("after both expired (outage at %v): %+v", down, back)
		}
		for _, id := range []string{"est-id", "device-id"} {
			if g := d.live(id); !g.Leaf.NotAfter.After(time.Now()) {
				t.Errorf("%s is still expired", id)
			}
		}
	})
}

func TestESTIdentityThatCannotBeHadHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, day, withESTIdentity)
		d.ca.fail(func(c call) error {
			if c.id == "est-id" {
				return &est.Error{Op: c.op, Class: est.ErrRejected, Status: 400}
			}
			return nil
		})
		_, stop := d.boot()
		defer stop()
		settle()
		if g := d.live("device-id"); g.Meta.Identity != string(identityBootstrap) {
			t.Errorf("device-id was enrolled by %s", g.Meta.Identity)
		}
	})
}
