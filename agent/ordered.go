package agent

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"certagent/agent/config"
	"certagent/agent/control"
)

// orderWithin is how long a keeper may take to begin what it was asked for. It never blocks, so that this is generous.
const orderWithin = 10 * time.Second

// Renew forces the renewal of certificates now; see [control.Agent].
func (a *Agent) Renew(ctx context.Context, r control.Renewal) ([]control.Renewed, error) {
	keepers, err := a.named(r.IDs)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, orderWithin)
	defer cancel()
	answers := make([]control.Renewed, len(keepers))
	var all sync.WaitGroup
	for i, k := range keepers {
		all.Go(func() { answers[i] = k.orderRenewal(ctx, r) })
	}
	all.Wait()
	return answers, nil
}

// named are the keepers of the certificates with these ids, or all where there are none, in the order of the configuration.
func (a *Agent) named(ids []string) ([]*keeper, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, id := range ids {
		if a.keepers[id] == nil {
			return nil, &control.Error{Status: http.StatusNotFound, Text: fmt.Sprintf("the agent keeps no certificate %q", id),
				Hint: "certagent status lists those it keeps; one that was just configured is kept after certagent reload"}
		}
	}
	var chosen []*keeper
	for _, c := range a.cfg.Certificates {
		if k := a.keepers[c.ID]; k != nil && (len(ids) == 0 || slices.Contains(ids, c.ID)) {
			chosen = append(chosen, k)
		}
	}
	return chosen, nil
}

// visit has f run in the keeper's goroutine, and waits until it begins.
func (k *keeper) visit(ctx context.Context, f func() func()) error {
	select {
	case k.visits <- f:
		return nil
	case <-ctx.Done():
		return &control.Error{Status: http.StatusServiceUnavailable, Text: fmt.Sprintf("the keeper of %s does not answer", k.id),
			Hint: "the agent's log says why (journalctl -u certagent)"}
	}
}

// orderRenewal has the keeper renew, and says what it makes of that.
func (k *keeper) orderRenewal(ctx context.Context, r control.Renewal) control.Renewed {
	done := make(chan control.Renewed, 1)
	err := k.visit(ctx, func() func() {
		answer := k.renew(r)
		return func() {
			if answer.Refused == "" && !k.running {
				answer.Waits = k.why
			}
			done <- answer
		}
	})
	if err != nil {
		return control.Renewed{ID: k.id, Refused: err.Error()}
	}
	select {
	case answer := <-done:
		return answer
	case <-ctx.Done():
		return control.Renewed{ID: k.id, Waits: "the agent has not begun with it yet"}
	}
}

// renew notes that the certificate is wanted anew now: over threshold, guard and back-off, but not over a request that
// waits for approval, unless that is to be dropped. The wish is durable: it outlasts a failure and a restart. One for a new
// key stands until it is granted, or dropped.
func (k *keeper) renew(r control.Renewal) control.Renewed {
	answer := control.Renewed{ID: k.id}
	if k.live != nil {
		answer.Generation = k.live.Number
	}
	retry := &k.retry
	switch {
	case r.NewKey:
		retry.Discard, retry.Reissue = true, string(reasonNewKey)
	case r.Discard:
		retry.Discard, retry.Reissue = true, string(reasonForced)
	case !k.running && k.awaitsApproval(k.agent.o.Now()):
		k.agent.o.Log.Warn().Str("event", "order").Str("certificate", k.id).Time("until", retry.PendingUntil.UTC()).
			Msg("not forced: the request waits for approval at the server")
		answer.Refused = "the request waits for approval at the server until " + retry.PendingUntil.Local().Format(time.DateTime)
		answer.Hint = "approve it there, or have it dropped and a new one made with --discard"
		return answer
	default:
		retry.Reissue = wish(retry.Reissue, string(reasonForced), false)
	}
	retry.Ordered = true
	if k.running {
		// What is under way is as new as what a second attempt would bring, unless it has brought it already and is only
		// about to say so: whoever saw that certificate wants the next one. If it fails, the wish stands.
		live, err := k.stored.Live()
		if k.forcedAgain = err == nil && live.Number != k.from; k.forcedAgain {
			answer.Generation = live.Number
		}
	} else {
		retry.NextTry, retry.RetryAfter = time.Time{}, time.Time{}
	}
	k.save()
	return answer
}

// wish is what is wanted after an order where before was wanted already: a new key stays wanted, unless that is taken back (discard).
func wish(before, ordered string, discard bool) string {
	if before == string(reasonNewKey) && !discard {
		return before
	}
	return ordered
}

// left is what is left of a wish when a certificate was issued for some reason: one for a new key is granted by an attempt
// that was made for it, or by one that makes a new key in any case.
func left(wish, issuedFor string) string {
	if wish == string(reasonNewKey) && issuedFor != wish && issuedFor != string(reasonCloned) {
		return wish
	}
	return ""
}

// request is what to ask for: what is configured, but for who asks for a new key.
func (k *keeper) request(why reason) *config.Certificate {
	if why != reasonNewKey {
		return k.cfg
	}
	c := *k.cfg
	c.RotateKey = true
	return &c
}

// discard drops the pending request where somebody asked for that, when nobody works on it. What was learned of its
// tries goes with it.
func (k *keeper) discard() error {
	if !k.retry.Discard || k.running {
		return nil
	}
	if err := k.stored.DropPending(); err != nil {
		return err
	}
	k.retry.Discard = false
	k.retry.PendingUntil, k.retry.NextTry, k.retry.RetryAfter = time.Time{}, time.Time{}, time.Time{}
	k.save() // before there is another request, which is not to be dropped
	k.agent.o.Log.Info().Str("event", "order").Str("certificate", k.id).Msg("pending request dropped, as was asked for")
	return nil
}
