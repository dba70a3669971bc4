package renew_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"math/big"
	mathrand "math/rand/v2"
	"slices"
	"testing"
	"time"

	"certagent/renew"
)

// birth is NotBefore of the certificates in the tables.
var birth = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const century = 36525 * day

func leaf(life time.Duration, raw string) renew.Leaf {
	return renew.Leaf{NotBefore: birth, NotAfter: birth.Add(life), Raw: []byte(raw)}
}

// TestThreshold has the instants at which renewal starts, counted from NotBefore, with no jitter.
func TestThreshold(t *testing.T) {
	for _, c := range []struct {
		name, threshold string
		life            time.Duration
		want            time.Duration
		bornDue         bool
	}{
		{"the tutorial's production policy", "80%", day, 19*time.Hour + 12*time.Minute, false},
		{"the tutorial's \"about two hours\"", "10%", day, 2*time.Hour + 24*time.Minute, false},
		{"an hour before expiry", "60m", day, 23 * time.Hour, false},
		{"the same in aziot's unit", "60min", day, 23 * time.Hour, false},
		{"a day before expiry", "1day", 365 * day, 364 * day, false},
		{"half of ten seconds", "50%", 10 * time.Second, 5 * time.Second, false},
		{"a share of an odd second", "33%", time.Second, 330 * time.Millisecond, false},
		{"a share of a century", "80%", century, 29220 * day, false},
		{"the last percent", "99%", 100 * time.Second, 99 * time.Second, false},
		{"a second longer than the lifetime", "86401s", day, -time.Second, true},
		{"as long as the lifetime", "24h", day, 0, true},
		{"a second less than the lifetime", "86399s", day, time.Second, false},
		{"much longer than the lifetime", "30d", day, -29 * day, true},
		{"0%, which Validate refuses", "0%", day, 0, true},
		{"100%, which Validate refuses", "100%", day, day, false},
		{"150%, which Validate refuses", "150%", day, day, false},
	} {
		p := policy(t, c.threshold, "1s", "0%")
		l := leaf(c.life, c.name)
		want := birth.Add(c.want)
		due := want
		if c.want < 0 {
			due = birth // a certificate cannot come due before it is valid
		}
		got := p.Plan(l, birth)
		if !got.Threshold.Equal(want) || !got.RenewAt.Equal(due) || got.BornDue != c.bornDue {
			t.Errorf("%s: threshold %v, due %v, born due %t; want %v, %v, %t",
				c.name, got.Threshold, got.RenewAt, got.BornDue, want, due, c.bornDue)
		}
	}
}

// TestStates walks one certificate of a day, due after exactly 23 hours, through its life.
func TestStates(t *testing.T) {
	l := leaf(day, "x")
	end, due := l.NotAfter, birth.Add(23*time.Hour)
	never := time.Time{}
	enabled := policy(t, "60m", "4%", "0%")
	disabled := enabled
	disabled.Enabled = false
	for _, c := range []struct {
		policy renew.Policy
		now    time.Time
		want   renew.State
		next   time.Time
	}{
		{enabled, time.Unix(0, 0), renew.NotYetValid, birth},
		{enabled, birth.Add(-1), renew.NotYetValid, birth},
		{enabled, birth, renew.Valid, due},
		{enabled, due.Add(-1), renew.Valid, due},
		{enabled, due, renew.Due, end},
		{enabled, end.Add(-1), renew.Due, end},
		{enabled, end, renew.Expired, never},
		{enabled, end.Add(century), renew.Expired, never},
		{disabled, birth.Add(-1), renew.NotYetValid, birth},
		{disabled, birth, renew.Valid, end},
		{disabled, due, renew.Valid, end},
		{disabled, end.Add(-1), renew.Valid, end},
		{disabled, end, renew.Expired, never},
	} {
		got := c.policy.Plan(l, c.now)
		if got.State != c.want || !got.NextChange.Equal(c.next) {
			t.Errorf("enabled %t, at %v: %s, next %v; want %s, %v",
				c.policy.Enabled, c.now, got.State, got.NextChange, c.want, c.next)
		}
		if !got.Threshold.Equal(due) {
			t.Errorf("enabled %t, at %v: threshold %v", c.policy.Enabled, c.now, got.Threshold)
		}
		if got.RenewAt.IsZero() == c.policy.Enabled {
			t.Errorf("enabled %t: due at %v", c.policy.Enabled, got.RenewAt)
		}
	}
}

