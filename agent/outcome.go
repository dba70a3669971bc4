package agent

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/rs/zerolog"

	"certagent/agent/status"
	"certagent/renew"
	"certagent/store"
)

// result is how an attempt ended.
type result struct {
	event      *event
	generation *store.Generation
	err        error
	early      bool // it came before the threshold, for the sake of the spread
}

// pendingDefault is the wait before a request that the server took (202) is repeated, when the server did not say.
const pendingDefault = 15 * time.Minute

// finish records how the attempt ended, and logs it: once.
func (k *keeper) finish(r *result) {
	k.running, k.tried = false, true
	k.cancel()
	now := k.agent.o.Now()
	r.event.took = time.Since(r.event.began)
	v := judge(r.err)
	if v.canceled {
		k.retry.Begun = now.Add(-r.event.took) // for the next start; begin need not have recorded it
		k.save()
		return
	}
	k.ended = true
	k.retry.Begun, k.retry.Interrupted = time.Time{}, 0
	if r.err == nil {
		k.succeeded(r, now)
		return
	}
	k.failed(r, v, now)
}

func (k *keeper) succeeded(r *result, now time.Time) {
	e := r.event
	e.Generation = r.generation
	k.live, k.liveErr = r.generation, nil
	k.retry = store.Retry{
		LastTry: now, LastSuccess: now, LastIdentity: e.login(), Login: k.retry.Login,
		Problems: stored(e.Problems, k.retry.Problems, now), Drift: k.retry.Drift, Losses: k.retry.Losses,
		Spent: spent(k.retry, reason(e.Reason), now), Reissue: left(k.retry.Reissue, e.Reason),
	}
	if k.forcedAgain {
		k.forcedAgain, k.retry.Reissue = false, cmp.Or(k.retry.Reissue, string(reasonForced))
	}
	k.retry.Ordered = k.retry.Reissue != ""
	k.retry.RenewAt = k.cfg.Policy.Plan(*k.leaf(), now).RenewAt // as the next look will find it
	e.Result, e.NextTry, e.NextWhy = status.Issued, k.retry.RenewAt, nextThreshold
	k.save()
	k.attempts = counted(k.attempts, status.Issued, "")
	k.agent.o.Log.Info().EmbedObject(e).Msg("certificate issued")
	k.readLive() // somebody may have done something to it since it was committed
}

// attemptLevel is how loud a failed attempt is: error is for what a person should look at. A server that cannot be reached
// comes back by itself, and that is nobody's business until the certificate has expired over it.
func attemptLevel(v verdict, expired bool) zerolog.Level {
	switch {
	case v.pending, v.class == "unavailable" && !expired:
		return zerolog.WarnLevel
	}
	return zerolog.ErrorLevel
}

// failed turns the verdict into the next try.
func (k *keeper) failed(r *result, v verdict, now time.Time) {
	e, retry, policy, draw := r.event, &k.retry, k.cfg.Policy, k.agent.o.Rand()
	level, said := attemptLevel(v, k.live != nil && !now.Before(k.live.Leaf.NotAfter)), "certificate not issued"
	e.failed(r.err, v)
	keepTries(retry, triesOf(*retry).Tried(k.leaf(), now))
	retry.Ordered = retry.Ordered && retry.Discard // what was asked for during the attempt has its own
	retry.LastClass, retry.LastError, retry.PendingUntil = v.class, clip(r.err.Error()), time.Time{}
	wait, capped := renew.CapRetryAfter(v.retryAfter, v.pending)
	v.problem.Text = clip(v.problem.Text)
	if capped {
		v.problem.Text += fmt.Sprintf(" (the server asked to wait %v; no more than %v of that are obeyed)", v.retryAfter, wait)
	}
	retry.Problems = stored(append(e.Problems, v.problem), retry.Problems, now)
	switch {
	case e.changes && v.class != classStore:
		// Whatever the server has against the change, or takes its time for, must not hold up renewal of what there is.
		d := &retry.Drift
		d.Failures++
		d.Since = since(d.Since, now)
		if v.refusal {
			d.Refusals = count(d.Refusals, e.Identity)
		}
		if v.pending {
			e.Result, e.NextWhy, said = status.Waiting, nextApproval, "the changed request waits for approval"
			wait = max(wait, pendingDefault)
		} else {
			wait = policy.Heed(k.leaf(), wait, draw, now)
		}
		delay := policy.Delay(k.leaf(), d.Failures, draw, now)
		d.NextTry = now.Add(max(wait, delay))
		e.Failures, e.NextTry, e.NextWhy = d.Failures, d.NextTry, cmp.Or(e.NextWhy, whyNext(wait > delay))
	case v.pending:
		said = "certificate waits for approval"
		if wait == 0 {
			wait = pendingDefault
		}
		retry.PendingUntil = now.Add(wait)
		e.Result, e.NextTry, e.NextWhy = status.Waiting, retry.PendingUntil, nextApproval
	case r.early && v.refusal:
		// first_renewal = "spread" asks before the threshold. A server that renews only near the end says no, which is no
		// failure: the threshold's turn comes.
		level, said = zerolog.InfoLevel, "not renewed before the threshold; the threshold's turn comes"
		retry.SpreadRefused, retry.Problems = true, nil
		e.Result, e.NextWhy = status.Early, nextThreshold
		if leaf := k.leaf(); leaf != nil { // somebody may have deleted it meanwhile
			e.NextTry = policy.Plan(*leaf, now).RenewAt
		}
	default:
		keepTries(retry, policy.Failed(k.leaf(), triesOf(*retry), wait, draw, now))
		if v.refusal {
			retry.Refusals = count(retry.Refusals, e.Identity)
		}
		e.Failures, e.NextTry = retry.Failures, latest(retry.NextTry, retry.RetryAfter)
		e.NextWhy = whyNext(retry.RetryAfter.After(retry.NextTry))
	}
	if e.Result != status.Early {
		e.Problems = append(e.Problems, v.problem)
	}
	k.save()
	k.attempts = counted(k.attempts, e.Result, v.class)
	k.agent.o.Log.WithLevel(level).EmbedObject(e).Msg(said)
}

// whyNext tells what the server asked for from the back-off.
func whyNext(asked bool) string {
	if asked {
		return nextRetryAfter
	}
	return nextBackOff
}

func earliest(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

func count(m map[string]int, name string) map[string]int {
	m = maps.Clone(m)
	if m == nil {
		m = map[string]int{}
	}
	m[name]++
	return m
}

// since is when something was noticed that still is: at before, unless that is not known, or a clock said so that stood ahead.
func since(before, now time.Time) time.Time {
	if before.IsZero() || before.After(now) {
		return now
	}
	return before
}

// stored is problems as they are kept on disk, each with the time at which it was first noticed.
func stored(problems []Problem, before []store.Problem, now time.Time) []store.Problem {
	var kept []store.Problem
	for _, p := range problems {
		if slices.ContainsFunc(kept, func(s store.Problem) bool { return s.Code == p.Code && s.Text == p.Text }) {
			continue
		}
		since := now
		if i := slices.IndexFunc(before, func(s store.Problem) bool { return s.Code == p.Code }); i >= 0 {
			since = before[i].Since
		}
		kept = append(kept, store.Problem{Code: p.Code, Text: p.Text, Hint: p.Hint, Notice: p.Notice, Since: since})
	}
	return kept
}
