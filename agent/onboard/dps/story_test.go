package dps_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"certagent/agent/onboard"
	"certagent/agent/onboard/dps"
	"certagent/agent/onboard/dps/dpstest"
)

func TestDeviceBecomesKnownToItsHub(t *testing.T) {
	r := newRig(t, dpstest.Options{})
	if step := r.next(); step.Do != dps.Register || step.Why != onboard.Unknown || !step.At.IsZero() {
		t.Fatalf("first step %+v, want to register at once", step)
	}
	result := r.registered()
	want := dps.Result{
		Version: 1, Hub: dpstest.DefaultHub, DeviceID: "gw-17", Substatus: "initialAssignment", Registration: r.o.Registration,
		SHA1: result.SHA1, Registered: result.Registered, Created: result.Created, Updated: result.Updated,
	}
	if *result != want || len(result.SHA1) != 40 || result.Created.IsZero() || result.Updated.IsZero() {
		t.Errorf("result %+v\nwant %+v", *result, want)
	}
	if !result.Registered.Equal(r.clock.Now()) {
		t.Errorf("registered at %v, want %v", result.Registered, r.clock.Now())
	}
	r.known(result)

	seen := r.server.Requests()
	put, get := seen[0], seen[1]
	if want := "/" + r.server.IDScope() + "/registrations/gw-17/register?api-version=2021-06-01"; put.Target != want {
		t.Errorf("PUT %s, want %s", put.Target, want)
	}
	if string(put.Body) != `{"registrationId":"gw-17"}` || put.Header.Get("Content-Type") != "application/json" ||
		put.Header.Get("Accept") != "application/json" || get.Header.Get("Accept") != "application/json" ||
		put.Header.Get("User-Agent") != "certagent/test" || put.Header.Get("Authorization") != "" {
		t.Errorf("PUT with %v and the body %s", put.Header, put.Body)
	}
	if len(put.Chain) != 2 || !put.Chain[1].Equal(r.ca.cert) {
		t.Errorf("%d certificates shown, want the device's and its issuer's", len(put.Chain))
	}
	if !strings.HasPrefix(get.Target, "/"+r.server.IDScope()+"/registrations/gw-17/operations/4.") || len(get.Body) != 0 {
		t.Errorf("GET %s with the body %q", get.Target, get.Body)
	}
	if waited := get.When.Sub(put.When); waited != 3*time.Second {
		t.Errorf("polled after %v, want the 3 s of Retry-After", waited)
	}
	if n := r.server.Connections(); n != 2 { // the message's is the other one
		t.Errorf("%d connections, want one for the registration", n)
	}
}

// A boot, a year, a clock that is set: none of them is a reason to ask DPS.
func TestNothingIsAskedOfDPSOnceTheDeviceIsKnown(t *testing.T) {
	r := newRig(t, dpstest.Options{})
	result := r.registered()
	for _, now := range []time.Time{r.clock.Now(), r.clock.Now().AddDate(1, 0, 0), time.Unix(0, 0), {}} {
		step := dps.Next(r.o.Registration, dps.ParseResult(r.result), dps.ParseState(r.state), now)
		if step != (dps.Step{}) {
			t.Errorf("at %v the next step is %+v, want none", now, step)
		}
	}
	if step := dps.Next(r.o.Registration, result, dps.State{}, r.clock.Now()); step != (dps.Step{}) {
		t.Errorf("with the state lost the next step is %+v, want none", step)
	}
}

func TestRenewedCertificateIsRegistered(t *testing.T) {
	r := newRig(t, dpstest.Options{})
	first := r.registered()
	r.holds(r.ca.issue("gw-17"))
	if status := r.send(first.Hub, first.DeviceID); status != http.StatusUnauthorized {
		t.Fatalf("the hub answers %d to a certificate that was not registered, want 401", status)
	}
	if step := r.next(); step.Why != onboard.Renewed {
		t.Errorf("reason %q, want %q", step.Why, onboard.Renewed)
	}
	r.known(r.registered())
	if r.count(dpstest.OpRegister) != 2 {
		t.Errorf("%d registrations, want 2", r.count(dpstest.OpRegister))
	}
}

func TestAskedAgainItRegistersOnce(t *testing.T) {
	r := newRig(t, dpstest.Options{})
	r.registered()
	r.state = dps.ParseState(r.state).Ask().Bytes()
	if step := r.next(); step.Do != dps.Register || step.Why != onboard.Asked || !step.At.IsZero() {
		t.Errorf("next step %+v, want to register at once", step)
	}
	r.registered()
	if n := r.count(dpstest.OpRegister); n != 2 {
		t.Errorf("%d registrations, want 2", n)
	}
}

