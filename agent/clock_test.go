package agent

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certagent/agent/status"
	"certagent/est"
)

// aMinute is how long the clock task may take to notice anything.
const aMinute = time.Minute + time.Second

// TestBootIn1970: a device without a battery starts in 1970, with a certificate in the store that is alive, due, dead or
// waits for approval by the true time. It holds for as long as that lasts, also against a force, and touches nothing; when the
// clock is set it does at once what is to be done.
func TestBootIn1970(t *testing.T) {
	t.Parallel()
	const life = 10 * day
	for name, tc := range map[string]struct {
		away    time.Duration // until the clock is set
		pending bool
		within  time.Duration // after that the request must have come; 0: none may
		by      identityName
	}{
		"alive":   {away: 2 * day},
		"due":     {away: 9 * day, within: life * 4 / 100, by: identitySelf}, // a fleet that had a power cut is spread over one retry
		"expired": {away: 12 * day, within: aMinute, by: identityBootstrap},
		"pending": {away: 2 * day, pending: true, within: aMinute, by: identitySelf},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := newAstray(t, life, oneCertificate)
				a, stop := d.boot()
				settle()
				if tc.pending {
					d.ca.fail(func(call) error { return &est.Error{Class: est.ErrPending, Status: 202, RetryAfter: day} })
					a.RenewAll()
					settle()
					d.ca.fail(nil)
				}
				stop()
				before, asked, generation := d.retryFile(), len(d.ca.seen()), d.live("device-id").Number

				d.set(to1970)
				a, stop = d.boot()
				defer func() { stop() }()
				time.Sleep(tc.away)
				if !tc.pending {
					a.RenewAll()
				}
				settle()
				if n := len(d.ca.seen()); n != asked {
					t.Errorf("%d requests by a clock that is not credible", n-asked)
				}
				s := a.Snapshot()
				if codes := problems(s); !slices.Contains(codes, "clock-not-credible") || s.ExitCode() == 0 {
					t.Errorf("problems: %v, exit code %d", codes, s.ExitCode())
				}
				if c := s.Certificates[0]; c.State == status.Expired || !strings.Contains(c.NextWhy, "clock") || !c.NextTry.IsZero() {
					t.Errorf("it is %s, next %v: %s", c.State, c.NextTry, c.NextWhy)
				}
				after := d.retryFile()
				if after.Reissue = before.Reissue; fmt.Sprint(after) != fmt.Sprint(before) {
					t.Errorf("what is known was changed:\n%+v\n%+v", before, after)
				}
				if !tc.pending {
					stop() // the force is durable; without it, what is due is seen
					r := d.retryFile()
					r.Reissue = ""
					d.saveRetry(r)
					_, stop = d.boot()
					settle()
				}

				d.set(0)
				if tc.within == 0 {
					time.Sleep(day)
					settle()
					if n := len(d.ca.seen()); n != asked || d.live("device-id").Number != generation {
						t.Errorf("%d requests for a certificate that was alive", n-asked)
					}
					return
				}
				time.Sleep(tc.within)
				settle()
				if calls := d.ca.seen(); len(calls) != asked+1 || calls[asked].identity != tc.by {
					t.Errorf("%d requests within %v of the right time, want one by %s", len(calls)-asked, tc.within, tc.by)
				}
				d.works("after the clock was set")
			})
		})
	}
}

// TestForcedIn1970: a force that comes while the clock is not credible is done once it is.
func TestForcedIn1970(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newAstray(t, 10*day, oneCertificate)
		d.set(to1970)
		a, stop := d.boot()
		defer stop()
		time.Sleep(9 * day)
		a.RenewAll()
		settle()
		if n := len(d.ca.seen()); n != 0 {
			t.Errorf("%d requests by a clock that is not credible", n)
		}
		if got := problems(a.Snapshot()); !slices.Equal(got, []string{"clock-not-credible"}) {
			t.Errorf("problems: %v", got)
		}
		d.set(0)
		time.Sleep(aMinute)
		settle()
		if n := len(d.ca.seen()); n != 1 {
			t.Errorf("%d requests once the clock is right", n)
		}
	})
}

