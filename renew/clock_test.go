package renew_test

import (
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
		{"before the build, synchronised", mark, build.Add(-1), true, mark, false},
	} {
		before := renew.Clock{Build: build, Mark: c.mark, Ignore: true}
		want := before
		want.Mark = c.want
		if next, write := before.Corroborated(c.now, c.synced); next != want || write != c.write {
			t.Errorf("%s: %v, write %t; want %v, %t", c.name, next.Mark, write, c.want, c.write)
		}
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
