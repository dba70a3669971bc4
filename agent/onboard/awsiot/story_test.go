package awsiot_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"certagent/agent/onboard"
	"certagent/agent/onboard/awsiot"
	"certagent/agent/onboard/awsiot/awstest"
	"certagent/est"
)

// A device's life at AWS: it is provisioned, renews twice, and each certificate is registered once, for the same thing.
// The first connection of each is dropped, in each of the ways that it can be.
func TestTwoRenewalsEachProvisionedOnce(t *testing.T) {
	for _, test := range []struct {
		version uint16
		port    int
		alert   bool
	}{
		{tls.VersionTLS13, awsiot.PortMQTT, false}, {tls.VersionTLS12, awsiot.PortMQTT, false},
		{tls.VersionTLS13, awsiot.PortHTTPS, true}, {tls.VersionTLS12, awsiot.PortHTTPS, true},
	} {
		t.Run(fmt.Sprintf("%s port %d alert %t", tls.VersionName(test.version), test.port, test.alert), func(t *testing.T) {
			r := newRig(t, awstest.Options{MaxVersion: test.version, Alert: test.alert}, jitp())
			r.o.Registration.Port = test.port
			var ids []string
			for generation, why := range []onboard.Reason{onboard.Unknown, onboard.Renewed, onboard.Renewed} {
				if generation > 0 {
					r.renew(gateway())
				}
				if step := r.next(); step.Why != why || !step.At.IsZero() {
					t.Fatalf("%+v, want %s at once", step, why)
				}
				began := r.now
				if s, err := r.try(); err == nil || s.Problem == nil || s.Problem.Code != awsiot.CodeProvisioning ||
					!s.Problem.Notice {
					t.Fatalf("the first connection: %v, %+v", err, s.Problem)
				}
				if s, err := r.try(); err != nil || s.Problem != nil {
					t.Fatalf("the second connection: %v, %+v", err, s.Problem)
				}
				ids = append(ids, r.id())
				got := awsiot.ParseResult(r.result)
				if got == nil || got.Registration != r.o.Registration || got.Tries != 2 || !got.Began.Equal(began) ||
					!got.Connected.Equal(r.now) {
					t.Errorf("result %s, began %s, now %s", r.result, began, r.now)
				}
				if c := r.server.Certificate(r.id()); c.Registered != 1 || c.Status != awstest.Active || c.Thing != "gw-1" {
					t.Errorf("%+v", c)
				}
				// Neither a boot nor a year later is a reason to connect.
				for _, now := range []time.Time{r.now, r.now.AddDate(1, 0, 0)} {
					if step := awsiot.Next(r.o.Registration, got, awsiot.State{}, now); step.Why != "" {
						t.Errorf("%+v", step)
					}
				}
			}
			if thing := r.server.Thing("gw-1"); !slices.Equal(thing.Principals, ids) || thing.Attributes["country"] != "JP" {
				t.Errorf("%+v, want certificates %q", thing, ids)
			}
			// What was deactivated by nobody stays: the old certificates are as good as the new.
			for _, id := range ids {
				if c := r.server.Certificate(id); c.Status != awstest.Active {
					t.Errorf("%+v", c)
				}
			}
			r.await(func(all []awstest.Connection) bool {
				return !slices.ContainsFunc(all, func(c awstest.Connection) bool {
					return c.Outcome == "" || c.Outcome == "admitted" && !c.Left
				})
			})
			for i, c := range r.server.Connections() {
				outcome := []string{"dropped", "admitted"}[i%2]
				if test.alert && i%2 == 0 {
					outcome = "handshake"
				}
				alpn := map[int]string{awsiot.PortHTTPS: awsiot.ALPN}[test.port]
				if c.Outcome != outcome || c.ServerName != awstest.DefaultEndpoint || c.Port != test.port ||
					outcome == "admitted" && (c.ALPN != alpn || c.Version != test.version || c.ClientID != "gw-1" || !c.Left ||
						c.Expiry != 0) ||
					!slices.Equal(c.Chain, []string{ids[i/2], onboard.Thumbprint(r.ca.cert)}) {
					t.Errorf("connection %d: %+v", i, c)
				}
			}
		})
	}
}

