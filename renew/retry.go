package renew

import (
	"math"
	"time"
)

const (
	// firstWait is the wait after a first failure; one hundredth of the lifetime if that is less.
	firstWait = 5 * time.Minute
	// waitGrowth is by how much each further failure in a row lengthens the wait.
	waitGrowth = 4
	// leastWait is the shortest wait; a 120th of the lifetime if that is less.
	leastWait = time.Minute

	maxRetryAfter        = day
	maxRetryAfterPending = 7 * day
)

// Delay returns how long to wait after the given number of failures in a row, which counts from 1. leaf is the live
// certificate, nil while there is none. draw, in [0, 1), is a random number of the caller's.
//
// The wait is 5 minutes, or a hundredth of the lifetime if that is less, after the first failure and four times as
// long after each further one, times 0.5+draw. It is at most Retry and, until the certificate expires, at most a
// quarter of what is left of it. Where such a limit cuts into the range from which the wait is drawn, the range
// ends there: devices that have reached the limit are still spread over the half below it.
//
// The wait is at least one minute, or a 120th of the lifetime if that is less; this holds over both limits, so the
// quarters of what is left cannot become a burst just before expiry. While there is no certificate, and for one
// without a lifetime, shares count from one day. For one that has expired they count from its age, up to a day, where
// that is more than its lifetime: one that lived for a minute is a reason to ask every second while its death is
// a minute old, and none to ask every second for the rest of the year.
//
// There is no number of failures after which Delay gives up. For a server's Retry-After see Heed.
func (p Policy) Delay(leaf *Leaf, failures int, draw float64, now time.Time) time.Duration {
	life := basis(leaf, now)
	limit := max(0, p.Retry.Of(life))
	if leaf != nil {
		if left := leaf.NotAfter.Sub(now.Round(0)); left > 0 {
			limit = min(limit, left/4)
		}
	}
	middle := min(firstWait, life/100, limit)
	for n := 1; n < failures && 0 < middle && middle < limit; n++ {
		if middle > limit/waitGrowth {
			middle = limit
		} else {
			middle *= waitGrowth
		}
	}
	low, high := middle/2, limit
	if middle < limit-middle/2 {
		high = middle + middle/2
	}
	return max(low+part(high-low, draw), floor(life))
}

// Heed returns how long to wait where a server asked for that much, within the bounds of [CapRetryAfter]: never less, and
// up to twice as long, as draw, in [0, 1), has it. A server that says when its maintenance ends gives all that ask meanwhile
// the same second; without this they would come in it. What Heed adds is at most Retry and, if the certificate still lives
// when the time is over, at most a quarter of what is left of it then. leaf is nil while there is no certificate.
//
// The wait for an approval (202) is the server's alone: it has taken the request, and waiting on would help nobody.
func (p Policy) Heed(leaf *Leaf, asked time.Duration, draw float64, now time.Time) time.Duration {
	width := min(asked, max(0, p.Retry.Of(lifeOrDay(leaf))))
	if leaf != nil {
		if left := leaf.NotAfter.Sub(now.Round(0)) - asked; left > 0 {
			width = min(width, left/4)
		}
	}
	return asked + part(width, draw)
}

// Resume returns how long a certificate waits that came due while the agent was not running: draw, in [0, 1), times
// the least of Retry and a quarter of what is left. It parts a fleet that comes back from one power cut. An expired
// certificate does not wait.
func (p Policy) Resume(l Leaf, draw float64, now time.Time) time.Duration {
	left := max(0, l.NotAfter.Sub(now.Round(0)))
	return part(min(max(0, p.Retry.Of(lifeOrDay(&l))), left/4), draw)
}

// Sane returns next, a stored time for the next attempt, or now where next is further ahead than any rule puts it:
// more than one and a half times Retry, or the spread of a reload or the least wait where that is more. Such a time was
// written while the clock was wrong, or under another policy. leaf is nil while there is no certificate. For what a server
// asked for see [Obeyed].
func (p Policy) Sane(leaf *Leaf, next, now time.Time) time.Time {
	retry := max(0, p.Retry.Of(basis(leaf, now)))
	limit := max(retry+min(retry/2, math.MaxInt64-retry), leastWait)
	if leaf != nil {
		limit = max(limit, p.JitterOf(*leaf))
	}
	if next.Sub(now.Round(0)) > limit {
		return now
	}
	return next
}

// CapRetryAfter returns how long to wait when a server asked for that much in Retry-After (RFC 9110, section
// 10.2.3), and whether it asked for more than is obeyed: one day, or seven for the 202 of a request that waits for
// approval (RFC 7030, section 4.2.3). Such a request is not repeated within a minute. A time that is not positive is none.
func CapRetryAfter(asked time.Duration, pending bool) (wait time.Duration, capped bool) {
	limit, least := maxRetryAfter, time.Duration(0)
	if pending {
		limit, least = maxRetryAfterPending, leastWait
	}
	if asked <= 0 {
		return 0, false
	}
	return min(max(least, asked), limit), asked > limit
}

// floor returns the least time between two attempts that the clock alone asks for.
func floor(life time.Duration) time.Duration { return min(leastWait, life/120) }

// basis returns what shares count from in the waits after failures.
func basis(leaf *Leaf, now time.Time) time.Duration {
	life := lifeOrDay(leaf)
	if leaf == nil || now.Before(leaf.NotAfter) {
		return life
	}
	return max(life, min(now.Round(0).Sub(leaf.NotBefore), day))
}

// lifeOrDay returns the lifetime of leaf, or one day if there is none to go by.
func lifeOrDay(leaf *Leaf) time.Duration {
	if leaf == nil || leaf.life() == 0 {
		return day
	}
	return leaf.life()
}
