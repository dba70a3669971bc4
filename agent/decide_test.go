package agent

import (
	"testing"
	"time"

	"certagent/renew"
	"certagent/store"
)

func TestDecide(t *testing.T) {
	const life = 100 * time.Hour
	born := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	at := func(share float64) time.Time { return born.Add(time.Duration(share * float64(life))) }
	policy := renew.Policy{Enabled: true, Threshold: renew.Percent(80), Retry: renew.Percent(4), Jitter: renew.Percent(0), JitterSet: true}
	disabled := policy
	disabled.Enabled = false
	leaf := &renew.Leaf{NotBefore: born, NotAfter: born.Add(life), Raw: []byte("certificate")}
	// due asks at 85 % of the lifetime, where only the threshold wants a renewal.
	due := question{now: at(.85), credible: true, policy: policy, leaf: leaf, issued: born}

	for _, tc := range []struct {
		name    string
		q       question
		change  func(*question)
		attempt bool
		reason  reason
		at      time.Time
	}{
		{name: "due by threshold", q: due, attempt: true, reason: reasonThreshold, at: at(.8)},
		{name: "not due yet", q: due, change: func(q *question) { q.now = at(.5) }, at: at(.8)},
		{name: "an instant before the threshold", q: due, change: func(q *question) { q.now = at(.8).Add(-1) }, at: at(.8)},
		{name: "at the threshold", q: due, change: func(q *question) { q.now = at(.8) }, attempt: true, reason: reasonThreshold, at: at(.8)},
		{name: "expired", q: due, change: func(q *question) { q.now = at(1.5) }, attempt: true, reason: reasonExpired, at: at(1.5)},
		{name: "not valid yet waits", q: due, change: func(q *question) { q.now = at(-.1) }, at: at(0)},
		{name: "begins too far ahead to be waited for", q: due, change: func(q *question) { q.now = at(-.3) },
			attempt: true, reason: reasonMisdated, at: at(-.3)},
		{name: "the same, renewal switched off", q: due, change: func(q *question) { q.now, q.policy = at(-.3), disabled }, at: at(0)},
		{name: "no certificate", q: due, change: func(q *question) { q.leaf = nil }, attempt: true, reason: reasonMissing, at: at(.85)},

		{name: "a clock that is not credible holds everything", q: due, change: func(q *question) { q.credible, q.leaf = false, nil }},
		{name: "and a force too", q: due, change: func(q *question) { q.credible, q.retry.Reissue = false, "forced" }},

		{name: "back-off holds", q: due, change: func(q *question) { q.retry.NextTry = at(.86) }, reason: reasonThreshold, at: at(.86)},
		{name: "back-off over", q: due, change: func(q *question) { q.retry.NextTry = at(.84) }, attempt: true, reason: reasonThreshold, at: at(.84)},
		{name: "a next try further ahead than any rule allows counts as now", q: due,
			change: func(q *question) { q.retry.NextTry = at(50) }, attempt: true, reason: reasonThreshold, at: at(.85)},
		{name: "Retry-After wins over back-off", q: due, change: func(q *question) {
			q.retry.NextTry, q.retry.RetryAfter = at(.84), at(.9)
		}, reason: reasonThreshold, at: at(.9)},
		{name: "a request that waits for approval", q: due, change: func(q *question) {
			q.retry.PendingUntil = at(.9)
		}, reason: reasonThreshold, at: at(.9)},
		{name: "what was written by a clock that was ahead", q: due, change: func(q *question) {
			q.retry.LastTry, q.retry.NextTry, q.retry.PendingUntil = at(1), at(.86), at(1.2)
		}, attempt: true, reason: reasonThreshold, at: at(.8)},
		{name: "what a server asked for while the clock was wrong", q: due, change: func(q *question) {
			q.retry.RetryAfter, q.retry.PendingUntil, q.retry.Drift.NextTry = at(1000), at(1000), at(1000)
		}, attempt: true, reason: reasonThreshold, at: at(.8)},

		{name: "forced before the threshold", q: due, change: func(q *question) {
			q.now, q.retry.Reissue = at(.1), "forced"
		}, attempt: true, reason: reasonForced, at: at(.1)},
		{name: "forced, failed, and in back-off", q: due, change: func(q *question) {
			q.now, q.retry.Reissue, q.retry.NextTry = at(.1), "forced", at(.11)
		}, reason: reasonForced, at: at(.11)},
		{name: "deleted while an older generation serves", q: due, change: func(q *question) {
			q.now, q.retry.Reissue = at(.1), "missing"
		}, attempt: true, reason: reasonMissing, at: at(.1)},

		{name: "renewal switched off", q: due, change: func(q *question) { q.policy = disabled }, at: at(1)},
		{name: "switched off and expired", q: due, change: func(q *question) { q.policy, q.now = disabled, at(1.1) }},
		{name: "switched off and forced", q: due, change: func(q *question) {
			q.policy, q.retry.Reissue = disabled, "forced"
		}, attempt: true, reason: reasonForced, at: at(.85)},
		{name: "switched off and gone", q: due, change: func(q *question) { q.policy, q.leaf = disabled, nil },
			attempt: true, reason: reasonMissing, at: at(.85)},

		{name: "the guard holds a certificate that was due when it was issued", q: due, change: func(q *question) {
			q.issued = at(.84)
		}, at: at(.89)},
		{name: "a time of issue that lies ahead was a wrong clock's, and guards nothing", q: due, change: func(q *question) {
			q.issued = at(.86)
		}, attempt: true, reason: reasonThreshold, at: at(.8)},
		{name: "the guard does not bind a force", q: due, change: func(q *question) {
			q.issued, q.retry.Reissue = at(.84), "forced"
		}, attempt: true, reason: reasonForced, at: at(.85)},
		{name: "the guard does not bind the dead", q: due, change: func(q *question) {
			q.issued, q.now = at(1), at(1.01)
		}, attempt: true, reason: reasonExpired, at: at(1.01)},

		{name: "the name changed", q: due, change: func(q *question) {
			q.now, q.drift.name = at(.1), true
		}, attempt: true, reason: reasonDrift, at: at(.1)},
		{name: "the name changed, its turn comes later", q: due, change: func(q *question) {
			q.now, q.drift.name, q.retry.Drift.NextTry = at(.1), true, at(.101)
		}, reason: reasonDrift, at: at(.101)},
		{name: "the name changed while the clock stood ahead", q: due, change: func(q *question) {
			q.now, q.drift.name, q.retry.Drift.NextTry = at(.1), true, at(.6)
		}, attempt: true, reason: reasonDrift, at: at(.1)},
		{name: "the name changed, and the server asked to wait", q: due, change: func(q *question) {
			q.now, q.drift.name, q.retry.Drift = at(.1), true, store.Drift{NextTry: at(.6), Failures: 1}
		}, reason: reasonDrift, at: at(.6)},
		{name: "a refused change does not hold up the threshold", q: due, change: func(q *question) {
			q.drift.name, q.retry.Drift = true, store.Drift{NextTry: at(.9), Failures: 3}
		}, attempt: true, reason: reasonThreshold, at: at(.8)},
		{name: "the key type changed", q: due, change: func(q *question) {
			q.now, q.drift.key = at(.1), true
		}, attempt: true, reason: reasonKeyDrift, at: at(.1)},

		{name: "files that hang", q: due, change: func(q *question) { q.holdForFiles = true },
			reason: reasonThreshold, at: at(.85).Add(maxSleep)},
		{name: "files that hang hold up nothing that is not due", q: due, change: func(q *question) {
			q.now, q.holdForFiles = at(.5), true
		}, at: at(.8)},
		{name: "waiting for the EST identity", q: due, change: func(q *question) {
			q.leaf, q.holdForIdentity = nil, "est-id"
		}, reason: reasonMissing},
	} {
		t.Run(tc.name, func(t *testing.T) {
			q := tc.q
			if tc.change != nil {
				tc.change(&q)
			}
			d := decide(q)
			if d.attempt != tc.attempt || d.reason != tc.reason || !d.at.Equal(tc.at) {
				t.Errorf("attempt %v for %q at %v (%s)\nwant    %v for %q at %v", d.attempt, d.reason, d.at, d.why, tc.attempt, tc.reason, tc.at)
			}
			if d2 := decide(q); d2 != d {
				t.Errorf("asked again: %+v, then %+v", d, d2)
			}
			if !d.attempt && d.why == "" && !d.at.IsZero() {
				t.Error("waits without saying why")
			}
		})
	}
}
