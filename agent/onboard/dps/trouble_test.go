package dps_test

import (
	"crypto/tls"
	"errors"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"certagent/agent/onboard"
	"certagent/agent/onboard/dps"
	"certagent/agent/onboard/dps/dpstest"
)

// Every error that DPS is known to give has a class, a code, a remedy, and says so in one line.
func TestErrorsOfTheService(t *testing.T) {
	for _, tt := range []struct {
		name   string
		op     string
		answer dpstest.Fault
		class  error
		code   string
		text   string // a part of the error
		hint   string // a part of the remedy
	}{
		{"400", dpstest.OpRegister, dpstest.Error(400004, "Bad body"), dps.ErrRejected, dps.CodeRejected, "HTTP 400, error 400004",
			"registration_id"},
		{"401002", dpstest.OpRegister, dpstest.Error(401002, "Unauthorized"), dps.ErrUnauthorized, dps.CodeUnauthorized,
			`error 401002): "Unauthorized" (tracking id 11111111-2222-4333-8444-555555555555)`, "group enrolment: "},
		{"401002 at a poll", dpstest.OpPoll, dpstest.Error(401002, "Unauthorized"), dps.ErrUnauthorized, dps.CodeUnauthorized,
			"error 401002", "individual enrolment: "},
		{"401 without a body", dpstest.OpRegister, dpstest.Status(401, nil), dps.ErrUnauthorized, dps.CodeUnauthorized, "(HTTP 401)",
			"group enrolment: "},
		{"403", dpstest.OpRegister, dpstest.Error(403001, "Forbidden"), dps.ErrUnauthorized, dps.CodeForbidden, "HTTP 403", "IP filter"},
		{"404", dpstest.OpRegister, dpstest.Error(404002, "No such scope"), dps.ErrRejected, dps.CodeNotFound, "HTTP 404", "id_scope"},
		{"404 at a poll", dpstest.OpPoll, dpstest.Error(404203, "Gone"), dps.ErrUnavailable, dps.CodeOperationLost, "HTTP 404", "anew"},
		{"405", dpstest.OpRegister, dpstest.Error(405001, "No"), dps.ErrRejected, dps.CodeRejected, "HTTP 405", "endpoint of DPS"},
		{"408", dpstest.OpRegister, dpstest.Status(408, nil), dps.ErrUnavailable, dps.CodeUnavailable, "HTTP 408", "tried again"},
		{"409203", dpstest.OpRegister, dpstest.Error(409203, "Busy"), dps.ErrUnavailable, dps.CodeConflict, "error 409203",
			"another device"},
		{"412", dpstest.OpRegister, dpstest.Error(412001, "ETag"), dps.ErrUnavailable, dps.CodeConflict, "HTTP 412", "another device"},
		{"415", dpstest.OpRegister, dpstest.Error(415001, "Type"), dps.ErrRejected, dps.CodeRejected, "HTTP 415", "payload"},
		{"429", dpstest.OpPoll, dpstest.Error(429001, "Slow down", "Retry-After", "30"), dps.ErrUnavailable, dps.CodeThrottled,
			"HTTP 429, error 429001, try again in 30s", "tried again"},
		{"500", dpstest.OpPoll, dpstest.Error(500001, "Internal"), dps.ErrUnavailable, dps.CodeUnavailable, "HTTP 500", "tried again"},
		{"503 of a proxy", dpstest.OpRegister, dpstest.Status(503, "<html>down</html>"), dps.ErrUnavailable, dps.CodeUnavailable,
			"HTTP 503", "tried again"},
		{"number in the header alone", dpstest.OpRegister, dpstest.Status(401, "no JSON", "x-ms-error-code", "401002"),
			dps.ErrUnauthorized, dps.CodeUnauthorized, "error 401002", "individual enrolment: "},
		{"number of another status", dpstest.OpRegister, dpstest.Status(401, nil, "x-ms-error-code", "500001"),
			dps.ErrUnauthorized, dps.CodeUnauthorized, "(HTTP 401)", "individual enrolment: "},
		{"redirect", dpstest.OpRegister, dpstest.Status(307, nil, "Location", "https://elsewhere.test/"), dps.ErrBadResponse,
			dps.CodeBadResponse, "redirects", "captive portal"},
		{"204", dpstest.OpPoll, dpstest.Status(204, nil), dps.ErrBadResponse, dps.CodeBadResponse, "neither", "captive portal"},
		{"disabled", dpstest.OpPoll, dpstest.Status(200, map[string]any{"operationId": "4.x", "status": "disabled"}),
			dps.ErrUnauthorized, dps.CodeDisabled, "disabled", "individual enrolment"},
		{"disabled, spelt otherwise", dpstest.OpPoll, dpstest.Status(200, map[string]any{"status": "Disabled"}), dps.ErrUnauthorized,
			dps.CodeDisabled, "disabled", "individual enrolment"},
		{"failed 401002", dpstest.OpPoll, failed(401002, "CA certificate not found"), dps.ErrUnauthorized, dps.CodeUnauthorized,
			`"CA certificate not found"`, "group enrolment: "},
		{"failed 400209", dpstest.OpPoll, failed(400209, "Custom allocation failed"), dps.ErrRejected, dps.CodeAllocation,
			"the registration failed", "webhook"},
		{"failed 404", dpstest.OpPoll, failed(404201, "Not found"), dps.ErrRejected, dps.CodeNotFound, "error 404201", "id_scope"},
		{"failed 500", dpstest.OpPoll, failed(500002, "Internal"), dps.ErrUnavailable, dps.CodeUnavailable, "error 500002",
			"tried again"},
		{"failed without a reason", dpstest.OpPoll, dpstest.Status(200, map[string]any{"operationId": "4.x", "status": "failed"}),
			dps.ErrRejected, dps.CodeAllocation, "the registration failed", "hubs of the enrolment"},
		{"failed with a reason of its own kind", dpstest.OpPoll, failed("E_HUB", "No hub"), dps.ErrRejected, dps.CodeAllocation,
			`"No hub"`, "hubs of the enrolment"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, dpstest.Options{})
			r.server.Next(tt.op, tt.answer)
			if tt.op == dpstest.OpPoll {
				r.step()
			}
			e := r.fails(tt.code)
			if !errors.Is(e, tt.class) {
				t.Errorf("class %v, want %v", e.Class, tt.class)
			}
			if !strings.Contains(e.Error(), tt.text) || strings.Contains(e.Error(), "\n") {
				t.Errorf("%q lacks %q", e, tt.text)
			}
			if !strings.Contains(e.Hint, tt.hint) {
				t.Errorf("remedy %q lacks %q", e.Hint, tt.hint)
			}
			if e.Code == dps.CodeUnauthorized && (!strings.Contains(e.Hint, "group enrolment") ||
				!strings.Contains(e.Hint, "individual enrolment")) {
				t.Errorf("remedy %q does not tell the two kinds of enrolment apart", e.Hint)
			}
			p := dps.ParseState(r.state).Problem
			if p == nil || p.Code != e.Code || p.Text != e.Error() || p.Hint != e.Hint || !p.Since.Equal(r.clock.Now()) {
				t.Errorf("problem %+v", p)
			}
			if step := r.next(); step.At.Before(r.clock.Now().Add(5 * time.Second)) {
				t.Errorf("the next try comes at once: %+v", step)
			}
			r.clock.pass(24 * time.Hour)
			r.known(r.registered())
			if p := dps.ParseState(r.state).Problem; p != nil {
				t.Errorf("problem %+v after success", p)
			}
		})
	}
}