// Who asks while a registration goes on wants one that begins after that, whatever comes of what is under way; and one that goes on
// over several looks, or over a restart, is no more than one.
func TestAskedAgainMeanwhile(t *testing.T) {
	for _, during := range []dps.Action{dps.Register, dps.Poll} {
		for name, fault := range map[string]dpstest.Fault{"well": nil, "badly": dpstest.Status(503, "", "Retry-After", "30")} {
			t.Run(string(during)+" that ends "+name, func(t *testing.T) {
				r := newRig(t, dpstest.Options{})
				r.registered()
				r.state = dps.ParseState(r.state).Ask().Bytes() // an order that is being done is not this one either
				if during == dps.Poll {
					r.step()
				}
				if fault != nil {
					r.server.Next("", fault)
				}
				step, want, before := r.next(), r.o.Registration, r.count(dpstest.OpRegister)
				if step.Do != during {
					t.Fatalf("next step %+v, want %s", step, during)
				}
				r.clock.reach(step.At)
				state := dps.ParseState(r.state).Begin(want, step, 0, r.clock.Now())
				answer, err := r.client.Exchange(t.Context(), step)
				state, result := state.Ask().After(want, step, answer, err, 0, r.clock.Now())
				if result != nil {
					r.result = result.Bytes()
				}
				r.state = state.Bytes()
				next := r.next()
				if next.Do != dps.Register || next.Why != onboard.Asked || !next.At.Equal(next.Held) {
					t.Errorf("next step %+v, want to register as soon as the cloud lets it", next)
				}
				r.clock.pass(time.Hour) // what was begun first is over by then
				r.step()
				r.restart()
				r.known(r.registered())
				wanted := 1
				if during == dps.Register {
					wanted = 2 // with the one that was under way
				}
				if n := r.count(dpstest.OpRegister) - before; n != wanted {
					t.Errorf("%d registrations since, want %d", n, wanted)
				}
			})
		}
	}
}

// The answer for the old certificate comes when the device has the new one: it is a result, and not the last word.
func TestAnswerForTheCertificateBefore(t *testing.T) {
	r := newRig(t, dpstest.Options{})
	r.step()
	old := r.next()
	want := r.o.Registration
	state := dps.ParseState(r.state).Begin(want, old, 0, r.clock.Now())
	answer, err := r.client.Exchange(t.Context(), old)
	r.holds(r.ca.issue("gw-17"))
	state, result := state.After(want, old, answer, err, 0, r.clock.Now())
	if result == nil || result.SHA256 != want.SHA256 {
		t.Fatalf("result %+v, want one for the old certificate; error %v", result, err)
	}
	r.result, r.state = result.Bytes(), state.Bytes()
	if step := r.next(); step.Why != onboard.Renewed {
		t.Errorf("next step %+v, want the new certificate registered", step)
	}
	r.known(r.registered())
}

func TestRestartInTheMiddle(t *testing.T) {
	r := newRig(t, dpstest.Options{Takes: 5 * time.Minute})
	r.step()
	for range 3 {
		r.restart()
		if did, err := r.step(); did != dps.Poll || err != nil {
			t.Fatalf("%s, %v: a restart must go on where the device was", did, err)
		}
	}
	r.known(r.registered())
	if n := r.count(dpstest.OpRegister); n != 1 {
		t.Errorf("%d registrations, want 1", n)
	}
}

// After a long outage of the device DPS does not know what it was at.
func TestOperationThatIsLost(t *testing.T) {
	r := newRig(t, dpstest.Options{})
	r.step()
	r.server.Next(dpstest.OpPoll, dpstest.Error(404203, "The operation does not exist"))
	r.fails(dps.CodeOperationLost)
	if step := r.next(); step.Do != dps.Register {
		t.Errorf("next step %+v, want to begin anew", step)
	}
	r.known(r.registered())
}

func TestPollAnswerWithoutOperation(t *testing.T) {
	r := newRig(t, dpstest.Options{Takes: 20 * time.Second})
	r.server.Always(dpstest.OpPoll, dpstest.Alter(func(a map[string]any) { delete(a, "operationId") }))
	r.known(r.registered())
	if n := r.count(dpstest.OpRegister); n != 1 {
		t.Errorf("%d registrations, want 1", n)
	}
}

