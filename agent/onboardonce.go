package agent

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// onboardWithin bounds how long "run --once" waits for a cloud that has not decided.
const onboardWithin = 2 * time.Minute

// onboardOnce makes the certificate known to its cloud, if it is not, over a back-off that an earlier run left but not over
// what the cloud asked for. It runs instead of loop, never beside it.
func (k *keeper) onboardOnce(ctx context.Context) error {
	e := &k.envoy
	defer func() { e.waived = true }() // nobody comes back for the consumers
	if err := k.aim(); err != nil {
		return err
	}
	if e.cloud == nil || !k.agent.clock.credible() {
		return nil
	}
	defer e.cloud.hangUp()
	deadline := k.agent.o.Now().Add(onboardWithin)
	for first := true; ; first = false {
		k.saveOnboarding()
		next, now := e.cloud.next(k.agent.o.Now()), k.agent.o.Now()
		if next.why == "" {
			return e.saveErr
		}
		at := next.at
		if first {
			at = next.held
		}
		if at.After(deadline) || first && at.After(now) {
			return fmt.Errorf("the cloud is asked again at %s, and not before", at.Local().Format(time.DateTime))
		}
		if err := until(ctx, at.Sub(now)); err != nil {
			return err
		}
		k.send(ctx, next.why)
		t := (<-k.back).(tiding) // nothing else runs beside it
		if end := k.returned(t); !end {
			continue
		}
		if t.err != nil {
			return t.err
		}
		if _, problems := e.cloud.describe(k.agent.o.Now()); len(problems) > 0 {
			return errors.New(problems[0].Text)
		}
	}
}

// until waits for d, or for the end of ctx, which is its error.
func until(ctx context.Context, d time.Duration) error {
	late := time.NewTimer(d)
	defer late.Stop()
	select {
	case <-late.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
