package main

import (
	"runtime"
	"sync"
	"time"

	"certagent/renew"
)

const day = 24 * time.Hour

// lifetime is one kind of certificate, and for how long its fleets are followed.
type lifetime struct {
	name, file string
	life, span time.Duration
}

var lifetimes = []lifetime{
	{"1 day", "1d", day, 30 * day},
	{"30 days", "30d", 30 * day, 3 * 365 * day},
	{"1 year", "1y", 365 * day, 3 * 365 * day},
}

// population is one sort of fleet.
type population struct {
	name string
	rule rule
	// even tells that the fleet was enrolled over one round of renewals, device after device: the calmest there can be. The
	// others were enrolled within one minute.
	even bool
	// ours tells that no certificate may be neglected, and flat that the goals for the load bind as well.
	ours, flat bool
}

func populations() []population {
	defaults, spread := renew.DefaultPolicy(), renew.DefaultPolicy()
	spread.SpreadFirst = true
	theirs := aziot{defaults.Threshold, defaults.Retry}
	return []population{
		{name: `certagent, first_renewal = "spread"`, rule: certagent{spread}, ours: true, flat: true},
		{name: "certagent, defaults", rule: certagent{defaults}, ours: true},
		{name: "aziot's rule", rule: theirs},
		{name: "certagent, defaults, enrolled evenly", rule: certagent{defaults}, even: true, ours: true, flat: true},
		{name: "aziot's rule, enrolled evenly", rule: theirs, even: true},
	}
}

// story is what happens to a fleet.
type story struct {
	name    string
	file    string // of its picture; "" for none
	trouble troubleKind
	lasts   time.Duration
	// bound tells that the goal for the load afterwards is this story's.
	bound bool
	// busy has the server serve no more than busyServes times the mean in an hour.
	busy bool
}

const (
	// busyServes is how many times the mean load a server with little to spare serves in an hour, and busyAsks the
	// Retry-After with which it sends the others away.
	busyServes = 1.5
	busyAsks   = time.Hour
)

// stories of a fleet. Trouble of a day is for certificates that can outlive it. A fleet that comes within one minute, and
// always will, is not shown to a server that asks it to wait: that moves the minute.
func stories(l lifetime, p population) []story {
	list := []story{{name: "no trouble", file: "enrolment"}}
	if l.life < 30*day {
		return list
	}
	list = append(list,
		story{name: "server away for 24 hours", file: "outage", trouble: outage, lasts: day, bound: true},
		story{name: "power cut of 1 hour", file: "cut-1h", trouble: powerCut, lasts: time.Hour, bound: true},
		story{name: "power cut of 24 hours", file: "cut-24h", trouble: powerCut, lasts: day, bound: true},
		story{name: "server away for a quarter of the lifetime", trouble: outage, lasts: l.life / 4},
	)
	if l.life == 30*day && (p.flat || p.even) {
		list = append(list,
			story{name: "server away for 24 hours, as it says in Retry-After", trouble: maintenance, lasts: day, bound: true},
			story{name: "power cut of 24 hours", trouble: powerCut, lasts: day, busy: true},
		)
	}
	return list
}

// run is one story of one fleet, and what came of it.
type run struct {
	lifetime   lifetime
	population population
	story      story
	conditions conditions
	outcome    outcome
	load       load
}

// simulateAll runs every story of every fleet: the fleets side by side, as many as there are processors. The order of what
// it returns does not depend on which ends first.
func simulateAll(devices int) []run {
	kinds := populations()
	fleets := make([][]run, len(lifetimes)*len(kinds))
	slots := make(chan struct{}, runtime.GOMAXPROCS(0))
	var all sync.WaitGroup
	for n := range fleets {
		all.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			fleets[n] = tell(lifetimes[n/len(kinds)], kinds[n%len(kinds)], devices)
		})
	}
	all.Wait()
	var list []run
	for _, runs := range fleets {
		list = append(list, runs...)
	}
	return list
}

// tell runs the stories of a fleet in turn. Trouble comes where it hurts most: around the middle of the busiest window of
// the same fleet without trouble, in the first half of the time.
func tell(l lifetime, p population, devices int) []run {
	var runs []run
	var worst time.Duration
	for _, s := range stories(l, p) {
		c := conditions{
			devices: devices, rule: p.rule, life: l.life, span: l.span, enrol: time.Minute,
			bin: windowOf(l.life) / binsAWindow,
		}
		period := p.rule.period(l.life)
		if p.even {
			c.enrol = period
		}
		if s.busy {
			c.capacity = int(busyServes * float64(devices) * float64(time.Hour) / float64(period))
			c.retryAfter = busyAsks
		}
		if s.trouble != noTrouble {
			// It ends where a bin does, so that no bin counts what was before and after.
			end := (worst + s.lasts/2).Truncate(c.bin) + c.bin
			c.trouble = trouble{s.trouble, max(0, end-s.lasts), end}
		}
		o := simulate(c)
		if len(runs) == 0 {
			start, _ := o.busiest(c, 0, c.span/2)
			worst = start + binsAWindow*c.bin/2
		}
		runs = append(runs, run{l, p, s, c, o, loadOf(c, o)})
	}
	return runs
}
