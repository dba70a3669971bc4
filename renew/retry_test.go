package renew_test

import (
	"math"
	mathrand "math/rand/v2"
	"testing"
	"time"

	"certagent/renew"
)

const (
	lowest  = 0.0
	middle  = 0.5 // the factor 1
	highest = 1 - 1.0/(1<<53)
)

// waits returns the delays after the first failures in a row, all of them counted from the same instant.
func waits(p renew.Policy, l *renew.Leaf, count int, draw float64, now time.Time) []time.Duration {
	var got []time.Duration
	for n := range count {
		got = append(got, p.Delay(l, n+1, draw, now).Round(time.Millisecond))
	}
	return got
}

func TestDelay(t *testing.T) {
	const (
		s = time.Second
		m = time.Minute
		h = time.Hour
	)
	year := leaf(365*day, "x")
	oneDay := leaf(day, "x")
	tenSeconds := leaf(10*s, "x")
	hundredYears := leaf(century, "x")
	for _, c := range []struct {
		name   string
		policy renew.Policy
		leaf   *renew.Leaf
		draw   float64
		now    time.Time
		want   []time.Duration
	}{
		{"a year, at the threshold: grows up to a retry of 14.6 days, three quarters of it on average",
			policy(t, "80%", "4%", ""), &year, middle, birth.Add(292 * day),
			[]time.Duration{5 * m, 20 * m, 80 * m, 320 * m, 1280 * m, 5120 * m, 260*h + 32*m, 262*h + 48*m, 262*h + 48*m}},
		{"a year, shortest draws", policy(t, "80%", "4%", ""), &year, lowest, birth.Add(292 * day),
			[]time.Duration{150 * s, 10 * m, 40 * m, 160 * m, 640 * m, 2560 * m, 170*h + 40*m, 175*h + 12*m, 175*h + 12*m}},
		{"a year, longest draws", policy(t, "80%", "4%", ""), &year, highest, birth.Add(292 * day),
			[]time.Duration{450 * s, 30 * m, 2 * h, 8 * h, 32 * h, 128 * h, 350*h + 24*m, 350*h + 24*m}},
		{"a day, at the threshold: retry is 57m36s", policy(t, "80%", "4%", ""), &oneDay, middle,
			birth.Add(19*h + 12*m), []time.Duration{5 * m, 20 * m, 43*m + 12*s, 43*m + 12*s}},
		{"a day, longest draws meet the limit", policy(t, "80%", "4%", ""), &oneDay, highest,
			birth.Add(19*h + 12*m), []time.Duration{450 * s, 30 * m, 57*m + 36*s}},
		{"the limit cuts into the range", policy(t, "80%", "25m", ""), &oneDay, highest,
			birth.Add(19*h + 12*m), []time.Duration{450 * s, 25 * m, 25 * m}},
		{"a fixed retry shorter than the first wait", policy(t, "80%", "2m", ""), &oneDay, middle,
			birth.Add(19*h + 12*m), []time.Duration{90 * s, 90 * s, 90 * s}},
		{"a day, 20 minutes left: a quarter of that", policy(t, "80%", "4%", ""), &oneDay, highest,
			birth.Add(day - 20*m), []time.Duration{5 * m, 5 * m, 5 * m}},
		{"a day, 2 minutes left: the floor", policy(t, "80%", "4%", ""), &oneDay, lowest,
			birth.Add(day - 2*m), []time.Duration{m, m, m}},
		{"a day, expired this instant: retry alone", policy(t, "80%", "4%", ""), &oneDay, highest,
			birth.Add(day), []time.Duration{450 * s, 30 * m, 57*m + 36*s}},
		{"a day, expired for a year", policy(t, "80%", "4%", ""), &oneDay, highest,
			birth.Add(366 * day), []time.Duration{450 * s, 30 * m, 57*m + 36*s}},
		{"a day, not yet valid", policy(t, "80%", "4%", ""), &oneDay, highest,
			birth.Add(-day), []time.Duration{450 * s, 30 * m, 57*m + 36*s}},
		{"ten seconds, at the threshold", policy(t, "50%", "4%", ""), &tenSeconds, middle,
			birth.Add(5 * s), []time.Duration{100 * time.Millisecond, 300 * time.Millisecond, 300 * time.Millisecond}},
		{"ten seconds, expired this instant: the floor is a 120th", policy(t, "50%", "4%", ""), &tenSeconds, lowest,
			birth.Add(10 * s), []time.Duration{83 * time.Millisecond, 200 * time.Millisecond, 200 * time.Millisecond}},
		{"ten seconds, an hour old: shares count from the age", policy(t, "50%", "4%", ""), &tenSeconds, middle,
			birth.Add(h), []time.Duration{36 * s, 108 * s, 108 * s}},
		{"ten seconds, an hour old: the floor does as well", policy(t, "50%", "1s", ""), &tenSeconds, highest,
			birth.Add(h), []time.Duration{30 * s, 30 * s}},
		{"ten seconds, dead for a year: as a day", policy(t, "50%", "4%", ""), &tenSeconds, middle,
			birth.Add(365 * day), []time.Duration{5 * m, 20 * m, 43*m + 12*s, 43*m + 12*s}},
		{"a day, dead for a year: not more than before", policy(t, "80%", "4%", ""), &oneDay, middle,
			birth.Add(365 * day), []time.Duration{5 * m, 20 * m, 43*m + 12*s, 43*m + 12*s}},
		{"a century: retry is four years", policy(t, "80%", "4%", ""), &hundredYears, middle,
			birth.Add(century / 5 * 4), []time.Duration{5 * m, 20 * m, 80 * m, 320 * m, 1280 * m}},
		{"no certificate: 4% of one day", policy(t, "80%", "4%", ""), nil, middle,
			birth, []time.Duration{5 * m, 20 * m, 43*m + 12*s, 43*m + 12*s}},
		{"no certificate, a fixed retry", policy(t, "80%", "7d", ""), nil, middle,
			birth, []time.Duration{5 * m, 20 * m, 80 * m, 320 * m, 1280 * m, 5120 * m, 126 * h}},
		{"no certificate, a retry below the floor", policy(t, "80%", "10s", ""), nil, highest,
			birth, []time.Duration{m, m}},
	} {
		if got := waits(c.policy, c.leaf, len(c.want), c.draw, c.now); !equalDurations(got, c.want) {
			t.Errorf("%s:\n got %v\nwant %v", c.name, got, c.want)
		}
	}
}

func equalDurations(got, want []time.Duration) bool {
	for n := range want {
		if got[n] != want[n].Round(time.Millisecond) {
			return false
		}
	}
	return len(got) == len(want)
}

// TestDelayOfNoLifetime holds that a certificate with no lifetime is no reason for a busy loop.
func TestDelayOfNoLifetime(t *testing.T) {
	for _, life := range []time.Duration{0, -day} {
		l := leaf(life, "x")
		if got, want := renew.DefaultPolicy().Delay(&l, 1, middle, birth), 5*time.Minute; got != want {
			t.Errorf("life %v: %v, want %v", life, got, want)
		}
	}
	// One of some nanoseconds, whose first wait rounds to nothing, must not be counted up without end.
	l := leaf(50, "x")
	if got := renew.DefaultPolicy().Delay(&l, math.MaxInt, middle, l.NotAfter); got < 0 || got > 2 {
		t.Errorf("life 50ns: %v", got)
	}
}

func TestDelayProperties(t *testing.T) {
	r := mathrand.New(mathrand.NewPCG(7030, 9110))
	for range 20000 {
		p, l := randomPolicy(r), randomLeaf(r)
		life := l.NotAfter.Sub(l.NotBefore)
		now := l.NotBefore.Add(randomDuration(r, 2*life))
		live := &l
		if r.IntN(4) == 0 {
			live, life = nil, day
		}
		failures, draw := 1+r.IntN(40), r.Float64()
		if r.IntN(8) == 0 {
			failures = math.MaxInt - r.IntN(2)
		}
		got := p.Delay(live, failures, draw, now)

		fail := func(what string) {
			t.Helper()
			t.Fatalf("%s: %v after %d failures, draw %v\npolicy %+v\nlife %v, left %v, certificate %t",
				what, got, failures, draw, p, life, l.NotAfter.Sub(now), live != nil)
		}
		if live != nil && !now.Before(l.NotAfter) {
			life = max(life, min(now.Sub(l.NotBefore), day))
		}
		floor := min(time.Minute, life/120)
		limit := p.Retry.Of(life)
		if left := l.NotAfter.Sub(now); live != nil && left > 0 {
			limit = min(limit, left/4)
		}
		if got < floor {
			fail("below the floor")
		}
		if got > max(floor, limit) {
			fail("above the limits")
		}
		if failures < math.MaxInt && p.Delay(live, failures+1, draw, now) < got {
			fail("shorter after one more failure")
		}
		if p.Delay(live, failures, min(draw+0.1, highest), now) < got {
			fail("shorter for a higher draw")
		}
		if got != p.Delay(live, failures, draw, now) {
			fail("not the same for the same arguments")
		}
		if next := now.Add(got); !p.Sane(live, next, now).Equal(next) {
			fail("not sane")
		}
	}
}

// TestDelayNeverGivesUp follows an outage of a hundred years that begins when a certificate of a day comes due.
func TestDelayNeverGivesUp(t *testing.T) {
	p, l := renew.DefaultPolicy(), leaf(day, "x")
	r := mathrand.New(mathrand.NewPCG(1, 2))
	now := birth.Add(19*time.Hour + 12*time.Minute)
	before, after := 0, 0
	for failures := 1; now.Before(birth.Add(100 * day)); failures++ {
		if now.Before(l.NotAfter) {
			before++
		} else {
			after++
		}
		now = now.Add(p.Delay(&l, failures, r.Float64(), now))
	}
	// 4h48m in steps of at most a quarter of what is left, then 99 days in steps between 28m48s and 57m36s.
	if before < 8 || before > 30 {
		t.Errorf("%d attempts before expiry", before)
	}
	if least, most := 99*25, 99*50; after < least || after > most {
		t.Errorf("%d attempts in the 99 days after expiry, want %d to %d", after, least, most)
	}
}

// TestDelayPartsAFleet holds that devices that fail together do not come back together, at the limit neither.
func TestDelayPartsAFleet(t *testing.T) {
	p, l := renew.DefaultPolicy(), leaf(day, "x")
	for _, failures := range []int{1, 2, 3, 50} {
		seen := make(map[time.Duration]bool)
		for n := range 100 {
			seen[p.Delay(&l, failures, float64(n)/100, birth.Add(20*time.Hour))] = true
		}
		if len(seen) != 100 {
			t.Errorf("after %d failures, a hundred devices share %d delays", failures, len(seen))
		}
	}
}

func TestDrawsOutOfRange(t *testing.T) {
	p, l := renew.DefaultPolicy(), leaf(day, "x")
	now := birth.Add(20 * time.Hour)
	for _, draw := range []float64{-1, 1, 2, math.Inf(1), math.Inf(-1), math.NaN()} {
		if got := p.Delay(&l, 1, draw, now); got < 150*time.Second || got > 450*time.Second {
			t.Errorf("draw %v: delay %v", draw, got)
		}
		if got := p.Resume(l, draw, now); got < 0 || got >= p.Retry.Of(day) {
			t.Errorf("draw %v: resume %v", draw, got)
		}
	}
	for _, failures := range []int{0, -1, math.MinInt} {
		if got := p.Delay(&l, failures, middle, now); got != 5*time.Minute {
			t.Errorf("%d failures: %v", failures, got)
		}
	}
}