// AWS does not get to it at first: the device goes on, quickly for ten tries, then slowly, and says what it knows.
func TestSlowProvisioning(t *testing.T) {
	r := newRig(t, awstest.Options{Drops: 14}, jitp())
	start := r.now
	for try := 1; try <= 14; try++ {
		s, err := r.try()
		is(t, err, awsiot.ErrDropped, awsiot.CodePending)
		if quick := try < 10; s.Problem.Notice != quick || (s.Problem.Code == awsiot.CodeProvisioning) != quick {
			t.Errorf("try %d: %+v", try, s.Problem)
		}
		if try == 10 {
			if took := r.now.Sub(start); took < time.Minute || took > 5*time.Minute {
				t.Errorf("ten tries took %s", took)
			}
			start = r.now
			for _, words := range []string{"PENDING_ACTIVATION", "deactivated", "iot:Connect", "OverrideSettings"} {
				if !strings.Contains(s.Problem.Hint, words) {
					t.Errorf("the hint does not speak of %s: %s", words, s.Problem.Hint)
				}
			}
		}
	}
	if slowly := r.now.Sub(start); slowly != (1+2+4+8)*time.Minute {
		t.Errorf("four more tries took %s", slowly)
	}
	if tries := r.until(2); tries != 2 {
		t.Errorf("provisioned after %d more", tries)
	}
	if c := r.server.Certificate(r.id()); c.Registered != 1 || awsiot.ParseResult(r.result).Tries != 16 {
		t.Errorf("%+v, %s", c, r.result)
	}
}

// The subject lacks what the template uses: AWS says nothing, the certificate stays pending, and the pure check names it.
func TestSubjectLacksAParameter(t *testing.T) {
	r := newRig(t, awstest.Options{}, jitp())
	r.renew(name("CN", "gw-1", "serialNumber", "0001"))
	for range 12 {
		r.try()
	}
	if c := r.server.Certificate(r.id()); c.Status != awstest.PendingActivation || !strings.Contains(c.Failure, "::Country") {
		t.Errorf("%+v", c)
	}
	if p := awsiot.ParseState(r.state).Problem; p.Code != awsiot.CodePending || p.Notice {
		t.Errorf("%+v", p)
	}
	asked := awsiot.Subject{awsiot.CommonName: {"gw-1"}, awsiot.Country: {"JP"}}
	p := awsiot.CheckSubject(r.o.Certificate.Leaf, asked)
	if p == nil || p.Code != awsiot.CodeSubject ||
		!strings.Contains(p.Text, "C is missing (AWS::IoT::Certificate::Country)") {
		t.Errorf("%+v", p)
	}
	// Repaired by a new certificate, which begins anew.
	r.renew(gateway())
	if step := r.next(); !step.At.IsZero() {
		t.Errorf("%+v", step)
	}
	if tries := r.until(2); tries != 2 {
		t.Errorf("%d tries", tries)
	}
}

