package main

import (
	"slices"
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
	want := []time.Duration{80 * day, 80 * day, 80 * day, 80*day + 12*time.Hour, 80*day + 12*time.Hour, 81 * day}
	if got := triedAt(o); !slices.Equal(got, want) || o.expired != 0 {
		t.Errorf("tries at %v, want %v", got, want)
	}
}