func failed(code any, message string) dpstest.Fault {
	return dpstest.Status(200, map[string]any{
		"operationId": "4.x", "status": "failed",
		"registrationState": map[string]any{"status": "failed", "errorCode": code, "errorMessage": message},
	})
}

// The group enrolment names the root, and the device does not show what is in between.
func TestWrongChain(t *testing.T) {
	r := newRig(t, dpstest.Options{})
	whole := *r.o.Certificate
	alone := whole
	alone.Certificate = alone.Certificate[:1]
	r.holds(&alone)
	e := r.fails(dps.CodeUnauthorized)
	for _, part := range []string{"showed its own certificate alone", "device issuing", "intermediate", "individual enrolment"} {
		if !strings.Contains(e.Hint, part) {
			t.Errorf("remedy %q lacks %q", e.Hint, part)
		}
	}
	if e.DPS != 401002 {
		t.Errorf("error code %d, want 401002", e.DPS)
	}
	r.holds(&whole) // the same certificate, so the back-off stands
	if step := r.next(); step.At.Sub(r.clock.Now()) < 30*time.Second {
		t.Errorf("a refusal is tried again at %v", step.At)
	}
	r.known(r.registered())
}

func TestCAThatIsNotEnrolled(t *testing.T) {
	r := newRig(t, dpstest.Options{})
	r.holds(newCA(t, r.clock.Now, "another root", nil).issue("gw-17"))
	r.fails(dps.CodeUnauthorized)
}

