package renew

import (
	"fmt"
	"time"
)

// Clock is what is known of the true time, against which the wall clock is judged. A gateway without a battery
// starts in 1970, where every certificate is not yet valid; believing that, it would throw away what works. The zero
// Clock believes everything.
type Clock struct {
	// Build is the date of the commit that the program was built from; zero if it is not known.
	Build time.Time

	// Refuted is a build date that lay ahead of a synchronised clock; zero if there is none. One of the two is wrong, and a
	// program that was built by a wrong clock must not hold a device until that date has come: as long as Build is not
	// later, it does not count.
	Refuted time.Time

	// Mark is the newest corroborated time, as it was last worth writing; zero if there is none. It can be up to an
	// hour behind.
	Mark time.Time

	// Ignore is [clock] check = false, for networks without time: every clock is believed.
	Ignore bool
}

// Reached returns a time that is known to have come, whatever the wall clock says: Mark or Build, the later of the two.
// It is zero where neither is known.
func (c Clock) Reached() time.Time {
	if !c.Build.After(c.Refuted) {
		return c.Mark
	}
	return later(c.Build, c.Mark)
}

// Judge reports whether a wall clock that says now can be believed: it is not before Reached. If it cannot, why is a
// sentence for a person. A clock that is ahead cannot be told from one that is right.
func (c Clock) Judge(now time.Time) (credible bool, why string) {
	now = now.Round(0)
	bound, what := c.Reached(), "this program was built from sources of"
	if bound.Equal(c.Mark) {
		what = "an EST exchange or a synchronised clock has already confirmed"
	}
	if c.Ignore || bound.IsZero() || !now.Before(bound) {
		return true, ""
	}
	return false, fmt.Sprintf("the clock says %s, but %s %s: "+
		"nothing is tried or judged expired until it is set or synchronised", stamp(now), what, stamp(bound))
}

// Doubt says, for a person, that now is before Build although it is believed: the system says that its clock is
// synchronised, so that one of the two is wrong. It is empty where there is no such doubt.
func (c Clock) Doubt(now time.Time) string {
	now = now.Round(0)
	if c.Ignore || c.Build.After(c.Refuted) || !now.Before(c.Build) {
		return ""
	}
	return fmt.Sprintf("the clock says %s and is believed, since the system had it synchronised, but this program was built "+
		"from sources of %s: one of the two is wrong", stamp(now), stamp(c.Build))
}

// markStep is how far the mark must move for it to be worth a write; flash memory wears out.
const markStep = time.Hour

// Corroborated returns the Clock after something has shown that now has come, and whether it must be written. That is so
// when now is an hour or more after Mark, when Mark was lowered, and when Refuted changed; otherwise the Clock returned
// is c, so that Mark is always what was written last.
//
// synced says that now is what the system's clock says, and that the system reports it as synchronised. Only then is Mark
// lowered, to now: one leap of the clock to 2038, taken for true, must not hold a device until then. And only then does a
// time before Build count; it refutes Build, until a synchronised clock is past it.
func (c Clock) Corroborated(now time.Time, synced bool) (next Clock, write bool) {
	now, next = now.Round(0), c
	early := now.Before(c.Build)
	switch {
	case synced && early:
		next.Refuted = c.Build
	case synced:
		next.Refuted = time.Time{}
	case early && c.Build.After(c.Refuted):
		return c, false
	}
	write = !next.Refuted.Equal(c.Refuted)
	if write || c.Mark.IsZero() || now.Sub(c.Mark) >= markStep || synced && now.Before(c.Mark) {
		next.Mark = now
		return next, true
	}
	return c, false
}

const (
	// misdatedAfter is the longest that a certificate is waited for to become valid: most clocks that people set wrong are
	// wrong by a time zone or a day.
	misdatedAfter = day
	// misdatedAtLeast is more than a CA's clock may run fast for what it issues to be accepted.
	misdatedAtLeast = 10 * time.Minute
)

// Misdated reports that the certificate begins so far after now that waiting is no answer: more than a day, or a quarter
// of its lifetime if that is less, but ten minutes at least. It was issued while the clocks of the device and of the CA
// were both wrong, or the device's is now. It is as useless as one that has expired; whether a new one comes out
// better, the CA shows.
func (l Leaf) Misdated(now time.Time) bool {
	return l.NotBefore.Sub(now.Round(0)) > max(misdatedAtLeast, min(misdatedAfter, l.life()/4))
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }
