package agent

import (
	"time"

	"github.com/rs/zerolog"

	"certagent/agent/status"
)

// deliveryEvent is one delivery: it is filled in along the way and becomes one log line.
type deliveryEvent struct {
	Certificate string
	Generation  int
	Reason      string
	Written     []string  // paths of the outputs that were replaced
	Told        []string  // hooks that were run, whatever came of it
	Failed      []string  // outputs and hooks
	Problems    []string  // their codes
	Errors      []string  // what is wrong with each
	Failures    int       // of whatever of it failed most often in a row
	Waiting     int       // hooks that are still to be run, or to be run again
	began       time.Time // by the monotonic clock
	took        time.Duration
	NextTry     time.Time
}

func (e *deliveryEvent) fail(what, code, why string, failures int) {
	e.Failed, e.Problems, e.Errors = append(e.Failed, what), append(e.Problems, code), append(e.Errors, why)
	e.Failures = max(e.Failures, failures)
}

func (e *deliveryEvent) result() string {
	if len(e.Failed) > 0 {
		return status.Failed
	}
	return resultDelivered
}

// MarshalZerologObject writes the documented fields; durations carry their unit in the name.
func (e *deliveryEvent) MarshalZerologObject(z *zerolog.Event) {
	z.Str("event", "delivery").Str("certificate", e.Certificate).Str("result", e.result()).Str("reason", e.Reason).
		Int("generation", e.Generation)
	elapsed(z, "took_seconds", e.took)
	list(z, "outputs_written", e.Written)
	list(z, "hooks_run", e.Told)
	list(z, "failed", e.Failed)
	list(z, "problems", e.Problems)
	list(z, "errors", e.Errors)
	if e.Failures > 0 {
		z.Int("failures", e.Failures)
	}
	if e.Waiting > 0 {
		z.Int("hooks_waiting", e.Waiting)
	}
	next(z, e.NextTry, nextBackOff)
}