// Just-in-time registration: a rule of the account's activates the certificate when it gets to it.
func TestRegistrationByARule(t *testing.T) {
	events := make(chan awstest.Registration, 10)
	r := newRig(t, awstest.Options{OnRegistered: func(e awstest.Registration) { events <- e }}, nil)
	for range 11 {
		r.try()
	}
	e := <-events
	if e.CertificateID != r.id() || e.CertificateStatus != awstest.PendingActivation || len(events) > 0 {
		t.Fatalf("%+v, and %d more", e, len(events))
	}
	for _, err := range []error{r.server.AttachPolicy(e.CertificateID), r.server.SetStatus(e.CertificateID, awstest.Active)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if tries := r.until(1); tries != 1 {
		t.Errorf("%d tries", tries)
	}
}

// The rule activates first, and attaches the policy a moment later: what AWS says in between is told, and does not slow down
// the tries of a certificate that is new.
func TestPolicyComesLater(t *testing.T) {
	r := newRig(t, awstest.Options{}, nil)
	r.try()
	if err := r.server.SetStatus(r.id(), awstest.Active); err != nil {
		t.Fatal(err)
	}
	for try := 2; try <= 4; try++ {
		s, err := r.try()
		is(t, err, awsiot.ErrDenied, awsiot.CodeDenied)
		if s.Problem.Code != awsiot.CodeDenied || s.Problem.Notice || s.Dropped != try || s.NextTry.Sub(r.now) > 8*time.Second {
			t.Errorf("try %d: %+v", try, s)
		}
	}
	if err := r.server.AttachPolicy(r.id()); err != nil {
		t.Fatal(err)
	}
	r.until(1)
}

// A common name that is none of a thing's is not told from other reasons by the wire, but by the hint.
func TestNameThatThingsDoNotHave(t *testing.T) {
	r := newRig(t, awstest.Options{}, jitp())
	r.renew(name("CN", "gw-1.example.com", "C", "JP", "serialNumber", "0001"))
	r.o.Registration.ClientID = "gw-1.example.com"
	for range 10 {
		r.try()
	}
	if c := r.server.Certificate(r.id()); !strings.Contains(c.Failure, `cannot be called "gw-1.example.com"`) {
		t.Errorf("%+v", c)
	}
	if p := awsiot.ParseState(r.state).Problem; !strings.Contains(p.Hint, "a common name with a dot") {
		t.Errorf("%+v", p)
	}
}

// An application has the device's own client id, and the agent one of its own, which the policy allows: no session is shared.
func TestClientIDOfItsOwn(t *testing.T) {
	r := newRig(t, awstest.Options{Suffix: "-certagent"}, jitp())
	r.o.Registration.ClientID = "gw-1-certagent"
	if tries := r.until(2); tries != 2 {
		t.Errorf("%d tries", tries)
	}
	if got := awsiot.ParseResult(r.result).ClientID; got != "gw-1-certagent" {
		t.Errorf("%s", got)
	}
	r.renew(gateway())
	r.until(2)
	r.o.Registration.ClientID = "gw-1-somebody"
	_, err := r.try()
	is(t, err, awsiot.ErrDenied, awsiot.CodeDenied)
}

// A result, and the tries, are those of an endpoint in whatever letters it is written.
func TestEndpointInOtherLetters(t *testing.T) {
	now := time.Now()
	s, _ := awsiot.State{}.Begin(registration, .5, now).After(registration, awsiot.Step{Why: onboard.Unknown},
		&awsiot.Error{Class: awsiot.ErrDropped, Code: awsiot.CodePending}, .5, now)
	want := registration
	want.Endpoint = strings.ToUpper(want.Endpoint)
	if s = s.Begin(want, .5, now); s.Of != want || s.Tries != 2 || s.Dropped != 1 {
		t.Errorf("%+v", s)
	}
}

// What AWS says is told at once, and tried again all the same: a policy is repaired there, and nobody tells the device.
func TestDenied(t *testing.T) {
	r := newRig(t, awstest.Options{}, jitp())
	r.until(2)
	r.o.Registration.ClientID = "somebody-else"
	if step := r.next(); step.Why != onboard.Changed {
		t.Fatalf("%+v", step)
	}
	s, err := r.try()
	if e := is(t, err, awsiot.ErrDenied, awsiot.CodeDenied); e.Reason != 0x87 ||
		!strings.Contains(err.Error(), `"somebody-else"`) || !strings.Contains(err.Error(), "not authorized") {
		t.Errorf("%#v", e)
	}
	if s.Problem.Notice || s.Problem.Code != awsiot.CodeDenied || s.NextTry.Sub(r.now) != time.Minute {
		t.Errorf("%+v", s)
	}
	since := s.Problem.Since
	if s, _ = r.try(); !s.Problem.Since.Equal(since) || s.NextTry.Sub(r.now) != 2*time.Minute {
		t.Errorf("%+v", s)
	}
	if awsiot.ParseResult(r.result).ClientID != "gw-1" {
		t.Error("the result went before there was another")
	}
}

// A person asks for it: the certificate is one that AWS took before, so that a connection which is dropped is no matter of
// provisioning.
func TestAskedAgainAfterDeactivation(t *testing.T) {
	r := newRig(t, awstest.Options{}, jitp())
	r.until(2)
	r.state = awsiot.ParseState(r.state).Ask().Bytes()
	if tries := r.until(1); tries != 1 || r.server.Certificate(r.id()).Registered != 1 {
		t.Errorf("%d tries", tries)
	}
	if err := r.server.SetStatus(r.id(), awstest.Inactive); err != nil {
		t.Fatal(err)
	}
	r.state = awsiot.ParseState(r.state).Ask().Bytes()
	s, err := r.try()
	is(t, err, awsiot.ErrDropped, awsiot.CodePending)
	if s.Problem.Notice || !strings.Contains(s.Problem.Hint, "took this certificate before") {
		t.Errorf("%+v", s.Problem)
	}
	if step := r.next(); step.Why != onboard.Asked {
		t.Errorf("the order is forgotten: %+v", step)
	}
	if err := r.server.SetStatus(r.id(), awstest.Active); err != nil {
		t.Fatal(err)
	}
	r.until(1)
}

// A CA that the account does not have, or that is not active there, shows as TLS that ends over the certificate.
func TestUnknownCA(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		r := newRig(t, awstest.Options{MaxVersion: version}, jitp())
		if err := r.server.UpdateCA(r.server.CAs()[0].ID, awstest.Inactive, nil, nil); err != nil {
			t.Fatal(err)
		}
		var s awsiot.State
		for try := range 10 {
			var err error
			s, err = r.try()
			is(t, err, awsiot.ErrDropped, awsiot.CodeCertificateRefused)
			if s.Problem.Notice != (try < 9) {
				t.Errorf("try %d: %+v", try+1, s.Problem)
			}
		}
		if s.Problem.Code != awsiot.CodeCertificateRefused || !strings.Contains(s.Problem.Hint, "register the CA") {
			t.Errorf("%+v", s.Problem)
		}
	}
}

