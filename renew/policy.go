package renew

// Policy says when a certificate is renewed and how failed attempts are spaced. It is the auto_renew table of the
// configuration.
type Policy struct {
	// Enabled is auto_renew.enabled. Without it no certificate is ever due by its threshold. Certificates that are
	// missing, whose renewal is forced, or whose configuration has drifted are the caller's business still.
	Enabled bool

	// Threshold is where renewal starts: as a share, the part of the lifetime that has gone by since NotBefore; as a
	// fixed time, what is left before NotAfter.
	Threshold Span

	// Retry is the longest wait between two attempts. A share is one of the whole lifetime.
	Retry Span

	// Jitter is the width of the interval over which the renewals of a fleet are spread. A share is one of the whole
	// lifetime. It counts only when JitterSet, so that "0%" can be told from nothing: without it the width is half
	// of Retry, at most a tenth of what is left at the threshold.
	Jitter    Span
	JitterSet bool

	// SpreadFirst is first_renewal = "spread": the first renewal after a bootstrap enrolment comes before the
	// threshold, at a point that differs from one certificate to the next. It parts a fleet that was enrolled in
	// one minute.
	SpreadFirst bool
}

// DefaultPolicy returns what holds where the configuration says nothing: enabled, 80% of the lifetime, attempts at
// most 4% of it apart. They are the values of the tutorials for aziot.
func DefaultPolicy() Policy {
	return Policy{Enabled: true, Threshold: Percent(80), Retry: Percent(4)}
}

// FieldError says what is wrong with one key of a policy.
type FieldError struct {
	Field string // the key as the configuration names it: "threshold", "retry" or "jitter"
	Text  string // a sentence that quotes the value and says what would be right
}

// Error returns the key and the text.
func (e FieldError) Error() string { return e.Field + ": " + e.Text }

// Validate reports what no lifetime can make right, at most one error for each key: a value that is not set, a
// percentage outside 1 to 99, a time of zero or less. A jitter may be zero. It is the same for a policy that is not
// enabled.
func (p Policy) Validate() []FieldError {
	var errs []FieldError
	check := func(field string, s Span, least int64, advice string) {
		if s.IsZero() {
			errs = append(errs, FieldError{field, "not set: use " + advice})
		} else if s.n < least || s.IsShare() && s.n > 99 {
			errs = append(errs, FieldError{field, `"` + s.String() + `": use ` + advice})
		}
	}
	check("threshold", p.Threshold, 1, `1% to 99% of the lifetime, or a time before expiry such as "60m"`)
	check("retry", p.Retry, 1, `1% to 99% of the lifetime, or a time such as "30m"`)
	if p.JitterSet {
		check("jitter", p.Jitter, 0, `0% to 99% of the lifetime, or a time such as "10m"`)
	}
	return errs
}

// RetryFits reports whether a second attempt, Retry after one at the threshold, still comes before expiry. That can
// be told without a certificate only if Threshold and Retry are both shares or both fixed times; otherwise known is
// false and Plan.RetryFits has the answer. A policy that is not enabled has nothing to fit in.
func (p Policy) RetryFits() (fits, known bool) {
	switch {
	case !p.Enabled:
		return true, true
	case p.Threshold.kind != p.Retry.kind || p.Threshold.IsZero():
		return false, false
	case p.Threshold.IsShare():
		return p.Retry.n < 100-p.Threshold.n, true
	}
	return p.Retry.n < p.Threshold.n, true
}
