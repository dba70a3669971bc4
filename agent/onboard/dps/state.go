package dps

import (
	"errors"
	"time"

	"certagent/agent/onboard"
)

// stateVersion is the version of the state's form.
const stateVersion = 1

// State is how far a registration has come, over restarts. Its file may be read by everybody; nothing in it is secret.
// The zero value is that of a device which has tried nothing.
type State struct {
	Version int `json:"version"`
	// Again says that a person wants the device registered although nothing changed. It stands until that was done.
	Again bool `json:"again,omitempty"`
	// Doing says that what is being done began after that, so that it will have been done. Orders that come meanwhile are
	// not met by it.
	Doing bool `json:"doing,omitempty"`
	// Operation is what DPS is at; nil while it is at nothing for us.
	Operation *Operation `json:"operation,omitempty"`

	// Of is what all below is about.
	Of Registration `json:"of,omitzero"`
	// Former is when a registration of this device began that DPS may be at, and that Operation is not: one with the certificate
	// before this, or one whose answer did not come. It is zero where there is none.
	Former time.Time `json:"former,omitzero"`
	// Failures counts the tries in a row that did not end well, with one that has begun and is not known to have ended.
	Failures int       `json:"failures"`
	LastTry  time.Time `json:"last_try,omitzero"`
	NextTry  time.Time `json:"next_try,omitzero"`
	// RetryAfter is until when DPS asked to be left alone; no order goes over it.
	RetryAfter time.Time        `json:"retry_after,omitzero"`
	Problem    *onboard.Problem `json:"problem,omitempty"` // nil: none, as far as is known
}

// Operation is a registration that DPS has taken and not decided.
type Operation struct {
	ID     string    `json:"id"`
	Status string    `json:"status"` // as DPS said last; "assigning"
	Began  time.Time `json:"began"`  // when DPS took it
}

// outlasts reports whether a problem may be there still although DPS took a registration. It takes those also that it decides
// against seconds later, each time; such a device must back off all the same, and not seem well in between.
func outlasts(code string) bool {
	switch code {
	case CodeUnauthorized, CodeForbidden, CodeDisabled, CodeNotFound, CodeRejected, CodeAllocation, CodeOperationLost, CodeEndless:
		return true
	}
	return false
}

// Bytes is the file of s: indented JSON with a newline at its end.
func (s State) Bytes() []byte {
	s.Version = stateVersion
	return onboard.Encode(s)
}

// ParseState reads a file of [State.Bytes]. What is damaged, or of another version, is the zero State.
func ParseState(file []byte) State {
	var s State
	if !onboard.Decode(file, &s) || s.Version != stateVersion || s.Failures < 0 ||
		s.Operation != nil && !isSegment(s.Operation.ID) {
		return State{}
	}
	return s
}

// Ask is the state after a person wants the device registered again: at once, unless DPS asked to be left alone, and
// from the beginning.
func (s State) Ask() State {
	s.Former = s.underWay()
	s.Again, s.Doing, s.Operation, s.NextTry = true, false, nil, s.RetryAfter
	return s
}

// AskedSince reports whether a person asked after the step began that is being done.
func (s State) AskedSince() bool { return s.Again && !s.Doing }

// underWay is when a registration began that DPS may be at; zero where there is none.
func (s State) underWay() time.Time {
	if s.Operation != nil {
		return s.Operation.Began
	}
	return s.Former
}

// overlapped reports whether DPS may be at a registration of this device that began before the one to come, and refuse that
// for it. The device cannot ask about it, so it believes so for as long as it would have asked.
func (s State) overlapped(now time.Time) bool {
	return !s.Former.After(now) && now.Sub(s.Former) < operationPatience
}

// about is s as far as it holds for want: tries with another certificate, or for another registration, say nothing of
// this one. That a service asked to be left alone does.
func (s State) about(want Registration) State {
	if s.Of.same(want) {
		s.Of = want // a registration id in other letters
		return s
	}
	fresh := State{Version: s.Version, Again: s.Again, Of: want}
	if s.Of.Endpoint == want.Endpoint {
		fresh.RetryAfter, fresh.NextTry = s.RetryAfter, s.RetryAfter
	}
	if s.Of.sameDevice(want) {
		fresh.Former = s.underWay()
	}
	return fresh
}

// Action is what a [Step] does.
type Action string

// The actions.
const (
	Nothing  Action = ""
	Register Action = "register" // PUT …/register
	Poll     Action = "poll"     // GET …/operations/…
)

