package dps_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"certagent/agent/onboard/dps"
	"certagent/agent/onboard/dps/dpstest"
)

// problem is what the device says of its last try; the zero value where it says nothing.
func (r *rig) problem() (code string, notice bool) {
	if p := dps.ParseState(r.state).Problem; p != nil {
		return p.Code, p.Notice
	}
	return "", false
}

// A certificate that is renewed while DPS is at the registration of the one before: that it refuses the next is expected, and
// ends by itself.
func TestRenewalWhileRegistering(t *testing.T) {
	r := newRig(t, dpstest.Options{Takes: time.Minute})
	if did, err := r.step(); did != dps.Register || err != nil {
		t.Fatal(did, err)
	}
	r.clock.pass(10 * time.Second)
	r.holds(r.ca.issue("gw-17"))
	if step := r.next(); step.Do != dps.Register || !step.At.IsZero() {
		t.Fatalf("next step %+v: what was begun with the old certificate is void", step)
	}
	for dps.ParseState(r.state).Operation == nil || r.next().Do == dps.Register {
		if _, err := r.step(); err == nil {
			break // DPS takes it
		} else if e := r.failure(err); e.Code != dps.CodeConflict || !errors.Is(e, dps.ErrUnavailable) {
			t.Fatalf("failure on the way: %v", e)
		}
		if code, notice := r.problem(); code != dps.CodeConflict || !notice {
			t.Errorf("%s, a notice: %v; DPS may be at the former registration", code, notice)
		}
	}
	if n := r.count(dpstest.OpRegister); n < 3 {
		t.Errorf("%d registrations were begun: the service was not at the former one", n)
	}
	if code, _ := r.problem(); code != "" {
		t.Errorf("%s, although DPS has taken the registration", code)
	}
	r.known(r.registered())
}

// What does not end within the time for which the device would have asked about its former registration is somebody else's,
// or DPS is stuck: a problem, since the first refusal.
func TestConflictThatOutlastsTheFormer(t *testing.T) {
	for _, draw := range []float64{0, .999} {
		r := newRig(t, dpstest.Options{Takes: 3 * time.Hour})
		r.draw = draw
		began := r.clock.Now()
		r.step()
		r.clock.pass(10 * time.Minute)
		r.holds(r.ca.issue("gw-17"))
		first := r.clock.Now()
		for {
			r.fails(dps.CodeConflict)
			_, notice := r.problem()
			if expected := r.clock.Now().Sub(began) < time.Hour; notice != expected {
				t.Fatalf("%v after the former began it is a notice: %v", r.clock.Now().Sub(began), notice)
			}
			if p := dps.ParseState(r.state).Problem; !p.Since.Equal(first) || notice == strings.Contains(p.Hint, "another device") {
				t.Fatalf("%+v", p)
			}
			if !notice {
				break
			}
		}
		if late := r.clock.Now().Sub(began) - time.Hour; late != 0 {
			t.Errorf("it is a problem %v after the bound", late)
		}
		r.fails(dps.CodeConflict) // and stays one
		if _, notice := r.problem(); notice {
			t.Error("a refused registration makes a notice of the next refusal")
		}
	}
}

// Only what the device itself began makes a notice of a conflict.
func TestWhoseConflict(t *testing.T) {
	renewed := func(r *rig) { r.holds(r.ca.issue("gw-17")) }
	begun := func(r *rig) { r.step() }
	fault := func(f dpstest.Fault) func(*rig) {
		return func(r *rig) {
			r.server.Next("", f)
			r.step()
		}
	}
	for _, test := range []struct {
		name   string
		before []func(*rig)
		notice bool
	}{
		{"nothing before", nil, false},
		{"renewed, and nothing before", []func(*rig){renewed}, false},
		{"renewed after the end", []func(*rig){func(r *rig) { r.registered() }, renewed}, false},
		{"renewed meanwhile", []func(*rig){begun, renewed}, true},
		{"renewed twice meanwhile", []func(*rig){begun, renewed, renewed}, true},
		{"restarted and renewed meanwhile", []func(*rig){begun, (*rig).restart, renewed}, true},
		{"ordered meanwhile", []func(*rig){begun, func(r *rig) { r.state = dps.ParseState(r.state).Ask().Bytes() }}, true},
		{"killed before the answer", []func(*rig){begun, func(r *rig) { r.state = r.begun }}, true},
		{"the answer was lost", []func(*rig){fault(dpstest.LoseAnswer)}, true},
		{"the answer was lost, then renewed", []func(*rig){fault(dpstest.LoseAnswer), renewed}, true},
		{"the service had trouble", []func(*rig){fault(dpstest.Error(500001, "Internal"))}, true},
		{"nonsense came for an answer", []func(*rig){fault(dpstest.Status(200, "<html>"))}, true},
		{"throttled", []func(*rig){fault(dpstest.Error(429001, "Slow down"))}, false},
		{"refused", []func(*rig){fault(dpstest.Error(401002, "Unauthorized"))}, false},
		{"decided against", []func(*rig){fault(failed(500002, "Internal"))}, false},
		{"taken, then decided against", []func(*rig){begun, fault(failed(400209, "No hub"))}, false},
		{"a conflict before", []func(*rig){fault(dpstest.Error(409203, "Busy"))}, false},
		{"throttled after a renewal", []func(*rig){begun, renewed, fault(dpstest.Error(429001, "Slow down"))}, true},
		{"long before", []func(*rig){begun, func(r *rig) { r.clock.pass(2 * time.Hour) }, renewed}, false},
		{"of another device", []func(*rig){begun, func(r *rig) { r.o.Registration.RegistrationID = "gw-18"; r.holds(r.ca.issue("gw-18")) }}, false},
		{"begun by a clock that ran ahead", []func(*rig){func(r *rig) {
			late := r.clock.Now().Add(time.Hour)
			r.state = dps.State{}.Begin(r.o.Registration, r.next(), 0, late).Bytes()
		}}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t, dpstest.Options{})
			for _, do := range test.before {
				do(r)
				r.clock.pass(time.Second)
			}
			r.server.Next(dpstest.OpRegister, dpstest.Error(409203, "Busy"))
			r.fails(dps.CodeConflict)
			if _, notice := r.problem(); notice != test.notice {
				t.Errorf("a notice: %v, want %v; the state is %s", notice, test.notice, r.state)
			}
			r.clock.pass(3 * time.Hour)
			r.known(r.registered())
			if s := dps.ParseState(r.state); !s.Former.IsZero() {
				t.Errorf("a former registration stands after the end: %+v", s)
			}
		})
	}
}

// A connection that ends before an answer is told in words, and not in those of net/http.
func TestEndWithoutAnAnswerInWords(t *testing.T) {
	for _, fault := range []dpstest.Fault{dpstest.CloseBeforeAnswer, dpstest.LoseAnswer, dpstest.CutAnswer} {
		r := newRig(t, dpstest.Options{})
		r.server.Next("", fault)
		e := r.fails(dps.CodeUnavailable)
		if text := e.Error(); !strings.HasSuffix(text, ": DPS unavailable: it ended the connection before its answer was whole") {
			t.Error(text)
		}
	}
}