func TestRegisterAnswerWithoutOperation(t *testing.T) {
	r := newRig(t, dpstest.Options{})
	r.server.Next(dpstest.OpRegister, dpstest.Alter(func(a map[string]any) { delete(a, "operationId") }))
	r.fails(dps.CodeBadResponse)
	result, _ := r.settle()
	r.known(result)
}

// The documentation has 200 among the answers to a registration.
func TestRegistrationThatIsDecidedAtOnce(t *testing.T) {
	r := newRig(t, dpstest.Options{})
	r.server.Next(dpstest.OpRegister, dpstest.Status(200, map[string]any{
		"operationId": "4.x", "status": "assigned", "registrationState": map[string]any{
			"assignedHub": dpstest.DefaultHub, "deviceId": "gw-17", "status": "assigned",
		},
	}))
	if result := r.registered(); result.Hub != dpstest.DefaultHub || result.Substatus != "" || !result.Created.IsZero() {
		t.Errorf("result %+v", result)
	}
}

func TestReprovisioningIsToldInTheResult(t *testing.T) {
	const one, two = "one.azure-devices.test", "two.azure-devices.test"
	for _, tt := range []struct {
		policy    dpstest.Policy
		hub       string
		substatus string
	}{
		{dpstest.Migrate, two, "deviceDataMigrated"},
		{dpstest.Reset, two, "deviceDataReset"},
		{dpstest.Never, one, "reprovisionedToInitialAssignment"},
	} {
		t.Run(string(tt.policy), func(t *testing.T) {
			r := newRig(t, dpstest.Options{Hubs: []string{one, two}})
			r.registered()
			r.server.EnrolIndividual("GW-17", dpstest.Enrolment{Hub: two, Policy: tt.policy}, r.ca.cert)
			r.state = dps.ParseState(r.state).Ask().Bytes()
			result := r.registered()
			if result.Hub != tt.hub || result.Substatus != tt.substatus {
				t.Errorf("%s, %s; want %s, %s", result.Hub, result.Substatus, tt.hub, tt.substatus)
			}
			r.known(result)
		})
	}
}

// A substatus that was invented since is told as it is; what is none is left out.
func TestUnknownSubstatus(t *testing.T) {
	for said, want := range map[any]string{"deviceAdopted": "deviceAdopted", "two words": "", strings.Repeat("x", 200): ""} {
		r := newRig(t, dpstest.Options{})
		r.server.Next(dpstest.OpPoll, dpstest.Alter(func(a map[string]any) {
			a["registrationState"].(map[string]any)["substatus"] = said
		}))
		if got := r.registered().Substatus; got != want {
			t.Errorf("%v became %q, want %q", said, got, want)
		}
	}
}

// Whatever request gets no answer, or a wrong one, before the service did its work or after it: in the end the hub
// knows the certificate.
func TestEveryAnswerMayBeLost(t *testing.T) {
	for name, fault := range map[string]dpstest.Fault{
		"closed before": dpstest.CloseBeforeAnswer, "lost after": dpstest.LoseAnswer, "cut after": dpstest.CutAnswer,
		"500": dpstest.Error(500001, "Internal error"), "503 without a body": dpstest.Status(503, nil),
		"429": dpstest.Error(429001, "Too many requests", "Retry-After", "7"), "garbage": dpstest.Status(200, "<html>"),
	} {
		t.Run(name, func(t *testing.T) {
			for n := 0; ; n++ {
				r := newRig(t, dpstest.Options{Takes: 4 * time.Second})
				fired := false
				for range n {
					r.server.Next("", func(w http.ResponseWriter, q *http.Request, real http.Handler) { real.ServeHTTP(w, q) })
				}
				r.server.Next("", func(w http.ResponseWriter, q *http.Request, real http.Handler) {
					fired = true
					fault(w, q, real)
				})
				result, failures := r.settle()
				if fired == (len(failures) == 0) {
					t.Fatalf("fault at request %d: fired %v, failures %v", n, fired, failures)
				}
				r.server.Clear()
				r.known(result)
				if !fired {
					break
				}
			}
		})
	}
}

