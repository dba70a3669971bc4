package agent

import (
	"certagent/agent/config"
	"certagent/store"
)

// holds names the EST identity that c has to wait for: one that is configured and has not been tried yet. "" means c need
// not wait.
func (a *Agent) holds(c *config.Certificate) string {
	if c.ESTIdentity == "" || c.ESTIdentity == c.ID {
		return ""
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if v, ok := a.views[c.ESTIdentity]; ok && !v.tried {
		return c.ESTIdentity
	}
	return ""
}

// estLogin is the live generation of c's EST identity, or why there is none.
func (a *Agent) estLogin(c *config.Certificate) (*store.Generation, string) {
	if c.ESTIdentity == "" || c.ESTIdentity == c.ID {
		return nil, ""
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch v := a.views[c.ESTIdentity]; {
	case v.live == nil:
		return nil, "there is none yet"
	case a.o.Host.cloned(v.live):
		return nil, "was issued to another device, of which this disk is a copy"
	default:
		return v.live, ""
	}
}
