package main

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"certagent/renew"
)

// alone is one device with a certificate of 100 days, born at the start, and a bin for each minute.
func alone(r rule, t trouble) conditions {
	return conditions{devices: 1, rule: r, life: 100 * day, span: 130 * day, enrol: 1, trouble: t, bin: time.Minute}
}

// triedAt gives the minutes in which there was a try.
func triedAt(o outcome) []time.Duration {
	var minutes []time.Duration
	for n, tries := range o.tries {
		for range tries {
			minutes = append(minutes, time.Duration(n)*time.Minute)
		}
	}
	return minutes
}

// TestAziotTries has the tries that its documentation and its source promise for a certificate of 100 days: at the
// threshold, every 4 % from then on, beyond expiry too, and at a start at once.
func TestAziotTries(t *testing.T) {
	r := aziot{renew.Percent(80), renew.Percent(4)}
	for _, c := range []struct {
		name    string
		trouble trouble
		want    []time.Duration
		expired int
	}{
		{"no trouble", trouble{}, []time.Duration{80 * day}, 0},
		{"server away until after expiry", trouble{outage, 70 * day, 105 * day},
			[]time.Duration{80 * day, 84 * day, 88 * day, 92 * day, 96 * day, 100 * day, 104 * day, 108 * day}, 1},
		{"server back before", trouble{outage, 70 * day, 85 * day}, []time.Duration{80 * day, 84 * day, 88 * day}, 0},
		{"off over the threshold", trouble{powerCut, 79 * day, 83 * day}, []time.Duration{83 * day}, 0},
		{"off before the threshold", trouble{powerCut, 70 * day, 79 * day}, []time.Duration{80 * day}, 0},
		{"off beyond expiry", trouble{powerCut, 79 * day, 110 * day}, []time.Duration{110 * day}, 1},
	} {
		o := simulate(alone(r, c.trouble))
		if got := triedAt(o); !slices.Equal(got, c.want) || o.expired != c.expired {
			t.Errorf("%s: tries at %v, %d expired; want %v, %d", c.name, got, o.expired, c.want, c.expired)
		}
	}
}

// TestCertagentTries holds that a device in the simulation keeps to what package renew says, through an outage that outlasts
// its certificate.
func TestCertagentTries(t *testing.T) {
	p := renew.Policy{Enabled: true, Threshold: renew.Percent(80), Retry: renew.Percent(4), Jitter: renew.Percent(0), JitterSet: true}
	tries := triedAt(simulate(alone(certagent{p}, trouble{outage, 70 * day, 105 * day})))
	if len(tries) < 10 || tries[0] != 80*day {
		t.Fatalf("tries at %v", tries)
	}
	leaf := renew.Leaf{NotBefore: epoch, NotAfter: epoch.Add(100 * day)}
	if !slices.Contains(tries, 100*day) {
		t.Errorf("no try at expiry: %v", tries)
	}
	failures := 0
	for n, at := range tries[:len(tries)-1] {
		failures++
		if at == 100*day {
			failures = 1
		}
		now, next := epoch.Add(at), tries[n+1]
		least := at + p.Delay(&leaf, failures, 0, now) - 2*time.Minute // tries are known to the minute
		most := at + p.Delay(&leaf, failures, .999999, now) + 2*time.Minute
		if least < 100*day && most > 100*day {
			most = 100 * day // where expiry cuts a wait short
		}
		if next < min(least, 100*day) || next > most {
			t.Errorf("failure %d at %v: next try at %v, want %v to %v", failures, at, next, least, most)
		}
	}
	if last := tries[len(tries)-1]; last < 105*day || last > 109*day {
		t.Errorf("renewed at %v", last)
	}
}

// TestCertagentAfterPowerCut holds that what came due meanwhile waits for its part of `retry`, and a back-off that began
// before goes on.
func TestCertagentAfterPowerCut(t *testing.T) {
	c := alone(certagent{renew.DefaultPolicy()}, trouble{powerCut, 79 * day, 83 * day})
	c.devices = 100
	tries := triedAt(simulate(c))
	if len(tries) != 100 {
		t.Fatalf("%d tries, want one for each device", len(tries))
	}
	if tries[0] < 83*day || tries[99] >= 87*day || tries[99]-tries[0] < 3*day {
		t.Errorf("tries from %v to %v, want them over the 4 days after the cut", tries[0], tries[99])
	}
	c.trouble = trouble{powerCut, 70 * day, 101 * day}
	o := simulate(c)
	if tries := triedAt(o); len(tries) != 100 || tries[0] != 101*day || tries[99] != 101*day || o.expired != 100 || o.late != 0 {
		t.Errorf("%d expired, %d late, tries at %v; want all at once after the cut", o.expired, o.late, tries)
	}
}