func TestDisabledPolicyHasNoWindow(t *testing.T) {
	p := policy(t, "30d", "40d", "")
	p.Enabled = false
	if got := p.Plan(leaf(day, "x"), birth); got.BornDue || !got.RetryFits || got.State != renew.Valid {
		t.Errorf("%+v", got)
	}
}

// TestNoLifetime has certificates that end when they begin, or before.
func TestNoLifetime(t *testing.T) {
	for _, life := range []time.Duration{0, -1, -day, -2 * century} {
		for _, threshold := range []string{"80%", "60m"} {
			p := policy(t, threshold, "4%", "")
			l := leaf(life, "x")
			l.First, p.SpreadFirst = true, true
			for _, now := range []time.Time{birth.Add(-2 * century), birth.Add(life), birth, birth.Add(day)} {
				got := p.Plan(l, now)
				if got.State != renew.Expired || !got.BornDue || got.RetryFits || !got.NextChange.IsZero() ||
					got.RenewAt.After(l.NotAfter) {
					t.Errorf("life %v, threshold %s, at %v: %+v", life, threshold, now, got)
				}
			}
			if p.JitterOf(l) != 0 || p.Resume(l, 0.5, birth.Add(-day)) < 0 || p.Guard(l, birth).After(birth) {
				t.Errorf("life %v, threshold %s: jitter %v, guard %v", life, threshold, p.JitterOf(l), p.Guard(l, birth))
			}
		}
	}
}

// TestNoEnd has the lifetime of a device identity that never expires, which no Duration can hold.
func TestNoEnd(t *testing.T) {
	l := renew.Leaf{NotBefore: birth, NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), Raw: []byte("x")}
	for _, threshold := range []string{"1%", "80%", "99%", "60m"} {
		p := policy(t, threshold, "30m", "")
		got := p.Plan(l, birth)
		if got.State != renew.Valid || got.BornDue || !got.RetryFits || got.RenewAt.Before(got.Threshold) ||
			!got.RenewAt.After(birth.AddDate(2, 0, 0)) || got.RenewAt.After(l.NotAfter) {
			t.Errorf("threshold %s: %+v", threshold, got)
		}
	}
}

func TestPlanRetryFits(t *testing.T) {
	for _, c := range []struct {
		threshold, retry string
		life             time.Duration
		want             bool
	}{
		{"80%", "4%", day, true},
		{"80%", "20%", day, false},
		{"80%", "4h", day, true},
		{"80%", "4h48m", day, false},
		{"80%", "4h", time.Hour, false},
		{"60m", "30m", day, true},
		{"60m", "4%", day, true},
		{"60m", "5%", day, false},
		{"2d", "90m", time.Hour, false}, // the window is 2 days, the life an hour
		{"2d", "30m", time.Hour, true},
	} {
		p := policy(t, c.threshold, "1s", "")
		d, err := time.ParseDuration(c.retry)
		if p.Retry = renew.Fixed(d); err != nil {
			p.Retry = span(t, c.retry)
		}
		if got := p.Plan(leaf(c.life, "x"), birth).RetryFits; got != c.want {
			t.Errorf("threshold %s, retry %s, life %v: %t, want %t", c.threshold, c.retry, c.life, got, c.want)
		}
	}
}

