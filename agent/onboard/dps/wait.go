package dps

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"certagent/agent/onboard"
)

const (
	// maxRetryAfter is how long DPS may keep a device away.
	maxRetryAfter = 24 * time.Hour
	// maxSpread is how much a device adds at most to what DPS asked for.
	maxSpread = 10 * time.Minute

	// DPS says how long to wait between two polls, usually 3 s. It takes 5 in 10 seconds of a device, hence the least.
	usualPollWait, leastPollWait = 3 * time.Second, 2 * time.Second
	// operationPatience is after how long a registration that DPS does not decide is begun anew.
	operationPatience = time.Hour
)

// refusalWaits are the waits after refusals, which a person must put right at the service. They bound what a device that
// nobody enrols costs on a metered line.
func refusalWaits() onboard.Waits {
	return onboard.Waits{First: time.Minute, Factor: 3, Most: 4 * time.Hour}
}

// delay is the wait after that many failures in a row, the last of class, nil while that is not known.
func delay(class *onboard.Class, failures int, draw float64) time.Duration {
	if class == ErrUnauthorized || class == ErrRejected {
		return refusalWaits().After(failures, draw)
	}
	return onboard.OnTheWay().After(failures, draw)
}

// spreadOut is the wait where DPS asked for one: never less, and somewhat longer, because a service that throttles a
// fleet gives all of it the same second.
func spreadOut(asked time.Duration, draw float64) time.Duration {
	return asked + time.Duration(draw*float64(min(asked, maxSpread)))
}

// pollWait is the wait before the next poll of an operation that is going on for so long: what DPS asked for, but at
// least a tenth of that time, so that one that takes an hour is asked for some sixty times and not 1200.
func pollWait(asked, going time.Duration) time.Duration {
	if asked <= 0 {
		asked = usualPollWait
	}
	return min(max(asked, leastPollWait, going/10), operationPatience)
}

// believed is a time that was stored at the last try, unless a clock that was wrong wrote it.
func believed(t, last, now time.Time) time.Time {
	return onboard.Believed(t, last, now, maxRetryAfter+maxSpread)
}

// retryAfter is what a Retry-After header asks for (RFC 9110 10.2.3): seconds or a date, by the clock of this device.
// What is past or neither is 0; more than a day is a day.
func retryAfter(value string, now time.Time) time.Duration {
	value = strings.TrimSpace(value)
	if seconds, err := strconv.ParseUint(value, 10, 64); err == nil || errors.Is(err, strconv.ErrRange) {
		if seconds > uint64(maxRetryAfter/time.Second) {
			return maxRetryAfter
		}
		return time.Duration(seconds) * time.Second
	}
	date, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	return min(max(0, date.Sub(now)), maxRetryAfter)
}
