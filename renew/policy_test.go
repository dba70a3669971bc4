package renew_test

import (
	"errors"
	"slices"
	"strconv"
	"testing"
	"time"

	"certagent/renew"
)

func quote(s string) string { return strconv.Quote(s) }

// span parses a literal of a table; "" is a span that is not set.
func span(t testing.TB, s string) renew.Span {
	t.Helper()
	if s == "" {
		return renew.Span{}
	}
	parsed, err := renew.ParseSpan(s)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// policy makes an enabled policy; a jitter of "" is none.
func policy(t testing.TB, threshold, retry, jitter string) renew.Policy {
	t.Helper()
	return renew.Policy{
		Enabled: true, Threshold: span(t, threshold), Retry: span(t, retry),
		Jitter: span(t, jitter), JitterSet: jitter != "",
	}
}

func TestDefaultPolicy(t *testing.T) {
	if got, want := renew.DefaultPolicy(), policy(t, "80%", "4%", ""); got != want {
		t.Errorf("DefaultPolicy() = %+v, want %+v", got, want)
	}
	if errs := renew.DefaultPolicy().Validate(); errs != nil {
		t.Errorf("the default policy is refused: %v", errs)
	}
}

func TestValidate(t *testing.T) {
	const (
		threshold = `use 1% to 99% of the lifetime, or a time before expiry such as "60m"`
		retry     = `use 1% to 99% of the lifetime, or a time such as "30m"`
		jitter    = `use 0% to 99% of the lifetime, or a time such as "10m"`
	)
	good := renew.DefaultPolicy()
	for _, c := range []struct {
		name   string
		change func(*renew.Policy)
		want   []renew.FieldError
	}{
		{"default", func(*renew.Policy) {}, nil},
		{"least shares", func(p *renew.Policy) { p.Threshold, p.Retry = renew.Percent(1), renew.Percent(1) }, nil},
		{"greatest shares", func(p *renew.Policy) { p.Threshold, p.Retry = renew.Percent(99), renew.Percent(99) }, nil},
		{"times", func(p *renew.Policy) { p.Threshold, p.Retry = renew.Fixed(time.Hour), renew.Fixed(time.Second) }, nil},
		{"jitter 0%", func(p *renew.Policy) { p.Jitter, p.JitterSet = renew.Percent(0), true }, nil},
		{"jitter 0s", func(p *renew.Policy) { p.Jitter, p.JitterSet = renew.Fixed(0), true }, nil},
		{"a jitter that does not count", func(p *renew.Policy) { p.Jitter = renew.Percent(500) }, nil},
		{"threshold 0%", func(p *renew.Policy) { p.Threshold = renew.Percent(0) },
			[]renew.FieldError{{"threshold", `"0%": ` + threshold}}},
		{"threshold 100%", func(p *renew.Policy) { p.Threshold = renew.Percent(100) },
			[]renew.FieldError{{"threshold", `"100%": ` + threshold}}},
		{"threshold 0s", func(p *renew.Policy) { p.Threshold = renew.Fixed(0) },
			[]renew.FieldError{{"threshold", `"0s": ` + threshold}}},
		{"threshold not set", func(p *renew.Policy) { p.Threshold = renew.Span{} },
			[]renew.FieldError{{"threshold", `not set: ` + threshold}}},
		{"retry 0%", func(p *renew.Policy) { p.Retry = renew.Percent(0) },
			[]renew.FieldError{{"retry", `"0%": ` + retry}}},
		{"retry 100%", func(p *renew.Policy) { p.Retry = renew.Percent(100) },
			[]renew.FieldError{{"retry", `"100%": ` + retry}}},
		{"retry negative", func(p *renew.Policy) { p.Retry = renew.Fixed(-time.Minute) },
			[]renew.FieldError{{"retry", `"-1m": ` + retry}}},
		{"jitter 100%", func(p *renew.Policy) { p.Jitter, p.JitterSet = renew.Percent(100), true },
			[]renew.FieldError{{"jitter", `"100%": ` + jitter}}},
		{"jitter negative", func(p *renew.Policy) { p.Jitter, p.JitterSet = renew.Percent(-1), true },
			[]renew.FieldError{{"jitter", `"-1%": ` + jitter}}},
		{"everything at once", func(p *renew.Policy) { *p = renew.Policy{JitterSet: true} }, []renew.FieldError{
			{"threshold", `not set: ` + threshold},
			{"retry", `not set: ` + retry},
			{"jitter", `not set: ` + jitter},
		}},
		{"not enabled", func(p *renew.Policy) { p.Enabled, p.Retry = false, renew.Percent(0) },
			[]renew.FieldError{{"retry", `"0%": ` + retry}}},
	} {
		p := good
		c.change(&p)
		if got := p.Validate(); !slices.Equal(got, c.want) {
			t.Errorf("%s:\n got %v\nwant %v", c.name, got, c.want)
		}
	}
}

func TestFieldErrorIsAnError(t *testing.T) {
	err := errors.Join(renew.FieldError{Field: "retry", Text: `"0%": use more`})
	field, ok := errors.AsType[renew.FieldError](err)
	if !ok || field.Field != "retry" || err.Error() != `retry: "0%": use more` {
		t.Errorf("%v: %+v, %t", err, field, ok)
	}
}

func TestPolicyRetryFits(t *testing.T) {
	for _, c := range []struct {
		threshold, retry string
		fits, known      bool
	}{
		{"80%", "4%", true, true},
		{"80%", "19%", true, true},
		{"80%", "20%", false, true},
		{"80%", "21%", false, true},
		{"99%", "1%", false, true},
		{"98%", "1%", true, true},
		{"60m", "59m", true, true},
		{"60m", "1h", false, true},
		{"1d", "2d", false, true},
		{"80%", "10m", false, false},
		{"60m", "4%", false, false},
		{"", "", false, false},
	} {
		p := policy(t, c.threshold, c.retry, "")
		if fits, known := p.RetryFits(); fits != c.fits || known != c.known {
			t.Errorf("threshold %q, retry %q: fits %t, known %t; want %t, %t",
				c.threshold, c.retry, fits, known, c.fits, c.known)
		}
		p.Enabled = false
		if fits, known := p.RetryFits(); !fits || !known {
			t.Errorf("threshold %q, retry %q, not enabled: fits %t, known %t", c.threshold, c.retry, fits, known)
		}
	}
}
