package agent

import (
	"slices"
	"time"

	"certagent/agent/status"
)

// lookAtUnmanaged finds what is on disk of certificates that are not in the configuration (any more): nobody renews them, but
// somebody may still use their files. It is looked at when the agent starts and after each reload.
func (a *Agent) lookAtUnmanaged() {
	ids, err := a.o.Store.IDs()
	if err != nil {
		a.o.Log.Warn().Str("event", "disk").Str("error", clip(err.Error())).Msg("certificates on disk not listed")
	}
	a.mu.Lock()
	managed := map[string]bool{}
	for _, c := range a.cfg.Certificates {
		managed[c.ID] = true
	}
	a.mu.Unlock()
	var found []view
	for _, id := range ids {
		if managed[id] {
			continue
		}
		v := view{id: id, host: a.o.Host}
		c, err := a.o.Store.Certificate(id)
		if err == nil {
			v.retry, err = c.Retry()
		}
		if err != nil {
			v.problems = append(v.problems, storeProblem(err))
			found = append(found, v)
			continue
		}
		if v.live, v.liveErr = c.Live(); v.liveErr != nil && !lost(v.liveErr) {
			v.problems = append(v.problems, storeProblem(v.liveErr))
		}
		found = append(found, v)
	}
	a.mu.Lock()
	a.unmanaged = found
	a.mu.Unlock()
}

// describeUnmanaged says it of a certificate that is not in the configuration: nothing is planned for it, and
// that it expires is as it should be.
func describeUnmanaged(v view) status.Certificate {
	c := describe(v)
	c.State, c.NextTry, c.NextWhy, c.Problems = status.Unmanaged, time.Time{}, "", slices.Concat([]Problem{}, v.problems)
	return c
}
