package status

import (
	"fmt"
	"time"
)

const (
	day  = 24 * time.Hour
	year = 365 * day
	// minuteOfDay is for what people note or write in a calendar.
	minuteOfDay = "2006-01-02 15:04"
)

// moment says a time in words and by the clock, or by the calendar where that is further away than a day: "in 19 hours
// (17:24:10)", "3 days ago (2026-11-24)".
func moment(t, now time.Time) string {
	d := t.Sub(now)
	layout := time.DateOnly
	if d.Abs() < day {
		layout = time.TimeOnly
	}
	return fmt.Sprintf("%s (%s)", Until(d), t.In(now.Location()).Format(layout))
}

// date says a time in words and as a date, with the time of day where that matters: "in 19 hours (2026-11-24 17:24)".
func date(t, now time.Time) string {
	d := t.Sub(now)
	layout := time.DateOnly
	if d.Abs() < 3*day {
		layout = minuteOfDay
	}
	return fmt.Sprintf("%s (%s)", Until(d), t.In(now.Location()).Format(layout))
}

// Until says a time that is d away in words: "in 3 days", "2 hours ago".
func Until(d time.Duration) string {
	if d < 0 {
		return Span(-d) + " ago"
	}
	return "in " + Span(d)
}

// Span names a duration that is not negative in the largest unit of which it has at least two, rounded down.
func Span(d time.Duration) string {
	for _, u := range []struct {
		unit time.Duration
		name string
	}{{year, "years"}, {day, "days"}, {time.Hour, "hours"}, {time.Minute, "minutes"}} {
		if d >= 2*u.unit {
			return fmt.Sprintf("%d %s", d/u.unit, u.name)
		}
	}
	return counted(int(d/time.Second), "second")
}

// counted is "1 second", "2 seconds".
func counted(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}