// The device loses its power at each of its writes: what is written last then may be anything from nothing on.
func TestEveryWriteMayBeTheLast(t *testing.T) {
	for n := 0; ; n++ {
		r := newRig(t, dpstest.Options{Takes: 4 * time.Second})
		lost := false
		for writes := 0; !lost; {
			result, state := r.result, r.state
			if did, err := r.step(); err != nil {
				t.Fatal(err)
			} else if did == dps.Nothing {
				break
			}
			// A step writes what Begin says, the result if there is one, and what After says.
			begun := r.begun
			for _, kept := range []struct{ result, state []byte }{{result, state}, {result, begun}, {r.result, begun}} {
				if writes == n {
					r.result, r.state, lost = kept.result, kept.state, true
					r.restart()
				}
				writes++
			}
		}
		result, failures := r.settle()
		for _, e := range failures {
			if e.Code != dps.CodeConflict { // the service may be at what the device has forgotten
				t.Errorf("write %d: %v", n, e)
			}
		}
		r.known(result)
		if !lost {
			break
		}
	}
}

func TestRegistrationIDIsTheCommonNameWhateverItsCase(t *testing.T) {
	r := newRig(t, dpstest.Options{})
	r.o.Registration.RegistrationID = "GW-17"
	r.restart()
	result := r.registered()
	r.known(result)
	r.o.Registration.RegistrationID = "gw-17"
	if step := r.next(); step.Do != dps.Nothing {
		t.Errorf("next step %+v: another case is the same device", step)
	}
}

func TestCertificateOfAnotherNameIsNotSent(t *testing.T) {
	r := newRig(t, dpstest.Options{})
	r.holds(r.ca.issue("gw-18"))
	e := r.fails(dps.CodeRegistrationID)
	if !errors.Is(e, dps.ErrDevice) || !strings.Contains(e.Error(), `"gw-18"`) || !strings.Contains(e.Error(), `"gw-17"`) {
		t.Errorf("error %v", e)
	}
	later := *r.ca
	later.now = func() time.Time { return r.clock.Now().Add(time.Hour) }
	r.holds(later.issue("gw-17"))
	r.fails(dps.CodeCertificate)
	r.holds(r.ca.issue("gw-17"))
	r.clock.pass(40 * 24 * time.Hour)
	r.fails(dps.CodeCertificate)
	if n := r.server.Connections(); n != 0 {
		t.Errorf("%d connections, want none", n)
	}
}

func TestCanceledStepCountsForNothing(t *testing.T) {
	r := newRig(t, dpstest.Options{})
	step, want := r.next(), r.o.Registration
	state := dps.State{}.Begin(want, step, 0, r.clock.Now())
	answer, err := r.client.Exchange(canceled(), step)
	if _, is := errors.AsType[*dps.Error](err); err == nil || is {
		t.Fatalf("error %v, want that of the context", err)
	}
	state, result := state.After(want, step, answer, err, 0, r.clock.Now())
	if result != nil || state.Failures != 0 || !state.NextTry.IsZero() || state.Problem != nil {
		t.Errorf("state %+v, result %v", state, result)
	}
}

// An agent that dies in each registration does not ask DPS at each start.
func TestRegistrationThatKillsTheAgentBacksOff(t *testing.T) {
	r := newRig(t, dpstest.Options{})
	var state dps.State
	var waits []time.Duration
	for range 8 {
		step := dps.Next(r.o.Registration, nil, dps.ParseState(state.Bytes()), r.clock.Now())
		waits = append(waits, max(0, step.At.Sub(r.clock.Now())))
		r.clock.reach(step.At)
		state = dps.ParseState(state.Bytes()).Begin(r.o.Registration, step, .5, r.clock.Now())
	}
	for i := 2; i < len(waits); i++ {
		if waits[i] < waits[i-1] || waits[i] > time.Hour {
			t.Fatalf("waits %v", waits)
		}
	}
	if waits[0] != 0 || waits[1] != 10*time.Second || waits[7] != time.Hour {
		t.Errorf("waits %v", waits)
	}
}

func TestResultIsPlainJSON(t *testing.T) {
	r := newRig(t, dpstest.Options{})
	r.registered()
	var fields map[string]any
	if err := json.Unmarshal(r.result, &fields); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"version", "hub", "device_id", "substatus", "registration_id", "id_scope", "endpoint", "sha256", "sha1", "registered",
		"created", "updated",
	} {
		if fields[name] == nil {
			t.Errorf("no field %q in %s", name, r.result)
		}
		delete(fields, name)
	}
	if len(fields) > 0 {
		t.Errorf("docs/onboarding.md does not have %v", fields)
	}
}
