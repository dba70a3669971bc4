package agent

import (
	"sync"
	"sync/atomic"

	"certagent/agent/config"
)

// readAtOnce is how many certificates are read at once: a disk that is asked for several things answers sooner.
const readAtOnce = 8

// readAll reads what the store keeps of each certificate, side by side. With a thousand certificates that takes a while, so that
// the service manager is not kept waiting for it; whoever asks how certificates are waits (Snapshot). It does not end with a
// context: what was read in part would be told as if it were all. No keeper is started before it returns, so that none takes for
// missing what was not read, of another either; and what stays in memory lies together, not between what each first look drops.
func (a *Agent) readAll() {
	all := a.allKeepers()
	var next atomic.Int64
	var readers sync.WaitGroup
	for range min(readAtOnce, len(all)) {
		readers.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(all)); i = next.Add(1) - 1 {
				a.readOne(all[i])
			}
		})
	}
	readers.Wait()
}

// readOne has a keeper that was not started yet read what is kept of its certificate, and shows that. The watchdog counts it
// as the keeper's work. A panic over what lies there is that certificate's problem: it would come at every start.
func (a *Agent) readOne(k *keeper) {
	k.works()
	defer k.waits()
	crashed := guard(k.recollect)
	if crashed != nil { // then its first look reads it all again
		k.read.Store(new(""))
		k.unread, k.courier.unread = 1, 1
	}
	v := view{id: k.id, cfg: k.cfg, live: k.live, liveErr: k.liveErr, retry: k.retry, delivery: k.courier.shown(), host: a.o.Host}
	if now := a.o.Now(); k.cfg.Role == config.RoleDevice {
		// What cannot be read now is read again at the first look, which says so.
		v.onboarding, v.onboardingProblems, _ = surveyCloud(a.provisioning(), a.o.Store, presentable(a.o.Host.own(k.live), now), now)
	}
	a.mu.Lock()
	a.views[k.id] = publishedView{view: v, live: k.live, tried: k.tried}
	a.mu.Unlock()
	if crashed != nil {
		a.crashed(k, crashed)
	}
}

// recollect reads what the store keeps of the certificate. What cannot be read is one certificate's problem: the first look
// tries again.
func (k *keeper) recollect() {
	var err error
	if k.retry, err = k.stored.Retry(); err != nil {
		k.unread = 1
	}
	if k.courier.state, err = k.stored.Delivery(); err != nil {
		k.courier.unread = 1
	}
	k.readLive()
	k.noticeEnd()
	k.tried = k.agent.o.Host.own(k.live) != nil || k.live == nil && k.retry.Failures > 0
}