// TestServerWithLittleToSpare holds that it serves as many an hour as it can, and that certagent obeys its Retry-After.
func TestServerWithLittleToSpare(t *testing.T) {
	p := renew.DefaultPolicy()
	p.Jitter, p.JitterSet = renew.Percent(0), true
	c := alone(certagent{p}, trouble{})
	c.devices, c.capacity, c.retryAfter = 3, 1, 12*time.Hour
	o := simulate(c)
	tries := triedAt(o)
	if len(tries) < 5 || tries[2] != 80*day || tries[3] < 80*day+12*time.Hour || o.early != 0 || o.expired != 0 {
		t.Errorf("tries at %v, %d of them early, %d expired", tries, o.early, o.expired)
	}
	// One of the two that are refused is served after an hour, the other after two: three tries that do not listen.
	c.rule = broken{certagent: certagent{p}, fail: func(d *device, _, now time.Duration) { d.next, d.retryAfter = now+time.Hour, never }}
	if o := simulate(c); o.early != 3 {
		t.Errorf("%d tries were early, want 3", o.early)
	}
}

// TestMaintenance holds that who was told when the server is back comes no sooner, and not with all others in that second.
func TestMaintenance(t *testing.T) {
	c := alone(certagent{renew.DefaultPolicy()}, trouble{maintenance, 80 * day, 81 * day})
	c.devices = 100
	o := simulate(c)
	tries := triedAt(o)
	if o.early != 0 || o.expired != 0 {
		t.Errorf("%d tries were early, %d certificates expired", o.early, o.expired)
	}
	refused := len(tries) - 100
	if refused < 40 || refused > 60 { // half of the width of the spread, which is 2 days
		t.Fatalf("%d devices were refused", refused)
	}
	if last := tries[refused]; last < 81*day || tries[refused+refused/2] < 81*day+2*time.Hour {
		t.Errorf("tries at %v", tries)
	}
}

// broken is certagent without one of its rules.
type broken struct {
	certagent
	fail  func(d *device, asked, now time.Duration) // after the rules had their say; a wait of no time would never end
	start func(d *device)
}

func (r broken) failed(d *device, asked time.Duration, dice *rand.Rand, now time.Duration) {
	r.certagent.failed(d, asked, dice, now)
	if r.fail != nil {
		r.fail(d, asked, now)
	}
}

func (r broken) started(d *device, dice *rand.Rand, now time.Duration) {
	if r.start != nil {
		r.start(d)
		return
	}
	r.certagent.started(d, dice, now)
}

// TestBrokenRulesMissGoals: each rule that keeps a fleet apart is needed for the goals.
func TestBrokenRulesMissGoals(t *testing.T) {
	t.Parallel()
	defaults := certagent{renew.DefaultPolicy()}
	l := lifetime{"30 days", "", 30 * day, 70 * day}
	for _, c := range []struct {
		name, want string // want is in what is missed; "" for nothing
		rule       rule
	}{
		{"as it is", "", defaults},
		{"no back-off", "server away for 24 hours, fleet: the peak afterwards", broken{certagent: defaults,
			fail: func(d *device, asked, now time.Duration) {
				if asked == 0 {
					d.next = now + 5*time.Minute
				}
			}}},
		{"no spread after a start", "power cut of 24 hours, fleet: the peak afterwards", broken{certagent: defaults,
			start: func(*device) {}}},
		{"no spread after Retry-After", "as it says in Retry-After, fleet: the peak afterwards", broken{certagent: defaults,
			fail: func(d *device, asked, now time.Duration) { d.retryAfter = now + asked }}},
		{"no Retry-After", "sooner than the server had asked", broken{certagent: defaults,
			fail: func(d *device, _, _ time.Duration) { d.retryAfter = never }}},
		{"tries that get rarer near the end", "more than one retry left", broken{certagent: defaults,
			fail: func(d *device, _, now time.Duration) { d.next = now + 40*time.Hour }}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var missed []string
			for _, r := range tell(l, population{name: "fleet", rule: c.rule, even: true, ours: true, flat: true}, 10_000) {
				missed = append(missed, r.missed(fleetGoals)...)
			}
			all := strings.Join(missed, "\n")
			if c.want == "" && all != "" || !strings.Contains(all, c.want) {
				t.Errorf("missed:\n%s\nwant: %s", all, c.want)
			}
		})
	}
}
