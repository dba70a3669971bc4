package agent

import (
	"time"

	"github.com/rs/zerolog"

	"certagent/agent/status"
)

// registrationEvent is one try to make a certificate known to its cloud, of as many exchanges as that took: it is filled in
// along the way and becomes one log line.
type registrationEvent struct {
	Certificate string
	Cloud       string
	Reason      string
	Generation  int
	Exchanges   int
	Statuses    []int // of HTTP, in order
	began       time.Time
	took        time.Duration
	Result      string
	Endpoint    string
	Hub         string // on success
	DeviceID    string
	Class       string // of the error, "" on success
	Problems    []Problem
	Failures    int
	NextTry     time.Time
	NextWhy     string
}

// maxStatuses bounds what is noted of one registration.
const maxStatuses = 100

// add notes one exchange.
func (e *registrationEvent) add(t tiding) {
	e.Exchanges++
	if t.status != 0 && len(e.Statuses) < maxStatuses {
		e.Statuses = append(e.Statuses, t.status)
	}
}

// end notes what came of it, by how it stands now.
func (e *registrationEvent) end(s status.Onboarding, problems []Problem, class string, next errand, now time.Time) {
	e.took, e.Endpoint, e.Failures, e.NextTry = time.Since(e.began), s.Endpoint, s.Failures, s.NextTry
	e.NextWhy = whyNext(next.held.After(now))
	e.Result = status.Registered
	if len(problems) > 0 {
		e.Result, e.Problems, e.Class = status.Failed, problems, class
		if e.Class == "" {
			e.Class = "unavailable" // the cloud answered, and did not come to an end
		}
		return
	}
	e.Hub, e.DeviceID = s.Hub, s.DeviceID
}

// level is how loud a failure is: error is for what a person should look at.
func (e *registrationEvent) level() zerolog.Level {
	for _, p := range e.Problems {
		if !p.Notice && e.Class != "unavailable" {
			return zerolog.ErrorLevel
		}
	}
	return zerolog.WarnLevel
}

// MarshalZerologObject writes the documented fields; durations carry their unit in the name.
func (e *registrationEvent) MarshalZerologObject(z *zerolog.Event) {
	z.Str("event", "registration").Str("certificate", e.Certificate).Str("result", e.Result).Str("reason", e.Reason).
		Str("cloud", e.Cloud).Str("endpoint", e.Endpoint).Int("generation", e.Generation)
	elapsed(z, "took_seconds", e.took)
	z.Int("exchanges", e.Exchanges)
	if len(e.Statuses) > 0 {
		z.Ints("statuses", e.Statuses)
	}
	text(z, "hub", e.Hub)
	text(z, "device_id", e.DeviceID)
	text(z, "class", e.Class)
	problemCodes(z, e.Problems)
	if len(e.Problems) > 0 {
		text(z, "error", e.Problems[0].Text)
		text(z, "hint", e.Problems[0].Hint)
	}
	if e.Failures > 0 {
		z.Int("failures", e.Failures)
	}
	next(z, e.NextTry, e.NextWhy)
}
