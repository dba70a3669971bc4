package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certagent/agent/status"
	"certagent/est"
	"certagent/renew"
)

// defaults is oneCertificate with every rule of time at its default.
var defaults = strings.NewReplacer("threshold = \"80%\"\n", "", "retry = \"4%\"\n", "", "rotate_key = true\n", "").Replace(oneCertificate)

// drawing has the device draw the same number each time; the least and the most bound all that can be drawn.
func (d *device) drawing(draw float64) {
	d.change = func(o *Options) { o.Rand = func() float64 { return draw } }
}

var draws = []float64{0, .5, 1 - 1e-9}

// story is a device whose agent runs; through long waits it is switched off, which must make no difference.
type story struct {
	*device
	agent *Agent
	stop  func()
}

func (d *device) begins() *story {
	s := &story{device: d}
	s.agent, s.stop = d.boot()
	settle()
	return s
}

func (s *story) restarts() {
	s.stop()
	s.agent, s.stop = s.boot()
	settle()
}

// off is how long the device is switched off.
func (s *story) off(d time.Duration) {
	s.stop()
	time.Sleep(d)
	s.agent, s.stop = s.boot()
	settle()
}

// passes lets the time go by.
func (s *story) passes(d time.Duration) {
	for until := time.Now().Add(d); time.Now().Before(until); {
		next := until
		for _, c := range s.agent.Snapshot().Certificates {
			next = earliest(next, c.NextTry.Add(-2*time.Minute))
		}
		if wait := time.Until(next); wait > 10*time.Minute {
			s.off(wait)
			continue
		}
		time.Sleep(min(time.Until(until), 3*time.Minute))
		settle()
	}
}

// loses has the server vanish just when the certificate comes to its threshold, or end with how.
func (s *story) loses(how func(call) error) (threshold, expiry time.Time) {
	leaf := s.live("device-id").Leaf
	threshold = renew.DefaultPolicy().Plan(renew.LeafOf(leaf, true), time.Now()).Threshold
	s.ca.fail(how)
	s.passes(time.Until(threshold))
	return threshold, leaf.NotAfter
}

// times are those of the tries since t, as they reached the server.
func (ca *fakeCA) times(t time.Time) (all []time.Time) {
	for _, c := range ca.since(t) {
		all = append(all, c.at)
	}
	return all
}

// TestOutageOfMinutes: whatever is drawn, an outage of T costs no more than four times as long again, and 7.5 minutes.
func TestOutageOfMinutes(t *testing.T) {
	t.Parallel()
	for _, life := range []time.Duration{day, 30 * day, year} {
		for _, outage := range []time.Duration{time.Second, 2 * time.Minute, 10 * time.Minute, 40 * time.Minute} {
			for _, draw := range draws {
				synctest.Test(t, func(t *testing.T) {
					d := newDevice(t, life, oneCertificate)
					d.drawing(draw)
					s := d.begins()
					defer func() { s.stop() }()
					threshold, _ := s.loses(unavailable)
					time.Sleep(outage)
					settle()
					if len(d.ca.since(threshold)) == 0 {
						t.Fatal("not a single try met the outage")
					}
					d.ca.fail(nil)
					bound := 4*outage + 7*time.Minute + 31*time.Second
					time.Sleep(bound)
					settle()
					if g := d.live("device-id"); g.Number != 2 {
						t.Errorf("life %v, draw %.1f: not renewed %v after an outage of %v", life, draw, bound, outage)
					}
				})
			}
		}
	}
}

