package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"certagent/agent/status"
	"certagent/est"
)

// aMinute is how long the clock task may take to notice anything.
const aMinute = time.Minute + time.Second

const clockWasSet = `"message":"the clock was set"`

// TestBootIn1970: a device without a battery starts in 1970, with a certificate in the store that is alive, due, dead or
// waits for approval by the true time. It holds for as long as that lasts, also against a force, and touches nothing; when the
// clock is set it does at once what is to be done.
func TestBootIn1970(t *testing.T) {
	t.Parallel()
	const life = 10 * day
	stories := storiesOf(t)
	for name, tc := range map[string]struct {
		away    time.Duration // until the clock is set
		pending bool
		within  time.Duration // after that the request must have come; 0: none may
		by      identityName
	}{
		"alive": {away: 2 * day},
		// A fleet that had a power cut is spread over one retry.
		"due":     {away: 9 * day, within: life * 4 / 100, by: identitySelf},
		"expired": {away: 12 * day, within: aMinute, by: identityBootstrap},
		"pending": {away: 2 * day, pending: true, within: aMinute, by: identitySelf},
	} {
		stories.play(name, func(t *testing.T) {
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
				c := s.Certificates[0]
				if c.State == status.Expired || !strings.Contains(c.NextWhy, "clock") || !c.NextTry.IsZero() {
					t.Errorf("it is %s, next %v: %s", c.State, c.NextTry, c.NextWhy)
				}
				after := d.retryFile()
				if after.Reissue, after.Ordered = before.Reissue, before.Ordered; fmt.Sprint(after) != fmt.Sprint(before) {
					t.Errorf("what is known was changed:\n%+v\n%+v", before, after)
				}
				if !tc.pending {
					stop() // the force is durable; without it, what is due is seen
					r := d.retryFile()
					r.Reissue, r.Ordered = "", false
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
		time.Sleep(day)
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

// TestClockSteps: the clocks of the device and of the CA were both wrong by as much and are both set. What the certificate is
// by the new time decides: it is renewed when it is due, enrolled anew when it has expired, waited for when it begins
// within a day, and replaced when it begins later than that. One request brings that about, and it is no loop.
func TestClockSteps(t *testing.T) {
	t.Parallel()
	const life = 40 * day
	stories := storiesOf(t)
	for _, tc := range []struct {
		by    time.Duration
		asked int
		wait  time.Duration // until the certificate is valid
	}{
		{by: time.Second}, {by: 90 * time.Second}, {by: 20 * day},
		{by: 35 * day, asked: 1}, {by: 41 * day, asked: 1}, {by: 400 * day, asked: 1}, {by: 30 * year, asked: 1},
		{by: -time.Second, wait: time.Second}, {by: -90 * time.Second, wait: 90 * time.Second},
		{by: -9 * time.Hour, wait: 9 * time.Hour}, {by: -23 * time.Hour, wait: 23 * time.Hour},
		{by: -3 * day, asked: 1}, {by: -400 * day, asked: 1}, {by: -29 * year, asked: 1},
	} {
		stories.play(tc.by.String(), func(t *testing.T) {
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
				time.Sleep(day)
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
		time.Sleep(day)
		settle()
		if n := len(d.ca.seen()) - 1; n < 4 || n > 6 {
			t.Errorf("%d requests in a day", n)
		}
		s := a.Snapshot()
		if got := problems(s); !slices.Equal(got, []string{"est-bad-response", "not-yet-valid"}) || s.ExitCode() != 6 {
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

// TestCAClockAhead: the clock of the CA, or ours, is off by minutes. Up to five a certificate is taken that is not valid yet, and
// waited for, without a loop; more is refused, with a word about clocks, under back-off. Setting the clock ends that.
func TestCAClockAhead(t *testing.T) {
	t.Parallel()
	stories := storiesOf(t)
	for ahead, taken := range map[time.Duration]bool{
		4 * time.Minute: true, 5 * time.Minute: true, 6 * time.Minute: false, -10 * time.Minute: true, 3 * time.Hour: false,
	} {
		for _, life := range []time.Duration{10 * time.Hour, 4 * day} {
			stories.play(fmt.Sprintf("%v/%v", ahead, life), func(t *testing.T) {
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

// TestHeldIsHarmless: while the clock is not credible the consumers are served as ever, a reload works, and the watchdog is fed.
func TestHeldIsHarmless(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, hooks := newServed(t, 10*day, delivering)
		hooks.fail(hookB, errors.New("it is not up yet"))
		_, stop := d.boot()
		settle()
		stop()

		var fed atomic.Int64
		built, before := time.Now(), d.change
		d.change = func(o *Options) {
			before(o)
			o.Built, o.Watchdog = built, time.Minute
			o.Now = func() time.Time { return time.Now().Add(to1970) }
			o.Notify = func(state string) {
				if state == "WATCHDOG=1" {
					fed.Add(1)
				}
			}
		}
		combined := filepath.Join(d.dir, "out", "combined.pem")
		if err := os.Remove(combined); err != nil {
			t.Fatal(err)
		}
		a, stop := d.boot()
		defer stop()
		time.Sleep(aMinute)
		settle()
		d.mustServe("out/combined.pem")
		hooks.fail(hookB, nil)
		d.configure(delivering + "[[provisioning.attestation.identity_cert.outputs]]\nformat = \"cert\"\npath = \"DIR/out/new.pem\"\n")
		a.Reload()
		time.Sleep(10 * time.Minute)
		settle()
		if _, err := os.Stat(filepath.Join(d.dir, "out", "new.pem")); err != nil {
			t.Errorf("the output that a reload brought: %v", err)
		}
		if n := len(hooks.times(hookB)); n < 2 {
			t.Errorf("the hook that failed was run %d times", n)
		}
		if got := problems(a.Snapshot()); !slices.Equal(got, []string{"clock-not-credible", "not-yet-valid"}) {
			t.Errorf("problems: %v", got)
		}
		if fed.Load() < 22 || len(d.ca.seen()) != 1 {
			t.Errorf("the watchdog was fed %d times in eleven minutes; %d requests", fed.Load(), len(d.ca.seen()))
		}
	})
}
