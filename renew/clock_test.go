package renew_test

import (
	"strings"
	"testing"
	"time"

	"certagent/renew"
)

func TestJudge(t *testing.T) {
	build := time.Date(2026, 1, 10, 8, 0, 0, 0, time.UTC)
	mark := time.Date(2026, 6, 1, 8, 30, 0, 0, time.UTC)
	const (
		beforeBuild = "the clock says 1970-01-01 00:02:11 UTC, but this program was built from sources of " +
			"2026-01-10 08:00:00 UTC: nothing is tried or judged expired until it is set or synchronised"
		beforeMark = "the clock says 2026-06-01 08:29:59 UTC, but an EST exchange or a synchronised clock has already " +
			"confirmed 2026-06-01 08:30:00 UTC: nothing is tried or judged expired until it is set or synchronised"
	)
	for _, c := range []struct {
		name  string
		clock renew.Clock
		now   time.Time
		why   string // empty when credible
	}{
		{"nothing known", renew.Clock{}, time.Unix(0, 0), ""},
		{"1970", renew.Clock{Build: build}, time.Unix(131, 0), beforeBuild},
		{"1970, the check is off", renew.Clock{Build: build, Mark: mark, Ignore: true}, time.Unix(131, 0), ""},
		{"at the build", renew.Clock{Build: build}, build, ""},
		{"after the build", renew.Clock{Build: build}, build.Add(1), ""},
		{"a second before the mark", renew.Clock{Build: build, Mark: mark}, mark.Add(-time.Second), beforeMark},
		{"the same, build unknown", renew.Clock{Mark: mark}, mark.Add(-time.Second), beforeMark},
		{"at the mark", renew.Clock{Build: build, Mark: mark}, mark, ""},
		{"in another zone", renew.Clock{Mark: mark}, mark.In(time.FixedZone("", -12*3600)), ""},
		{"a mark older than the build", renew.Clock{Build: build, Mark: build.Add(-day)}, time.Unix(131, 0), beforeBuild},
		{"far ahead", renew.Clock{Build: build, Mark: mark}, mark.AddDate(12, 0, 0), ""},
		{"before a build that is refuted", renew.Clock{Build: build, Refuted: build}, build.AddDate(-4, 0, 0), ""},
		{"before the mark, the build is refuted",
			renew.Clock{Build: mark.AddDate(4, 0, 0), Refuted: mark.AddDate(4, 0, 0), Mark: mark}, mark.Add(-time.Second), beforeMark},
		{"before a later build than the refuted one", renew.Clock{Build: build, Refuted: build.Add(-day)}, time.Unix(131, 0), beforeBuild},
		{"a GPS receiver 1024 weeks behind", renew.Clock{Build: build}, build.Add(-1024 * 7 * day),
			strings.Replace(beforeBuild, "1970-01-01 00:02:11", "2006-05-27 08:00:00", 1)},
	} {
		credible, why := c.clock.Judge(c.now)
		if credible != (c.why == "") || why != c.why {
			t.Errorf("%s: %t, %q\nwant %q", c.name, credible, why, c.why)
		}
	}
}

func TestCorroborated(t *testing.T) {
	build := time.Date(2026, 1, 10, 8, 0, 0, 0, time.UTC)
	mark := time.Date(2026, 6, 1, 8, 30, 0, 0, time.UTC)
	never := time.Time{}
	for _, c := range []struct {
		name   string
		mark   time.Time
		now    time.Time
		synced bool
		want   time.Time
		write  bool
	}{
		{"the first time", never, mark, false, mark, true},
		{"the first time, synchronised", never, mark, true, mark, true},
		{"a minute later", mark, mark.Add(time.Minute), false, mark, false},
		{"a minute later, synchronised", mark, mark.Add(time.Minute), true, mark, false},
		{"just under an hour later", mark, mark.Add(time.Hour - 1), true, mark, false},
		{"an hour later", mark, mark.Add(time.Hour), false, mark.Add(time.Hour), true},
		{"a year later", mark, mark.AddDate(1, 0, 0), true, mark.AddDate(1, 0, 0), true},
		{"earlier, by an exchange", mark, mark.Add(-time.Hour), false, mark, false},
		{"earlier, synchronised", mark, mark.Add(-time.Second), true, mark.Add(-time.Second), true},
		{"years earlier, after a leap to 2038", mark.AddDate(12, 0, 0), mark, true, mark, true},
		{"before the build, by an exchange", never, build.Add(-1), false, never, false},
		{"years ahead, by an exchange", mark, mark.AddDate(30, 0, 0), false, mark.AddDate(30, 0, 0), true},
	} {
		before := renew.Clock{Build: build, Mark: c.mark, Ignore: true}
		want := before
		want.Mark = c.want
		if next, write := before.Corroborated(c.now, c.synced); next != want || write != c.write {
			t.Errorf("%s: %v, write %t; want %v, %t", c.name, next.Mark, write, c.want, c.write)
		}
	}
}