func TestGuard(t *testing.T) {
	const guard = 72 * time.Minute // 5% of a day
	for _, c := range []struct {
		name   string
		issued time.Time
		want   time.Time
	}{
		{"stored at once", birth.Add(time.Second), birth.Add(guard + time.Second)},
		{"when it was stored is not known", time.Time{}, birth.Add(guard)},
		{"valid from after it was stored", birth.Add(-time.Hour), birth.Add(guard)},
		{"start long past", birth.Add(20 * time.Hour), birth.Add(20*time.Hour + guard)},
		{"imported with two hours left", birth.Add(22 * time.Hour), birth.Add(23 * time.Hour)},
		{"imported with three minutes left", birth.Add(day - 3*time.Minute), birth.Add(day - 90*time.Second)},
		{"imported with a minute and a half left: the floor", birth.Add(day - 90*time.Second), birth.Add(day - 30*time.Second)},
		{"imported with half a minute left: never after expiry", birth.Add(day - 30*time.Second), birth.Add(day)},
		{"stored by a clock at its end", birth.Add(day), birth.Add(guard)},
		{"stored by a clock in 2038", time.Date(2038, 1, 19, 3, 14, 7, 0, time.UTC), birth.Add(guard)},
	} {
		if got := renew.DefaultPolicy().Guard(leaf(day, "x"), c.issued); !got.Equal(c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	short := renew.DefaultPolicy().Guard(leaf(10*time.Second, "x"), birth)
	if got, want := short.Sub(birth), 500*time.Millisecond; got != want {
		t.Errorf("ten seconds: %v, want %v", got, want)
	}
}

// TestGuardHasNoMonotonicReading holds that a guard kept in memory follows the wall clock when that is set.
func TestGuardHasNoMonotonicReading(t *testing.T) {
	now := time.Now()
	l := renew.Leaf{NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), Raw: []byte("x")}
	if got := renew.DefaultPolicy().Guard(l, now); got != got.Round(0) {
		t.Errorf("%v", got)
	}
}

// TestPlanOfRealCertificate goes by way of DER, which has whole seconds and no monotonic reading.
func TestPlanOfRealCertificate(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "device"}, NotBefore: birth, NotAfter: birth.Add(day),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	l := renew.LeafOf(cert, true)
	if !l.NotBefore.Equal(birth) || !l.NotAfter.Equal(birth.Add(day)) || !slices.Equal(l.Raw, der) || !l.First {
		t.Fatalf("LeafOf: %+v", l)
	}
	again, err := x509.ParseCertificate(slices.Clone(der))
	if err != nil {
		t.Fatal(err)
	}
	before, after := renew.DefaultPolicy().Plan(l, birth), renew.DefaultPolicy().Plan(renew.LeafOf(again, true), birth)
	if before != after {
		t.Errorf("a restart moved the plan:\n%+v\n%+v", before, after)
	}
}

