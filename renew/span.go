package renew

import (
	"fmt"
	"math"
	"math/bits"
	"strconv"
	"strings"
	"time"
)

const day = 24 * time.Hour

// Span is a length of time as the configuration writes it: a share of a certificate's lifetime ("80%") or a fixed
// time ("60m"). The zero Span means "not set" and differs from Percent(0) and Fixed(0). Spans can be compared
// with ==.
type Span struct {
	kind spanKind
	n    int64 // percent, or nanoseconds
}

type spanKind uint8

const (
	unset spanKind = iota
	share
	fixed
)

// Percent returns the Span of n hundredths of a lifetime. Any n can be held; Policy.Validate judges it.
func Percent(n int) Span { return Span{share, int64(n)} }

// Fixed returns the Span that is d whatever the lifetime. Any d can be held; Policy.Validate judges it.
func Fixed(d time.Duration) Span { return Span{fixed, int64(d)} }

// IsZero reports whether s is not set.
func (s Span) IsZero() bool { return s.kind == unset }

// IsShare reports whether s is a share of a lifetime.
func (s Span) IsShare() bool { return s.kind == share }

// Of returns the time that s stands for in a lifetime: for a share that part of life, rounded down and held
// at the largest Duration; for a fixed time that time. A share of a negative lifetime, a negative share and the
// zero Span are 0.
func (s Span) Of(life time.Duration) time.Duration {
	switch {
	case s.kind == fixed:
		return time.Duration(s.n)
	case s.kind == unset || s.n <= 0 || life <= 0:
		return 0
	}
	hi, lo := bits.Mul64(uint64(life), uint64(s.n))
	if hi >= 100 {
		return math.MaxInt64
	}
	quotient, _ := bits.Div64(hi, lo, 100)
	return time.Duration(min(quotient, math.MaxInt64))
}

// String returns the shortest form from which ParseSpan makes s again: "80%", "1h", "90m", "1d", "30s". The zero
// Span is "". What no configuration can say, a negative value or a part of a second, prints in a form that
// ParseSpan refuses.
func (s Span) String() string {
	if s.kind == unset {
		return ""
	}
	if s.kind == share {
		return strconv.FormatInt(s.n, 10) + "%"
	}
	d := time.Duration(s.n)
	for _, unit := range []struct {
		size time.Duration
		name string
	}{{day, "d"}, {time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}} {
		if d != 0 && d%unit.size == 0 {
			return strconv.FormatInt(int64(d/unit.size), 10) + unit.name
		}
	}
	return d.String()
}

// ParseSpan reads a Span: a whole number followed by one of the units %, s, sec, m, min, h, d and day. Nothing else
// is understood: no sign, space, fraction, capital letter or second unit. Units min and day are those of aziot.
// A value too large for a Duration (some 292 years) is an error. Whether the value makes sense is not judged: "0%",
// "100%" and "0s" parse.
//
// The error is a sentence for the author of a configuration; it quotes s and, where that can be guessed, says what
// to write instead.
func ParseSpan(s string) (Span, error) {
	span, fault := parse(s)
	switch fault {
	case wellFormed:
		return span, nil
	case tooLarge:
		return Span{}, fmt.Errorf("%q: too large: the longest time is %q", s, Fixed(math.MaxInt64/day*day))
	}
	return Span{}, fmt.Errorf("%q: %s", s, advice(s))
}

type spanFault uint8

const (
	wellFormed spanFault = iota
	malformed
	tooLarge
)

func parse(s string) (Span, spanFault) {
	unit := strings.TrimLeft(s, "0123456789")
	digits := s[:len(s)-len(unit)]
	size, known := sizeOf(unit)
	if digits == "" || !known {
		return Span{}, malformed
	}
	// Only a value out of range can fail here.
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || unit != "%" && n > int64(math.MaxInt64/size) {
		return Span{}, tooLarge
	}
	if unit == "%" {
		return Span{share, n}, wellFormed
	}
	return Fixed(time.Duration(n) * size), wellFormed
}

// sizeOf returns how long one of a unit is; for % that is 0.
func sizeOf(unit string) (size time.Duration, known bool) {
	switch unit {
	case "%":
		return 0, true
	case "s", "sec":
		return time.Second, true
	case "m", "min":
		return time.Minute, true
	case "h":
		return time.Hour, true
	case "d", "day":
		return day, true
	}
	return 0, false
}

// advice says what to write instead of the malformed s. It names the first fault it finds and proposes a text in
// which all of them are mended; a text that would not parse is not proposed.
func advice(s string) string {
	if _, fault := parse(s + "m"); fault == wellFormed {
		return fmt.Sprintf("the unit is missing: write %q for a share of the lifetime, or %q for a time", s+"%", s+"m")
	}
	var what string
	mend := func(mended, how string) {
		if mended != s && what == "" {
			what = how
		}
		s = mended
	}
	mend(strings.Join(strings.Fields(s), ""), "write it without the space")
	mend(strings.TrimLeft(s, "+-"), "write it without the sign")
	mend(strings.ToLower(s), "units are lower case")
	number := strings.TrimRight(s, "abcdefghijklmnopqrstuvwxyz")
	mend(number+usualUnit(strings.TrimPrefix(s, number)), "write the unit like this")
	if _, fault := parse(s); fault == malformed {
		// "1.5h" and "1h30m" are what Go and systemd write.
		if d, err := time.ParseDuration(s); err == nil && d%time.Second == 0 {
			s, what = Fixed(d).String(), "write one whole number and one unit"
		}
	}
	if _, fault := parse(s); fault == wellFormed && what != "" {
		return fmt.Sprintf("%s: %q", what, s)
	}
	if strings.ContainsAny(s, ".,") {
		return `fractions are not understood: use a whole number, or a smaller unit, as in "36h" for a day and a half`
	}
	return `not understood: write a whole number and one of the units %, s, m, h, d, as in "80%" or "60m"`
}

// usualUnit returns the unit meant by another name for it, or the name itself.
func usualUnit(name string) string {
	switch name {
	case "percent", "pct":
		return "%"
	case "secs", "second", "seconds":
		return "s"
	case "mins", "minute", "minutes":
		return "m"
	case "hr", "hrs", "hour", "hours":
		return "h"
	case "days":
		return "d"
	}
	return name
}
