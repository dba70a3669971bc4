package agent

import (
	"context"
	"net/http"
	"time"

	"certagent/agent/config"
	"certagent/agent/control"
	"certagent/agent/status"
)

// Onboard has the device certificate made known to the cloud now; see [control.Agent].
func (a *Agent) Onboard(ctx context.Context, o control.Onboarding) (control.Onboarded, error) {
	k := a.deviceKeeper()
	if k == nil {
		return control.Onboarded{}, noCloud(config.Provisioning{})
	}
	ctx, cancel := context.WithTimeout(ctx, orderWithin)
	defer cancel()
	type letter struct {
		answer control.Onboarded
		err    error
	}
	done := make(chan letter, 1)
	err := k.visit(ctx, func() func() {
		answer, err := k.orderRegistration(o.Again)
		return func() {
			if err == nil && k.envoy.ordered && k.envoy.cloud != nil {
				_, doubt := a.clock.judge()
				answer.Waits = k.envoy.waits(a.o.Now(), doubt)
			}
			done <- letter{answer, err}
		}
	})
	if err != nil {
		return control.Onboarded{}, err
	}
	select {
	case l := <-done:
		return l.answer, l.err
	case <-ctx.Done():
		return control.Onboarded{ID: k.id, Waits: "the agent has not begun with it yet"}, nil
	}
}

// deviceKeeper keeps the device certificate; nil where none is configured.
func (a *Agent) deviceKeeper() *keeper {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range a.cfg.Certificates {
		if c := &a.cfg.Certificates[i]; c.Role == config.RoleDevice {
			return a.keepers[c.ID]
		}
	}
	return nil
}

// noCloud says why there is no cloud to be told.
func noCloud(p config.Provisioning) *control.Error {
	e := &control.Error{Status: http.StatusConflict, Text: "the configuration names no cloud that is to know the device certificate",
		Hint: `[provisioning] source = "dps" does, beside an identity_cert with method = "est"`}
	if p.Blank() {
		e.Text = "id_scope is still the blank of the tutorial, and DPS is not called"
		e.Hint = "copy the ID scope from the overview of your DPS instance"
	}
	return e
}

// orderRegistration has the certificate registered now, also (again) where nothing changed.
func (k *keeper) orderRegistration(again bool) (control.Onboarded, error) {
	e := &k.envoy
	answer := control.Onboarded{ID: k.id}
	if err := k.aim(); err != nil {
		return answer, err
	}
	if e.cloud == nil {
		return answer, noCloud(k.agent.provisioning())
	}
	next := e.cloud.next(k.agent.o.Now())
	switch {
	case again:
		e.cloud.ask()
		e.more = e.running // which may be at its end, and says nothing of what the cloud has changed since it began
	case next.why != "":
		e.cloud.retryNow()
	default:
		s, _ := e.cloud.describe(k.agent.o.Now())
		answer.Known = s.State == status.Registered
		if !answer.Known {
			answer.Waits = "there is no certificate to register"
		}
		return answer, nil
	}
	e.ordered = true
	k.saveOnboarding()
	return answer, nil
}

// waits is why an order is not carried out at once; "" if it is.
func (e *envoy) waits(now time.Time, clock string) string {
	next := e.cloud.next(now)
	switch {
	case e.running:
		return ""
	case clock != "":
		return "the clock is not credible: " + clock
	case next.why == "":
		return "there is no certificate to register"
	case next.at.After(now):
		return "the cloud asked to be left alone until " + next.at.Local().Format(time.DateTime)
	}
	return ""
}
