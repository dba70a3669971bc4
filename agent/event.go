package agent

import (
	"errors"
	"net/url"

	"github.com/rs/zerolog"

	"certagent/agent/status"
	"certagent/est"
	"certagent/store"
)

// Every line of the log has a field "event" that says what it is about, for machines: a message may be worded otherwise one
// day. docs/logging.md lists the events with their fields, and a test compares it with what a running agent logs.

// event is one attempt to enrol or renew: it is filled in along the way and becomes one log line, which status and metrics
// are made from too, so that the three cannot disagree.
type event struct {
	Certificate string
	Reason      string
	Attempt     int // since the last success, from 1; of a change that is not granted, since it was first asked for
	Identity    string
	Operation   string
	Server      string
	Path        string // of the URL that was asked last
	base        *url.URL
	Key         string // the kind of key that was asked for
	NewKey      bool
	ending
	Warnings   []string
	Problems   []Problem         // found on the way; they outlast a success
	changes    bool              // it asked for another name, key or usage than the live generation has
	Previous   *store.Generation // that was live when it began
	Generation *store.Generation // on success
}

// How a delivery, a refresh or a reload ended, as logs name it, beside status.Failed; attempts have status.Issued and its like.
const (
	resultDelivered = "delivered"
	resultFetched   = "fetched"
	resultLoaded    = "loaded"
)

// Why the next try comes when it does, as logs name it.
const (
	nextThreshold  = "threshold"
	nextBackOff    = "back-off"
	nextRetryAfter = "retry-after"
	nextApproval   = "approval"
)

// login names who logged in: the identity, and the password where the server asked for it as well.
func (e *event) login() string {
	if e.Traffic.PasswordSent && e.Identity != string(identityPassword) {
		return e.Identity + "+password"
	}
	return e.Identity
}

// asks notes which operation of which server is asked.
func (e *event) asks(server *url.URL, op string) {
	e.Operation, e.Server, e.base = op, server.String(), server
	e.Path = server.JoinPath(op).EscapedPath()
}

// failed notes what an attempt failed of.
func (e *event) failed(err error, v verdict) {
	e.Result, e.Class, e.Error, e.Hint = status.Failed, v.class, err.Error(), v.problem.Hint
	if at, ok := errors.AsType[*est.Error](err); ok && e.base != nil {
		e.Path = e.base.JoinPath(at.Op).EscapedPath() // /cacerts and /csrattrs are asked on the way
	}
}

// MarshalZerologObject writes the documented fields; durations carry their unit in the name.
func (e *event) MarshalZerologObject(z *zerolog.Event) {
	z.Str("event", "attempt").Str("certificate", e.Certificate).Str("result", e.Result).Str("reason", e.Reason).Int("attempt", e.Attempt)
	text(z, "operation", e.Operation)
	text(z, "identity", e.login())
	text(z, "server", e.Server)
	text(z, "path", e.Path)
	if e.Key != "" {
		z.Str("key", e.Key).Bool("new_key", e.NewKey)
	}
	e.cost(z)
	if g := e.Generation; g != nil {
		z.Int("generation", g.Number).Str("serial", g.Serial())
		when(z, "not_before", g.Leaf.NotBefore)
		when(z, "not_after", g.Leaf.NotAfter)
	}
	if g := e.Previous; g != nil {
		z.Int("previous_generation", g.Number).Str("previous_serial", g.Serial())
		when(z, "previous_not_after", g.Leaf.NotAfter)
	}
	problemCodes(z, e.Problems)
	e.outcome(z)
	list(z, "warnings", e.Warnings)
}

// logPlan says why nothing happens, or what is about to: once for each plan, and for who asked for level debug alone.
func (k *keeper) logPlan(d decision) {
	z := k.agent.o.Log.Debug().Str("event", "plan").Str("certificate", k.id)
	if !z.Enabled() {
		return
	}
	text(z, "reason", string(d.reason))
	text(z, "why", d.why)
	when(z, "next_try", d.at)
	z.Msg("planned")
}
