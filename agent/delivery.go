package agent

import (
	"slices"
	"time"

	"certagent/store"
)

// wanted is what a delivery is about, and to whom it goes, in the words of delivery.json.
type wanted struct {
	generation int
	sha256     string // of the certificate
	cas        string // digest of the set of CA certificates
	reason     string // why the certificate was issued
	outputs    []store.DeliveredOutput
	hooks      []string
}

// reasonCABundle is what hooks are told of a change of the CA certificates that no renewal came with.
const reasonCABundle = "ca-bundle"

// reconcile is the state of delivery as it is to be for w. For another certificate, or other CA certificates, everything is
// to be done again. For the same, what the configuration has had all along keeps its state, wherever it stands in the
// list now; what it did not have is to be done; what it has no more is forgotten, but for the paths of outputs, beside which
// a crash may have left something. It is without I/O and without a clock.
func reconcile(was store.Delivery, w wanted) store.Delivery {
	d := store.Delivery{
		Generation: w.generation, SHA256: w.sha256, CAs: w.cas, Reason: was.Reason,
		Outputs: []store.DeliveredOutput{}, Hooks: []store.DeliveredHook{}, Failures: was.Failures, NextTry: was.NextTry,
	}
	issued := was.SHA256 != w.sha256
	again := issued || was.CAs != w.cas
	told := !slices.ContainsFunc(was.Hooks, func(h store.DeliveredHook) bool { return h.State != store.StepOK })
	switch {
	case issued:
		d.Reason = w.reason
	case again && told: // who was not told of the certificate yet is told of that
		d.Reason = reasonCABundle
	}
	if again {
		d.Failures, d.NextTry = 0, time.Time{}
	}
	for _, o := range w.outputs {
		o = store.DeliveredOutput{Path: o.Path, Format: o.Format, State: store.StepPending}
		for _, before := range was.Outputs {
			switch {
			case before.Path != o.Path:
			case again || before.Format != o.Format:
				o.Mark, o.Written = before.Mark, before.Written
			default:
				o = before
			}
		}
		d.Outputs = append(d.Outputs, o)
	}
	d.Former = formerOf(was, d.Outputs)
	left := slices.Clone(was.Hooks)
	for _, name := range w.hooks {
		h := store.DeliveredHook{Hook: name, State: store.StepPending}
		if i := slices.IndexFunc(left, func(h store.DeliveredHook) bool { return h.Hook == name }); i >= 0 && !again {
			h = left[i]
			left = slices.Delete(left, i, i+1) // an equal one that follows is another
		}
		d.Hooks = append(d.Hooks, h)
	}
	return d
}

// formerOf are the paths of outputs that are none any more.
func formerOf(was store.Delivery, now []store.DeliveredOutput) (former []string) {
	paths := slices.Clone(was.Former)
	for _, o := range was.Outputs {
		paths = append(paths, o.Path)
	}
	for _, path := range paths {
		is := slices.ContainsFunc(now, func(o store.DeliveredOutput) bool { return o.Path == path })
		if !is && !slices.Contains(former, path) {
			former = append(former, path)
		}
	}
	return former
}

// deliveryQuestion is everything that nextStep looks at.
type deliveryQuestion struct {
	now   time.Time
	state store.Delivery // reconciled
	// outdated: the outputs are to be looked at, whatever the state says of them.
	outdated bool
	// settled: in this delivery all outputs were found to be what they should be.
	settled bool
}

// deliveryStep says what to do now, or when to look again.
type deliveryStep struct {
	write bool
	hook  int       // to run; -1 for none
	at    time.Time // zero: nothing to wait for but an event
}

func (s deliveryStep) none() bool { return !s.write && s.hook < 0 }

// nextStep is without I/O and without a clock of its own, so that the keeper, "run --once" and a table test cannot
// disagree. Outputs come first: no hook runs while one is not what it should be, and before the hooks of a delivery
// they are looked at again.
func nextStep(q deliveryQuestion) deliveryStep {
	step := deliveryStep{hook: -1}
	is := func(p store.Progress) bool {
		return slices.ContainsFunc(q.state.Outputs, func(o store.DeliveredOutput) bool { return o.State == p })
	}
	if len(q.state.Outputs) > 0 {
		next := planned(q.state.NextTry, q.now)
		if q.outdated || is(store.StepPending) || is(store.StepFailed) && !next.After(q.now) {
			step.write = true
			return step
		}
		if is(store.StepFailed) {
			step.at = next
			return step
		}
	}
	for i, h := range q.state.Hooks {
		next := planned(h.NextTry, q.now)
		switch {
		case h.State == store.StepOK:
		case !next.After(q.now) && len(q.state.Outputs) > 0 && !q.settled:
			return deliveryStep{hook: -1, write: true}
		case !next.After(q.now):
			return deliveryStep{hook: i}
		case step.at.IsZero() || next.Before(step.at):
			step.at = next
		}
	}
	return step
}

// The wait after a failed delivery, apart from any renewal.
const (
	deliveryFirstWait = time.Minute
	deliveryMaxWait   = time.Hour
)

// deliveryDelay is the wait after that many failures in a row, which count from 1: a minute, four times as long each time,
// at most an hour; each drawn between half and one and a half. draw is in [0, 1).
func deliveryDelay(failures int, draw float64) time.Duration {
	return time.Duration((.5 + draw) * float64(grown(deliveryFirstWait, deliveryMaxWait, failures)))
}

// planned is a stored time, or zero where it is further ahead than deliveryDelay puts one: it was written while the clock
// was wrong.
func planned(t, now time.Time) time.Time {
	if t.Sub(now) > deliveryMaxWait*3/2 {
		return time.Time{}
	}
	return t
}

// grown is first, four times as long after each failure but the first, and at most limit.
func grown(first, limit time.Duration, failures int) time.Duration {
	wait := first
	for n := 1; n < failures && wait < limit; n++ {
		wait *= 4
	}
	return min(wait, limit)
}

// begin is the state before a hook is run. Should nobody live to see it end, it is run again: the first time at once, then
// by the rules for failures, lest a hook that ends the agent keep it from everything else.
func begin(h store.DeliveredHook, draw float64, now time.Time) store.DeliveredHook {
	h.State, h.LastTry, h.NextTry = store.StepPending, now, time.Time{}
	if h.Tries > 0 {
		h.NextTry = now.Add(deliveryDelay(h.Tries, draw))
	}
	h.Tries++
	return h
}
