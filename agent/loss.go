package agent

import (
	"errors"
	"fmt"
	"time"

	"certagent/store"
)

// readLive reads the live generation. An error that says nothing about it, such as too many open files, leaves the one
// known: the certificate is no worse for it.
func (k *keeper) readLive() {
	k.read.Store(new(k.stored.Fingerprint()))
	k.liveErr = errors.New("its reading came to no end") // stands if this panics: what was not read is not missing
	live, err := k.stored.Live()
	if k.liveErr = err; err == nil || lost(err) {
		k.live = live
	}
}

// lost tells an error that says that a generation is gone or damaged from one that says nothing about it.
func lost(err error) bool {
	_, broken := errors.AsType[*store.BrokenError](err)
	return broken || errors.Is(err, store.ErrMissing)
}

// repair deals with a live generation that is gone or damaged: the certificate will be issued anew, and an older
// generation that verifies serves meanwhile. An error is one of reading or writing the disk: then nothing is concluded.
func (k *keeper) repair() error {
	if k.liveErr == nil {
		return nil
	}
	if !lost(k.liveErr) {
		return fmt.Errorf("read the live certificate: %w", k.liveErr)
	}
	if err := k.agent.o.Store.Present(); err != nil {
		return fmt.Errorf("use the state directory: %w", err)
	}
	if k.retry.Reissue == "" && k.had() {
		k.noticeLoss()
		// The wish should be durable before an older generation hides its cause. Where it cannot be, on a full disk, what
		// serves meanwhile is worth more.
		k.save()
	}
	restored, err := k.stored.Restore()
	switch {
	case errors.Is(err, store.ErrMissing):
	case err != nil:
		return fmt.Errorf("restore an older generation: %w", err)
	default:
		// What the running attempt was about to make live is no older one.
		if !k.running || restored.Number <= k.from {
			k.agent.o.Log.Info().Str("event", "loss").Str("certificate", k.id).Int("generation", restored.Number).
				Msg("an older generation serves meanwhile")
		}
		k.readLive()
	}
	return nil
}

// had tells that there was a certificate once. What a first attempt lays down before it is live was none.
func (k *keeper) had() bool {
	if !k.retry.LastSuccess.IsZero() {
		return true
	}
	if k.running && k.from == 0 {
		return false
	}
	generations, err := k.stored.Generations()
	return err == nil && len(generations) > 0
}

// A certificate that is lost is issued anew at once, but whoever goes on deleting it, each time within an hour of its issue,
// gets the back-off of failures from the sixth time on.
const (
	lossesAtOnce = 5
	lossesWithin = time.Hour
)

// noticeLoss notes that the certificate must be issued anew, and when.
func (k *keeper) noticeLoss() {
	now := k.agent.o.Now()
	k.retry.Reissue, k.retry.NextTry = string(reasonMissing), time.Time{}
	if !errors.Is(k.liveErr, store.ErrMissing) {
		k.retry.Reissue = string(reasonBroken)
	}
	if now.Sub(k.retry.LastSuccess) > lossesWithin {
		k.retry.Losses = 0
	}
	k.retry.Losses++
	if beyond := k.retry.Losses - lossesAtOnce; beyond > 0 {
		k.retry.NextTry = now.Add(k.cfg.Policy.Delay(k.leaf(), beyond, k.agent.o.Rand(), now))
	}
	k.agent.o.Log.Warn().Str("event", "loss").Str("certificate", k.id).Str("found", clip(k.liveErr.Error())).
		Msg("certificate is gone or damaged; it will be issued anew")
}
