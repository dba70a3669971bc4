package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestSmallFleetsKeepTheGoals leaves room in those for the load: of 2,000 devices chance makes peaks of its own.
func TestSmallFleetsKeepTheGoals(t *testing.T) {
	t.Parallel()
	runs := simulateAll(2000)
	for _, r := range runs {
		for _, m := range r.missed(goals{calm: 2.8, after: 5.6}) {
			t.Error(m)
		}
	}
	find := func(life, story, population string) run {
		i := slices.IndexFunc(runs, func(r run) bool {
			return r.lifetime.name == life && r.story.name == story && r.population.name == population && !r.story.busy
		})
		if i < 0 {
			t.Fatalf("no run %s, %s, %s", life, story, population)
		}
		return runs[i]
	}
	for _, life := range []string{"1 day", "30 days", "1 year"} {
		// The reasons for the rules: without them the load is another.
		theirs, defaults := find(life, "no trouble", "aziot's rule"), find(life, "no trouble", "certagent, defaults")
		if theirs.load.before < 15 || defaults.load.before < 10 {
			t.Errorf("%s: a fleet of one minute peaks at %.1f, with aziot's rule at %.1f", life, defaults.load.before, theirs.load.before)
		}
	}
	const even = "enrolled evenly"
	ours, theirs := find("30 days", "power cut of 24 hours", "certagent, defaults, "+even),
		find("30 days", "power cut of 24 hours", "aziot's rule, "+even)
	if ours.load.after >= theirs.load.after {
		t.Errorf("after a power cut the load is %.1f, with aziot's rule %.1f", ours.load.after, theirs.load.after)
	}
	long := find("30 days", "server away for a quarter of the lifetime", "certagent, defaults, "+even)
	if long.outcome.expired == 0 || long.outcome.expired == long.outcome.late {
		t.Errorf("an outage that outlasts certificates: %d expired, %d of them later", long.outcome.expired, long.outcome.late)
	}
	// A goal that cannot be missed holds nothing.
	calm := find("30 days", "no trouble", `certagent, first_renewal = "spread"`)
	if m := calm.missed(goals{calm: .5, after: .5}); len(m) != 1 || !strings.Contains(m[0], "the peak is") {
		t.Errorf("missed: %q", m)
	}
	long.outcome.neglected = 1
	if m := long.missed(fleetGoals); len(m) != 1 || !strings.Contains(m[0], "more than one retry left") {
		t.Errorf("missed: %q", m)
	}
}

// TestSameBytes runs everything twice.
func TestSameBytes(t *testing.T) {
	t.Parallel()
	var first, again bytes.Buffer
	for _, b := range []*bytes.Buffer{&first, &again} {
		runs := simulateAll(50)
		writeTables(b, runs)
		for _, c := range charts(runs) {
			b.Write(c.svg())
		}
	}
	if !bytes.Equal(first.Bytes(), again.Bytes()) {
		t.Error("the same simulation gave other bytes")
	}
}

func TestLapsed(t *testing.T) {
	const life = 100 * day
	for _, c := range []struct {
		name                     string
		trouble                  trouble
		renewed                  time.Duration
		expired, late, neglected int
	}{
		{"in time", trouble{outage, 0, 90 * day}, life - 1, 0, 0, 0},
		{"no trouble", trouble{}, life, 1, 0, 0},
		{"dead when it ended", trouble{outage, 0, life}, life + day, 1, 0, 0},
		{"one retry left when it ended", trouble{outage, 0, life - 4*day}, life, 1, 1, 0},
		{"more", trouble{powerCut, 0, life - 4*day - 1}, life, 1, 1, 1},
	} {
		f := fleet{conditions: conditions{life: life, trouble: c.trouble}}
		var d device
		d.enrol(0, life, 0)
		f.lapsed(&d, c.renewed)
		if f.expired != c.expired || f.late != c.late || f.neglected != c.neglected {
			t.Errorf("%s: %d expired, %d late, %d neglected; want %d, %d, %d",
				c.name, f.expired, f.late, f.neglected, c.expired, c.late, c.neglected)
		}
	}
}

// TestLoad counts by hand: bins of an hour, of which twelve are a window.
func TestLoad(t *testing.T) {
	c := conditions{life: 50 * day, span: 48 * time.Hour, bin: time.Hour, trouble: trouble{outage, 20 * time.Hour, 24 * time.Hour}}
	o := outcome{tries: make([]int32, 49), renewals: make([]int32, 49), first: 0}
	for n := range 48 {
		o.tries[n], o.renewals[n] = 1, 1
	}
	// 96 tries beyond the one an hour before the trouble, during it, and in two bins afterwards that no window of a fixed
	// grid holds together.
	o.tries[2], o.tries[21], o.tries[35], o.tries[36] = 97, 25, 13, 13
	o.renewals[20], o.renewals[21], o.renewals[22], o.renewals[23] = 0, 0, 0, 0
	o.renewals[35], o.renewals[36] = 3, 3
	got := loadOf(c, o)
	if want := (load{mean: 12, before: 9, during: 3, after: 3}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	c.trouble = trouble{}
	if got, want := loadOf(c, o), (load{mean: 12, before: 9}); got != want {
		t.Errorf("no trouble: %+v, want %+v", got, want)
	}
	if start, tries := o.busiest(c, 24*time.Hour, 48*time.Hour); start != 25*time.Hour || tries != 36 {
		t.Errorf("busiest: %d tries from %v", tries, start)
	}
	for life, want := range map[time.Duration]time.Duration{
		day: time.Hour, 30 * day: 432 * time.Minute, 365 * day: 5256 * time.Minute,
	} {
		if got := windowOf(life); got != want || got/binsAWindow%time.Minute != 0 {
			t.Errorf("window of %v: %v in bins of %v, want %v in whole minutes", life, got, got/binsAWindow, want)
		}
	}
}
