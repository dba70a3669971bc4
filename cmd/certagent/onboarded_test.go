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
