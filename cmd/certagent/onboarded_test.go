package main

import (
	"io"
	"strings"
	"testing"

	"certagent/agent/status"
)

// TestOnboardNamesItsProblem: who asks for a registration is told what kept the certificate from the cloud, and not what else is wrong
// with it; unless that is why there is none.
func TestOnboardNamesItsProblem(t *testing.T) {
	t.Parallel()
	est := status.Problem{Code: "est-unavailable", Text: "the EST server is away"}
	cloud := status.Problem{Code: "dps-unauthorized", Text: "DPS refused the device"}
	for want, problems := range map[string][]status.Problem{
		"not registered: DPS refused the device": {est, cloud},
		"not registered: the EST server is away": {{Code: "altered-by-ca", Text: "a notice", Notice: true}, est},
		"not registered yet":                     nil,
	} {
		c := status.Certificate{ID: "device-id", Problems: problems, Onboarding: &status.Onboarding{Cloud: "dps", State: status.Failed}}
		err := (&program{stdout: io.Discard}).onboarded(c, false)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// TestOnboardWaitsOn: who asks for a registration waits for all that comes of it by itself. A renewal that comes as it ends has
// the cloud told once more, and the answer is that of the new certificate.
func TestOnboardWaitsOn(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		o    status.Onboarding
		want bool
	}{
		{status.Onboarding{State: status.Pending, Why: "unknown", Ordered: true}, true},
		{status.Onboarding{State: status.Registered, Why: "asked", Ordered: true}, true},
		{status.Onboarding{State: status.Failed, Why: "renewed", Ordered: true}, true}, // of the try before
		{status.Onboarding{State: status.Pending, Why: "renewed"}, true},               // overtaken by a renewal
		{status.Onboarding{State: status.Pending}, false},                              // there is no certificate
		{status.Onboarding{State: status.Failed, Why: "renewed"}, false},
		{status.Onboarding{State: status.Registered, Why: "asked"}, false},
		{status.Onboarding{State: status.Registered}, false},
	} {
		if got := onItsWay(&c.o); got != c.want {
			t.Errorf("%+v: %v", c.o, got)
		}
	}
}
