package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"certagent/agent/config"
)

// Once does everything that is due and returns: EST identities first, then the others side by side. It tries at once, over
// a back-off that an earlier run left, but not over what a server asked for (Retry-After, 202). Outputs are written and hooks
// run before it returns. The error names each certificate that was due and was not issued, or is not delivered. CA
// certificates that are old are fetched last; that this fails stands in status.
func (a *Agent) Once(ctx context.Context) error {
	a.readAll()
	close(a.read)
	a.clock.synchronised()
	var failed error
	var mu sync.Mutex // guards failed
	turn := func(k *keeper) {
		err := k.once(ctx)
		if untold := k.onboardOnce(ctx); untold != nil {
			err = errors.Join(err, fmt.Errorf("tell the cloud: %w", untold))
		}
		// Consumers do not wait for the other certificates, nor for a server of theirs. What fails here is told at the end.
		k.courier.retryNow()
		_ = k.deliverOnce(ctx)
		if err != nil {
			mu.Lock()
			defer mu.Unlock()
			failed = errors.Join(failed, fmt.Errorf("certificate %s: %w", k.id, err))
		}
	}
	var rest sync.WaitGroup
	for _, c := range a.cfg.Certificates {
		if k := a.keepers[c.ID]; c.Role == config.RoleESTIdentity {
			turn(k)
		}
	}
	for _, c := range a.cfg.Certificates {
		if k := a.keepers[c.ID]; c.Role != config.RoleESTIdentity {
			rest.Go(func() { turn(k) })
		}
	}
	rest.Wait()
	a.authorities.once(ctx)
	for _, k := range a.keepers { // the CA certificates may be others now
		rest.Go(func() {
			if err := k.deliverOnce(ctx); err != nil {
				mu.Lock()
				defer mu.Unlock()
				failed = errors.Join(failed, fmt.Errorf("delivery of certificate %s: %w", k.id, err))
			}
		})
	}
	rest.Go(func() { a.sweep(a.vanished) })
	rest.Wait()
	return failed
}

// once is the keeper's loop for a single turn. It runs instead of loop, never beside it.
func (k *keeper) once(ctx context.Context) error {
	k.looked = true // whoever calls wants it now: nothing is spread
	q, err := k.question(oncePatience)
	if err != nil {
		k.tried = true
		k.publish(decision{}, err)
		return err
	}
	if !q.credible {
		_, why := k.agent.clock.judge()
		return fmt.Errorf("nothing is tried: %s", why)
	}
	q.retry.NextTry, q.retry.Drift.NextTry = time.Time{}, time.Time{}
	d := decide(q)
	if !d.attempt {
		k.tried = true
		k.save()
		k.publish(d, nil)
		if d.reason != "" {
			return errors.New(d.why)
		}
		return nil
	}
	k.start(ctx, d)
	r := (<-k.back).(*result) // nothing else runs beside it
	k.finish(r)
	if q, err := k.question(oncePatience); err == nil {
		d := decide(q)
		k.retry.RenewAt = d.plan.RenewAt
		k.save()
		k.publish(d, nil)
	}
	return r.err
}

// deliverOnce delivers what is due now, to the end. The error says what is not delivered then.
func (k *keeper) deliverOnce(ctx context.Context) error {
	for {
		k.deliver(ctx)
		if !k.courier.running {
			break
		}
		for k.courier.running {
			k.take(<-k.back)
		}
	}
	for k.courier.sweeping {
		k.take(<-k.back)
	}
	return k.courier.undelivered()
}
