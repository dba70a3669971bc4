package agent

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"certagent/store"
)

// achieved tells whether the running attempt has made live what it was for, and is only about to say so. What was issued before
// it began it has not brought: somebody put that back.
func (k *keeper) achieved() bool {
	return k.live != nil && k.live.Number > k.from && !k.live.Meta.Issued.Before(k.began)
}

// start runs an attempt beside the keeper. It ends with ctx, and always with a result.
func (k *keeper) start(ctx context.Context, d decision) {
	ctx, k.cancel = context.WithCancel(ctx)
	k.running, k.forcedAgain, k.from, k.began = true, false, 0, k.agent.o.Now()
	if k.live != nil {
		k.from = k.live.Number
	}
	o := k.order(d.reason)
	o.early = d.reason == reasonThreshold && k.agent.o.Now().Before(d.plan.Threshold)
	k.begin()
	server, by := o.turn(k.agent.o.Now())
	o.served = sync.OnceFunc(func() { k.agent.attempts.done(server) })
	go func() {
		if err := k.agent.attempts.wait(ctx, server, by); err != nil {
			k.back <- &result{event: &event{Certificate: k.id, ending: ending{began: time.Now()}}, err: err}
			return
		}
		defer o.served()
		k.back <- new(k.attempt(ctx, o))
	}()
}

func (k *keeper) order(why reason) order {
	o := order{
		cert: k.request(why), stored: k.stored, live: k.agent.o.Host.own(k.live), reason: why, refusals: maps.Clone(k.retry.Refusals),
		lastClass: k.retry.LastClass, attempt: k.retry.Failures + 1, before: k.live,
	}
	if o.live == nil {
		o.cloned = k.live
	}
	if now := k.agent.o.Now(); o.live != nil && now.Before(o.live.Leaf.NotBefore) {
		// It cannot log in yet. One before it may still be able to, and is no worse for what is live meanwhile.
		if older := k.older(now); older != nil {
			o.live = older
		}
	}
	o.estLogin, o.estWhy = k.agent.estLogin(k.cfg)
	if why == reasonDrift || why == reasonKeyDrift {
		o.refusals, o.attempt = maps.Clone(k.retry.Drift.Refusals), k.retry.Drift.Failures+1
	} else {
		o.asBefore = k.retry.Drift.Failures > 0
	}
	return o
}

// older is the newest generation before the live one that is valid at now; nil if there is none.
func (k *keeper) older(now time.Time) *store.Generation {
	numbers, err := k.stored.Generations()
	if err != nil {
		return nil
	}
	for _, n := range slices.Backward(numbers) {
		if n >= k.live.Number {
			continue
		}
		g, err := k.stored.Generation(n)
		if err == nil && k.agent.o.Host.own(g) != nil && !now.Before(g.Leaf.NotBefore) && now.Before(g.Leaf.NotAfter) {
			return g
		}
	}
	return nil
}

// turn is for whose turn an attempt waits, and until when at best.
func (o order) turn(now time.Time) (server string, by time.Time) {
	if o.live == nil {
		return o.cert.URL.Host, now
	}
	u := o.cert.URL
	if o.cert.RenewURL != nil {
		u = o.cert.RenewURL
	}
	return u.Host, latest(now, o.live.Leaf.NotAfter)
}

// attempt makes one attempt and turns a panic into its error: it must not end the other certificates.
func (k *keeper) attempt(ctx context.Context, o order) result {
	e := &event{Certificate: k.id, Reason: string(o.reason), Attempt: o.attempt, Previous: o.before, ending: ending{began: time.Now()}}
	r := result{event: e, early: o.early}
	if crashed := guard(func() { r.generation, r.err = k.agent.run(ctx, o, e) }); crashed != nil {
		r.err = crashed
	}
	return r
}
