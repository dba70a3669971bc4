package agent

import (
	"slices"

	"certagent/store"
)

// An output that leaves the configuration stays where it is. But where a crash came in between, something lies beside it under
// a temporary name, perhaps with a private key in it, and no writing of outputs passes there any more. So delivery.json
// remembers the paths until they were looked at. That is done apart from everything else: that its file system hangs may be
// why the output is none any more.

// sweepFormer begins to remove what is left beside the outputs that this certificate had, if that is to be done. It comes
// back as a letter: the paths that need no more looking at.
func (k *keeper) sweepFormer() {
	c := &k.courier
	// What is another certificate's output now is swept when that one is written.
	c.state.Former = slices.DeleteFunc(c.state.Former, k.agent.isOutput)
	if !c.sweep || c.sweeping || len(c.state.Former) == 0 {
		return
	}
	c.sweep, c.sweeping = false, true
	paths := slices.Clone(c.state.Former)
	go func() { k.back <- swept(k.agent.sweep(paths)) }() // ends with the sweep; nobody waits where a file system hangs
}

// swept are the paths that a sweep found clean.
type swept []string

// sweptFormer records what came of it.
func (k *keeper) sweptFormer(clean swept) {
	c := &k.courier
	c.sweeping = false
	c.state.Former = slices.DeleteFunc(c.state.Former, func(path string) bool { return slices.Contains(clean, path) })
	k.saveDelivery()
}

// sweep gives the paths beside which nothing is left.
func (a *Agent) sweep(paths []string) (clean []string) {
	if crashed := guard(func() { clean = a.o.Outputs.Sweep(paths) }); crashed != nil {
		z := a.o.Log.Error().Str("event", "crash").Str("error", clip(crashed.Error()))
		list(z, "paths", paths)
		z.Msg("sweeping beside former outputs crashed")
	}
	return clean
}

// isOutput reports whether a path is an output in the configuration in force.
func (a *Agent) isOutput(path string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.cfg.Certificates {
		for _, o := range c.Outputs {
			if o.Path == path {
				return true
			}
		}
	}
	return false
}

// vanishedOutputs are the paths of the outputs that a certificate had which has left the configuration. They stay in its
// delivery.json, should it come back; they are swept at each start.
func (a *Agent) vanishedOutputs(id string) []string {
	var d store.Delivery
	c, err := a.o.Store.Certificate(id)
	if err == nil {
		d, err = c.Delivery()
	}
	if err != nil {
		a.o.Log.Warn().Str("event", "disk").Str("certificate", id).Str("error", clip(err.Error())).
			Msg("outputs of a certificate that left the configuration not known")
	}
	return slices.DeleteFunc(formerOf(d, nil), a.isOutput)
}