func TestResume(t *testing.T) {
	oneDay := leaf(day, "x")
	for _, c := range []struct {
		name  string
		retry string
		left  time.Duration
		draw  float64
		want  time.Duration
	}{
		{"retry is less", "4%", 4 * time.Hour, 0.5, 28*time.Minute + 48*time.Second},
		{"a quarter of what is left is less", "4%", time.Hour, 0.5, 450 * time.Second},
		{"a fixed retry", "10m", time.Hour, 0.5, 5 * time.Minute},
		{"the lowest draw", "4%", time.Hour, lowest, 0},
		{"at its end", "4%", 0, 0.5, 0},
		{"expired", "4%", -day, 0.5, 0},
	} {
		p := policy(t, "80%", c.retry, "")
		if got := p.Resume(oneDay, c.draw, oneDay.NotAfter.Add(-c.left)); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestSane(t *testing.T) {
	now := birth
	year, oneDay := leaf(365*day, "x"), leaf(day, "x")
	yearly := 365 * day / 25 / 2 * 3 // one and a half times 4%
	for _, c := range []struct {
		name string
		p    renew.Policy
		leaf *renew.Leaf
		in   time.Duration
		sane bool
	}{
		{"past", renew.DefaultPolicy(), &oneDay, -century, true},
		{"now", renew.DefaultPolicy(), &oneDay, 0, true},
		{"within retry", renew.DefaultPolicy(), &oneDay, time.Hour, true},
		{"one and a half times retry", renew.DefaultPolicy(), &oneDay, day / 25 / 2 * 3, true},
		{"longer than that", renew.DefaultPolicy(), &oneDay, day/25/2*3 + 1, false},
		{"no certificate", renew.DefaultPolicy(), nil, day / 25 / 2 * 3, true},
		{"no certificate, too far", renew.DefaultPolicy(), nil, day/25/2*3 + 1, false},
		{"a retry shorter than the least wait", policy(t, "80%", "1s", ""), &oneDay, time.Minute, true},
		{"the spread of a reload", policy(t, "80%", "1m", "5%"), &oneDay, time.Hour, true},
		{"longer than that", policy(t, "80%", "1m", "5%"), &oneDay, 2 * time.Hour, false},
		{"a long retry", renew.DefaultPolicy(), &year, yearly, true},
		{"longer than a long retry", renew.DefaultPolicy(), &year, yearly + 1, false},
		{"written in 2038", renew.DefaultPolicy(), &year, 12 * 365 * day, false},
		{"written in 9999", renew.DefaultPolicy(), &year, math.MaxInt64, false},
		{"a fixed retry without certificate", policy(t, "80%", "30d", ""), nil, 45 * day, true},
		{"longer than that", policy(t, "80%", "30d", ""), nil, 45*day + 1, false},
		{"the longest retry there is", policy(t, "80%", "106751d", ""), nil, math.MaxInt64, true},
	} {
		next, want := now.Add(c.in), now
		if c.sane {
			want = next
		}
		if got := c.p.Sane(c.leaf, next, now); !got.Equal(want) {
			t.Errorf("%s: %v, want %v", c.name, got, want)
		}
	}
}

func TestCapRetryAfter(t *testing.T) {
	for _, c := range []struct {
		asked   time.Duration
		pending bool
		want    time.Duration
		capped  bool
	}{
		{-time.Second, false, 0, false},
		{0, true, 0, false},
		{time.Second, false, time.Second, false},
		{time.Second, true, time.Minute, false},
		{2 * time.Minute, false, 2 * time.Minute, false},
		{day, false, day, false},
		{day + 1, false, day, true},
		{day + 1, true, day + 1, false},
		{7 * day, true, 7 * day, false},
		{7*day + 1, true, 7 * day, true},
		{math.MaxInt64, false, day, true},
	} {
		if wait, capped := renew.CapRetryAfter(c.asked, c.pending); wait != c.want || capped != c.capped {
			t.Errorf("%v, pending %t: %v, %t; want %v, %t", c.asked, c.pending, wait, capped, c.want, c.capped)
		}
	}
}

// TestHeed: what is waited is between what was asked and twice that, and costs no certificate that was not lost already.
func TestHeed(t *testing.T) {
	p, l := policy(t, "80%", "4%", "0%"), leaf(30*day, "x") // retry is 28.8 h
	left := func(d time.Duration) time.Time { return l.NotAfter.Add(-d) }
	for _, c := range []struct {
		name  string
		leaf  *renew.Leaf
		asked time.Duration
		draw  float64
		now   time.Time
		want  time.Duration
	}{
		{"nothing asked", &l, 0, middle, left(5 * day), 0},
		{"never less", &l, time.Hour, 0, left(5 * day), time.Hour},
		{"half as long again", &l, time.Hour, middle, left(5 * day), 90 * time.Minute},
		{"near the end", &l, 20 * time.Hour, middle, left(day), 20*time.Hour + 30*time.Minute},
		{"beyond the end", &l, day, middle, left(time.Hour), 36 * time.Hour},
		{"after the end", &l, time.Hour, middle, left(-day), 90 * time.Minute},
		{"no certificate: a retry of a day", nil, time.Hour, middle, birth, time.Hour + 28*time.Minute + 48*time.Second},
	} {
		if got := p.Heed(c.leaf, c.asked, c.draw, c.now); got.Round(time.Second) != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