// TestBuildDateIsRefuted: only a synchronised clock refutes a build date, and one that has come past it makes it count again.
func TestBuildDateIsRefuted(t *testing.T) {
	build := time.Date(2030, 1, 10, 8, 0, 0, 0, time.UTC)
	now := build.AddDate(-4, 0, 0)
	start := renew.Clock{Build: build}
	if next, write := start.Corroborated(now, false); next != start || write || start.Doubt(now) != "" {
		t.Errorf("an exchange before the build counts: %+v, %t, %q", next, write, start.Doubt(now))
	}
	refuted, write := start.Corroborated(now, true)
	if want := (renew.Clock{Build: build, Refuted: build, Mark: now}); refuted != want || !write || refuted.Reached() != now {
		t.Errorf("%+v, write %t, want %+v", refuted, write, want)
	}
	const doubt = "the clock says 2026-01-10 08:00:00 UTC and is believed, since the system had it synchronised, but this " +
		"program was built from sources of 2030-01-10 08:00:00 UTC: one of the two is wrong"
	if got := refuted.Doubt(now); got != doubt {
		t.Errorf("%q\nwant %q", got, doubt)
	}
	if next, write := refuted.Corroborated(now.Add(2*time.Hour), false); next.Mark != now.Add(2*time.Hour) || !write {
		t.Errorf("an exchange after that does not count: %+v", next)
	}
	if next, write := refuted.Corroborated(now.Add(time.Minute), true); next != refuted || write {
		t.Errorf("a minute later it is written again: %+v", next)
	}
	if got := refuted.Doubt(build); got != "" {
		t.Errorf("at the build date: %q", got)
	}
	past, write := refuted.Corroborated(build, true)
	if want := (renew.Clock{Build: build, Mark: build}); past != want || !write || past.Reached() != build {
		t.Errorf("past the build: %+v, write %t, want %+v", past, write, want)
	}
}

// TestMisdated: a certificate is waited for a day, or a quarter of its lifetime, but ten minutes at least.
func TestMisdated(t *testing.T) {
	for _, c := range []struct {
		life, patience time.Duration
	}{
		{365 * day, day}, {4 * day, day}, {day, 6 * time.Hour},
		{time.Hour, 15 * time.Minute}, {time.Minute, 10 * time.Minute}, {0, 10 * time.Minute},
	} {
		l := renew.Leaf{NotBefore: birth, NotAfter: birth.Add(c.life)}
		if l.Misdated(birth.Add(-c.patience)) || !l.Misdated(birth.Add(-c.patience-1)) || l.Misdated(birth.Add(time.Hour)) {
			t.Errorf("a lifetime of %v is not waited for %v", c.life, c.patience)
		}
	}
	endless := renew.Leaf{NotBefore: birth, NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)}
	if !endless.Misdated(time.Unix(0, 0)) || endless.Misdated(birth) {
		t.Error("one without a well-defined end")
	}
}

// TestCorroboratedEveryMinute holds that looking each minute moves the mark each hour: not each minute, and not
// never.
func TestCorroboratedEveryMinute(t *testing.T) {
	var clock renew.Clock
	writes := 0
	for minute := range 24 * 60 {
		now := birth.Add(time.Duration(minute) * time.Minute)
		next, write := clock.Corroborated(now, true)
		if clock = next; write {
			writes++
		}
		if behind := now.Sub(clock.Mark); behind < 0 || behind >= time.Hour {
			t.Fatalf("after %d minutes the mark is %v behind", minute, behind)
		}
	}
	if writes != 24 {
		t.Errorf("%d writes in a day, want 24", writes)
	}
}

// TestClockLeapToTheFuture goes through a glitch that an exchange has confirmed by accident: the device holds once
// the clock is right again, and goes on as soon as that clock is known to be synchronised.
func TestClockLeapToTheFuture(t *testing.T) {
	right := birth
	clock := renew.Clock{Build: birth.AddDate(0, -1, 0)}
	clock, _ = clock.Corroborated(right, true)
	clock, _ = clock.Corroborated(right.AddDate(12, 0, 0), false)
	if credible, _ := clock.Judge(right); credible {
		t.Fatal("a clock twelve years behind the mark is believed")
	}
	if next, write := clock.Corroborated(right, false); next != clock || write {
		t.Fatal("an exchange has lowered the mark")
	}
	clock, write := clock.Corroborated(right, true)
	if credible, why := clock.Judge(right); !credible || !write {
		t.Errorf("held after synchronisation: %s (write %t)", why, write)
	}
}

// TestMarkHasNoMonotonicReading holds that a mark taken in this process is compared by the wall clock: with a
// monotonic reading in both, Go would not see a clock that was set back in between.
func TestMarkHasNoMonotonicReading(t *testing.T) {
	now := time.Now()
	clock, _ := renew.Clock{}.Corroborated(now, true)
	if clock.Mark != now.Round(0) {
		t.Errorf("the mark is %v", clock.Mark)
	}
}