// TestThirtyYearsAheadAndBack: the clock runs ahead for an hour, in which the certificate "has expired", and is right again, with a restart on either side or without. Whatever the server makes of it, the device
// works a minute later, with the generation that it had, and goes on as if nothing had been.
func TestThirtyYearsAheadAndBack(t *testing.T) {
	t.Parallel()
	const life = 2 * day
	for name, tc := range map[string]struct {
		server error
		shared bool // the server's clock makes the same leap, so that it issues
		left   bool // nobody forces a renewal meanwhile
		asked  int  // requests in the first minute after
	}{
		"the server's clock is right":   {asked: 1}, // what was forced in the glitch and failed is still wanted
		"and nobody forces anything":    {left: true},
		"the server is away":            {server: &est.Error{Class: est.ErrUnavailable}, asked: 1},
		"the server asks to wait":       {server: &est.Error{Class: est.ErrUnavailable, Status: 503, RetryAfter: day}, shared: true, asked: 1},
		"the server waits for approval": {server: &est.Error{Class: est.ErrPending, Status: 202, RetryAfter: day}, shared: true},
		"the server refuses":            {server: &est.Error{Class: est.ErrUnauthorized, Status: 403, Refusal: true}, shared: true, asked: 1},
		"the server leaps too":          {shared: true, left: true, asked: 1},
	} {
		for _, restart := range []string{"no restart", "restart in it", "restart after it"} {
			t.Run(name+"/"+restart, func(t *testing.T) {
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

// TestClockSteps: the clocks of the device and of the CA were both wrong by as much and are both set. What the certificate is
// by the new time decides: it is renewed when it is due, enrolled anew when it has expired, waited for when it begins
// within a day, and replaced when it begins later than that. One request brings that about, and it is no loop.
func TestClockSteps(t *testing.T) {
	t.Parallel()
	const life = 40 * day
	for _, tc := range []struct {
		by    time.Duration
		asked int
		wait  time.Duration // until the certificate is valid
	}{
		{by: time.Second}, {by: 90 * time.Second}, {by: 20 * day},
		{by: 35 * day, asked: 1}, {by: 41 * day, asked: 1}, {by: 400 * day, asked: 1}, {by: 30 * year, asked: 1},
		{by: -time.Second, wait: time.Second}, {by: -90 * time.Second, wait: 90 * time.Second}, {by: -9 * time.Hour, wait: 9 * time.Hour},
		{by: -23 * time.Hour, wait: 23 * time.Hour}, {by: -3 * day, asked: 1}, {by: -400 * day, asked: 1}, {by: -29 * year, asked: 1},
	} {
		t.Run(tc.by.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := newAstray(t, life, oneCertificate)
				d.built = time.Time{} // so that decades back are believed, too
				d.ca.writeBootstrapFrom(t, d.dir, time.Now().Add(-60*year), 120*year)
				a, stop := d.boot()
				defer stop()
				settle()
				d.both(tc.by)
				time.Sleep(aMinute)
				settle()
				if c := a.Snapshot().Certificates[0]; tc.wait > aMinute && c.State != status.NotYetValid {
					t.Errorf("it is %s", c.State)
				}
				time.Sleep(tc.wait)
				settle()
				d.works("after the step")
				time.Sleep(5 * day)
				settle()
				if n := len(d.ca.seen()) - 1; n != tc.asked {
					t.Errorf("%d requests after the step, want %d", n, tc.asked)
				}
			})
		})
	}
}

// TestClockSetBackByMistake: the device's clock alone is set back across the certificate's notBefore, by more than a day. The
// CA does not agree, and what it issues is refused: nothing is lost, status says what to compare, requests keep to the
// back-off, and the device goes on at once when the clock is right.
func TestClockSetBackByMistake(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newAstray(t, 40*day, oneCertificate)
		d.ca.writeBootstrapFrom(t, d.dir, time.Now().Add(-year), 10*year)
		a, stop := d.boot()
		defer stop()
		settle()
		d.set(-10 * day)
		time.Sleep(5 * day)
		settle()
		if n := len(d.ca.seen()) - 1; n < 2 || n > 12 {
			t.Errorf("%d requests in five days", n)
		}
		s := a.Snapshot()
		if got := problems(s); !slices.Contains(got, "est-bad-response") || !slices.Contains(got, "not-yet-valid") || s.ExitCode() != 6 {
			t.Errorf("problems: %v, exit code %d", got, s.ExitCode())
		}
		if g := d.live("device-id"); g.Number != 1 {
			t.Errorf("generation %d is live", g.Number)
		}
		d.set(0)
		time.Sleep(aMinute)
		settle()
		d.works("once the clock is right")
		if s := a.Snapshot(); s.Certificates[0].State != status.Valid {
			t.Errorf("it is %s", s.Certificates[0].State)
		}
	})
}

