package agent

import (
	"time"

	"github.com/rs/zerolog"

	"certagent/store"
)

// event is one attempt to enrol or renew: it is filled in along the way and becomes one log line, which status and metrics
// are made from too, so that the three cannot disagree.
type event struct {
	Certificate  string
	Reason       string
	Identity     string
	PasswordSent bool
	Operation    string
	Server       string
	Connections  int
	Warnings     []string
	Problems     []Problem // found on the way; they outlast a success
	changes      bool      // it asked for another name, key or usage than the live generation has
	Started      time.Time
	Ended        time.Time
	Generation   *store.Generation // on success
	Class        string            // of the error, "" on success
	Failures     int
	NextTry      time.Time
}

// login names who logged in: the identity, and the password where the server asked for it as well.
func (e *event) login() string {
	if e.PasswordSent && e.Identity != string(identityPassword) {
		return e.Identity + "+password"
	}
	return e.Identity
}

// MarshalZerologObject writes the documented fields; durations carry their unit in the name.
func (e *event) MarshalZerologObject(z *zerolog.Event) {
	z.Str("certificate", e.Certificate).Str("reason", e.Reason)
	if e.Identity != "" {
		z.Str("identity", e.login())
	}
	if e.Operation != "" {
		z.Str("operation", e.Operation).Str("server", e.Server)
	}
	z.Float64("took_seconds", e.Ended.Sub(e.Started).Seconds())
	if g := e.Generation; g != nil {
		z.Int("generation", g.Number).Str("serial", g.Serial()).
			Time("not_before", g.Leaf.NotBefore.UTC()).Time("not_after", g.Leaf.NotAfter.UTC()).Int("connections", e.Connections)
	}
	if e.Class != "" {
		z.Str("class", e.Class).Int("failures", e.Failures)
	}
	if !e.NextTry.IsZero() {
		z.Time("next_try", e.NextTry.UTC())
	}
	if len(e.Warnings) > 0 {
		z.Strs("warnings", e.Warnings)
	}
}
