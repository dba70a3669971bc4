package main

import (
	"math/rand/v2"
	"slices"
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
	// maintenance: an outage in which tries are told, by 503 and Retry-After, when it ends.
	maintenance
	// powerCut: every device is off, and starts at the same instant.
	powerCut
)

// at gives the kind of t while it lasts, else noTrouble.
func (t trouble) at(now time.Duration) troubleKind {
	if now < t.from || now >= t.to {
		return noTrouble
	}
	return t.kind
}

// outcome is what became of a fleet.
type outcome struct {
	tries    []int32 // by bin; enrolments are not counted
	renewals []int32 // those of the tries that brought a certificate, by bin
	first    time.Duration
	// expired counts the certificates that expired before they were renewed, late those of them that did so after the
	// trouble, and neglected those of these that had more than one retry left when it ended.
	expired, late, neglected int
	// early counts the tries that came sooner than the server had asked.
	early int
}

// fleet is a simulation under way.
type fleet struct {
	conditions
	outcome
	dice *rand.Rand
	list []device
	// ring has the first of the devices that act in a minute, for this minute and those to come: a device waits for no
	// longer than one certificate lasts.
	ring []int32
	// asked is until when the server asked each device to wait: its own account, for those who forget it.
	asked []time.Duration
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
		list:       make([]device, c.devices),
		asked:      make([]time.Duration, c.devices),
		ring:       slices.Repeat([]int32{nobody}, int((c.enrol+c.life)/time.Minute)+1),
	}
	for i := range f.list {
		now := time.Duration(f.dice.Int64N(int64(c.enrol)))
		f.list[i].enrol(i, c.life, now)
		f.await(int32(i), now)
	}
	for now := time.Duration(0); now < c.span; now += time.Minute {
		if c.trouble.kind == powerCut && c.trouble.to == now {
			f.restart()
		}
		for first := f.minute(now); *first != nobody; {
			i := *first
			*first = f.list[i].after
			f.act(i)
		}
	}
	for i := range f.list {
		f.lapsed(&f.list[i], c.span)
	}
	return f.outcome
}

// minute is the place for the first of the devices that act in the minute of t.
func (f *fleet) minute(t time.Duration) *int32 { return &f.ring[int(t/time.Minute)%len(f.ring)] }

// await has a device act at the time that its rule says, which may lie beyond the end. Rules are pure: what a look says of
// a try to come, another one at that time says as well, and is left out.
func (f *fleet) await(i int32, now time.Duration) {
	d := &f.list[i]
	d.at, d.due = f.rule.look(d, now)
	d.at = max(d.at, now)
	if last := now + time.Duration(len(f.ring)-1)*time.Minute; d.at > last {
		d.at, d.due = last, false // a rule that is broken may wait longer
	}
	first := f.minute(d.at)
	d.after, *first = *first, i
}

// act is what a device does at the time that it waited for.
func (f *fleet) act(i int32) {
	d := &f.list[i]
	if f.trouble.at(d.at) == powerCut {
		return // see restart
	}
	if d.due {
		f.try(i, d.at)
	}
	f.await(i, d.at)
}

// try has a device ask for a new certificate.
func (f *fleet) try(i int32, now time.Duration) {
	d, bin := &f.list[i], now/f.bin
	f.first = min(f.first, now)
	f.tries[bin]++
	if now < f.asked[i] {
		f.early++
	}
	var asked time.Duration
	switch f.trouble.at(now) {
	case outage:
	case maintenance:
		asked = f.trouble.to - now
	default:
		if f.serves(now) {
			f.renewals[bin]++
			f.lapsed(d, now)
			d.renew(now)
			return
		}
		asked = f.retryAfter
	}
	f.asked[i] = now + asked
	f.rule.failed(d, asked, f.dice, now)
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
	for minute := range f.ring {
		f.ring[minute] = nobody
	}
	for i := range f.list {
		f.rule.started(&f.list[i], f.dice, f.trouble.to)
		f.await(int32(i), f.trouble.to)
	}
}
