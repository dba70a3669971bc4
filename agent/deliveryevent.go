package agent

import (
	"time"

	"github.com/rs/zerolog"
)

// deliveryEvent is one delivery: it is filled in along the way and becomes one log line.
type deliveryEvent struct {
	Certificate string
	Generation  int
	Reason      string
	Written     []string // paths of the outputs that were replaced
	Told        []string // hooks that were run, whatever came of it
	Failed      []string // outputs and hooks
	Errors      []string // theirs
	Waiting     int      // hooks that are still to be run, or to be run again
	Started     time.Time
	Ended       time.Time
	NextTry     time.Time
}

func (e *deliveryEvent) fail(what, why string) {
	e.Failed, e.Errors = append(e.Failed, what), append(e.Errors, why)
}

// MarshalZerologObject writes the documented fields; durations carry their unit in the name.
func (e *deliveryEvent) MarshalZerologObject(z *zerolog.Event) {
	z.Str("certificate", e.Certificate).Int("generation", e.Generation).Str("reason", e.Reason)
	some := func(name string, list []string) {
		if len(list) > 0 {
			z.Strs(name, list)
		}
	}
	some("outputs_written", e.Written)
	some("hooks_run", e.Told)
	some("failed", e.Failed)
	some("errors", e.Errors)
	if e.Waiting > 0 {
		z.Int("hooks_waiting", e.Waiting)
	}
	z.Float64("took_seconds", e.Ended.Sub(e.Started).Seconds())
	if !e.NextTry.IsZero() {
		z.Time("next_try", e.NextTry.UTC())
	}
}
