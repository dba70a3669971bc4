package agent

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"testing"
	"time"

	"certagent/agent/config"
	"certagent/agent/onboard"
	"certagent/agent/onboard/awsiot"
	"certagent/agent/status"
	"certagent/store"
)

// TestAWSInStatus: that a new certificate is dropped is as it should be, until it has been for too long; and that the CA left out
// what the account's template may need is said before AWS says nothing.
func TestAWSInStatus(t *testing.T) {
	t.Parallel()
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	asked := pkix.Name{CommonName: "gw-1", Country: []string{"JP"}}
	der, err := asn1.Marshal(asked.ToRDNSequence())
	if err != nil {
		t.Fatal(err)
	}
	certificate := func(issued pkix.Name) *store.Generation {
		t.Helper()
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		ca := newFakeCA(t, day)
		leaf := ca.sign(t, &x509.Certificate{SerialNumber: big.NewInt(7), Subject: issued, NotBefore: now, NotAfter: now.Add(day)}, key.Public())
		return &store.Generation{Leaf: leaf, Meta: store.Meta{Issued: now, Request: &store.Request{SubjectDER: der}}}
	}
	p := config.Provisioning{Source: config.SourceAWS, Endpoint: "a1-ats.iot.example", Port: 8883}
	whole, lacking := certificate(asked), certificate(pkix.Name{CommonName: "gw-1"})
	known := awsiot.Registration{Endpoint: p.Endpoint, Port: p.Port, ClientID: "gw-1"}
	of := func(g *store.Generation) awsiot.Registration {
		r := known
		r.SHA256 = onboard.Thumbprint(g.Leaf)
		return r
	}
	result := func(g *store.Generation) []byte {
		return awsiot.Result{Version: 1, Registration: of(g), Connected: now, Began: now, Tries: 2}.Bytes()
	}
	tried := func(g *store.Generation, p onboard.Problem) []byte {
		return awsiot.State{Of: of(g), Began: now, Tries: 3, Dropped: 3, LastTry: now, NextTry: now.Add(time.Minute), Problem: &p}.Bytes()
	}
	for _, c := range []struct {
		name          string
		live          *store.Generation
		result, state []byte
		want          status.Onboarding
		codes         []string
	}{
		{"nothing to show", nil, nil, nil, status.Onboarding{State: status.Pending}, nil},
		{"not tried", whole, nil, nil, status.Onboarding{State: status.Pending, Why: "unknown"}, nil},
		{"taken", whole, result(whole), nil, status.Onboarding{State: status.Registered, DeviceID: "gw-1", Registered: now, SHA256: of(whole).SHA256}, nil},
		{"dropped, as is expected", whole, nil, tried(whole, onboard.Problem{Code: awsiot.CodeProvisioning, Notice: true}),
			status.Onboarding{State: status.Pending, Why: "unknown", Failures: 3, LastTry: now, NextTry: now.Add(time.Minute)}, []string{"aws-provisioning"}},
		{"dropped for too long", whole, nil, tried(whole, onboard.Problem{Code: awsiot.CodePending}),
			status.Onboarding{State: status.Failed, Why: "unknown", Failures: 3, LastTry: now, NextTry: now.Add(time.Minute)}, []string{"aws-pending"}},
		{"renewed", lacking, result(whole), tried(whole, onboard.Problem{Code: awsiot.CodePending}),
			status.Onboarding{State: status.Pending, Why: "renewed", DeviceID: "gw-1", Registered: now, SHA256: of(whole).SHA256}, []string{"aws-subject"}},
		{"taken although the CA left something out", lacking, result(lacking), nil,
			status.Onboarding{State: status.Registered, DeviceID: "gw-1", Registered: now, SHA256: of(lacking).SHA256}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			aws := cloudOf(p)
			aws.restore(c.result, c.state)
			aws.aim(p, c.live)
			got, problems := aws.describe(now)
			c.want.Cloud, c.want.Endpoint = "aws", p.Endpoint
			if got != c.want {
				t.Errorf("got  %+v\nwant %+v", got, c.want)
			}
			var codes []string
			for _, p := range problems {
				codes = append(codes, p.Code)
				if p.Code == awsiot.CodeSubject && !p.Since.Equal(now) {
					t.Errorf("%s since %v, want since the certificate was issued", p.Code, p.Since)
				}
			}
			if len(codes) != len(c.codes) || len(codes) > 0 && codes[0] != c.codes[0] {
				t.Errorf("problems %q, want %q", codes, c.codes)
			}
		})
	}
}

// TestAWSMended: what a person who reloads may have mended is tried at once, and nothing else: what is wrong with the cloud is no
// better for it.
func TestAWSMended(t *testing.T) {
	t.Parallel()
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	p := config.Provisioning{Source: config.SourceAWS, Endpoint: "a1-ats.iot.example", Port: 8883, ClientID: "gw-1"}
	ca := newFakeCA(t, day)
	live := &store.Generation{Leaf: ca.cert}
	of := awsiot.Registration{Endpoint: p.Endpoint, Port: p.Port, ClientID: "gw-1", SHA256: onboard.Thumbprint(ca.cert)}
	next := now.Add(time.Minute)
	for code, want := range map[string]time.Time{awsiot.CodeUntrusted: {}, awsiot.CodePending: next, awsiot.CodeUnavailable: next} {
		aws := cloudOf(p)
		aws.restore(nil, awsiot.State{Of: of, Failures: 3, LastTry: now, NextTry: next, Problem: &onboard.Problem{Code: code}}.Bytes())
		aws.aim(p, live)
		k := &keeper{agent: &Agent{o: Options{Now: func() time.Time { return now }}}, envoy: envoy{cloud: aws}}
		k.mended()
		mended := p
		mended.TrustedCerts = []string{"/roots.pem"}
		if !aws.aim(mended, live) {
			t.Error("another trust is no change")
		}
		if got := aws.next(now).at; !got.Equal(want) {
			t.Errorf("%s is tried at %v, want %v", code, got, want)
		}
	}
}