// TestSuspend: the monotonic clock stands still and the wall clock moves on. The threshold passes meanwhile; the renewal comes
// within a minute of waking up, however long it was.
func TestSuspend(t *testing.T) {
	t.Parallel()
	for _, asleep := range []time.Duration{9 * time.Hour, 9 * day, 100 * day} {
		t.Run(asleep.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := newAstray(t, asleep*10/9, oneCertificate)
				_, stop := d.boot()
				defer stop()
				settle()
				d.both(asleep) // the world's clock moves on with it
				time.Sleep(aMinute)
				settle()
				if calls := d.ca.seen(); len(calls) != 2 || calls[1].identity != identitySelf {
					t.Errorf("%d requests, want one for enrolment and one for renewal", len(calls))
				}
			})
		})
	}
}

// TestCAClockAhead: the clock of the CA, or ours, is off by minutes. Up to five a certificate is taken that is not valid yet, and
// waited for, without a loop; more is refused, with a word about clocks, under back-off. Setting the clock ends that.
func TestCAClockAhead(t *testing.T) {
	t.Parallel()
	for ahead, taken := range map[time.Duration]bool{4 * time.Minute: true, 5 * time.Minute: true, 6 * time.Minute: false,
		-10 * time.Minute: true, 3 * time.Hour: false} {
		for _, life := range []time.Duration{10 * time.Hour, 40 * day} {
			t.Run(fmt.Sprintf("%v/%v", ahead, life), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					d := newAstray(t, life, oneCertificate)
					d.caOff.Store(int64(ahead))
					a, stop := d.boot()
					defer stop()
					settle()
					if taken {
						if c := a.Snapshot().Certificates[0]; (c.State == status.NotYetValid) != (ahead > 0) {
							t.Errorf("at once it is %s", c.State)
						}
						time.Sleep(max(0, ahead) + time.Second)
						settle()
						d.works("when it begins")
						time.Sleep(life * 7 / 10)
						settle()
						if n := len(d.ca.seen()); n != 1 {
							t.Errorf("%d requests before the threshold", n)
						}
						return
					}
					time.Sleep(day)
					settle()
					if n := len(d.ca.seen()); n < 3 || n > 40 {
						t.Errorf("%d requests in a day", n)
					}
					if got := problems(a.Snapshot()); !slices.Contains(got, "est-bad-response") {
						t.Errorf("problems: %v", got)
					}
					asked := len(d.ca.seen())
					d.set(ahead)
					time.Sleep(aMinute)
					settle()
					if n := len(d.ca.seen()) - asked; n != 1 {
						t.Errorf("%d requests in the minute after the clock was set", n)
					}
					d.works("after the clock was set")
				})
			})
		}
	}
}