// TestDeadServer: between the threshold and expiry a server that does not answer is asked at most retry apart and ever
// more often at the end, at expiry at once, and after it no more than retry allows.
func TestDeadServer(t *testing.T) {
	t.Parallel()
	stories := storiesOf(t)
	for _, life := range []time.Duration{day, 30 * day, year} {
		for _, draw := range draws {
			stories.play(fmt.Sprintf("%v, draw %.1f", life, draw), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					d := newDevice(t, life, defaults)
					d.drawing(draw)
					s := d.begins()
					defer func() { s.stop() }()
					threshold, expiry := s.loses(unavailable)
					after := life / 5
					s.passes(time.Until(expiry.Add(after)))
					tries, retry := d.ca.times(threshold), life/25
					for n := range tries[1:] {
						wait, left := tries[n+1].Sub(tries[n]), expiry.Sub(tries[n])
						limit := retry
						if left > 0 {
							limit = min(limit, max(left/4, time.Minute))
						}
						if wait > limit+time.Second || wait < time.Minute-time.Second && tries[n+1].Before(expiry) {
							t.Errorf("with %v left the next try came after %v, want a minute to %v", left, wait, limit)
						}
					}
					before := slices.IndexFunc(tries, func(at time.Time) bool { return !at.Before(expiry) })
					if last := expiry.Sub(tries[before-1]); last > time.Minute+time.Second {
						t.Errorf("the last try before expiry came %v before it", last)
					}
					if late := tries[before].Sub(expiry); late > time.Second {
						t.Errorf("the first try after expiry came %v after it", late)
					}
					if before > 100 {
						t.Errorf("%d tries before expiry", before)
					}
					if count, most := len(tries)-before, 8+int(2*after/retry); count > most {
						t.Errorf("%d tries in %v after expiry, want at most %d", count, after, most)
					}
					if all := s.agent.Snapshot(); all.ExitCode() != status.ExitExpired || !all.Certificates[0].NextTry.After(time.Now()) {
						t.Errorf("exit code %d, next try %v", all.ExitCode(), all.Certificates[0].NextTry)
					}
				})
			})
		}
	}
}

// TestLastHours: a server that is back shortly before expiry is back in time.
func TestLastHours(t *testing.T) {
	t.Parallel()
	stories := storiesOf(t)
	for _, life := range []time.Duration{day, 30 * day, year} {
		for _, left := range []time.Duration{2 * time.Hour, 20 * time.Minute, 3 * time.Minute} {
			stories.play(fmt.Sprintf("%v left of %v", left, life), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					d := newDevice(t, life, defaults)
					d.drawing(draws[2])
					s := d.begins()
					defer func() { s.stop() }()
					_, expiry := s.loses(unavailable)
					s.passes(time.Until(expiry.Add(-left)))
					d.ca.fail(nil)
					s.passes(left)
					if g := d.live("device-id"); g.Number != 2 || !g.Meta.Issued.Before(expiry) {
						t.Errorf("back with %v left of %v: generation %d is live at the end", left, life, g.Number)
					}
				})
			})
		}
	}
}

// TestShortLifeAtADeadServer: a dead certificate of a minute is no reason to ask every second for ever.
func TestShortLifeAtADeadServer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, time.Minute, defaults)
		d.drawing(0)
		s := d.begins()
		defer func() { s.stop() }()
		threshold, _ := s.loses(unavailable)
		time.Sleep(day)
		settle()
		if n := len(d.ca.since(threshold)); n > 500 {
			t.Errorf("%d tries on the first day", n)
		}
		second := time.Now()
		time.Sleep(day)
		settle()
		if n := len(d.ca.since(second)); n < 24 || n > 50 {
			t.Errorf("%d tries on the second day, want as many as a certificate of a day has", n)
		}
	})
}

// TestRetryAfterWins: over the back-off, a restart, an anchor that changes and the end of the certificate; up to a day.
func TestRetryAfterWins(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ asked, want time.Duration }{{3 * time.Hour, 3 * time.Hour}, {30 * day, day}} {
		synctest.Test(t, func(t *testing.T) {
			d := newDevice(t, day, defaults)
			s := d.begins()
			defer func() { s.stop() }()
			threshold, _ := s.loses(func(c call) error {
				return &est.Error{Op: c.op, Class: est.ErrUnavailable, Status: 503, RetryAfter: test.asked}
			})
			capped := slices.ContainsFunc(s.agent.Snapshot().Certificates[0].Problems, func(p Problem) bool {
				return strings.Contains(p.Text, "of that are obeyed")
			})
			if capped != (test.asked > test.want) {
				t.Errorf("asked to wait %v: status says that less is obeyed: %t", test.asked, capped)
			}
			for n := range 30 {
				time.Sleep(2 * time.Hour)
				appendTo(t, filepath.Join(d.dir, "ca.pem"), fmt.Sprintln(n))
				s.restarts()
			}
			tries := d.ca.times(threshold)
			for n := range tries[1:] {
				if wait := tries[n+1].Sub(tries[n]); wait < test.want {
					t.Errorf("asked to wait %v: a try after %v", test.asked, wait)
				}
			}
			if n, most := len(tries), int(60*time.Hour/test.want)+1; n < most/2 || n > most {
				t.Errorf("asked to wait %v: %d tries in 60 hours, want %d at most", test.asked, n, most)
			}
		})
	}
}

