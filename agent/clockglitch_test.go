package agent

import (
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certagent/est"
)

// TestThirtyYearsAheadAndBack: the clock runs ahead for an hour, in which the certificate "has expired", and is right again,
// with a restart on either side or without. Whatever the server makes of it, the device works a minute later, with the
// generation that it had, and goes on as if nothing had been.
func TestThirtyYearsAheadAndBack(t *testing.T) {
	t.Parallel()
	const life = 10 * time.Hour
	stories := storiesOf(t)
	for name, tc := range map[string]struct {
		server error
		shared bool // the server's clock makes the same leap, so that it issues
		left   bool // nobody forces a renewal meanwhile
		asked  int  // requests in the first minute after
	}{
		"the server's clock is right": {asked: 1}, // what was forced in the glitch and failed is still wanted
		"and nobody forces anything":  {left: true},
		"the server is away":          {server: &est.Error{Class: est.ErrUnavailable}, asked: 1},
		"the server asks to wait": {
			server: &est.Error{Class: est.ErrUnavailable, Status: 503, RetryAfter: day}, shared: true, asked: 1},
		"the server waits for approval": {server: &est.Error{Class: est.ErrPending, Status: 202, RetryAfter: day}, shared: true},
		"the server refuses": {
			server: &est.Error{Class: est.ErrUnauthorized, Status: 403, Refusal: true}, shared: true, asked: 1},
		"the server leaps too": {shared: true, left: true, asked: 1},
	} {
		for _, restart := range []string{"no restart", "restart in it", "restart after it"} {
			stories.play(name+"/"+restart, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					d := newAstray(t, life, oneCertificate)
					a, stop := d.boot()
					defer func() { stop() }()
					settle()
					first := d.live("device-id")

					d.set(30 * year)
					if tc.shared {
						d.caOff.Store(int64(30 * year))
					}
					if tc.server != nil {
						d.ca.fail(func(call) error { return tc.server })
					}
					if restart == "restart in it" {
						stop()
						a, stop = d.boot()
					}
					time.Sleep(30 * time.Minute)
					if !tc.left {
						a.RenewAll()
					}
					time.Sleep(30 * time.Minute)
					settle()
					if r := d.retryFile(); !r.LastTry.After(time.Now().Add(year)) {
						t.Fatalf("nothing was tried in the glitch: %+v", r)
					}

					if restart == "restart after it" {
						stop()
					}
					if _, err := os.Stat(first.Dir); err != nil {
						t.Errorf("the generation from before is gone: %v", err)
					}
					d.both(0)
					d.ca.fail(nil)
					asked := len(d.ca.seen())
					if restart == "restart after it" {
						a, stop = d.boot()
					}
					time.Sleep(aMinute)
					settle()
					calls := d.ca.seen()[asked:]
					if len(calls) != tc.asked {
						t.Errorf("%d requests in the minute after, want %d", len(calls), tc.asked)
					}
					for _, c := range calls {
						if c.identity != identitySelf {
							t.Errorf("a request by %s: the certificate from before is still good", c.identity)
						}
					}
					d.works("a minute after")
					if s := a.Snapshot(); s.ExitCode() != 0 {
						t.Errorf("status: %v", problems(s))
					}

					asked = len(d.ca.seen())
					time.Sleep(4 * life)
					settle()
					d.works("four lifetimes after")
					if n := len(d.ca.seen()) - asked; n != 5 && n != 4 {
						t.Errorf("%d renewals in four lifetimes, want one at each threshold", n)
					}
				})
			})
		}
	}
}

// TestSynchronisedGlitch: what the system's own synchronisation says is believed, also where it is wrong by thirty years; it
// is taken back by the same, and by nothing else.
func TestSynchronisedGlitch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newAstray(t, 10*day, oneCertificate)
		d.synced.Store(true)
		a, stop := d.boot()
		defer stop()
		settle()
		d.set(30 * year)
		time.Sleep(aMinute)
		if mark := d.mark(); mark.Before(time.Now().Add(29 * year)) {
			t.Fatalf("the mark is %v", mark)
		}
		d.set(0)
		d.synced.Store(false)
		time.Sleep(time.Hour)
		settle()
		s := a.Snapshot()
		if !slices.Contains(problems(s), "clock-not-credible") || !strings.Contains(s.Problems[0].Hint, "clock.json") {
			t.Errorf("problems: %+v", s.Problems)
		}
		d.synced.Store(true)
		time.Sleep(aMinute)
		settle()
		d.works("once it is synchronised again")
		if got := problems(a.Snapshot()); len(got) != 0 {
			t.Errorf("problems: %v", got)
		}
	})
}

// TestIssuedByAClockAhead: the device's clock runs ahead, though within the life of what the CA issues, and is set right. The
// certificate was not due when it came, whatever was noted then, and is renewed at its threshold.
func TestIssuedByAClockAhead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newAstray(t, 10*day, oneCertificate)
		d.set(9 * day)
		a, stop := d.boot()
		defer stop()
		settle()
		d.set(0)
		time.Sleep(aMinute)
		settle()
		if got := problems(a.Snapshot()); len(d.ca.seen()) != 1 || len(got) != 0 {
			t.Errorf("%d requests, problems: %v", len(d.ca.seen()), got)
		}
		time.Sleep(8 * day)
		settle()
		if n := len(d.ca.seen()); n != 2 {
			t.Errorf("%d requests when the threshold has come, want 2", n)
		}
	})
}