// TestPlanProperties tries what must hold for every certificate, policy and instant.
func TestPlanProperties(t *testing.T) {
	order := []renew.State{renew.NotYetValid, renew.Valid, renew.Due, renew.Expired}
	r := mathrand.New(mathrand.NewPCG(7030, 5280))
	for range 20000 {
		p, l := randomPolicy(r), randomLeaf(r)
		life := l.NotAfter.Sub(l.NotBefore)
		now := l.NotBefore.Add(randomDuration(r, 2*life) - randomDuration(r, day))
		plan := p.Plan(l, now)

		fail := func(what string) {
			t.Helper()
			t.Fatalf("%s\npolicy %+v\nleaf   %v to %v, first %t\nnow    %v\nplan   %+v",
				what, p, l.NotBefore, l.NotAfter, l.First, now, plan)
		}
		if plan != p.Plan(renew.Leaf{
			NotBefore: l.NotBefore, NotAfter: l.NotAfter, Raw: slices.Clone(l.Raw), First: l.First,
		}, now) {
			fail("the same arguments gave another plan")
		}
		if plan.Threshold.After(l.NotAfter) {
			fail("the threshold is after expiry")
		}
		early := p.SpreadFirst && l.First && plan.Threshold.After(l.NotBefore.Add(renew.Percent(5).Of(life)))
		switch {
		case !p.Enabled:
			if !plan.RenewAt.IsZero() || plan.State == renew.Due {
				fail("due without being enabled")
			}
		case plan.RenewAt.Before(l.NotBefore) || !plan.RenewAt.Before(l.NotAfter):
			fail("due outside the lifetime")
		case early && !plan.RenewAt.Before(plan.Threshold):
			fail("a first renewal that is not before the threshold")
		case early && plan.RenewAt.Before(p.Guard(l, l.NotBefore)):
			fail("a first renewal that the guard holds")
		case !early && plan.RenewAt.Before(plan.Threshold):
			fail("due before the threshold")
		case !early && !plan.BornDue && plan.RenewAt.Sub(plan.Threshold) > p.JitterOf(l):
			fail("due after the spread")
		}
		if fits, known := p.RetryFits(); known && p.Threshold.IsShare() && fits != plan.RetryFits {
			fail("policy and plan disagree on whether a retry fits")
		}
		guard, floor := p.Guard(l, now), min(time.Minute, l.NotAfter.Sub(l.NotBefore)/120)
		if guard.Before(l.NotBefore) || guard.After(l.NotAfter) {
			fail("a guard outside the lifetime")
		}
		if now.Before(l.NotAfter) && guard.Before(l.NotAfter) && guard.Sub(now) < floor {
			fail("a guard below the floor")
		}

		// State holds up to NextChange, and there it changes to a later one; the rest of the plan never moves.
		if plan.NextChange.IsZero() {
			if plan.State != renew.Expired || p.Plan(l, now.Add(2*century)).State != renew.Expired {
				fail("a state that is not the last, and never changes")
			}
			continue
		}
		if !plan.NextChange.After(now) {
			fail("the next change is not in the future")
		}
		just, then := p.Plan(l, plan.NextChange.Add(-1)), p.Plan(l, plan.NextChange)
		if just != plan {
			fail("the plan changed before its next change")
		}
		if slices.Index(order, then.State) <= slices.Index(order, plan.State) {
			fail("the state did not move on at its next change, but to " + string(then.State))
		}
		then.State, then.NextChange = plan.State, plan.NextChange
		if then != plan {
			fail("more than the state moved on")
		}
	}
}

func TestPlanDoesNotAllocate(t *testing.T) {
	p, l := renew.DefaultPolicy(), leaf(day, string(make([]byte, 1500)))
	if n := testing.AllocsPerRun(100, func() { p.Plan(l, birth) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkPlan(b *testing.B) {
	p, l := renew.DefaultPolicy(), leaf(day, string(make([]byte, 1000)))
	b.ReportAllocs()
	for b.Loop() {
		p.Plan(l, birth)
	}
}

// randomDuration returns a duration in [0, most].
func randomDuration(r *mathrand.Rand, most time.Duration) time.Duration {
	if most <= 0 {
		return 0
	}
	return time.Duration(r.Int64N(int64(most)))
}

// randomLeaf has a lifetime of whole seconds, from one second to 68 years, short ones as often as long ones.
func randomLeaf(r *mathrand.Rand) renew.Leaf {
	life := (1 + randomDuration(r, time.Second<<r.IntN(32))).Truncate(time.Second) + time.Second
	raw := binary.BigEndian.AppendUint64(nil, r.Uint64())
	return renew.Leaf{NotBefore: birth, NotAfter: birth.Add(life), Raw: raw, First: r.IntN(2) == 0}
}

// randomPolicy passes Validate.
func randomPolicy(r *mathrand.Rand) renew.Policy {
	random := func(least int) renew.Span {
		if r.IntN(2) == 0 {
			return renew.Percent(least + r.IntN(100-least))
		}
		seconds := randomDuration(r, time.Second<<r.IntN(32)) / time.Second
		return renew.Fixed((time.Duration(least) + seconds) * time.Second)
	}
	return renew.Policy{
		Enabled: r.IntN(8) != 0, Threshold: random(1), Retry: random(1), Jitter: random(0),
		JitterSet: r.IntN(2) == 0, SpreadFirst: r.IntN(2) == 0,
	}
}
