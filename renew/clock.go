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

	// Mark is the newest corroborated time, as it was last worth writing; zero if there is none. It can be up to an
	// hour behind.
	Mark time.Time

	// Ignore is [clock] check = false, for networks without time: every clock is believed.
	Ignore bool
}

// Judge reports whether a wall clock that says now can be believed: it is neither before Build nor before Mark. If
// it cannot, why is a sentence for a person. A clock that is ahead cannot be told from one that is right.
func (c Clock) Judge(now time.Time) (credible bool, why string) {
	now = now.Round(0)
	bound, what := c.Build, "this program was built from sources of"
	if c.Mark.After(c.Build) {
		bound, what = c.Mark, "an EST exchange or a synchronised clock has already confirmed"
	}
	if c.Ignore || bound.IsZero() || !now.Before(bound) {
		return true, ""
	}
	return false, fmt.Sprintf("the clock says %s, but %s %s: "+
		"nothing is tried or judged expired until it is set or synchronised", stamp(now), what, stamp(bound))
}

// markStep is how far the mark must move for it to be worth a write; flash memory wears out.
const markStep = time.Hour

// Corroborated returns the Clock after something has shown now to be right, and whether it must be written.
// That is so when now is an hour or more after Mark, or when Mark was lowered; otherwise the Clock returned is c, so
// that Mark is always what was written last.
//
// synced says that the system reports its own clock as synchronised, rather than that a server's certificate was
// found valid at now. Only then is Mark lowered, to now: one leap of the clock to 2038, taken for true, must not hold
// a device until then. A time before Build corroborates nothing.
func (c Clock) Corroborated(now time.Time, synced bool) (next Clock, write bool) {
	now = now.Round(0)
	switch {
	case now.Before(c.Build):
		return c, false
	case c.Mark.IsZero(), now.Sub(c.Mark) >= markStep, synced && now.Before(c.Mark):
		c.Mark = now
		return c, true
	}
	return c, false
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }
