package renew_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"certagent/renew"
)

const day = 24 * time.Hour

func TestParseSpan(t *testing.T) {
	for _, c := range []struct {
		in   string
		want renew.Span
		text string // what String gives back
	}{
		{"80%", renew.Percent(80), "80%"},
		{"080%", renew.Percent(80), "80%"},
		{"0%", renew.Percent(0), "0%"},
		{"100%", renew.Percent(100), "100%"},
		{"150%", renew.Percent(150), "150%"},
		{"0s", renew.Fixed(0), "0s"},
		{"0d", renew.Fixed(0), "0s"},
		{"30s", renew.Fixed(30 * time.Second), "30s"},
		{"30sec", renew.Fixed(30 * time.Second), "30s"},
		{"90s", renew.Fixed(90 * time.Second), "90s"},
		{"3600s", renew.Fixed(time.Hour), "1h"},
		{"60m", renew.Fixed(time.Hour), "1h"},
		{"60min", renew.Fixed(time.Hour), "1h"},
		{"90min", renew.Fixed(90 * time.Minute), "90m"},
		{"12h", renew.Fixed(12 * time.Hour), "12h"},
		{"24h", renew.Fixed(day), "1d"},
		{"36h", renew.Fixed(36 * time.Hour), "36h"},
		{"1d", renew.Fixed(day), "1d"},
		{"1day", renew.Fixed(day), "1d"},
		{"0014day", renew.Fixed(14 * day), "14d"},
		{"106751d", renew.Fixed(106751 * day), "106751d"},
		{"9223372036s", renew.Fixed(9223372036 * time.Second), "9223372036s"},
	} {
		got, err := renew.ParseSpan(c.in)
		if err != nil || got != c.want || got.String() != c.text {
			t.Errorf("ParseSpan(%q) = %#v %q, %v; want %#v %q", c.in, got, got, err, c.want, c.text)
		}
	}
}

func TestParseSpanRefusals(t *testing.T) {
	const (
		fraction = `fractions are not understood: use a whole number, or a smaller unit, as in "36h" for a day and a half`
		generic  = `not understood: write a whole number and one of the units %, s, m, h, d, as in "80%" or "60m"`
		large    = `too large: the longest time is "106751d"`
	)
	for _, c := range []struct{ in, want string }{
		{"80 %", `write it without the space: "80%"`},
		{" 80%", `write it without the space: "80%"`},
		{"80%\n", `write it without the space: "80%"`},
		{"60\t m", `write it without the space: "60m"`},
		{"80 Percent", `write it without the space: "80%"`},
		{"+80%", `write it without the sign: "80%"`},
		{"-60m", `write it without the sign: "60m"`},
		{"60MIN", `units are lower case: "60min"`},
		{"1D", `units are lower case: "1d"`},
		{"60mins", `write the unit like this: "60m"`},
		{"80percent", `write the unit like this: "80%"`},
		{"12hours", `write the unit like this: "12h"`},
		{"30seconds", `write the unit like this: "30s"`},
		{"14days", `write the unit like this: "14d"`},
		{"1.5h", `write one whole number and one unit: "90m"`},
		{"1.5 h", `write one whole number and one unit: "90m"`},
		{"1h30m", `write one whole number and one unit: "90m"`},
		{"48h0m0s", `write one whole number and one unit: "2d"`},
		{"80", `the unit is missing: write "80%" for a share of the lifetime, or "80m" for a time`},
		{"1.5%", fraction},
		{"1,5h", fraction},
		{"1.5d", fraction},
		{"", generic},
		{"99999999999999999999999", generic},
		{"%", generic},
		{"h", generic},
		{"2w", generic},
		{"500ms", generic},
		{"80%%", generic},
		{"80%5", generic},
		{"0x10m", generic},
		{"1_000s", generic},
		{"８０%", generic},
		{"1d12h", generic},
		{"PT1H", generic},
		{"106752d", large},
		{"9223372037s", large},
		{"9223372036854775807m", large},
		{"9223372036854775808%", large},
		{"99999999999999999999999h", large},
	} {
		got, err := renew.ParseSpan(c.in)
		if err == nil {
			t.Errorf("ParseSpan(%q) = %v, want an error", c.in, got)
			continue
		}
		text, quoted := strings.CutPrefix(err.Error(), quote(c.in)+": ")
		if !quoted || text != c.want || !got.IsZero() {
			t.Errorf("ParseSpan(%q) = %q, %v\nwant %s: %s", c.in, got, err, quote(c.in), c.want)
		}
	}
}

func TestSpanKinds(t *testing.T) {
	for _, c := range []struct {
		name        string
		span        renew.Span
		zero, share bool
		text        string
	}{
		{"not set", renew.Span{}, true, false, ""},
		{"no share", renew.Percent(0), false, true, "0%"},
		{"no time", renew.Fixed(0), false, false, "0s"},
		{"a share", renew.Percent(4), false, true, "4%"},
		{"a time", renew.Fixed(time.Minute), false, false, "1m"},
		{"half a second", renew.Fixed(time.Second / 2), false, false, "500ms"},
	} {
		if c.span.IsZero() != c.zero || c.span.IsShare() != c.share || c.span.String() != c.text {
			t.Errorf("%s: IsZero %t, IsShare %t, %q", c.name, c.span.IsZero(), c.span.IsShare(), c.span)
		}
	}
	if renew.Percent(0) == renew.Fixed(0) || renew.Percent(0) == (renew.Span{}) || renew.Fixed(0) == (renew.Span{}) {
		t.Error("0%, 0s and a span that is not set must differ")
	}
}

func TestSpanOf(t *testing.T) {
	const century = 36525 * day
	for _, c := range []struct {
		span renew.Span
		life time.Duration
		want time.Duration
	}{
		{renew.Percent(80), day, 19*time.Hour + 12*time.Minute},
		{renew.Percent(4), day, 57*time.Minute + 36*time.Second},
		{renew.Percent(1), 10 * time.Second, 100 * time.Millisecond},
		{renew.Percent(33), 10, 3},
		{renew.Percent(99), century, century / 100 * 99},
		{renew.Percent(100), math.MaxInt64, math.MaxInt64},
		{renew.Percent(99), math.MaxInt64, 9131138316486228048},
		{renew.Percent(101), math.MaxInt64, math.MaxInt64},
		{renew.Percent(201), math.MaxInt64, math.MaxInt64},
		{renew.Percent(math.MaxInt), math.MaxInt64, math.MaxInt64},
		{renew.Percent(0), day, 0},
		{renew.Percent(-5), day, 0},
		{renew.Percent(80), 0, 0},
		{renew.Percent(80), -day, 0},
		{renew.Fixed(time.Hour), day, time.Hour},
		{renew.Fixed(time.Hour), 0, time.Hour},
		{renew.Fixed(time.Hour), -day, time.Hour},
		{renew.Span{}, day, 0},
	} {
		if got := c.span.Of(c.life); got != c.want {
			t.Errorf("%q of %v is %v, want %v", c.span, c.life, got, c.want)
		}
	}
}

func FuzzParseSpan(f *testing.F) {
	for _, seed := range []string{
		"80%", "60m", "1day", "90sec", "080%", "80 %", "+1h", "1.5h", "60MIN", "", "106752d", "\xff%", "1h30m",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		span, err := renew.ParseSpan(s)
		if err != nil {
			if !span.IsZero() || !strings.HasPrefix(err.Error(), quote(s)+": ") || strings.ContainsAny(err.Error(), "\r\n") {
				t.Fatalf("ParseSpan(%q) = %q, %v", s, span, err)
			}
			// A text that the error proposes can be pasted as it is.
			if i := strings.LastIndex(err.Error(), `: "`); i >= len(quote(s)) {
				proposed := strings.Trim(err.Error()[i+2:], `"`)
				if _, err := renew.ParseSpan(proposed); err != nil {
					t.Fatalf("ParseSpan(%q) proposes %q: %v", s, proposed, err)
				}
			}
			return
		}
		short := span.String()
		again, err := renew.ParseSpan(short)
		if err != nil || again != span || again.String() != short {
			t.Fatalf("%q is %q, which is %q, %v", s, short, again, err)
		}
		if len(short) > len(s) {
			t.Fatalf("%q prints longer, as %q", s, short)
		}
		if d := span.Of(day); d < 0 {
			t.Fatalf("%q of a day is %v", s, d)
		}
	})
}
