package renew

import (
	"crypto/x509"
	"time"
)

// Leaf is what renewal needs to know of a certificate.
type Leaf struct {
	NotBefore, NotAfter time.Time

	// Raw is the certificate in DER. Its hash places this certificate within the spread.
	Raw []byte

	// First marks the first certificate after an enrolment with a bootstrap credential, with no renewal behind it.
	First bool
}

// LeafOf returns the Leaf of c. It shares c.Raw.
func LeafOf(c *x509.Certificate, first bool) Leaf {
	return Leaf{NotBefore: c.NotBefore, NotAfter: c.NotAfter, Raw: c.Raw, First: first}
}

// life returns the lifetime, which is 0 for a certificate that ends before it begins.
func (l Leaf) life() time.Duration { return max(0, l.NotAfter.Sub(l.NotBefore)) }

// State is where a certificate stands in its life. Its values are part of the JSON that status prints.
type State string

// The states, in the order in which a certificate goes through them: it is not yet valid before NotBefore, valid
// until Plan.RenewAt, due until NotAfter and expired from then on.
const (
	NotYetValid State = "not-yet-valid"
	Valid       State = "valid"
	Due         State = "due"
	Expired     State = "expired"
)

// Plan is what a policy makes of one certificate at one instant.
type Plan struct {
	// State is where the certificate stands now. It follows from the certificate's own times alone; whether the
	// clock that gave now can be believed is for Clock to say.
	State State

	// Threshold is when renewal starts at the earliest, before any spread: never after NotAfter, but before
	// NotBefore where a fixed threshold is longer than the lifetime.
	Threshold time.Time

	// RenewAt is when this very certificate comes due: Threshold, or NotBefore if that is later, plus its part of
	// the spread. For a first certificate under SpreadFirst it lies before Threshold. It is never after NotAfter,
	// and zero when the policy is not enabled.
	RenewAt time.Time

	// BornDue reports that the threshold is not after NotBefore: the whole life lies within the renewal window, and
	// every new certificate of this kind is due at once. Guard keeps that from becoming a loop. A certificate
	// whose NotAfter is not after its NotBefore is born due, and always expired. False when the policy is not
	// enabled.
	BornDue bool

	// RetryFits reports that a second attempt, Policy.Retry after one at Threshold, comes before NotAfter in this
	// certificate's real lifetime. True when the policy is not enabled.
	RetryFits bool

	// NextChange is the next instant, always after now, at which State changes; zero when it never will.
	NextChange time.Time
}

// Plan reads no clock, no disk and no random source: the same leaf, policy and now always give the same answer, so
// a restart does not move a renewal. It does not allocate.
func (p Policy) Plan(l Leaf, now time.Time) Plan {
	now = now.Round(0)
	life := l.life()
	plan := Plan{Threshold: p.threshold(l, life), RetryFits: true}
	if p.Enabled {
		start := later(plan.Threshold, l.NotBefore)
		left := max(0, l.NotAfter.Sub(start))
		plan.RenewAt = p.renewAt(l, start, life, left)
		plan.BornDue = !plan.Threshold.After(l.NotBefore)
		plan.RetryFits = p.Retry.Of(life) < left
	}
	switch {
	case life == 0 || !now.Before(l.NotAfter):
		plan.State = Expired
	case now.Before(l.NotBefore):
		plan.State, plan.NextChange = NotYetValid, l.NotBefore
	case p.Enabled && !now.Before(plan.RenewAt):
		plan.State, plan.NextChange = Due, l.NotAfter
	case p.Enabled:
		plan.State, plan.NextChange = Valid, plan.RenewAt
	default:
		plan.State, plan.NextChange = Valid, l.NotAfter
	}
	return plan
}

// threshold returns Plan.Threshold of a certificate that lasts for life.
func (p Policy) threshold(l Leaf, life time.Duration) time.Time {
	if p.Threshold.IsShare() {
		return earlier(l.NotBefore.Add(p.Threshold.Of(life)), l.NotAfter)
	}
	return l.NotAfter.Add(-max(0, p.Threshold.Of(0)))
}

// renewAt returns Plan.RenewAt of an enabled policy. start is the first instant of the renewal window at which the
// certificate is valid, and left how much of its life is left then. The first renewals under SpreadFirst lie between an
// eighth of the way to the threshold and the threshold, and none where Guard would hold it: a fleet of one minute then asks
// for little more at its busiest than on average, which leaves room for what an outage adds (make sim).
func (p Policy) renewAt(l Leaf, start time.Time, life, left time.Duration) time.Time {
	place := Spread(l.Raw)
	ahead := start.Sub(l.NotBefore)
	early := ahead - max(ahead/8, Percent(guardPercent).Of(life))
	if p.SpreadFirst && l.First && early > 0 {
		return start.Add(-early).Add(part(early, place))
	}
	return earlier(start.Add(part(p.jitter(life, left), place)), l.NotAfter)
}

// guardPercent is how much of a lifetime must lie between an issuance and the next renewal by threshold.
const guardPercent = 5

// Guard returns the earliest instant at which a renewal by threshold may follow the issuance of l: 5% of the
// lifetime after NotBefore or after issued, when it was stored, whichever is later. It keeps a CA whose certificates
// are born due, or come with a start long past, from being asked without end.
//
// A certificate stored late in its life, such as an imported one, waits at most half of what was left of it then, so
// that Guard does not hold one until it has expired. But it waits for a minute, or a 120th of the lifetime if that is
// less: the halves cannot become a burst just before expiry. Guard is never after NotAfter. An issued time that is zero,
// or not before NotAfter (a clock was wrong), does not count.
func (p Policy) Guard(l Leaf, issued time.Time) time.Time {
	from := l.NotBefore
	if issued = issued.Round(0); issued.Before(l.NotAfter) {
		from = later(from, issued)
	}
	left := max(0, l.NotAfter.Sub(from))
	wait := max(min(Percent(guardPercent).Of(l.life()), left/2), floor(l.life()))
	return from.Add(min(wait, left))
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
