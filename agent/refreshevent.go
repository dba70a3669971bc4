package agent

import (
	"net/url"
	"slices"

	"github.com/rs/zerolog"

	"certagent/est"
)

// refreshEvent is one try to fetch a server's CA certificates apart from a renewal: it is filled in along the way and becomes
// one log line.
type refreshEvent struct {
	Server   string
	Path     string
	Identity identityName // "certificate" or "none"
	Changed  bool         // what it brought is not what was known
	ending
}

func (e *refreshEvent) asks(server *url.URL) {
	e.Server, e.Path, e.Identity = server.String(), server.JoinPath(opCACerts).EscapedPath(), identityNone
}

// add counts the traffic of one client more.
func (e *refreshEvent) add(t est.Traffic) {
	e.Traffic.Connections += t.Connections
	e.Traffic.Sent, e.Traffic.Received = e.Traffic.Sent+t.Sent, e.Traffic.Received+t.Received
	e.Traffic.Statuses = slices.Concat(e.Traffic.Statuses, t.Statuses)
}

// MarshalZerologObject writes the documented fields; durations carry their unit in the name.
func (e *refreshEvent) MarshalZerologObject(z *zerolog.Event) {
	z.Str("event", "cacerts").Str("result", e.Result).Str("operation", opCACerts).Str("identity", string(e.Identity)).
		Str("server", e.Server).Str("path", e.Path)
	e.cost(z)
	if e.Result == resultFetched {
		z.Bool("new_certificates", e.Changed)
	}
	e.outcome(z)
}
