package dps_test

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"certagent/agent/onboard"
	"certagent/agent/onboard/dps"
	"certagent/agent/onboard/dps/dpstest"
)

// A registration that takes minutes is waited for, within the service's limits and without asking all the time.
func TestRegistrationTakesTwentyMinutes(t *testing.T) {
	r := newRig(t, dpstest.Options{Takes: 20 * time.Minute, RetryAfter: time.Second})
	began := r.clock.Now()
	r.known(r.registered()) // a 429 of the service, by its limit of 5 polls in 10 s, would be a failure
	took, polls := r.clock.Now().Sub(began), r.count(dpstest.OpPoll)
	if took < 20*time.Minute || took > 23*time.Minute || polls > 60 {
		t.Errorf("known after %v and %d polls", took, polls)
	}
}

func TestServiceWithoutRetryAfter(t *testing.T) {
	r := newRig(t, dpstest.Options{Takes: 30 * time.Second, RetryAfter: -1})
	r.known(r.registered())
	if n := r.count(dpstest.OpPoll); n > 11 {
		t.Errorf("%d polls in 30 s", n)
	}
}

func TestUnknownStatusGoesOn(t *testing.T) {
	for _, status := range []string{"unassigned", "assigning", "contemplating"} {
		for _, http := range []int{200, 202} {
			r := newRig(t, dpstest.Options{})
			body := map[string]any{"operationId": "4.x", "status": status}
			r.server.Next(dpstest.OpPoll, dpstest.Status(http, body))
			r.step()
			operation := dps.ParseState(r.state).Operation.ID
			if did, err := r.step(); did != dps.Poll || err != nil {
				t.Fatalf("%d %s: %v", http, status, err)
			}
			if o := dps.ParseState(r.state).Operation; o == nil || o.Status != status || o.ID != "4.x" {
				t.Errorf("%d %s: operation %+v after %s", http, status, o, operation)
			}
			result, _ := r.settle() // the operation of that name is none, so it begins anew
			r.known(result)
		}
	}
}

// What DPS does not decide within an hour is begun anew, and a person is told why.
func TestRegistrationThatIsNeverDecided(t *testing.T) {
	r := newRig(t, dpstest.Options{})
	r.server.Always(dpstest.OpPoll, dpstest.Status(200, map[string]any{"operationId": "4.x", "status": "contemplating"}))
	began := r.clock.Now()
	var problem *onboard.Problem
	for problem == nil {
		if _, err := r.step(); err != nil {
			t.Fatal(err)
		}
		problem = dps.ParseState(r.state).Problem
	}
	if problem.Code != dps.CodeEndless || !strings.Contains(problem.Text, `"contemplating"`) {
		t.Errorf("problem %+v", problem)
	}
	if took := r.clock.Now().Sub(began); took < time.Hour || took > 70*time.Minute {
		t.Errorf("given up after %v", took)
	}
	r.server.Clear()
	if did, err := r.step(); did != dps.Register || err != nil {
		t.Errorf("%s: %v", did, err)
	}
	if p := dps.ParseState(r.state).Problem; p == nil || p.Code != dps.CodeEndless {
		t.Errorf("begun anew the problem is %+v", p)
	}
	r.known(r.registered())
}

func TestThrottling(t *testing.T) {
	for _, tt := range []struct {
		name       string
		retryAfter func(now time.Time) string
		draw       float64
		wait       time.Duration
	}{
		{"seconds", func(time.Time) string { return "120" }, 0, 2 * time.Minute},
		{"seconds, spread", func(time.Time) string { return "120" }, .5, 3 * time.Minute},
		{"a date", func(now time.Time) string { return now.Add(5 * time.Minute).Format(http.TimeFormat) }, 0, 5 * time.Minute},
		{"an hour, spread", func(time.Time) string { return "3600" }, .5, 65 * time.Minute},
		{"a past date", func(now time.Time) string { return now.Add(-time.Hour).Format(http.TimeFormat) }, .5, 10 * time.Second},
		{"none", func(time.Time) string { return "" }, .5, 10 * time.Second},
		{"nonsense", func(time.Time) string { return "soon" }, .5, 10 * time.Second},
		{"negative", func(time.Time) string { return "-5" }, .5, 10 * time.Second},
		{"zero", func(time.Time) string { return "0" }, .5, 10 * time.Second},
		{"a year", func(time.Time) string { return "31536000" }, 0, 24 * time.Hour},
		{"for ever", func(time.Time) string { return "99999999999999999999999999" }, 0, 24 * time.Hour},
	} {
		for _, op := range []string{dpstest.OpRegister, dpstest.OpPoll} {
			t.Run(tt.name+" at "+op, func(t *testing.T) {
				r := newRig(t, dpstest.Options{})
				if op == dpstest.OpPoll {
					r.step()
					r.clock.pass(3 * time.Second)
				}
				r.draw = tt.draw
				r.server.Next(op, dpstest.Error(429001, "Too many requests", "Retry-After", tt.retryAfter(r.clock.Now())))
				if e := r.fails(dps.CodeThrottled); e.RetryAfter < 0 || e.RetryAfter > 24*time.Hour {
					t.Errorf("to be tried again in %v", e.RetryAfter)
				}
				step := r.next()
				if wait := step.At.Sub(r.clock.Now()); wait != tt.wait {
					t.Errorf("wait %v, want %v", wait, tt.wait)
				}
				if string(step.Do) != op {
					t.Errorf("next %s, want to go on with %s", step.Do, op)
				}
				r.known(r.registered())
			})
		}
	}
}

