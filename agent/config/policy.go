package config

import (
	"strconv"
	"strings"
	"time"

	"certagent/renew"
)

// span reads a length of time; a zero Span if the key is missing or after reporting a mistake.
func (p part) span(name string) renew.Span {
	s, ok := p.str(name)
	if !ok {
		return renew.Span{}
	}
	span, err := renew.ParseSpan(s)
	if err != nil {
		// The error repeats the value, which stands in front of it already.
		p.fail(name, strings.TrimPrefix(err.Error(), strconv.Quote(s)+": "), "")
	}
	return span
}

// duration reads a time within bounds; a share of a lifetime is none.
func (p part) duration(name string, otherwise, least, most time.Duration) time.Duration {
	s := p.span(name)
	switch {
	case s.IsZero():
		return otherwise
	case s.IsShare() || s.Of(0) < least || s.Of(0) > most:
		p.fail(name, "is out of range",
			"write a time from "+quoted(renew.Fixed(least).String())+" to "+quoted(renew.Fixed(most).String()))
		return otherwise
	}
	return s.Of(0)
}

// schedule is what an auto_renew table says.
type schedule struct {
	policy renew.Policy
	rotate bool
}

// schedule reads an auto_renew table. Each key is optional, and a table that is missing means the defaults: a
// certificate that nobody said not to renew is renewed.
func (p part) schedule() schedule {
	s := schedule{renew.DefaultPolicy(), p.flag("rotate_key", true)}
	s.policy.Enabled = p.flag("enabled", true)
	if t := p.span("threshold"); !t.IsZero() {
		s.policy.Threshold = t
	}
	if t := p.span("retry"); !t.IsZero() {
		s.policy.Retry = t
	}
	if t := p.span("jitter"); !t.IsZero() {
		s.policy.Jitter, s.policy.JitterSet = t, true
	}
	s.policy.SpreadFirst = p.oneOf("first_renewal", "threshold", "spread") == "spread"
	for _, e := range s.policy.Validate() {
		_, advice, _ := strings.Cut(e.Text, ": ") // the value in front stands in our message too
		p.fail(e.Field, "is out of range", advice)
	}
	return s
}

// warnRetry says when no second try can come before expiry.
func (p part) warnRetry(id string, policy renew.Policy) {
	fits, known := policy.RetryFits()
	if fits || !known {
		return
	}
	name := "retry"
	if !p.has(name) {
		name = "threshold"
	}
	p.warn(name, id, "with threshold "+quoted(policy.Threshold.String())+" and retry "+quoted(policy.Retry.String())+
		" no second try fits in before expiry", "renew earlier, or retry sooner")
}
