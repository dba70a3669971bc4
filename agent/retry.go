package agent

import (
	"cmp"
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
		k.agent.o.Log.Error().Str("certificate", k.id).Err(err).Msg("retry state not read; back-off begins anew")
	}
	r.Reissue = cmp.Or(k.retry.Reissue, r.Reissue) // it may have been forced meanwhile
	k.retry, k.unread = r, 0
	k.noticeCommit()
	return nil
}

// maxUnread is how often in a row the retry state, or that of delivery, may be unreadable before it counts as none.
const maxUnread = 3

// noticeCommit finds a generation that was committed and not recorded, because the agent was killed between the two: what
// was wanted then is had, and no reason to ask for one more.
func (k *keeper) noticeCommit() {
	if k.live == nil || !k.live.Meta.Issued.After(k.retry.LastSuccess) {
		return
	}
	m := k.live.Meta
	k.retry = store.Retry{
		LastTry: m.Issued, LastSuccess: m.Issued, LastIdentity: m.Identity, Login: k.retry.Login, Drift: k.retry.Drift,
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
		LastSuccess: r.LastSuccess, LastIdentity: r.LastIdentity, Reissue: r.Reissue, Login: r.Login, Losses: r.Losses,
		SpreadRefused: r.SpreadRefused, RenewAt: r.RenewAt, Drift: store.Drift{Wanted: r.Drift.Wanted},
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

// save writes the retry state if it changed. A disk that cannot be written is a problem in status, not a reason to stop:
// the state in memory goes on.
func (k *keeper) save() {
	if k.unread > 0 {
		return // what there is has not been read yet
	}
	err := k.stored.SaveRetry(k.retry)
	if err != nil && (k.saveErr == nil || k.saveErr.Error() != err.Error()) {
		k.agent.o.Log.Error().Str("certificate", k.id).Err(err).Msg("retry state not written; a restart would forget it")
	}
	k.saveErr = err
}

// triesOf is what the rules of time need to know of a retry state.
func triesOf(r store.Retry) renew.Tries {
	return renew.Tries{Failures: r.Failures, Last: r.LastTry, Next: r.NextTry, RetryAfter: r.RetryAfter}
}

// keepTries writes into r what the rules of time made of its tries.
func keepTries(r *store.Retry, t renew.Tries) {
	r.Failures, r.LastTry, r.NextTry, r.RetryAfter = t.Failures, t.Last, t.Next, t.RetryAfter
}
