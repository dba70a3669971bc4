package awsiot

import (
	"errors"
	"fmt"
	"time"

	"certagent/agent/onboard"
)

// stateVersion is the version of the state's form.
const stateVersion = 1

// State is how far a certificate has come, over restarts. Its file may be read by everybody; nothing in it is secret. The
// zero value is that of a device which has tried nothing.
type State struct {
	Version int `json:"version"`
	// Again says that a person wants the device to connect although nothing changed. It stands until that was done.
	Again bool `json:"again,omitempty"`
	// Doing says that the connection under way began after that. Orders that come meanwhile are not met by it.
	Doing bool `json:"doing,omitempty"`

	// Of is what all below is about.
	Of Registration `json:"of,omitzero"`
	// Began is when it was first tried, and Tries how often.
	Began time.Time `json:"began,omitzero"`
	Tries int       `json:"tries"`
	// Dropped counts the connections in a row that AWS ended without an answer, or by a refusal of a certificate that it
	// never took. Failures counts the other failures since, with one try that has begun and is not known to have ended.
	Dropped  int              `json:"dropped"`
	Failures int              `json:"failures"`
	LastTry  time.Time        `json:"last_try,omitzero"`
	NextTry  time.Time        `json:"next_try,omitzero"`
	Problem  *onboard.Problem `json:"problem,omitempty"` // nil: none, as far as is known
}

// Bytes is the file of s: indented JSON with a newline at its end.
func (s State) Bytes() []byte {
	s.Version = stateVersion
	return onboard.Encode(s)
}

// ParseState reads a file of [State.Bytes]. What is damaged, or of another version, is the zero State.
func ParseState(file []byte) State {
	var s State
	if !onboard.Decode(file, &s) || s.Version != stateVersion || s.Tries < 0 || s.Dropped < 0 || s.Failures < 0 {
		return State{}
	}
	return s
}

// Ask is the state after a person wants the device to connect again: at once, and with quick tries.
func (s State) Ask() State {
	s.Again, s.Doing, s.Dropped, s.Failures, s.NextTry = true, false, 0, 0, time.Time{}
	return s
}

// about is s as far as it holds for want: tries with another certificate, or at another endpoint, say nothing of this.
func (s State) about(want Registration) State {
	if s.Of.same(want) {
		s.Of = want // an endpoint in other letters
		return s
	}
	return State{Version: s.Version, Again: s.Again, Of: want}
}

// Step is whether to connect, why, and not before when.
type Step struct {
	Why onboard.Reason // "" where there is nothing to do
	At  time.Time      // zero: at once
}

// Next is what to do next for want, given what is stored. It has no clock of its own: a stored time that was written by a
// clock that was wrong is taken for now.
func Next(want Registration, result *Result, s State, now time.Time) Step {
	why := Due(want, result, s)
	if why == "" {
		return Step{}
	}
	s = s.about(want)
	return Step{Why: why, At: believed(s.NextTry, s.LastTry, now)}
}

// Begin is the state before a connection. It counts as failed until it is known how it ended: an agent that dies in each
// would else dial at each start. draw, in [0, 1), is a random number of the caller's.
func (s State) Begin(want Registration, draw float64, now time.Time) State {
	s = s.about(want)
	if s.Tries == 0 {
		s.Began = now
	}
	s.Tries++
	s.Failures++
	s.Doing, s.LastTry, s.NextTry = s.Again, now, now.Add(delay(ErrUnavailable, s.Dropped, s.Failures, draw))
	return s
}

// After is the state after the connection that [State.Begin] began, for step and with err of [Connect], and the result
// where AWS IoT said yes. A try that ended because its context was canceled counts for nothing: the agent stops, or a new
// certificate makes it void. Whoever asked meanwhile wants one more. draw, in [0, 1), is a random number of the caller's.
func (s State) After(want Registration, step Step, err error, draw float64, now time.Time) (State, *Result) {
	after, result := s.after(want, step, err, draw, now)
	if s.Again && !s.Doing {
		after = after.Ask()
	}
	return after, result
}

func (s State) after(want Registration, step Step, err error, draw float64, now time.Time) (State, *Result) {
	s = s.about(want)
	failures := max(0, s.Failures-1) // what Begin counted
	e, failed := errors.AsType[*Error](err)
	switch {
	case err != nil && !failed: // only a canceled context has no *Error
		s.Failures, s.Tries, s.NextTry = failures, max(0, s.Tries-1), time.Time{}
		return s, nil
	case !failed:
		r := &Result{Version: resultVersion, Registration: want, Connected: now, Began: s.Began, Tries: max(1, s.Tries)}
		return State{Of: want, Began: s.Began, Tries: s.Tries, LastTry: s.LastTry}, r
	}
	// Between a certificate and its policy there may be a moment, which a refusal in words does not tell from a policy that
	// is wrong: it is told, and the tries stay quick.
	fresh := step.Why == onboard.Unknown || step.Why == onboard.Renewed
	if s.Failures = failures + 1; errors.Is(e, ErrDropped) || errors.Is(e, ErrDenied) && fresh {
		s.Dropped, s.Failures = s.Dropped+1, 0
	}
	s.NextTry = now.Add(delay(e.Class, s.Dropped, s.Failures, draw))
	s.Problem = e.problem(s.Dropped, step.Why).After(s.Problem, now)
	return s, nil
}

// problem is e for a person, after so many dropped connections in a row.
func (e *Error) problem(dropped int, why onboard.Reason) onboard.Problem {
	p := onboard.Problem{Code: e.Code, Text: e.Error(), Hint: e.Hint}
	switch {
	case !errors.Is(e, ErrDropped):
	case why == onboard.Asked: // AWS took this very certificate before, so that provisioning has no part in it
		p.Hint = "AWS IoT took this certificate before: see whether it, or the CA that issued it, was deactivated there since, " +
			"and whether a policy attached to it still allows iot:Connect for this client id"
	case dropped < quickTries:
		p.Code, p.Notice = CodeProvisioning, true
		p.Text += fmt.Sprintf(" (%d of %d tries)", dropped, quickTries)
		p.Hint = "this is what the first connections of a new certificate look like while AWS provisions it: nothing " +
			"needs to be done unless it stays so"
	}
	return p
}