// Who is asked to leave DPS alone does so, whatever a person asks and whatever certificate there is; another endpoint
// is another matter.
func TestRetryAfterStandsOverOrders(t *testing.T) {
	r := newRig(t, dpstest.Options{})
	r.server.Next("", dpstest.Error(429001, "", "Retry-After", "600"))
	r.fails(dps.CodeThrottled)
	until := r.clock.Now().Add(10 * time.Minute)
	asked := dps.Next(r.o.Registration, nil, dps.ParseState(r.state).Ask(), r.clock.Now())
	if !asked.At.Equal(until) || !asked.Held.Equal(until) {
		t.Errorf("asked by a person it tries at %v, held until %v, want %v", asked.At, asked.Held, until)
	}
	r.holds(r.ca.issue("gw-17"))
	if at := r.next().At; !at.Equal(until) {
		t.Errorf("with another certificate it tries at %v, want %v", at, until)
	}
	r.o.Registration.Endpoint = "https://elsewhere.test"
	if step := r.next(); !step.At.IsZero() || !step.Held.IsZero() {
		t.Errorf("another endpoint is tried at %v, held until %v, want at once", step.At, step.Held)
	}
}

// The back-off ends with an order of a person's and with another certificate.
func TestBackOff(t *testing.T) {
	r := newRig(t, dpstest.Options{})
	r.server.Always("", dpstest.Status(503, nil))
	r.draw = .5 // the middle
	var waits []time.Duration
	for range 9 {
		r.fails(dps.CodeUnavailable)
		waits = append(waits, r.next().At.Sub(r.clock.Now()))
	}
	want := []time.Duration{10 * time.Second, 30 * time.Second, 90 * time.Second, 270 * time.Second, 810 * time.Second,
		2430 * time.Second, time.Hour, time.Hour, time.Hour}
	if !slices.Equal(waits, want) {
		t.Errorf("waits %v, want %v", waits, want)
	}
	for draw, want := range map[float64]time.Duration{0: 30 * time.Minute, .999: 90 * time.Minute} {
		if r.draw = draw; r.fails(dps.CodeUnavailable) != nil {
			if wait := r.next().At.Sub(r.clock.Now()).Round(time.Minute); wait != want {
				t.Errorf("drawn %v it waits %v, want %v", draw, wait, want)
			}
		}
	}
	r.draw = .5
	asked := dps.Next(r.o.Registration, nil, dps.ParseState(r.state).Ask(), r.clock.Now())
	if !asked.At.IsZero() {
		t.Errorf("asked by a person it tries at %v, want at once", asked.At)
	}
	r.holds(r.ca.issue("gw-17"))
	if step := r.next(); !step.At.IsZero() {
		t.Errorf("with another certificate it tries at %v, want at once", step.At)
	}

	r.server.Always("", dpstest.Error(401002, "Unauthorized"))
	waits = nil
	for range 8 {
		r.fails(dps.CodeUnauthorized)
		waits = append(waits, r.next().At.Sub(r.clock.Now()))
	}
	if waits[0] != time.Minute || waits[7] != 4*time.Hour || !slices.IsSorted(waits) {
		t.Errorf("waits after refusals %v", waits)
	}
}

