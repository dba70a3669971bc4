package renew_test

import (
	"math"
	mathrand "math/rand/v2"
	"testing"
	"time"

	"certagent/renew"
)

func TestTried(t *testing.T) {
	l := leaf(day, "x")
	hour := func(n int) time.Time { return birth.Add(time.Duration(n) * time.Hour) }
	for _, c := range []struct {
		name string
		leaf *renew.Leaf
		last time.Time
		now  time.Time
		want int // of 7 failures
	}{
		{"a living certificate", &l, hour(20), hour(21), 7},
		{"the first try at its end", &l, hour(23), hour(24), 0},
		{"the first try after its end", &l, hour(23), hour(100), 0},
		{"the next one", &l, hour(24), hour(25), 7},
		{"the first try at all", &l, time.Time{}, hour(20), 7},
		{"the first try at all, after its end", &l, time.Time{}, hour(30), 0},
		{"no certificate", nil, hour(23), hour(25), 7},
	} {
		before := renew.Tries{Failures: 7, Last: c.last, Next: c.now, RetryAfter: hour(50)}
		want := renew.Tries{Failures: c.want, Last: c.now, Next: c.now}
		got := before.Tried(c.leaf, c.now)
		if got != want {
			t.Errorf("%s: %+v, want %+v", c.name, got, want)
		}
		if again := got.Tried(c.leaf, c.now); again != got {
			t.Errorf("%s: told twice: %+v, want %+v", c.name, again, got)
		}
	}
}

func TestFailed(t *testing.T) {
	p, l := renew.DefaultPolicy(), leaf(day, "x")
	due, end := birth.Add(20*time.Hour), l.NotAfter
	for _, c := range []struct {
		name   string
		before renew.Tries
		asked  time.Duration
		now    time.Time
		want   renew.Tries
	}{
		{"the first time", renew.Tries{}, 0, due,
			renew.Tries{Failures: 1, Last: due, Next: due.Add(5 * time.Minute)}},
		{"the second", renew.Tries{Failures: 1, Last: due.Add(-time.Hour)}, 0, due,
			renew.Tries{Failures: 2, Last: due, Next: due.Add(20 * time.Minute)}},
		{"the server asks to wait", renew.Tries{}, time.Hour, due,
			renew.Tries{Failures: 1, Last: due, Next: due.Add(5 * time.Minute), RetryAfter: due.Add(time.Hour + 22*time.Minute + 30*time.Second)}},
		{"what it asked for before is over", renew.Tries{RetryAfter: due}, 0, due,
			renew.Tries{Failures: 1, Last: due, Next: due.Add(5 * time.Minute)}},
		{"the first time after expiry", renew.Tries{Failures: 9, Last: due}, 0, end,
			renew.Tries{Failures: 1, Last: end, Next: end.Add(5 * time.Minute)}},
	} {
		if got := p.Failed(&l, c.before, c.asked, middle, c.now); got != c.want {
			t.Errorf("%s:\n got %+v\nwant %+v", c.name, got, c.want)
		}
	}
	got := p.Failed(nil, renew.Tries{}, 0, middle, due)
	if want := (renew.Tries{Failures: 1, Last: due, Next: due.Add(5 * time.Minute)}); got != want {
		t.Errorf("no certificate: %+v, want %+v", got, want)
	}
}

func TestResumed(t *testing.T) {
	p, l := policy(t, "80%", "4%", "0%"), leaf(day, "x")
	disabled := p
	disabled.Enabled = false
	due := birth.Add(20 * time.Hour)
	for _, c := range []struct {
		name   string
		policy renew.Policy
		next   time.Time
		now    time.Time
		want   time.Time
	}{
		{"came due meanwhile", p, time.Time{}, due, due.Add(28*time.Minute + 48*time.Second)},
		{"its next try passed meanwhile", p, due.Add(-time.Minute), due, due.Add(28*time.Minute + 48*time.Second)},
		{"its next try is to come", p, due.Add(time.Minute), due, due.Add(time.Minute)},
		{"not due yet", p, time.Time{}, birth.Add(time.Hour), time.Time{}},
		{"expired", p, time.Time{}, birth.Add(25 * time.Hour), time.Time{}},
		{"never due", disabled, time.Time{}, due, time.Time{}},
	} {
		before := renew.Tries{Failures: 3, Last: birth, Next: c.next}
		want := before
		if want.Next = c.want; !c.want.Equal(c.next) {
			want.Resumed++
		}
		if got := c.policy.Resumed(l, before, middle, c.now); got != want {
			t.Errorf("%s: %+v, want %+v", c.name, got, want)
		}
	}
}

