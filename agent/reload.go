package agent

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"certagent/agent/config"
	"certagent/agent/control"
	"certagent/agent/status"
)

// Reload has Run load the configuration again; it does not wait. Several calls before Run gets to it are one.
func (a *Agent) Reload() { send(a.reloads, nil) }

// ReloadNow has Run load the configuration again, and waits for it. The error says what is wrong with the files.
func (a *Agent) ReloadNow(ctx context.Context) error {
	answer := make(chan error, 1)
	select {
	case a.reloads <- answer:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-answer:
		if err != nil {
			return &control.Error{Status: http.StatusUnprocessableEntity, Text: err.Error()}
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// reload builds the whole new set, then swaps; on an error the old set goes on untouched. A certificate whose
// configuration did not change keeps its keeper, its back-off and its pending request.
func (a *Agent) reload(ctx context.Context) error {
	cfg, err := a.o.Load()
	if err == nil && (cfg.StateDir != a.cfg.StateDir) {
		err = fmt.Errorf("state_dir changed from %s to %s: restart the agent for that", a.cfg.StateDir, cfg.StateDir)
	}
	a.setConfigError(err)
	if err != nil {
		a.notLoaded(err, "configuration not loaded; the last good one goes on")
		return err
	}
	if err := a.o.Store.SaveLastGood(cfg.Merged); err != nil {
		a.o.Log.Error().Str("event", "disk").Str("error", clip(err.Error())).
			Msg("configuration not kept; a bad file at the next start would find no last good one")
	}
	a.clock.ignore(!cfg.Clock.Check)
	wanted, stamp := map[string]bool{}, stampOf(cfg.Files)
	var added, changed, removed []string
	letters := map[string]configuration{}
	for i := range cfg.Certificates {
		c := new(cfg.Certificates[i]) // a keeper that held a part of cfg would keep all of it, however often another is loaded
		wanted[c.ID] = true
		a.mu.Lock()
		_, have := a.keepers[c.ID]
		old, _ := a.cfg.Certificate(c.ID)
		a.mu.Unlock()
		switch {
		case !have:
			k, err := a.add(c, stamp)
			if err != nil {
				a.o.Log.Error().Str("event", "disk").Str("error", clip(err.Error())).Msg("certificate not taken into keeping")
				continue
			}
			a.readOne(k)
			added = append(added, c.ID)
		case !sameCertificate(*old, *c):
			letters[c.ID] = configuration{c, stamp}
			changed = append(changed, c.ID)
		}
	}
	a.mu.Lock()
	stopped := map[string]*runningKeeper{}
	for id := range a.keepers {
		if !wanted[id] {
			removed = append(removed, id)
			if r := a.running[id]; r != nil {
				r.stop()
				stopped[id] = r
			}
			delete(a.keepers, id)
			delete(a.running, id)
			delete(a.views, id)
		}
	}
	a.cfg = cfg
	for _, id := range added {
		a.startLocked(ctx, id)
	}
	for id, k := range a.keepers {
		if l, is := letters[id]; is {
			// The mailbox holds one letter; a newer configuration replaces one that was not read yet.
			select {
			case <-k.configure:
			default:
			}
			send(k.configure, l)
		}
		if slices.Contains(changed, id) || slices.Contains(added, id) {
			send(k.kick, struct{}{})
		} else {
			k.wish(wishRetry) // a person who reloads may have mended something
		}
	}
	a.mu.Unlock()
	a.o.Loaded(cfg)
	a.authorities.kicked()
	grace := time.NewTimer(stopGrace)
	defer grace.Stop()
	for id, r := range stopped {
		select {
		case <-r.done: // its attempt, if any, ended with it
			a.dropPending(id)
		case <-ctx.Done():
			return nil
		case <-grace.C:
			a.o.Log.Warn().Str("event", "stuck").Str("certificate", id).
				Msg("keeper does not end; its pending request is dropped at the next start")
			grace.Reset(0)
		}
	}
	a.lookAtUnmanaged()
	slices.Sort(removed)
	z := a.o.Log.Info().Str("event", "reload").Str("result", resultLoaded)
	text(z, "configuration", cfg.File)
	list(z, "files", cfg.Files)
	z.Int("certificates", len(cfg.Certificates))
	list(z, "added", added)
	list(z, "changed", changed)
	list(z, "removed", removed)
	z.Msg("configuration loaded")
	a.warn(cfg.Warnings)
	return nil
}

// notLoaded logs that the files of the configuration are wrong.
func (a *Agent) notLoaded(err error, said string) {
	z := a.o.Log.Error().Str("event", "reload").Str("result", status.Failed)
	text(z, "configuration", a.o.Config.File)
	text(z, "error", err.Error())
	z.Msg(said)
}

// warn logs the warnings of a configuration that has come into force.
func (a *Agent) warn(warnings []config.Warning) {
	for _, w := range warnings {
		z := a.o.Log.Warn().Str("event", "configuration")
		text(z, "certificate", w.Certificate)
		text(z, "warning", w.String())
		z.Msg("the configuration has a doubtful entry")
	}
}

// dropPending gives up the request of a certificate that left the configuration; its generations are kept.
func (a *Agent) dropPending(id string) {
	c, err := a.o.Store.Certificate(id)
	if err == nil {
		err = c.DropPending()
	}
	if err != nil {
		a.o.Log.Warn().Str("event", "disk").Str("certificate", id).Str("error", clip(err.Error())).Msg("pending request not dropped")
	}
}

// dropVanished drops the requests of certificates that left the configuration while no agent ran, and notes their outputs.
func (a *Agent) dropVanished() {
	ids, err := a.o.Store.IDs()
	if err != nil {
		a.o.Log.Warn().Str("event", "disk").Str("error", clip(err.Error())).Msg("certificates on disk not listed")
	}
	for _, id := range ids {
		if a.keepers[id] != nil {
			continue
		}
		a.dropPending(id)
		a.vanished = append(a.vanished, a.vanishedOutputs(id)...)
	}
}

func (a *Agent) setConfigError(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if (err == nil) != (a.configErr == nil) {
		a.configSince = a.o.Now()
	}
	a.configErr = err
}
