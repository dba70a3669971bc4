package certagent_test

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The time at which every picture was taken.
var pictureTime = time.Date(2026, 3, 17, 9, 41, 0, 0, time.UTC)

var (
	// A time as status shows it: how far it is away, and the clock or the calendar.
	awayPattern = regexp.MustCompile(`(in )?(\d+) (years?|days?|hours?|minutes?|seconds?)( ago)?( +)\((\d{4}-\d\d-\d\d \d\d:\d\d:\d\d|\d{4}-\d\d-\d\d \d\d:\d\d|\d{4}-\d\d-\d\d|\d\d:\d\d:\d\d)\)`)
	aloneIn     = regexp.MustCompile(`\bin \d+ (minutes|seconds)`)
	aloneAgo    = regexp.MustCompile(`\b\d+ seconds? ago`)
	processID   = regexp.MustCompile(`\bprocess \d+`)
	tookPattern = regexp.MustCompile(`\b\d+(\.\d+)? ?ms\b`)
)

var units = map[string]time.Duration{
	"year": 365 * 24 * time.Hour, "day": 24 * time.Hour, "hour": time.Hour, "minute": time.Minute, "second": time.Second,
}

// steady replaces what differs from run to run by what would be there on a gateway: directories and addresses of the same width,
// times that follow from how far they are away. What is minutes or seconds away depends on dice and on how busy this
// machine is: it becomes 4 minutes ahead, or 2 seconds ago.
func (g *pictured) steady(t *testing.T, lines []string) (steady []string) {
	t.Helper()
	places := strings.NewReplacer(
		g.etc, "/etc/certagent", g.state, "/var/lib/certagent", g.run, "/run/certagent",
		"https://"+g.downIP, "https://est.example.com", "tcp "+g.downIP, "tcp 192.0.2.114:443",
		strings.TrimSuffix(g.url, "/.well-known/est"), "https://ca1.example.com",
	)
	for _, line := range lines {
		line = places.Replace(line)
		line = awayPattern.ReplaceAllStringFunc(line, stand)
		line = aloneIn.ReplaceAllString(line, "in 4 minutes")
		line = aloneAgo.ReplaceAllString(line, "2 seconds ago")
		line = processID.ReplaceAllString(line, "process 611")
		line = tookPattern.ReplaceAllString(line, "12 ms")
		if strings.Contains(line, "/tmp/") || strings.Contains(line, "127.0.0.1") {
			t.Errorf("differs from run to run: %s", line)
		}
		steady = append(steady, line)
	}
	return steady
}

// stand is a time as awayPattern finds it, put where it would be at pictureTime.
func stand(text string) string {
	m := awayPattern.FindStringSubmatch(text)
	n, _ := strconv.Atoi(m[2]) // digits
	name := strings.TrimSuffix(m[3], "s")
	unit, ago := units[name], m[4] != ""
	switch {
	case unit <= time.Minute && ago:
		n, name, unit = 2, "second", time.Second
	case unit <= time.Minute:
		n, name, unit = 4, "minute", time.Minute
	}
	// Words are rounded down.
	at := pictureTime.Add(time.Duration(n)*unit + unit/2)
	if ago {
		at = pictureTime.Add(-time.Duration(n)*unit - unit/2)
	}
	layout := time.TimeOnly
	switch len(m[6]) {
	case len(time.DateOnly):
		layout = time.DateOnly
	case len(time.DateTime):
		layout = time.DateTime
	case len("2006-01-02 15:04"):
		layout = "2006-01-02 15:04"
	}
	return fmt.Sprintf("%s%d %ss%s%s(%s)", m[1], n, name, m[4], m[5], at.Format(layout))
}

func TestStand(t *testing.T) {
	for text, want := range map[string]string{
		"in 23 hours (17:24:10)":         "in 23 hours (09:11:00)",
		"in 19 days (2027-01-01)":        "in 19 days (2026-04-05)",
		"in 19 hours (2027-01-01 15:30)": "in 19 hours (2026-03-18 05:11)",
		"in 6 minutes (17:24:10)":        "in 4 minutes (09:45:30)",
		"in 119 seconds (17:24:10)":      "in 4 minutes (09:45:30)",
		"0 seconds ago (17:24:10)":       "2 seconds ago (09:40:57)",
		"10 days ago (2027-01-01)":       "10 days ago (2026-03-06)",
		"1 second ago (17:24:10)":        "2 seconds ago (09:40:57)",
	} {
		if got := stand(text); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}
