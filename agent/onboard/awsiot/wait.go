package awsiot

import (
	"errors"
	"time"
)

const (
	// A new certificate is provisioned within seconds as a rule; AWS gives no number. The wait after a dropped connection
	// is drawn between nothing and 2 s, and twice as much after each further one, up to a minute.
	firstQuickWait, longestQuickWait = 2 * time.Second, time.Minute
	// leastQuickWait keeps a draw of nothing from being no wait.
	leastQuickWait = 200 * time.Millisecond
	// quickTries is how many connections are dropped before that is a problem. They take some three minutes.
	quickTries = 10

	// After that, and after any other failure: a minute, twice as long each time, up to an hour, each between half and one
	// and a half of that. RegisterThing is throttled for the whole account, so a fleet may take hours; and a rule or a
	// person that is to activate a certificate (JITR) takes its time.
	firstSlowWait, longestSlowWait = time.Minute, time.Hour

	// After trouble on the way, such as a network that is gone: ten seconds, three times as long each time, up to an hour.
	firstWait, waitGrowth, longestWait = 10 * time.Second, 3, time.Hour
)

// delay is the wait after a failure of class, when so many connections in a row were dropped, and so many tries failed in
// other ways since: none of them means that this one was dropped. draw is in [0, 1).
func delay(class error, dropped, failures int, draw float64) time.Duration {
	switch {
	case failures == 0 && dropped < quickTries:
		wait := grown(firstQuickWait, 2, longestQuickWait, dropped)
		return max(leastQuickWait, time.Duration(draw*float64(wait)))
	case failures == 0:
		return around(grown(firstSlowWait, 2, longestSlowWait, dropped-quickTries+1), draw)
	case errors.Is(class, ErrUnavailable):
		return around(grown(firstWait, waitGrowth, longestWait, failures), draw)
	}
	return around(grown(firstSlowWait, 2, longestSlowWait, failures), draw)
}

// grown is first, times factor for each of n beyond one, and not more than limit.
func grown(first time.Duration, factor int, limit time.Duration, n int) time.Duration {
	for ; n > 1 && first < limit; n-- {
		first *= time.Duration(factor)
	}
	return min(first, limit)
}

// around is between half and one and a half of mean.
func around(mean time.Duration, draw float64) time.Duration {
	return time.Duration((.5 + draw) * float64(mean))
}

// clockStep is how far a clock may be put back without having been wrong.
const clockStep = 5 * time.Second

// sane is a time that was stored at the last try, or zero where a clock that was wrong wrote it: that try lies ahead, or
// no rule of this package puts a time so far ahead.
func sane(t, last, now time.Time) time.Time {
	if last.Sub(now) > clockStep || t.Sub(now) > 2*longestSlowWait {
		return time.Time{}
	}
	return t
}