// TestResumedAgainAndAgain: each turn that goes by while the agent is off again is followed by one within a quarter.
func TestResumedAgainAndAgain(t *testing.T) {
	p, l := policy(t, "80%", "4%", "0%"), leaf(day, "x")
	now := birth.Add(20 * time.Hour)
	first := p.Resumed(l, renew.Tries{}, middle, now)
	tries, last := first, first.Next.Sub(now)
	for n := range 4 {
		now = tries.Next.Add(time.Minute)
		tries = p.Resumed(l, tries, middle, now)
		wait := tries.Next.Sub(now)
		if wait > last/4 || wait < last/8 {
			t.Errorf("turn %d: %v after %v", n+2, wait, last)
		}
		last = wait
	}
	if again := p.Resumed(l, first.Tried(&l, now), middle, now.Add(day/10)); again.Next.Sub(now) < day/10 || again.Resumed != 1 {
		t.Errorf("after a try: %+v", again)
	}
}

func TestNextTry(t *testing.T) {
	p, l := renew.DefaultPolicy(), leaf(day, "x")
	due, dead := birth.Add(20*time.Hour), birth.Add(30*time.Hour)
	never := time.Time{}
	for _, c := range []struct {
		name  string
		leaf  *renew.Leaf
		tries renew.Tries
		now   time.Time
		want  time.Time
	}{
		{"nothing holds it", &l, renew.Tries{}, due, never},
		{"back-off", &l, renew.Tries{Last: due, Next: due.Add(time.Hour)}, due, due.Add(time.Hour)},
		{"further ahead than any rule", &l, renew.Tries{Last: due, Next: due.Add(day)}, due, due},
		{"back-off that would last until after its end", &l, renew.Tries{Last: birth.Add(23*time.Hour + 50*time.Minute),
			Next: birth.Add(24*time.Hour + 10*time.Minute)}, birth.Add(23*time.Hour + 50*time.Minute), birth.Add(day)},
		{"expired and not tried since", &l, renew.Tries{Last: due, Next: dead.Add(time.Minute)}, dead, never},
		{"expired, and its last try is to come", &l, renew.Tries{Last: dead.Add(1), Next: dead.Add(time.Minute)}, dead, never},
		{"expired and tried since", &l, renew.Tries{Last: dead, Next: dead.Add(time.Minute)}, dead, dead.Add(time.Minute)},
		{"no certificate", nil, renew.Tries{Last: due, Next: due.Add(time.Minute)}, due, due.Add(time.Minute)},
	} {
		if got := p.NextTry(c.leaf, c.tries, c.now); !got.Equal(c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestObeyed(t *testing.T) {
	now := birth
	for _, c := range []struct {
		name    string
		until   time.Time
		pending bool
		want    time.Time
	}{
		{"never asked", time.Time{}, false, time.Time{}},
		{"over", now, false, time.Time{}},
		{"an hour", now.Add(time.Hour), false, now.Add(time.Hour)},
		{"the longest", now.Add(day), false, now.Add(day)},
		{"the longest and as much again", now.Add(2 * day), false, now.Add(2 * day)},
		{"longer", now.Add(2*day + 1), false, time.Time{}},
		{"the longest for approval", now.Add(7 * day), true, now.Add(7 * day)},
		{"longer for approval", now.Add(7*day + 1), true, time.Time{}},
		{"written in 9999", now.Add(math.MaxInt64), true, time.Time{}},
	} {
		if got := renew.Obeyed(c.until, now, c.pending); !got.Equal(c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// TestTriesAreSane holds that what the rules write into Tries is what they believe when they read it again.
func TestTriesAreSane(t *testing.T) {
	r := mathrand.New(mathrand.NewPCG(7030, 9110))
	for range 20000 {
		p, l := randomPolicy(r), randomLeaf(r)
		now := l.NotBefore.Add(randomDuration(r, 2*l.NotAfter.Sub(l.NotBefore)))
		wait, _ := renew.CapRetryAfter(randomDuration(r, 2*day), false)
		if heeded := p.Heed(&l, wait, r.Float64(), now); heeded < wait || heeded > 2*wait {
			t.Fatalf("policy %+v: the server asked for %v, the device waits %v", p, wait, heeded)
		}
		failed := p.Failed(&l, renew.Tries{Failures: r.IntN(9), Last: now}, wait, r.Float64(), now)
		resumed := p.Resumed(l, renew.Tries{Last: now}, r.Float64(), now)
		// What is held until after expiry is held until expiry.
		believed := func(next time.Time) time.Time {
			if now.Before(l.NotAfter) && next.After(l.NotAfter) {
				return l.NotAfter
			}
			return next
		}
		switch {
		case !p.NextTry(&l, failed, now).Equal(believed(failed.Next)) || !failed.Next.After(now):
			t.Fatalf("policy %+v: %+v at %v is not believed", p, failed, now)
		case !renew.Obeyed(failed.RetryAfter, now, false).Equal(failed.RetryAfter):
			t.Fatalf("Retry-After %v at %v is not obeyed", failed.RetryAfter, now)
		case !p.NextTry(&l, resumed, now).Equal(resumed.Next):
			t.Fatalf("policy %+v: %+v at %v is not believed", p, resumed, now)
		}
	}
}
