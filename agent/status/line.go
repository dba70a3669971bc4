package status

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Line is the one line that systemctl status shows (sd_notify(3), STATUS=): how many certificates can be used, and the
// worst of those that something is wrong with, with its next try.
func (s Snapshot) Line() string {
	var managed, usable int
	var worst *Certificate
	for i := range s.Certificates {
		c := &s.Certificates[i]
		if c.State == Unmanaged {
			continue
		}
		managed++
		if slices.Contains([]State{Valid, Due, Overdue}, c.State) {
			usable++
		}
		well := c.State == Valid && c.Failures == 0 && trouble(c.Problems) == ""
		if !well && (worst == nil || rank(c.State) < rank(worst.State)) {
			worst = c
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d of %d certificates valid", usable, managed)
	if worst != nil {
		fmt.Fprintf(&b, "; %s: %s", worst.ID, worst.State)
		if worst.LastClass != "" && worst.Failures > 0 {
			fmt.Fprintf(&b, ", %s", worst.LastClass)
		} else if code := trouble(worst.Problems); code != "" && code != string(worst.State) {
			fmt.Fprintf(&b, ", %s", code)
		}
		next := worst.NextTry
		if delivery := worst.nextDelivery(); worst.State == Valid && worst.Failures == 0 && !delivery.IsZero() {
			next = delivery
		}
		if !next.IsZero() {
			fmt.Fprintf(&b, ", next try %s", next.In(s.Time.Location()).Format("Jan 2 15:04:05"))
		}
	}
	if code := trouble(s.Problems); code != "" {
		fmt.Fprintf(&b, "; %s", code)
	}
	return b.String()
}

// trouble is the code of the first problem that is more than a notice; "" if there is none.
func trouble(problems []Problem) string {
	i := slices.IndexFunc(problems, func(p Problem) bool { return !p.Notice })
	if i < 0 {
		return ""
	}
	return problems[i].Code
}

// rank orders states from the worst. One that only another version knows stands between those that are not well and the others.
func rank(s State) int {
	order := []State{Expired, KeyMismatch, Missing, NotYetValid, Overdue, "", Due, Valid, Unmanaged}
	if i := slices.Index(order, s); i >= 0 {
		return i
	}
	return slices.Index(order, "")
}

// Undelivered tells whether an output or a hook waits for its turn.
func (c *Certificate) Undelivered() bool {
	return slices.ContainsFunc(c.Outputs, func(o Output) bool { return o.State == Pending }) ||
		slices.ContainsFunc(c.Hooks, func(h Hook) bool { return h.State == Pending })
}

// CloudProblem is what is wrong with making c known to its cloud, or goes on with it (a notice); nil if nothing.
func (c *Certificate) CloudProblem() *Problem {
	if c.Onboarding == nil {
		return nil
	}
	i := slices.IndexFunc(c.Problems, func(p Problem) bool { return strings.HasPrefix(p.Code, c.Onboarding.Cloud+"-") })
	if i < 0 {
		return nil
	}
	return &c.Problems[i]
}

// nextDelivery is when an output or a hook that failed is tried again; zero if none did.
func (c *Certificate) nextDelivery() time.Time {
	next := c.OutputsNextTry
	for _, h := range c.Hooks {
		if h.State != "ok" && !h.NextTry.IsZero() && (next.IsZero() || h.NextTry.Before(next)) {
			next = h.NextTry
		}
	}
	return next
}
