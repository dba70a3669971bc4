package renew_test

import (
	"encoding/binary"
	"slices"
	"testing"
	"time"

	"certagent/renew"
)

func TestJitterOf(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		name                     string
		threshold, retry, jitter string
		life, want               time.Duration
	}{
		{"default: half of retry is a tenth of what is left", "80%", "4%", "", day, 28*time.Minute + 48*time.Second},
		{"default: half of retry is less", "80%", "2%", "", day, 14*time.Minute + 24*time.Second},
		{"default: a tenth of what is left is less", "80%", "20%", "", day, 28*time.Minute + 48*time.Second},
		{"default: fixed times", "60m", "30m", "", day, 6 * time.Minute},
		{"default: fixed times, short retry", "60m", "2m", "", day, time.Minute},
		{"default: ten seconds", "50%", "4%", "", 10 * time.Second, 200 * ms},
		{"default: born due", "2d", "4%", "", day, 28*time.Minute + 48*time.Second},
		{"none", "80%", "4%", "0%", day, 0},
		{"none, as a time", "80%", "4%", "0s", day, 0},
		{"a share of the lifetime", "80%", "4%", "10%", day, 2*time.Hour + 24*time.Minute},
		{"a time", "80%", "4%", "10m", day, 10 * time.Minute},
		{"more than what is left", "80%", "4%", "50%", day, 4*time.Hour + 48*time.Minute},
		{"a time longer than the lifetime", "60m", "4%", "2d", day, time.Hour},
		{"born due, more than the lifetime", "2d", "4%", "3d", day, day},
	} {
		p := policy(t, c.threshold, c.retry, c.jitter)
		l := leaf(c.life, c.name)
		if got := p.JitterOf(l); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
		p.SpreadFirst, l.First = true, true
		if got := p.JitterOf(l); got != c.want {
			t.Errorf("%s: %v for a first certificate, want %v", c.name, got, c.want)
		}
	}
}

// TestSpreadOfFleet holds that a thousand certificates of one minute come due evenly over the interval that the
// policy says, and nowhere else.
func TestSpreadOfFleet(t *testing.T) {
	spreadFirst := renew.DefaultPolicy()
	spreadFirst.SpreadFirst = true
	threshold := 19*time.Hour + 12*time.Minute
	for _, c := range []struct {
		name   string
		policy renew.Policy
		first  bool
		from   time.Duration
		to     time.Duration
	}{
		{"renewed", renew.DefaultPolicy(), false, threshold, threshold + 28*time.Minute + 48*time.Second},
		{"first, at the threshold", renew.DefaultPolicy(), true, threshold, threshold + 28*time.Minute + 48*time.Second},
		{"first, spread", spreadFirst, true, threshold / 8, threshold},
		{"first, spread, not before the guard", func() renew.Policy {
			p := policy(t, "10%", "4%", "1h")
			p.SpreadFirst = true
			return p
		}(), true, 72 * time.Minute, 144 * time.Minute},
		{"first, no room before the guard", func() renew.Policy {
			p := policy(t, "5%", "4%", "1h")
			p.SpreadFirst = true
			return p
		}(), true, 72 * time.Minute, 132 * time.Minute},
		{"renewed, first spread", spreadFirst, false, threshold, threshold + 28*time.Minute + 48*time.Second},
		{"wide", policy(t, "80%", "4%", "90%"), false, threshold, day},
		{"born due", policy(t, "2d", "4%", "1h"), false, 0, time.Hour},
		{"born due, first spread", func() renew.Policy {
			p := policy(t, "2d", "4%", "1h")
			p.SpreadFirst = true
			return p
		}(), true, 0, time.Hour},
	} {
		var tenths [10]int
		for n := range 1000 {
			l := leaf(day, "")
			l.Raw, l.First = binary.BigEndian.AppendUint64(nil, uint64(n)), c.first
			plan := c.policy.Plan(l, birth)
			at := plan.RenewAt.Sub(birth)
			if at < c.from || at >= c.to {
				t.Fatalf("%s: due after %v, want [%v, %v)", c.name, at, c.from, c.to)
			}
			tenths[10*(at-c.from)/(c.to-c.from)]++
		}
		if slices.Min(tenths[:]) < 60 || slices.Max(tenths[:]) > 140 {
			t.Errorf("%s: not spread evenly: %v", c.name, tenths)
		}
	}
}

func TestSpread(t *testing.T) {
	for _, c := range []struct {
		seed string
		want float64
	}{
		// The first 53 bits of SHA-256, from sha256sum(1), as a binary fraction.
		{"", float64(0xe3b0c44298fc1c14>>11) / (1 << 53)},
		{"abc", float64(0xba7816bf8f01cfea>>11) / (1 << 53)},
	} {
		if got := renew.Spread([]byte(c.seed)); got != c.want {
			t.Errorf("Spread(%q) = %v, want %v", c.seed, got, c.want)
		}
	}
}