// DPS takes a registration before it decides against it. A device that it decides against each time backs off as one that
// it refuses at once, and does not seem well in between.
func TestBackOffFromDecisions(t *testing.T) {
	status := func(s string) dpstest.Fault {
		return dpstest.Status(200, map[string]any{"operationId": "4.x", "status": s})
	}
	for name, tt := range map[string]struct {
		answer dpstest.Fault // to every poll
		code   string
		first  time.Duration
		last   time.Duration
	}{
		"no hub":         {failed(400209, "out of hubs"), dps.CodeAllocation, time.Minute, 4 * time.Hour},
		"no reason":      {status("failed"), dps.CodeAllocation, time.Minute, 4 * time.Hour},
		"disabled":       {status("disabled"), dps.CodeDisabled, time.Minute, 4 * time.Hour},
		"failed 401":     {failed(401002, "no"), dps.CodeUnauthorized, time.Minute, 4 * time.Hour},
		"failed 403":     {failed(403001, "no"), dps.CodeForbidden, time.Minute, 4 * time.Hour},
		"failed 404":     {failed(404001, "no"), dps.CodeNotFound, time.Minute, 4 * time.Hour},
		"401":            {dpstest.Error(401002, "no"), dps.CodeUnauthorized, time.Minute, 4 * time.Hour},
		"400":            {dpstest.Error(400004, "no"), dps.CodeRejected, time.Minute, 4 * time.Hour},
		"lost each time": {dpstest.Error(404203, "gone"), dps.CodeOperationLost, 10 * time.Second, time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, dpstest.Options{})
			r.draw = .5
			r.server.Always(dpstest.OpPoll, tt.answer)
			began := r.clock.Now().Add(3 * time.Second)
			var waits []time.Duration
			for n := range 8 {
				if did, err := r.step(); did != dps.Register || err != nil {
					t.Fatalf("%s: %v", did, err)
				}
				if p := dps.ParseState(r.state).Problem; n > 0 && (p == nil || p.Code != tt.code || !p.Since.Equal(began)) {
					t.Fatalf("while it tries again the problem is %+v", p)
				}
				r.fails(tt.code)
				waits = append(waits, r.next().At.Sub(r.clock.Now()))
			}
			if waits[0] != tt.first || waits[7] != tt.last || !slices.IsSorted(waits) {
				t.Errorf("waits %v", waits)
			}
			r.server.Clear()
			r.known(r.registered())
			if s := dps.ParseState(r.state); s.Failures != 0 || s.Problem != nil {
				t.Errorf("state %+v after success", s)
			}
		})
	}
}

// A service that is overrun and says a second each time is not asked each second.
func TestThrottlingThatDoesNotEnd(t *testing.T) {
	r := newRig(t, dpstest.Options{})
	r.draw = .5
	r.server.Always("", dpstest.Error(429001, "", "Retry-After", "1"))
	for range 7 {
		r.fails(dps.CodeThrottled)
	}
	if wait := r.next().At.Sub(r.clock.Now()); wait != time.Hour {
		t.Errorf("wait %v, want an hour", wait)
	}
}

// Whoever is told to poll in a thousand years, or at once, polls within an hour, or after two seconds.
func TestPollWaits(t *testing.T) {
	for said, want := range map[string]time.Duration{
		"1000000000000": time.Hour, "1": 2 * time.Second, "0": 3 * time.Second, "-1": 3 * time.Second, "7": 7 * time.Second,
	} {
		r := newRig(t, dpstest.Options{})
		r.server.Next("", dpstest.Status(202, `{"status":"assigning","operationId":"4.x"}`, "Retry-After", said))
		r.step()
		if wait := r.next().At.Sub(r.clock.Now()); wait != want {
			t.Errorf("Retry-After %s: wait %v, want %v", said, wait, want)
		}
	}
}

// What answers in the place of DPS for a while says nothing of the registration that is going on.
func TestOperationOutlastsNonsense(t *testing.T) {
	r := newRig(t, dpstest.Options{})
	r.step()
	r.server.Next("", dpstest.Status(200, "<html>"))
	r.fails(dps.CodeBadResponse)
	good := r.o.Roots
	r.o.Roots = pool(r.ca.cert)
	r.restart()
	r.fails(dps.CodeUntrusted)
	r.o.Roots = good
	r.restart()
	r.known(r.registered())
	if n := r.count(dpstest.OpRegister); n != 1 {
		t.Errorf("%d registrations, want 1", n)
	}
}