func TestDisabledDevice(t *testing.T) {
	r := newRig(t, dpstest.Options{})
	r.server.EnrolIndividual("gw-17", dpstest.Enrolment{Disabled: true}, r.o.Certificate.Leaf)
	e := r.fails(dps.CodeUnauthorized)
	if !strings.Contains(e.Hint, "a disabled individual enrolment keeps a device out of an enabled group enrolment") {
		t.Errorf("remedy %q", e.Hint)
	}
	_, err := r.step()
	first := dps.ParseState(r.state).Problem.Since
	if err == nil || first.Equal(r.clock.Now()) {
		t.Errorf("the problem began anew with its second failure: %v, %v", first, err)
	}
	r.server.RemoveIndividual("gw-17")
	r.known(r.registered())
}

// An individual enrolment holds one certificate. The renewed one is refused until somebody puts it in.
func TestIndividualEnrolmentAfterRenewal(t *testing.T) {
	r := newRig(t, dpstest.Options{})
	r.server.EnrolIndividual("gw-17", dpstest.Enrolment{DeviceID: "pump-4"}, r.o.Certificate.Leaf)
	first := r.registered()
	if first.DeviceID != "pump-4" {
		t.Errorf("device id %q, want the one of the enrolment", first.DeviceID)
	}
	r.known(first)
	before := r.o.Certificate.Leaf
	r.holds(r.ca.issue("gw-17"))
	e := r.fails(dps.CodeUnauthorized)
	if !strings.HasPrefix(e.Hint, "individual enrolment: it still holds the certificate before the renewal") ||
		!strings.Contains(e.Hint, r.o.Registration.SHA256) || !strings.Contains(e.Hint, "group enrolment") {
		t.Errorf("remedy %q", e.Hint)
	}
	if got := dps.ParseResult(r.result); got == nil || *got != *first {
		t.Errorf("the result before is gone: %v", got)
	}
	r.server.EnrolIndividual("gw-17", dpstest.Enrolment{DeviceID: "pump-4"}, before, r.o.Certificate.Leaf)
	r.known(r.registered())
}

func TestIndividualEnrolmentByCA(t *testing.T) {
	r := newRig(t, dpstest.Options{})
	r.server.EnrolIndividual("gw-17", dpstest.Enrolment{DeviceID: "pump-4"}, r.ca.cert)
	r.registered()
	r.holds(r.ca.issue("gw-17"))
	r.known(r.registered())
}

func TestEndpointThatIsNotTrusted(t *testing.T) {
	r := newRig(t, dpstest.Options{})
	r.o.Roots = pool(r.ca.cert) // the CA of EST vouches for no cloud
	r.restart()
	e := r.fails(dps.CodeUntrusted)
	if !errors.Is(e, dps.ErrUntrusted) || !strings.Contains(e.Hint, "trusted_certs of [provisioning]") {
		t.Errorf("%v; %s", e, e.Hint)
	}
	if n := len(r.server.Requests()); n != 0 {
		t.Errorf("it was sent %d requests", n)
	}
}

func TestEndpointThatEndsTLSOverTheCertificate(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		r := newRig(t, dpstest.Options{})
		front := refusing(t, version)
		r.o.Registration.Endpoint, r.o.Roots = front.URL, pool(front.Certificate())
		r.restart()
		e := r.fails(dps.CodeUnauthorized)
		if !errors.Is(e, dps.ErrUnauthorized) || !strings.Contains(e.Hint, "group enrolment") {
			t.Errorf("%v; %s", e, e.Hint)
		}
	}
}

// A proxy that ends TLS keeps the device's certificate to itself.
func TestProxyThatEndsTLS(t *testing.T) {
	r := newRig(t, dpstest.Options{})
	front := anonymous(t, http.StatusUnauthorized)
	r.o.Registration.Endpoint, r.o.Roots = front.URL, pool(front.Certificate())
	r.restart()
	if e := r.fails(dps.CodeUnauthorized); !strings.Contains(e.Hint, "pass TLS through") {
		t.Errorf("remedy %q", e.Hint)
	}
}

func TestNobodyIsThere(t *testing.T) {
	r := newRig(t, dpstest.Options{})
	r.server.Close()
	if e := r.fails(dps.CodeUnavailable); !errors.Is(e, dps.ErrUnavailable) {
		t.Errorf("class %v", e.Class)
	}
}

