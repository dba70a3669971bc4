package main

import (
	"math/rand/v2"
	"time"

	"certagent/renew"
)

// conditions say what a fleet lives through. The same conditions have the same outcome.
type conditions struct {
	devices int
	rule    rule
	life    time.Duration // of each certificate
	span    time.Duration // how long is simulated
	enrol   time.Duration // the devices are enrolled at even odds within this time from the start
	trouble trouble
	// capacity is how many tries the server serves in an hour, and answers the others of the hour with 503 and
	// Retry-After; 0 is no limit.
	capacity   int
	retryAfter time.Duration
	bin        time.Duration // of the load that is counted
}

// trouble happens once; the zero trouble never does. A power cut ends at a whole minute.
type trouble struct {
	kind     troubleKind
	from, to time.Duration
}

type troubleKind int

const (
	noTrouble troubleKind = iota
	// outage: tries meet no server.
	outage
	// powerCut: every device is off, and starts at the same instant.
	powerCut
)

// strikes tells whether t is on.
func (t trouble) strikes(kind troubleKind, now time.Duration) bool {
	return t.kind == kind && now >= t.from && now < t.to
}

// outcome is what became of a fleet.
type outcome struct {
	tries    []int32 // by bin; enrolments are not counted
	renewals []int32 // those of the tries that brought a certificate, by bin
	first    time.Duration
	// expired counts the certificates that expired before they were renewed, late those of them that did so after the
	// trouble, and neglected those of these that had more than one retry left when it ended.
	expired, late, neglected int
}

// fleet is a simulation under way.
type fleet struct {
	conditions
	outcome
	dice *rand.Rand
	list []device
	// minutes has the first device of a list for each minute of the simulation, and after the next one in it, by device.
	minutes, after []int32
	// served counts whom the server has served in that hour of the simulation.
	hour   time.Duration
	served int
}

const nobody = -1

// simulate runs a fleet through its conditions.
func simulate(c conditions) outcome {
	bins := int(c.span/c.bin) + 1
	f := &fleet{
		conditions: c,
		outcome:    outcome{tries: make([]int32, bins), renewals: make([]int32, bins), first: c.span},
		dice:       rand.New(rand.NewPCG(7030, 5280)),
		list:       make([]device, c.devices), after: make([]int32, c.devices),
		minutes: make([]int32, c.span/time.Minute),
	}
	for i := range f.minutes {
		f.minutes[i] = nobody
	}
	for i := range f.list {
		now := time.Duration(f.dice.Int64N(int64(c.enrol)))
		f.list[i].enrol(i, c.life, now)
		f.await(i, now)
	}
	for minute := range f.minutes {
		if c.trouble.kind == powerCut && c.trouble.to == time.Duration(minute)*time.Minute {
			f.restart()
		}
		for f.minutes[minute] != nobody {
			i := f.minutes[minute]
			f.minutes[minute] = f.after[i]
			f.act(int(i))
		}
	}
	for i := range f.list {
		f.lapsed(&f.list[i], c.span)
	}
	return f.outcome
}

// await has a device act at the time that its rule says, which may lie beyond the end. Rules are pure: what a look says of
// a try to come, another one at that time says as well, and is left out.
func (f *fleet) await(i int, now time.Duration) {
	d := &f.list[i]
	d.at, d.due = f.rule.look(d, now)
	d.at = max(d.at, now)
	if minute := int(d.at / time.Minute); minute < len(f.minutes) {
		f.after[i], f.minutes[minute] = f.minutes[minute], int32(i)
	}
}

// act is what a device does at the time that it waited for.
func (f *fleet) act(i int) {
	d := &f.list[i]
	if f.trouble.strikes(powerCut, d.at) {
		return // see restart
	}
	if d.due {
		f.try(d, d.at)
	}
	f.await(i, d.at)
}

// try has a device ask for a new certificate.
func (f *fleet) try(d *device, now time.Duration) {
	bin := now / f.bin
	f.first = min(f.first, now)
	f.tries[bin]++
	switch {
	case f.trouble.strikes(outage, now):
		f.rule.failed(d, 0, f.dice, now)
	case !f.serves(now):
		f.rule.failed(d, f.retryAfter, f.dice, now)
	default:
		f.renewals[bin]++
		f.lapsed(d, now)
		d.renew(now)
	}
}

// serves tells whether the server has time for one more.
func (f *fleet) serves(now time.Duration) bool {
	if f.capacity == 0 {
		return true
	}
	if hour := now / time.Hour; hour != f.hour {
		f.hour, f.served = hour, 0
	}
	f.served++
	return f.served <= f.capacity
}

// lapsed counts the certificate that a device has until now, if it has expired.
func (f *fleet) lapsed(d *device, now time.Duration) {
	if now < d.expires() {
		return
	}
	f.expired++
	if f.trouble.kind == noTrouble {
		return
	}
	left := d.expires() - f.trouble.to
	if left > 0 {
		f.late++
	}
	if left > renew.DefaultPolicy().Retry.Of(f.life) {
		f.neglected++
	}
}

// restart switches every device on at one instant, and has each look anew.
func (f *fleet) restart() {
	for minute := range f.minutes {
		f.minutes[minute] = nobody
	}
	for i := range f.list {
		f.rule.started(&f.list[i], f.dice, f.trouble.to)
		f.await(i, f.trouble.to)
	}
}
