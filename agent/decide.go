package agent

import (
	"fmt"
	"slices"
	"time"

	"certagent/renew"
	"certagent/store"
)

// reason says why a certificate is issued anew; it stands in meta.json, in logs and in status.
type reason string

const (
	reasonThreshold reason = "threshold"
	reasonExpired   reason = "expired"
	reasonMisdated  reason = "misdated" // it begins so far ahead that a clock must have been wrong when it was issued
	reasonForced    reason = "forced"
	reasonNewKey    reason = "new-key" // forced, with a key that there was not before
	reasonMissing   reason = "missing"
	reasonBroken    reason = "broken"
	reasonDrift     reason = "drift" // subject or SAN in the configuration changed
	reasonKeyDrift  reason = "key-drift"
	reasonCloned    reason = "cloned" // it was issued to another device
)

// question is everything that decide looks at. It is built by the keeper and by status alike.
type question struct {
	now      time.Time
	credible bool
	policy   renew.Policy
	leaf     *renew.Leaf // nil while there is no certificate that verifies
	issued   time.Time   // when the live generation was stored
	retry    store.Retry
	drift    drift
	cloned   bool // the live generation was issued to another device
	// holdForIdentity: the EST identity has not had its first attempt.
	holdForIdentity string
	// holdForFiles: what a person provides cannot be read, as its file system hangs. An attempt would hang with it.
	holdForFiles bool
}

// decision says what to do now, and when to look again.
type decision struct {
	plan    renew.Plan // zero without a certificate
	attempt bool       // act now
	reason  reason     // why; "" when nothing is wanted
	at      time.Time  // when to act or to look again; zero: nothing to wait for but an event
	why     string     // why then, for people
}

// decide reads no clock, no disk and no random source, so the keeper, status and a table test cannot disagree.
func decide(q question) decision {
	var d decision
	if q.leaf != nil {
		d.plan = q.policy.Plan(*q.leaf, q.now)
	}
	if !q.credible {
		d.why = "the clock is not credible; waiting for the right time"
		return d
	}
	q.retry = believed(q.retry, q.now)
	var want time.Time // when the cause asks for an attempt, back-off aside
	d.reason, want = cause(q, d.plan)
	if d.reason == "" {
		if q.leaf != nil && !d.plan.NextChange.IsZero() {
			d.at = d.plan.NextChange
			d.why = "not valid before then"
			switch d.plan.State {
			case renew.Valid, renew.Due:
				d.at, d.why = renewAt(q, d.plan), "renewal is due"
			}
		}
		return d
	}
	if q.holdForIdentity != "" {
		d.why = fmt.Sprintf("waiting for the first attempt of the EST identity %s", q.holdForIdentity)
		return d
	}

	if q.holdForFiles {
		d.at, d.why = q.now.Add(maxSleep), "the files that it needs do not answer"
		return d
	}

	d.at, d.why = want, whyOf(d.reason)
	later := func(t time.Time, why string) {
		if t.After(d.at) {
			d.at, d.why = t, why
		}
	}
	retry := q.retry
	again := "trying again"
	if !slices.Contains([]reason{reasonThreshold, reasonExpired, reasonMissing}, d.reason) { // else the state says it
		again += ": " + whyOf(d.reason)
	}
	later(q.policy.NextTry(q.leaf, triesOf(retry), q.now), again)
	if d.reason == reasonThreshold || d.reason == reasonExpired {
		later(renew.Ration(retry.Spent, q.now), "the certificates of this server end too soon; one a minute is asked for")
	}
	later(renew.Obeyed(retry.RetryAfter, q.now, false), "the server asked to wait (Retry-After)")
	later(renew.Obeyed(retry.PendingUntil, q.now, true), "waiting for approval at the server")
	if d.reason == reasonDrift || d.reason == reasonKeyDrift {
		next, why := q.policy.Sane(q.leaf, retry.Drift.NextTry, q.now), "the configuration changed; this certificate's turn comes then"
		if retry.Drift.Failures > 0 { // a back-off, or what the server asked for, as long as a week
			next, why = latest(next, renew.Obeyed(retry.Drift.NextTry, q.now, true)), "the change was not granted; trying again"
		}
		later(next, why)
	}
	if d.at.IsZero() {
		d.at = q.now
	}
	d.attempt = !d.at.After(q.now)
	return d
}

// cause finds why the certificate must be issued anew and since when; "" when it must not.
func cause(q question, plan renew.Plan) (reason, time.Time) {
	switch r := reason(q.retry.Reissue); {
	case q.cloned:
		return reasonCloned, time.Time{}
	case r == reasonForced:
		return r, time.Time{}
	case q.leaf == nil && r == "":
		return reasonMissing, time.Time{}
	case r != "":
		return r, time.Time{}
	}
	switch {
	case plan.State == renew.NotYetValid:
		if q.policy.Enabled && q.leaf.Misdated(q.now) {
			return reasonMisdated, time.Time{}
		}
		return "", time.Time{}
	case plan.State == renew.Expired:
		// With renewal disabled an expired certificate stays as it is; status says so, and a forced renewal mends it.
		if !q.policy.Enabled {
			return "", time.Time{}
		}
		return reasonExpired, time.Time{}
	case q.policy.Enabled && plan.State == renew.Due && !renewAt(q, plan).After(q.now):
		return reasonThreshold, renewAt(q, plan)
	case q.drift.name:
		return reasonDrift, time.Time{}
	case q.drift.key:
		return reasonKeyDrift, time.Time{}
	}
	return "", time.Time{}
}

// renewAt is when the threshold asks for a renewal, but not before the guard against a server whose certificates are due
// when they are issued. An expired certificate is not guarded.
func renewAt(q question, plan renew.Plan) time.Time {
	if plan.RenewAt.IsZero() {
		return plan.NextChange
	}
	return latest(plan.RenewAt, q.policy.Guard(*q.leaf, notAhead(q.issued, q.now)))
}

// notAhead is issued, when a generation was stored, or zero where that lies ahead of now: it was so by a wrong clock.
func notAhead(issued, now time.Time) time.Time {
	if issued.Sub(now) > clockStep {
		return time.Time{}
	}
	return issued
}

func whyOf(r reason) string {
	switch r {
	case reasonThreshold:
		return "renewal is due"
	case reasonExpired:
		return "the certificate has expired"
	case reasonMisdated:
		return "the certificate is not valid for long yet"
	case reasonForced:
		return "renewal was forced"
	case reasonNewKey:
		return "a new key was asked for"
	case reasonMissing:
		return "there is no certificate"
	case reasonBroken:
		return "the certificate or its key was damaged"
	case reasonDrift:
		return "the configured name changed"
	case reasonKeyDrift:
		return "the configured key or usage changed"
	case reasonCloned:
		return "the certificate was issued to another device"
	}
	return string(r)
}
