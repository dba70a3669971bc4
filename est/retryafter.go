package est

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// parseRetryAfter returns how long the Retry-After headers of an answer (RFC 9110 10.2.3) ask to wait from now, the
// longest of them if there are several.
func parseRetryAfter(values []string, now time.Time) time.Duration {
	longest := time.Duration(0)
	for _, value := range values {
		longest = max(longest, retryAfter(strings.TrimSpace(value), now))
	}
	return longest
}

// retryAfter reads one: seconds, or a date in any form of RFC 9110 5.6.7. A part of a second counts as a whole one.
// What is past, negative or neither is 0; more than a Duration holds is the longest Duration.
func retryAfter(value string, now time.Time) time.Duration {
	if value != "" && strings.Trim(value, "0123456789.") == "" {
		seconds, err := strconv.ParseFloat(value, 64)
		seconds = math.Ceil(seconds)
		switch {
		case seconds > float64(math.MaxInt64/time.Second): // also where err says that it is out of range
			return math.MaxInt64
		case err != nil:
			return 0
		}
		return time.Duration(seconds) * time.Second
	}
	date, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	return max(0, date.Sub(now))
}
