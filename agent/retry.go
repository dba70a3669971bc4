package agent

import (
	"fmt"
	"time"

	"certagent/renew"
	"certagent/store"
)

// readRetry reads the retry state where that has failed so far: what stands in it, a renewal that was forced for example,
// must not be written over because it could not be read for once. One bad sector must not stop this certificate for ever
// either: in the end it counts as none.
func (k *keeper) readRetry() error {
	if k.unread == 0 {
		return nil
	}
	r, err := k.stored.Retry()
	if err != nil && k.unread < maxUnread {
		k.unread++
		return err
	}
	if err != nil {
		k.agent.o.Log.Error().Str("event", "disk").Str("certificate", k.id).Str("error", clip(err.Error())).
			Msg("retry state not read; back-off begins anew")
	}
	if o := k.retry; o.Ordered { // meanwhile
		r.Ordered, r.Reissue, r.Discard = true, wish(r.Reissue, o.Reissue, o.Discard), r.Discard || o.Discard
		r.NextTry, r.RetryAfter = time.Time{}, time.Time{}
	}
	k.retry, k.unread = r, 0
	k.noticeEnd()
	return nil
}

// maxUnread is how often in a row the retry state, or that of delivery, may be unreadable before it counts as none.
const maxUnread = 3

// noticeEnd finds out how the last run of the agent ended, from what it recorded.
func (k *keeper) noticeEnd() {
	if k.retry.Damaged { // it may have said that a new key is wanted
		k.agent.o.Log.Error().Str("event", "disk").Str("certificate", k.id).
			Msg("retry state damaged; back-off begins anew, and what was asked for is forgotten")
	}
	k.noticeCommit()
	k.noticeInterruption()
}

// noticeCommit finds a generation that was committed and not recorded, because the agent was killed between the two: what
// was wanted then is had, and no reason to ask for one more.
func (k *keeper) noticeCommit() {
	if k.live == nil || !k.live.Meta.Issued.After(k.retry.LastSuccess) {
		return
	}
	m, before := k.live.Meta, k.retry
	stands := left(before.Reissue, m.Reason)
	k.retry = store.Retry{
		LastTry: m.Issued, LastSuccess: m.Issued, LastIdentity: m.Identity, Login: before.Login, Drift: before.Drift,
		Spent: spent(before, reason(m.Reason), m.Issued), Reissue: stands, Ordered: before.Ordered && stands != "",
	}
}

// believed is r as far as it can be believed when a credible clock says now. Where the last try lies ahead, it was made by a
// clock that was wrong: what it taught, from the server's expired certificate to when to try again, is void. What is wanted
// and what was had stands.
func believed(r store.Retry, now time.Time) store.Retry {
	if r.LastTry.Sub(now) <= clockStep {
		return r
	}
	return store.Retry{
		LastSuccess: r.LastSuccess, LastIdentity: r.LastIdentity, Reissue: r.Reissue, Cloned: r.Cloned, Login: r.Login,
		Losses: r.Losses, SpreadRefused: r.SpreadRefused, RenewAt: r.RenewAt, Discard: r.Discard, Ordered: r.Ordered, Spent: r.Spent, Begun: r.Begun,
		Drift: store.Drift{Wanted: r.Drift.Wanted},
	}
}

// roomAgain has tried at once what failed because the disk took nothing, when it takes something again: by the back-off, which
// is there for servers, a disk that was full for a day would cost an hour more.
func (k *keeper) roomAgain() {
	if k.running || k.saveErr == nil || k.retry.LastClass != classStore {
		return
	}
	if k.save(); k.saveErr == nil {
		k.retry.NextTry = time.Time{}
	}
}

// spent is the ration of renewals after a certificate was issued: what the clock did not ask for is not rationed.
func spent(before store.Retry, why reason, issued time.Time) time.Time {
	if why != reasonThreshold && why != reasonExpired {
		return before.Spent
	}
	return renew.Spend(before.Spent, issued)
}

// interruptionsAtOnce is how many tries in a row may end with the agent and be made again as soon as it is back. A power
// cut is no failure of the server; but an agent that dies in each try, and is started again every five seconds, must not
// be the server's trouble.
const interruptionsAtOnce = 5

