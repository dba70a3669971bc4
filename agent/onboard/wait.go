package onboard

import "time"

// Waits are the waits after failures in a row: First after the first, Factor times as long after each further one, and never
// more than Most.
type Waits struct {
	First  time.Duration
	Factor int
	Most   time.Duration
}

// OnTheWay are the waits after trouble on the way to a cloud, such as a network that is gone.
func OnTheWay() Waits { return Waits{First: 10 * time.Second, Factor: 3, Most: time.Hour} }

// Mean is the wait after that many failures in a row.
func (w Waits) Mean(failures int) time.Duration {
	wait := w.First
	for n := 1; n < failures && wait < w.Most; n++ {
		wait *= time.Duration(w.Factor)
	}
	return min(wait, w.Most)
}

// After is the wait after that many failures in a row, between half and one and a half of its mean, as draw, in [0, 1), has it.
func (w Waits) After(failures int, draw float64) time.Duration {
	return time.Duration((.5 + draw) * float64(w.Mean(failures)))
}

// clockStep is how far a clock may be put back without having been wrong.
const clockStep = 5 * time.Second

// Believed is t, which was stored at the last try, or zero where a clock that was wrong wrote it: that try lies ahead of now,
// or t is further ahead than the rules of a protocol put any time.
func Believed(t, last, now time.Time, furthest time.Duration) time.Time {
	if last.Sub(now) > clockStep || t.Sub(now) > furthest {
		return time.Time{}
	}
	return t
}
