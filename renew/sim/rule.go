package main

import (
	"math/rand/v2"
	"time"

	"certagent/renew"
)

// rule is how a kind of device behaves around its tries. Times are counted from the epoch.
type rule interface {
	// look returns when the device does something next, at once if that is not after now, and whether that is a try: else
	// it looks again then, because the rule may see things otherwise.
	look(d *device, now time.Duration) (at time.Duration, try bool)
	// failed is told of a try that failed; asked is the server's Retry-After, 0 if there is none.
	failed(d *device, asked time.Duration, dice *rand.Rand, now time.Duration)
	// started is told of a start of the device, which kept what is on its disk.
	started(d *device, dice *rand.Rand, now time.Duration)
	// period is the mean time between two renewals when nothing goes wrong.
	period(life time.Duration) time.Duration
}

// certagent behaves as the agent does: the decisions are those of package renew, joined as package agent joins them
// (decide, keeper.resume, keeper.failed).
type certagent struct{ policy renew.Policy }

func (r certagent) look(d *device, since time.Duration) (time.Duration, bool) {
	now, leaf := epoch.Add(since), d.leaf()
	plan := r.policy.Plan(leaf, now)
	at := now
	if plan.State != renew.Expired {
		at = later(plan.RenewAt, r.policy.Guard(leaf, epoch.Add(d.issued)))
	}
	tries := d.tries()
	at = later(at, r.policy.NextTry(&leaf, tries, now))
	at = later(at, renew.Obeyed(tries.RetryAfter, now, false))
	if at.After(plan.NextChange) && plan.NextChange.After(now) {
		return plan.NextChange.Sub(epoch), false
	}
	return at.Sub(epoch), true
}

func (r certagent) failed(d *device, asked time.Duration, dice *rand.Rand, now time.Duration) {
	leaf := d.leaf()
	wait, _ := renew.CapRetryAfter(asked, false)
	d.keep(r.policy.Failed(&leaf, d.tries(), wait, dice.Float64(), epoch.Add(now)))
}

func (r certagent) started(d *device, dice *rand.Rand, now time.Duration) {
	d.keep(r.policy.Resumed(d.leaf(), d.tries(), dice.Float64(), epoch.Add(now)))
}

func (r certagent) period(life time.Duration) time.Duration {
	l := renew.Leaf{NotBefore: epoch, NotAfter: epoch.Add(life)}
	return r.policy.Plan(l, epoch).Threshold.Sub(epoch) + r.policy.JitterOf(l)/2
}

// aziot behaves as the renewal engine of Azure's iot-identity-service does: at the threshold, with no spread; after a
// failure again and again after the same wait, before and after expiry alike, whatever the server asks for; at a start at
// once, if the threshold has passed. The schedule is not on disk. Not modelled, in its favour: that it gives a certificate
// up after some errors, and that each use of a due certificate tries at once.
type aziot struct {
	threshold, retry renew.Span // shares of the lifetime
}

func (r aziot) look(d *device, _ time.Duration) (time.Duration, bool) {
	if d.next != never {
		return d.next, true
	}
	return r.deadline(d), true
}

func (r aziot) deadline(d *device) time.Duration { return d.born() + r.period(d.life) }

func (r aziot) failed(d *device, _ time.Duration, _ *rand.Rand, now time.Duration) {
	d.next = now + r.retry.Of(d.life)
}

func (r aziot) started(d *device, _ *rand.Rand, now time.Duration) { d.next = max(now, r.deadline(d)) }

func (r aziot) period(life time.Duration) time.Duration { return r.threshold.Of(life) }

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