func appendTo(t *testing.T, path, text string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, path, append(data, text...))
}

// TestOnForTenMinutesADay: a device that is switched on for ten minutes a day renews before its certificate ends, although
// what came due while it was off waits for its turn, and the turn goes by while it is off.
func TestOnForTenMinutesADay(t *testing.T) {
	t.Parallel()
	stories := storiesOf(t)
	for _, life := range []time.Duration{30 * day, year} {
		for _, draw := range draws {
			stories.play(fmt.Sprintf("%v, draw %.1f", life, draw), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					d := newDevice(t, life, defaults)
					d.drawing(draw)
					_, stop := d.boot()
					settle()
					stop()
					expiry := d.live("device-id").Leaf.NotAfter
					time.Sleep(life*79/100 + 7*time.Hour)
					for time.Until(expiry) > day {
						_, stop := d.boot()
						time.Sleep(10 * time.Minute)
						settle()
						stop()
						time.Sleep(day - 10*time.Minute)
					}
					if g := d.live("device-id"); g.Number != 2 {
						t.Errorf("life %v, draw %.1f: generation %d is live on the last day", life, draw, g.Number)
					}
				})
			})
		}
	}
}

func refused(c call) error {
	return &est.Error{Op: c.op, Class: est.ErrUnauthorized, Status: 401, Refusal: true}
}

// TestEveryIdentityHasItsTurn: a server that refuses whoever comes sees the certificate twice, then the EST identity, the
// bootstrap certificate and the password, then all of them in turn, ever more slowly; also if the device is restarted after
// each try. A success puts the certificate first again.
func TestEveryIdentityHasItsTurn(t *testing.T) {
	t.Parallel()
	refuse := func(c call) error {
		if c.id == "est-id" {
			return nil
		}
		return refused(c)
	}
	stories := storiesOf(t)
	for _, restarts := range []bool{true, false} {
		stories.play(fmt.Sprintf("restarts %t", restarts), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDevice(t, 30*day, strings.Replace(withESTIdentity, "[cert_issuance.est.auth]\n",
					"[cert_issuance.est.auth]\nusername = \"gateway\"\npassword = \"secret\"\n", 1))
				s := d.begins()
				defer func() { s.stop() }()
				tries := func(since time.Time) []call {
					return slices.DeleteFunc(d.ca.since(since), func(c call) bool { return c.id == "est-id" })
				}
				s.off(23 * day) // the EST identity is renewed at this start, the certificate due a day later
				s.ca.fail(refuse)
				begin := time.Now()
				for n := 0; len(tries(begin)) < 9 && time.Since(begin) < 6*day; {
					time.Sleep(time.Minute)
					settle()
					if restarts && len(tries(begin)) > n {
						n = len(tries(begin))
						s.restarts()
					}
				}
				seen := tries(begin)
				self, byEST, boot, password := identitySelf, identityEST, identityBootstrap, identityPassword
				var who []identityName
				for _, c := range seen {
					who = append(who, c.identity)
				}
				if want := []identityName{self, self, byEST, boot, password, self, byEST, boot, password}; !slices.Equal(who, want) {
					t.Fatalf("tried by %v\nwant %v", who, want)
				}
				for n, least := range []time.Duration{5, 20, 80, 320} {
					if wait := seen[n+1].at.Sub(seen[n].at); wait < least*time.Minute-time.Second {
						t.Errorf("try %d came %v after the one before it", n+2, wait)
					}
				}
				s.ca.fail(nil)
				s.passes(day)
				if g := d.live("device-id"); g.Number != 2 {
					t.Fatalf("generation %d is live a day after the last refusal", g.Number)
				}
				s.off(23 * day)
				s.ca.fail(refuse)
				again := time.Now()
				s.passes(2 * day)
				after := tries(again)
				if len(after) < 3 || after[0].identity != self || after[1].identity != self || after[2].identity != byEST {
					t.Errorf("after a success: %d tries", len(after))
				}
			})
		})
	}
}
