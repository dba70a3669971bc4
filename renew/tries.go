package renew

import (
	"math"
	"time"
)

// Tries is what the tries so far say about the next one. It is kept over restarts, so that a device that is switched on
// again goes on where it was. The zero Tries is that of a certificate just issued by an agent that forgot when.
type Tries struct {
	// Failures counts the tries that failed since the last success, or since the certificate expired.
	Failures int

	// Last is when the last try ended, well or not; zero if there was none.
	Last time.Time

	// Next holds the next try back, by back-off or by Resumed; zero if nothing does.
	Next time.Time

	// RetryAfter is until when the device waits because the server asked for it, its part of the spread included; zero if it
	// did not ask. See Heed and Obeyed.
	RetryAfter time.Time

	// Resumed counts how often since the last try Next came from Resumed.
	Resumed int
}

// Tried returns t after a try that ended at now, whatever came of it: what the server asked for before is over, and the
// first try after expiry begins to count anew. The tries of a living certificate say nothing about those of a dead one,
// and waiting as long would keep the device dark after the trouble has ended. leaf is the live certificate, nil while
// there is none.
func (t Tries) Tried(leaf *Leaf, now time.Time) Tries {
	now = now.Round(0)
	if leaf != nil && t.Last.Before(leaf.NotAfter) && !now.Before(leaf.NotAfter) {
		t.Failures = 0
	}
	t.Last, t.RetryAfter, t.Resumed = now, time.Time{}, 0
	return t
}

// Failed returns t after a try that failed at now; it includes Tried. The next one waits for [Policy.Delay], and for
// [Policy.Heed] where that is longer. asked is the server's Retry-After within the bounds of [CapRetryAfter]; 0 is none.
// draw, in [0, 1), is a random number of the caller's.
func (p Policy) Failed(leaf *Leaf, t Tries, asked time.Duration, draw float64, now time.Time) Tries {
	now = now.Round(0)
	t = t.Tried(leaf, now)
	t.Failures++
	t.Next = now.Add(p.Delay(leaf, t.Failures, draw, now))
	if asked > 0 {
		t.RetryAfter = now.Add(p.Heed(leaf, asked, draw, now))
	}
	return t
}

// Resumed returns t as an agent that starts at now goes on with it: a renewal that came due while it was not running waits
// for [Policy.Resume], unless t holds it back already. So a power cut does not bring a whole fleet back at once. A turn
// that went by while the agent was off again is followed by one within a quarter of the time, and so on: a device that is
// on for ten minutes a day gets to its turn within days.
func (p Policy) Resumed(l Leaf, t Tries, draw float64, now time.Time) Tries {
	now = now.Round(0)
	if !t.Next.After(now) && p.Plan(l, now).State == Due {
		t.Next = now.Add(p.Resume(l, math.Ldexp(draw, -2*t.Resumed), now))
		t.Resumed++
	}
	return t
}

// NextTry returns until when the back-off holds the next try: t.Next as far as it is [Policy.Sane]; zero where nothing
// holds it. That is so for the first try after expiry, which may succeed by means that nobody has tried; so before expiry
// nothing is held for longer. A Retry-After is apart from this, see Obeyed. leaf is the live certificate, nil while there
// is none.
func (p Policy) NextTry(leaf *Leaf, t Tries, now time.Time) time.Time {
	if t.Next.IsZero() {
		return time.Time{}
	}
	now = now.Round(0)
	expired := leaf != nil && !now.Before(leaf.NotAfter)
	if expired && (t.Last.Before(leaf.NotAfter) || t.Last.After(now)) {
		return time.Time{}
	}
	next := p.Sane(leaf, t.Next, now)
	if leaf != nil && !expired {
		next = earlier(next, leaf.NotAfter)
	}
	return next
}

// Obeyed returns until, the end of a wait that a server asked for, or zero when that is over, or is further ahead than
// [CapRetryAfter] and [Policy.Heed] ever put it: such a time was written while the clock was wrong.
func Obeyed(until, now time.Time, pending bool) time.Time {
	longest := 2 * maxRetryAfter
	if pending {
		longest = maxRetryAfterPending
	}
	if !until.After(now) || until.Sub(now.Round(0)) > longest {
		return time.Time{}
	}
	return until
}