// Step is what to do next, and not before At.
type Step struct {
	Do        Action
	Why       onboard.Reason
	Operation string    // the one to ask for, of a Poll
	At        time.Time // zero: at once
	Held      time.Time // the part of At that no order goes over; zero where DPS asked for nothing
}

// Next is what to do next for want, given what is stored. It has no clock of its own: a stored time that was written by a
// clock that was wrong is taken for now.
func Next(want Registration, result *Result, s State, now time.Time) Step {
	why := Due(want, result, s)
	if why == "" {
		return Step{}
	}
	s = s.about(want)
	step := Step{Do: Register, Why: why, At: believed(s.NextTry, s.LastTry, now), Held: believed(s.RetryAfter, s.LastTry, now)}
	if s.Operation != nil {
		step.Do, step.Operation = Poll, s.Operation.ID
	}
	return step
}

// Begin is the state before step is done. A registration counts as failed until it is known how it ended: an agent that
// dies in each would else ask DPS at each start. draw, in [0, 1), is a random number of the caller's.
func (s State) Begin(want Registration, step Step, draw float64, now time.Time) State {
	s = s.about(want)
	s.LastTry, s.Doing = now, s.Again
	if step.Do == Register {
		s.Failures++
		s.NextTry = now.Add(delay(nil, s.Failures, draw))
		if !s.overlapped(now) {
			s.Former = now // until it is known what became of this one
		}
	}
	return s
}

// After is the state after step, which [State.Begin] began, and the result where the device is registered. A try that
// ended because its context was canceled counts for nothing: the agent stops, or a new certificate makes the
// registration void. Whoever asked meanwhile wants one more. draw, in [0, 1), is a random number of the caller's.
func (s State) After(want Registration, step Step, a Answer, err error, draw float64, now time.Time) (State, *Result) {
	after, result := s.after(want, step, a, err, draw, now)
	if s.AskedSince() {
		after = after.Ask()
	}
	return after, result
}

func (s State) after(want Registration, step Step, a Answer, err error, draw float64, now time.Time) (State, *Result) {
	s = s.about(want)
	failures := s.Failures
	if step.Do == Register {
		failures-- // what Begin counted
	}
	failures = max(0, failures)
	e, failed := errors.AsType[*Error](err)
	switch {
	case err != nil && !failed: // only a canceled context has no *Error
		s.Failures, s.NextTry = failures, s.RetryAfter
		return s, nil
	case failed:
		return s.failed(step, e, failures+1, draw, now), nil
	case a.Result != nil:
		return State{Of: want, LastTry: s.LastTry}, a.Result
	}
	began := now
	if s.Operation != nil && step.Do == Poll && !s.Operation.Began.After(now) {
		began = s.Operation.Began
	}
	s.Operation = &Operation{ID: a.Operation, Status: a.Status, Began: began}
	s.Former, s.RetryAfter = time.Time{}, time.Time{}
	if now.Sub(began) >= operationPatience {
		return s.failed(step, a.endless(want, step, now.Sub(began)), failures+1, draw, now), nil
	}
	s.Failures = failures
	if p := s.Problem; p == nil || !outlasts(p.Code) {
		s.Failures, s.Problem = 0, nil
	}
	s.NextTry = now.Add(pollWait(a.RetryAfter, now.Sub(began)))
	return s, nil
}

// failed is the state after a failure, which is the given number in a row.
func (s State) failed(step Step, e *Error, failures int, draw float64, now time.Time) State {
	s.Failures, s.RetryAfter = failures, time.Time{}
	wait := delay(e.Class, failures, draw)
	if s.Former.Equal(s.LastTry) && !e.mayHaveBegun() {
		s.Former = time.Time{}
	}
	p := onboard.Problem{Code: e.Code, Text: e.Error(), Hint: e.Hint}
	if e.Code == CodeConflict && s.overlapped(now) {
		p.Notice, p.Hint = true, hintOverlapped
		wait = min(wait, s.Former.Add(operationPatience).Sub(now)) // after that it is a problem
	}
	if asked := min(e.RetryAfter, maxRetryAfter); asked > 0 {
		s.RetryAfter = now.Add(asked)
		wait = max(wait, spreadOut(asked, draw))
	}
	s.NextTry = now.Add(wait)
	// What was begun goes on while only its answer is missing, and not for ever.
	if o := s.Operation; o != nil &&
		(!e.keepsOperation() || now.Sub(o.Began) >= operationPatience) {
		s.Operation = nil
	}
	s.Problem = p.After(s.Problem, now)
	return s
}