// The endpoint is verified before anything is shown to it, and by nothing but what is meant for it.
func TestUntrusted(t *testing.T) {
	r := newRig(t, awstest.Options{}, jitp())
	for what, roots := range map[string]*x509.CertPool{"the system's": nil, "the CA of the devices": x509.NewCertPool()} {
		if r.o.Roots = roots; roots != nil {
			roots.AddCert(r.ca.cert)
		}
		s, err := r.try()
		is(t, err, awsiot.ErrUntrusted, awsiot.CodeUntrusted)
		if s.Dropped != 0 || s.Problem.Notice {
			t.Errorf("%s: %+v", what, s)
		}
	}
	for _, c := range r.server.Connections() {
		if len(c.Chain) > 0 {
			t.Errorf("the certificate was shown: %+v", c)
		}
	}
}

// A port that is blocked, a network that is gone: one back-off, which neither a certificate's quick tries nor another way
// has to wait for.
func TestUnavailable(t *testing.T) {
	r := newRig(t, awstest.Options{}, jitp())
	good := r.o.Dialer
	r.o.Dialer = &est.Dialer{Proxy: fixed(t, "http://127.0.0.1:1")} // a port that is given to nobody who does not ask for it
	for _, wait := range []time.Duration{10 * time.Second, 30 * time.Second, 90 * time.Second} {
		s, err := r.try()
		is(t, err, awsiot.ErrUnavailable, awsiot.CodeUnavailable)
		if got := s.NextTry.Sub(r.now); got != wait || s.Dropped != 0 {
			t.Errorf("waits %s, want %s", got, wait)
		}
	}
	r.o.Dialer, r.o.Registration.Port = good, awsiot.PortHTTPS
	if step := r.next(); !step.At.IsZero() {
		t.Errorf("%+v", step)
	}
	if tries := r.until(2); tries != 2 {
		t.Errorf("%d tries", tries)
	}
}

// An agent that is stopped in the middle has tried nothing; one that dies goes on where it was, and not at once.
func TestStoppedAndKilled(t *testing.T) {
	r := newRig(t, awstest.Options{}, jitp())
	want, step := r.o.Registration, r.next()
	begun := awsiot.State{}.Begin(want, .5, r.now)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(fmt.Errorf("stopped by a signal"))
	err := awsiot.Connect(ctx, r.o)
	if err == nil || !strings.Contains(err.Error(), "stopped by a signal") {
		t.Fatalf("%v", err)
	}
	if s, result := begun.After(want, step, err, .5, r.now); result != nil || s.Failures+s.Dropped+s.Tries != 0 ||
		!s.NextTry.IsZero() || s.Problem != nil {
		t.Errorf("%+v, %+v", s, result)
	}
	s, now := awsiot.State{}, r.now
	for _, wait := range []time.Duration{10 * time.Second, 30 * time.Second, 90 * time.Second} { // killed in each
		s = awsiot.ParseState(s.Begin(want, .5, now).Bytes())
		next := awsiot.Next(want, nil, s, now)
		if got := next.At.Sub(now); got != wait {
			t.Errorf("after a crash it waits %s, want %s", got, wait)
		}
		now = next.At
	}
}
