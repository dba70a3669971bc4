package check

import (
	"context"
	"crypto/x509"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"certagent/agent"
	"certagent/agent/onboard/dps/dpstest"
	"certagent/agent/status"
)

// said is what the checks of a cloud found, in short: "tcp ok, tls failed".
func said(results []*Result) string {
	var words []string
	for _, r := range results {
		words = append(words, strings.TrimPrefix(r.ID, "onboard-")+" "+string(r.Verdict))
	}
	return strings.Join(words, ", ")
}

// TestCloud: each way in which the endpoint of a cloud cannot be had is the failure of one step, with what to do; the service sees
// no certificate and no request.
func TestCloud(t *testing.T) {
	t.Parallel()
	service := dpstest.New(t, dpstest.Options{})
	roots, others := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(service.Root)
	portal, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer portal.Close()
	go func() { // ends when the listener is closed
		for {
			c, err := portal.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("HTTP/1.1 302 Found\r\nLocation: http://portal.example/\r\n\r\n"))
			c.Close()
		}
	}()
	const nobody = "127.0.0.1:1" // a port that is given to nobody who does not ask for it
	for name, c := range map[string]struct {
		look agent.CloudLook
		want string
	}{
		"well":             {agent.CloudLook{Address: service.Addr(), Roots: roots}, "resolve ok, tcp ok, tls ok, trust ok"},
		"not trusted":      {agent.CloudLook{Address: service.Addr(), Roots: others}, "resolve ok, tcp ok, tls ok, trust failed"},
		"a captive portal": {agent.CloudLook{Address: portal.Addr().String(), Roots: roots}, "resolve ok, tcp ok, tls failed, trust skipped"},
		"nobody there":     {agent.CloudLook{Address: nobody, Roots: roots}, "resolve ok, tcp failed, tls skipped, trust skipped"},
		"a blank":          {agent.CloudLook{Blank: true}, "resolve skipped, tcp skipped, tls skipped, trust skipped"},
	} {
		t.Run(name, func(t *testing.T) {
			p := &probes{Options: Options{Now: time.Now(), Timeout: time.Minute}}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			results := p.cloud(ctx, &c.look)
			if got := said(results); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
			for _, r := range results {
				if r.Text == "" || r.Verdict == Failed && r.Hint == "" {
					t.Errorf("%+v says too little", r)
				}
			}
			p.Offline = true
			if got := said(p.cloud(ctx, &c.look)); strings.Contains(got, "ok") || strings.Contains(got, "failed") {
				t.Errorf("--offline: %s", got)
			}
		})
	}
	if asked := service.Requests(); len(asked) != 0 {
		t.Errorf("the service was asked for %v", asked)
	}
	// A resolver is not asked by a test.
	unresolved := cloudContact{dialled: &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "dps.example", IsNotFound: true}}}
	if got := said(judgeCloud(&agent.CloudLook{}, unresolved, false)); got != "resolve failed, tcp skipped, tls skipped, trust skipped" {
		t.Errorf("no such name: %s", got)
	}
	p := &probes{Options: Options{Now: time.Now(), Timeout: time.Minute}, clock: agent.ClockLook{Doubted: "it is 1970"}}
	if got := said(p.cloud(t.Context(), &agent.CloudLook{Address: service.Addr(), Roots: others})); got != "resolve ok, tcp ok, tls ok, trust skipped" {
		t.Errorf("with a clock that is doubted: %s", got)
	}
}

// TestCloudKnows: what the agent has told the cloud is one check, and the problem with it no other.
func TestCloudKnows(t *testing.T) {
	t.Parallel()
	refused := status.Problem{Code: "dps-unauthorized", Text: "DPS refused the device", Hint: "see the enrolment"}
	for _, c := range []struct {
		state    string
		problems []status.Problem
		want     Verdict
	}{
		{status.Registered, nil, OK},
		{status.Pending, nil, Skipped}, // there is no certificate
		{status.Failed, []status.Problem{refused}, Failed},
		{status.Registered, []status.Problem{refused}, Failed}, // it was asked for again
		{status.Pending, []status.Problem{{Code: "dps-x", Text: "goes on", Notice: true}}, Warning},
	} {
		p := &probes{Options: Options{Now: time.Now()}}
		d := &status.Certificate{ID: "device-id", State: status.Valid, Problems: c.problems, NotAfter: time.Now().Add(time.Hour),
			Onboarding: &status.Onboarding{Cloud: "dps", State: c.state, Endpoint: "https://dps.example"}}
		if r := p.known(d); r.Verdict != c.want || r.Subject != "https://dps.example" {
			t.Errorf("%s: %+v", c.state, r)
		}
		for _, r := range p.certificate(d, nil) {
			if r.ID == "certificate-problem" {
				t.Errorf("%s: told twice: %+v", c.state, r)
			}
		}
	}
	// A second one is not lost.
	p := &probes{Options: Options{Now: time.Now()}}
	subject := status.Problem{Code: "dps-y", Text: "something else", Hint: "see to it"}
	d := &status.Certificate{ID: "device-id", State: status.Valid, NotAfter: time.Now().Add(time.Hour),
		Problems: []status.Problem{refused, subject}, Onboarding: &status.Onboarding{Cloud: "dps", State: status.Failed}}
	if !slices.ContainsFunc(p.certificate(d, nil), func(r *Result) bool { return strings.Contains(r.Text, "something else") }) {
		t.Error("of two problems with the cloud check tells one")
	}
}
