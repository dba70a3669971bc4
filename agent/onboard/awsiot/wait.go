package awsiot

import (
	"time"

	"certagent/agent/onboard"
)

const (
	// A new certificate is provisioned within seconds as a rule; AWS gives no number. The wait after a dropped connection
	// is drawn between nothing and 2 s, and twice as much after each further one, up to a minute.
	firstQuickWait, longestQuickWait = 2 * time.Second, time.Minute
	// leastQuickWait keeps a draw of nothing from being no wait.
	leastQuickWait = 200 * time.Millisecond
	// quickTries is how many connections are dropped before that is a problem. They take some three minutes.
	quickTries = 10
	// longestSlowWait is the mean of the longest of the waits after that.
	longestSlowWait = time.Hour
)

// slowWaits are those after the quick tries, and after any other failure than trouble on the way. RegisterThing is throttled
// for the whole account, so a fleet may take hours; and a rule or a person that is to activate a certificate (JITR) takes its
// time.
func slowWaits() onboard.Waits {
	return onboard.Waits{First: time.Minute, Factor: 2, Most: longestSlowWait}
}

// delay is the wait after a failure of class, when so many connections in a row were dropped, and so many tries failed in
// other ways since: none of them means that this one was dropped. draw is in [0, 1).
func delay(class *onboard.Class, dropped, failures int, draw float64) time.Duration {
	switch {
	case failures == 0 && dropped < quickTries:
		wait := onboard.Waits{First: firstQuickWait, Factor: 2, Most: longestQuickWait}.Mean(dropped)
		return max(leastQuickWait, time.Duration(draw*float64(wait)))
	case failures == 0:
		return slowWaits().After(dropped-quickTries+1, draw)
	case class == ErrUnavailable:
		return onboard.OnTheWay().After(failures, draw)
	}
	return slowWaits().After(failures, draw)
}

// believed is a time that was stored at the last try, unless a clock that was wrong wrote it.
func believed(t, last, now time.Time) time.Time {
	return onboard.Believed(t, last, now, 2*longestSlowWait)
}