func TestSettingsThatNoServiceHas(t *testing.T) {
	for _, change := range []func(*dps.Registration){
		func(g *dps.Registration) { g.Endpoint = "http://localhost" },
		func(g *dps.Registration) { g.Endpoint = "https://user:geheim@localhost" },
		func(g *dps.Registration) { g.Endpoint = "https://localhost/path" },
		func(g *dps.Registration) { g.Endpoint = "https://localhost?q" },
		func(g *dps.Registration) { g.Endpoint = "https://" },
		func(g *dps.Registration) { g.IDScope = "" },
		func(g *dps.Registration) { g.IDScope = ".." },
		func(g *dps.Registration) { g.IDScope = "0ne/x" },
		func(g *dps.Registration) { g.RegistrationID = "gw 17" },
		func(g *dps.Registration) { g.SHA256 = strings.Repeat("0", 64) },
	} {
		r := newRig(t, dpstest.Options{})
		change(&r.o.Registration)
		r.restart()
		_, err := r.step()
		if e := r.failure(err); !errors.Is(e, dps.ErrDevice) || strings.Contains(e.Err.Error(), "geheim") {
			t.Errorf("%+v: %v", r.o.Registration, e)
		}
		if n := r.server.Connections(); n != 0 {
			t.Errorf("%+v: %d connections", r.o.Registration, n)
		}
	}
}

func TestRegistrationIDs(t *testing.T) {
	for id, good := range map[string]bool{
		"a": true, "GW-17": true, "a.b_c:d-e": true, "0": true, "a-": true, "-": true, strings.Repeat("a", 128): true,
		"": false, "a.": false, "a_": false, "a:": false, "a b": false, "a/b": false, "a%2f": false, "ä": false, "a\n": false,
		"..": false, strings.Repeat("a", 129): false, "a@b": false,
	} {
		if err := dps.CheckRegistrationID(id); (err == nil) != good {
			t.Errorf("%q: %v", id, err)
		}
	}
}

func TestReasonsToRegister(t *testing.T) {
	want := dps.Registration{Endpoint: "https://a.test", IDScope: "0neA", RegistrationID: "gw-17", SHA256: "aa"}
	had := &dps.Result{Registration: want}
	change := func(f func(*dps.Registration)) dps.Registration { g := want; f(&g); return g }
	for _, tt := range []struct {
		name   string
		want   dps.Registration
		result *dps.Result
		state  dps.State
		reason onboard.Reason
	}{
		{"no certificate", change(func(g *dps.Registration) { g.SHA256 = "" }), nil, dps.State{Again: true}, ""},
		{"no result", want, nil, dps.State{}, onboard.Unknown},
		{"all is well", want, had, dps.State{}, ""},
		{"failures of old", want, had, dps.State{Failures: 3, Operation: &dps.Operation{ID: "4.x"}}, ""},
		{"another endpoint", change(func(g *dps.Registration) { g.Endpoint = "https://b.test" }), had, dps.State{}, onboard.Changed},
		{"another scope", change(func(g *dps.Registration) { g.IDScope = "0neB" }), had, dps.State{}, onboard.Changed},
		{"another name", change(func(g *dps.Registration) { g.RegistrationID = "gw-18" }), had, dps.State{}, onboard.Changed},
		{"another case", change(func(g *dps.Registration) { g.RegistrationID = "GW-17" }), had, dps.State{}, ""},
		{"another certificate", change(func(g *dps.Registration) { g.SHA256 = "bb" }), had, dps.State{Again: true}, onboard.Renewed},
		{"asked", want, had, dps.State{Again: true}, onboard.Asked},
	} {
		if got := dps.Due(tt.want, tt.result, tt.state); got != tt.reason {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.reason)
		}
	}
}

// Every code has its line in the documentation.
func TestDocumentationHasEveryCode(t *testing.T) {
	page, err := os.ReadFile("../../../docs/onboarding.md")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("errors.go")
	if err != nil {
		t.Fatal(err)
	}
	var codes []string
	for word := range strings.FieldsSeq(string(source)) {
		if code, is := strings.CutPrefix(word, `"dps-`); is {
			codes = append(codes, "`dps-"+strings.TrimSuffix(code, `"`)+"`")
		}
	}
	if len(codes) < 15 || !slices.Contains(codes, "`"+dps.CodeUnauthorized+"`") {
		t.Fatalf("codes %v", codes)
	}
	for _, code := range codes {
		if !strings.Contains(string(page), code) {
			t.Errorf("docs/onboarding.md does not have %s", code)
		}
	}
}

// The example in the documentation is a result.
func TestDocumentedResult(t *testing.T) {
	page, err := os.ReadFile("../../../docs/onboarding.md")
	if err != nil {
		t.Fatal(err)
	}
	_, example, _ := strings.Cut(string(page), "```json\n")
	example, _, _ = strings.Cut(example, "```")
	result := dps.ParseResult([]byte(example))
	if result == nil {
		t.Fatalf("not a result: %s", example)
	}
	if string(result.Bytes()) != example {
		t.Errorf("written it is %s", result.Bytes())
	}
}