// begin records that a try begins, so that the next start knows of it should this one not see it end. Once a try has
// ended the agent is not one that dies in each, and the write is saved.
func (k *keeper) begin() {
	if !k.ended {
		k.retry.Begun = k.agent.o.Now()
		k.save()
	}
}

// noticeInterruption gives a try that ended with the agent its place in the back-off. The place goes by when the try
// began and not by now: a device without a clock of its own starts in 1970.
func (k *keeper) noticeInterruption() {
	begun := k.retry.Begun
	if begun.IsZero() {
		return
	}
	k.retry.Begun = time.Time{}
	k.retry.Interrupted++
	beyond := k.retry.Interrupted - interruptionsAtOnce
	if beyond <= 0 {
		return
	}
	t := triesOf(k.retry)
	asked, before := t.RetryAfter, t.Next
	t = t.Tried(k.leaf(), begun)
	t.RetryAfter, t.Next = asked, latest(before, begun.Add(k.cfg.Policy.Delay(k.leaf(), beyond, k.agent.o.Rand(), begun)))
	keepTries(&k.retry, t)
	p := Problem{
		Code: "interrupted", Text: fmt.Sprintf("the agent ended during each of its last %d tries", k.retry.Interrupted),
		Hint: "find out in the system's log what ends it (journalctl -u certagent); it goes on trying, and less and less often",
	}
	k.retry.Problems = stored([]Problem{p}, k.retry.Problems, begun)
}

// A change of who logs in or whom we trust ends the back-off, since somebody repaired something, and so does a clock that
// is set. Whoever goes on changing it, as a tool does that rewrites a file every minute, gets a try an hour, from the sixth
// time without a success on.
const (
	repairsAtOnce = 5
	repairsEvery  = time.Hour
)

// noticeRepair ends the back-off where what it belongs to has changed.
func (k *keeper) noticeRepair(login string) {
	before := k.retry.Login
	k.retry.Login = login
	if before != "" && before != k.retry.Login {
		k.repaired()
	}
}

// repaired ends the back-off, as often as that is allowed.
func (k *keeper) repaired() {
	r := &k.retry
	if r.Failures+r.Drift.Failures+r.Interrupted == 0 {
		return
	}
	if r.Repairs++; r.Repairs > repairsAtOnce {
		// Failures and refusals go on counting: else nothing but the first identity would ever be tried.
		r.NextTry = earliest(r.NextTry, r.LastTry.Add(repairsEvery))
		r.Drift.NextTry = earliest(r.Drift.NextTry, r.LastTry.Add(repairsEvery))
		return
	}
	r.Failures, r.Interrupted, r.NextTry, r.Refusals, r.Problems = 0, 0, time.Time{}, nil, nil
	r.Drift = store.Drift{Wanted: r.Drift.Wanted} // known already: it does not wait for a turn as one does that was rolled out just now
}

// save writes the retry state if it changed. A disk that cannot be written is a problem in status, not a reason to stop:
// the state in memory goes on.
func (k *keeper) save() {
	if k.unread > 0 {
		return // what there is has not been read yet
	}
	err := k.stored.SaveRetry(k.retry)
	if err != nil && (k.saveErr == nil || k.saveErr.Error() != err.Error()) {
		k.agent.o.Log.Error().Str("event", "disk").Str("certificate", k.id).Str("error", clip(err.Error())).
			Msg("retry state not written; a restart would forget it")
	}
	k.saveErr = err
}

// triesOf is what the rules of time need to know of a retry state.
func triesOf(r store.Retry) renew.Tries {
	return renew.Tries{
		Failures: r.Failures, Last: r.LastTry, Next: r.NextTry, RetryAfter: r.RetryAfter, Resumed: r.Resumed,
	}
}

// keepTries writes into r what the rules of time made of its tries.
func keepTries(r *store.Retry, t renew.Tries) {
	r.Failures, r.LastTry, r.NextTry, r.RetryAfter, r.Resumed = t.Failures, t.Last, t.Next, t.RetryAfter, t.Resumed
}