// That DPS takes a registration ends what kept the device from asking, and the back-off from that.
func TestBackOffEndsWithAnAnswer(t *testing.T) {
	r := newRig(t, dpstest.Options{})
	r.draw = .5
	r.server.Next("", slices.Repeat([]dpstest.Fault{dpstest.CloseBeforeAnswer}, 6)...)
	for range 6 {
		r.fails(dps.CodeUnavailable)
	}
	if did, err := r.step(); did != dps.Register || err != nil {
		t.Fatal(did, err)
	}
	if s := dps.ParseState(r.state); s.Failures != 0 || s.Problem != nil {
		t.Errorf("state %+v", s)
	}
	r.server.Next("", failed(400209, "out of hubs"))
	r.fails(dps.CodeAllocation)
	if wait := r.next().At.Sub(r.clock.Now()); wait != time.Minute {
		t.Errorf("wait %v after the first refusal, want a minute", wait)
	}
}

// A registration that failed is over, whatever its error code: there is nothing left to ask for.
func TestFailedOperationIsNotAskedForAgain(t *testing.T) {
	for _, code := range []int{500002, 429001, 408001, 409203, 401002, 0} {
		r := newRig(t, dpstest.Options{})
		r.step()
		r.server.Next(dpstest.OpPoll, failed(code, "no"))
		r.step()
		if step := r.next(); step.Do != dps.Register {
			t.Errorf("failed with %d it goes on with %s", code, step.Do)
		}
		r.known(r.registered())
	}
}

// A wait that was computed by a clock that ran ahead is not waited for, be it of years or of half a day.
func TestClockThatRanAhead(t *testing.T) {
	r := newRig(t, dpstest.Options{})
	now := r.clock.Now()
	for _, ahead := range []time.Duration{6 * time.Second, 12 * time.Hour, 8 * 365 * 24 * time.Hour} {
		late := now.Add(ahead)
		unavailable := &dps.Error{Class: dps.ErrUnavailable, Code: dps.CodeThrottled, RetryAfter: time.Hour}
		wrong := dps.State{}.Begin(r.o.Registration, dps.Step{Do: dps.Register}, 0, late)
		wrong, _ = wrong.After(r.o.Registration, dps.Step{Do: dps.Register}, dps.Answer{}, unavailable, 0, late)
		if step := dps.Next(r.o.Registration, nil, wrong, now); !step.At.IsZero() || !step.Held.IsZero() {
			t.Errorf("%v ahead: next step %+v, want at once", ahead, step)
		}
		again, _ := wrong.After(r.o.Registration, dps.Step{Do: dps.Register}, dps.Answer{}, unavailable, 0, now)
		if since := again.Problem.Since; !since.Equal(now) {
			t.Errorf("%v ahead: a problem since %v, and it is %v", ahead, since, now)
		}
	}
	state := dps.State{Of: r.o.Registration, Failures: 4, NextTry: now.AddDate(8, 0, 0), RetryAfter: now.AddDate(8, 0, 0)}
	if step := dps.Next(r.o.Registration, nil, state, now); !step.At.IsZero() || !step.Held.IsZero() {
		t.Errorf("next step %+v, want at once", step)
	}
	state.Operation = &dps.Operation{ID: "4.x", Status: "assigning", Began: now.AddDate(8, 0, 0)}
	step := dps.Next(r.o.Registration, nil, state, now)
	state, _ = state.After(r.o.Registration, step, dps.Answer{HTTP: 202, Status: "assigning", Operation: "4.x"}, nil, 0, now)
	if wait := state.NextTry.Sub(now); wait != 3*time.Second || !state.Operation.Began.Equal(now) {
		t.Errorf("state %+v", state)
	}
}

// While DPS cannot be asked it may still be at the registration, which is not begun twice; but not for ever.
func TestOutageWhileRegistering(t *testing.T) {
	r := newRig(t, dpstest.Options{Takes: 10 * time.Minute})
	r.step()
	r.server.Always(dpstest.OpPoll, dpstest.CloseBeforeAnswer)
	for r.next().Do == dps.Poll {
		if _, err := r.step(); !errors.Is(err, dps.ErrUnavailable) {
			t.Fatal(err)
		}
	}
	if n := r.count(dpstest.OpPoll); n < 5 || n > 12 {
		t.Errorf("%d polls in an hour without an answer", n)
	}
	r.server.Clear()
	r.known(r.registered())
}
