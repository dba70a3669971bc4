package agent

import (
	"time"

	"certagent/store"
)

// A disk that was copied from another device, as a golden image is when it was made of one that had been in service, brings
// that device's certificates along. That device lives on: its key must not serve two, and its certificate must not log in
// here. By machine-id(5) the agent knows its own.

// LastingID is the machine-id as it is recorded with what is made on this device; "" where it is not known, or not the
// same after the next boot.
func (h Host) LastingID() string {
	if h.Volatile {
		return ""
	}
	return h.MachineID
}

// foreign tells that something was made on another device. Where either machine-id is not known nothing is concluded.
func (h Host) foreign(machineID string) bool {
	own := h.LastingID()
	return machineID != "" && own != "" && machineID != own
}

// cloned tells that a generation was issued to another device.
func (h Host) cloned(g *store.Generation) bool { return g != nil && h.foreign(g.Meta.MachineID) }

// own is g unless it was issued to another device.
func (h Host) own(g *store.Generation) *store.Generation {
	if h.cloned(g) {
		return nil
	}
	return g
}

// foreignPending tells that a pending request was made on another device. One that does not say where it was made comes
// from where the live generation does.
func (h Host) foreignPending(p *store.Pending, live *store.Generation) bool {
	if p.MachineID == "" {
		return h.cloned(live)
	}
	return h.foreign(p.MachineID)
}

// noticeClone has a certificate that was issued to another device issued anew at once: what that device's tries have
// taught says nothing about this one's. A loss keeps its own back-off.
func (k *keeper) noticeClone(credible bool) {
	cloned := k.agent.o.Host.cloned(k.live)
	if cloned && credible { // what another clock says would be said for as long as it lasts
		k.retry.Cloned = since(k.retry.Cloned, k.agent.o.Now())
	}
	switch {
	case !cloned:
		k.retry.Cloned = time.Time{}
		if k.retry.Reissue == string(reasonCloned) {
			// The disk is back where it came from, or somebody has said that this is the device after all. What the tries
			// since have taught is about a certificate that nobody wants.
			k.retry = afresh(k.retry)
		}
	case k.retry.Reissue == "", k.retry.Reissue == string(reasonForced), k.retry.Reissue == string(reasonNewKey):
		k.retry = afresh(k.retry)
		k.retry.Reissue = string(reasonCloned)
		k.agent.o.Log.Warn().Str("event", "loss").Str("certificate", k.id).
			Msg("certificate was issued to another device, of which this disk is a copy; it will be issued anew, with a new key")
	default:
		k.retry.Reissue = string(reasonCloned)
	}
}

// afresh is what of a retry state holds whatever device made the tries.
func afresh(r store.Retry) store.Retry {
	return store.Retry{Login: r.Login, LastSuccess: r.LastSuccess, Losses: r.Losses, Cloned: r.Cloned}
}
