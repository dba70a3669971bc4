package awsiot_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"slices"
	"strings"
	"testing"
	"time"

	"certagent/agent/onboard"
	"certagent/agent/onboard/awsiot"
)

var registration = awsiot.Registration{
	Endpoint: "a-ats.iot.eu-central-1.amazonaws.com", Port: 8883, ClientID: "gw-1", SHA256: strings.Repeat("0a", 32),
}

func result() *awsiot.Result {
	return &awsiot.Result{Version: 1, Registration: registration, Tries: 2,
		Connected: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC), Began: time.Date(2030, 1, 2, 3, 4, 1, 0, time.UTC)}
}

func TestDue(t *testing.T) {
	for _, test := range []struct {
		what   string
		change func(*awsiot.Registration, *awsiot.State)
		want   onboard.Reason
	}{
		{"a boot", func(*awsiot.Registration, *awsiot.State) {}, ""},
		{"failures of another day", func(_ *awsiot.Registration, s *awsiot.State) { s.Failures, s.Dropped = 3, 3 }, ""},
		{"another port", func(r *awsiot.Registration, _ *awsiot.State) { r.Port = 443 }, ""},
		{"upper case", func(r *awsiot.Registration, _ *awsiot.State) { r.Endpoint = strings.ToUpper(r.Endpoint) }, ""},
		{"no certificate", func(r *awsiot.Registration, s *awsiot.State) { r.SHA256, s.Again = "", true }, ""},
		{"new certificate", func(r *awsiot.Registration, _ *awsiot.State) { r.SHA256 = strings.Repeat("0b", 32) },
			onboard.Renewed},
		{"endpoint", func(r *awsiot.Registration, _ *awsiot.State) { r.Endpoint = "b-ats.iot.eu-west-1.amazonaws.com" },
			onboard.Changed},
		{"client id", func(r *awsiot.Registration, _ *awsiot.State) { r.ClientID = "GW-1" }, onboard.Changed},
		{"onboard --again", func(_ *awsiot.Registration, s *awsiot.State) { *s = s.Ask() }, onboard.Asked},
	} {
		r, s := registration, awsiot.State{}
		test.change(&r, &s)
		if got := awsiot.Due(r, result(), s); got != test.want {
			t.Errorf("%s: %q, want %q", test.what, got, test.want)
		}
		if got := awsiot.Due(r, nil, s); (got == onboard.Unknown) != (r.SHA256 != "") {
			t.Errorf("%s, without a result: %q", test.what, got)
		}
	}
}

// Each wait is drawn between bounds that grow, whatever is drawn, and never stops being one.
func TestWaits(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	dropped := &awsiot.Error{Class: awsiot.ErrDropped, Code: awsiot.CodePending}
	denied := &awsiot.Error{Class: awsiot.ErrDenied, Code: awsiot.CodeDenied}
	network := &awsiot.Error{Class: awsiot.ErrUnavailable, Code: awsiot.CodeUnavailable}
	s, ms := time.Second, time.Millisecond
	for _, test := range []struct {
		what        string
		why         onboard.Reason
		err         *awsiot.Error
		least, most []time.Duration
	}{
		{"dropped", onboard.Renewed, dropped,
			[]time.Duration{200 * ms, 200 * ms, 200 * ms, 200 * ms, 200 * ms, 200 * ms, 200 * ms, 200 * ms, 200 * ms,
				30 * s, 60 * s, 120 * s, 240 * s, 480 * s, 960 * s, 1800 * s, 1800 * s},
			[]time.Duration{2 * s, 4 * s, 8 * s, 16 * s, 32 * s, 60 * s, 60 * s, 60 * s, 60 * s,
				90 * s, 180 * s, 360 * s, 720 * s, 1440 * s, 2880 * s, 5400 * s, 5400 * s}},
		{"denied, but new", onboard.Renewed, denied,
			[]time.Duration{200 * ms, 200 * ms, 200 * ms, 200 * ms, 200 * ms, 200 * ms, 200 * ms, 200 * ms, 200 * ms, 30 * s, 60 * s},
			[]time.Duration{2 * s, 4 * s, 8 * s, 16 * s, 32 * s, 60 * s, 60 * s, 60 * s, 60 * s, 90 * s, 180 * s}},
		{"denied", onboard.Changed, denied, []time.Duration{30 * s, 60 * s, 120 * s, 240 * s, 480 * s, 960 * s, 1800 * s, 1800 * s},
			[]time.Duration{90 * s, 180 * s, 360 * s, 720 * s, 1440 * s, 2880 * s, 5400 * s, 5400 * s}},
		{"network", onboard.Unknown, network, []time.Duration{5 * s, 15 * s, 45 * s, 135 * s, 405 * s, 1215 * s, 1800 * s, 1800 * s},
			[]time.Duration{15 * s, 45 * s, 135 * s, 405 * s, 1215 * s, 3645 * s, 5400 * s, 5400 * s}},
	} {
		for _, draw := range []float64{0, 1 - 1e-12} {
			want := test.least
			if draw > 0 {
				want = test.most
			}
			var state awsiot.State
			for i := range want {
				state = state.Begin(registration, draw, now)
				state, _ = state.After(registration, awsiot.Step{Why: test.why}, test.err, draw, now)
				if got := state.NextTry.Sub(now).Round(ms); got != want[i] {
					t.Errorf("%s, draw %g, failure %d: %s, want %s", test.what, draw, i+1, got, want[i])
				}
			}
		}
	}
	// What was stored by a clock that ran ahead is not waited for.
	late := now.Add(time.Hour)
	state, _ := awsiot.State{}.Begin(registration, 0, late).After(registration, awsiot.Step{Why: onboard.Unknown}, network, 0, late)
	if at := awsiot.Next(registration, nil, state, now).At; !at.IsZero() {
		t.Errorf("tried by a clock that was an hour ahead: %s", at)
	}
	if state, _ = state.After(registration, awsiot.Step{Why: onboard.Unknown}, network, 0, now); !state.Problem.Since.Equal(now) {
		t.Errorf("a problem since %s", state.Problem.Since)
	}
	// A stored time that no rule makes was written by one, too.
	for ahead, sane := range map[time.Duration]bool{90 * time.Minute: true, 3 * time.Hour: false, 1e6 * time.Hour: false} {
		state := awsiot.State{Of: registration, NextTry: now.Add(ahead)}
		if got := awsiot.Next(registration, nil, state, now).At; got.IsZero() == sane {
			t.Errorf("%s ahead: %s", ahead, got)
		}
	}
}

// Trouble on the way does not use up the tries that AWS has to provision a certificate.
func TestNetworkTroubleBetweenDrops(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	var s awsiot.State
	for range 30 {
		for _, e := range []*awsiot.Error{{Class: awsiot.ErrUnavailable, Code: awsiot.CodeUnavailable}} {
			s, _ = s.Begin(registration, .5, now).After(registration, awsiot.Step{Why: onboard.Renewed}, e, .5, now)
		}
	}
	e := &awsiot.Error{Class: awsiot.ErrDropped, Code: awsiot.CodePending}
	s, _ = s.Begin(registration, .5, now).After(registration, awsiot.Step{Why: onboard.Renewed}, e, .5, now)
	if s.Dropped != 1 || s.Failures != 0 || s.Problem.Code != awsiot.CodeProvisioning || s.NextTry.Sub(now) != time.Second {
		t.Errorf("%+v", s)
	}
}

// A person's order is carried out at once and quickly, whatever was before, stands until AWS has said yes, over a renewal too,
// and then is over. A problem lasts since its code was first reported.
func TestAsked(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	dropped := &awsiot.Error{Class: awsiot.ErrDropped, Code: awsiot.CodePending}
	try := func(s awsiot.State, of awsiot.Registration, err error) (awsiot.State, *awsiot.Result) {
		now = now.Add(time.Hour)
		return s.Begin(of, .5, now).After(of, awsiot.Next(of, result(), s, now), err, .5, now)
	}
	s := awsiot.State{}.Ask()
	for range 12 {
		s, _ = try(s, registration, dropped)
	}
	first := s.Problem.Since
	if s, _ = try(s, registration, dropped); !s.Problem.Since.Equal(first) || s.NextTry.Sub(now) < time.Minute {
		t.Errorf("%+v", s)
	}
	if s, _ = try(s, registration, &awsiot.Error{Class: awsiot.ErrDenied, Code: awsiot.CodeDenied}); !s.Problem.Since.Equal(now) {
		t.Errorf("another problem, since %s", s.Problem.Since)
	}
	if s = s.Ask(); !awsiot.Next(registration, result(), s, now).At.IsZero() {
		t.Errorf("%+v waits", s)
	}
	if s, _ = try(s, registration, dropped); s.NextTry.Sub(now) > 2*time.Second {
		t.Errorf("%+v is slow", s)
	}
	renewed := registration
	renewed.SHA256 = strings.Repeat("0b", 32)
	if s, _ = try(s, renewed, dropped); !s.Again || s.Tries != 1 {
		t.Errorf("the order is forgotten over a renewal: %+v", s)
	}
	s, r := try(s, renewed, nil)
	if r == nil || r.Tries != 2 || s.Again || s.Of != renewed || !s.LastTry.Equal(now) || s.Problem != nil || !s.NextTry.IsZero() {
		t.Errorf("%+v, %+v", s, r)
	}
}

// Who asks while a connection is under way wants one that begins after that, whatever comes of it.
func TestAskedMeanwhile(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, err := range map[string]error{
		"well": nil, "badly": &awsiot.Error{Class: awsiot.ErrDenied, Code: awsiot.CodeDenied}, "called off": context.Canceled,
	} {
		s := awsiot.State{}.Ask() // an order that is being done is not this one either
		step := awsiot.Next(registration, result(), s, now)
		s, r := s.Begin(registration, 0, now).Ask().After(registration, step, err, 0, now)
		if r == nil {
			r = result()
		}
		step = awsiot.Next(registration, r, s, now)
		if step.Why != onboard.Asked || !step.At.IsZero() {
			t.Errorf("%s: next %+v, want to connect at once", name, step)
		}
		if s, r = s.Begin(registration, 0, now).After(registration, step, nil, 0, now); r == nil || s.Again || s.Doing {
			t.Errorf("%s: then %+v, %+v", name, s, r)
		}
	}
}

func TestFiles(t *testing.T) {
	want := `{
  "version": 1,
  "endpoint": "a-ats.iot.eu-central-1.amazonaws.com",
  "port": 8883,
  "client_id": "gw-1",
  "sha256": "` + strings.Repeat("0a", 32) + `",
  "connected": "2030-01-02T03:04:05Z",
  "began": "2030-01-02T03:04:01Z",
  "tries": 2
}
`
	file := result().Bytes()
	if string(file) != want {
		t.Errorf("got %s", file)
	}
	if got := awsiot.ParseResult(file); got == nil || *got != *result() {
		t.Errorf("%+v", got)
	}
	if awsiot.ParseResult(bytes.Replace(file, []byte("gw-1"), bytes.Repeat([]byte("x"), 128), 1)) == nil {
		t.Error("a client id of 128 bytes is none")
	}
	broken := [][]byte{
		nil, []byte("{}"), []byte("[]"), []byte("null"), file[:len(file)/2], append(slices.Clone(file), '{'),
		bytes.Replace(file, []byte(`"version": 1`), []byte(`"version": 2`), 1),
		bytes.Replace(file, []byte("a-ats.iot"), []byte("a-ats iot"), 1),
		bytes.Replace(file, []byte("a-ats.iot.eu-central-1.amazonaws.com"), []byte("127.0.0.1"), 1),
		bytes.Replace(file, []byte("0a0a"), []byte("0A0A"), 1), bytes.Replace(file, []byte("0a0a"), []byte("0a"), 1),
		bytes.Replace(file, []byte("8883"), []byte("0"), 1), bytes.Replace(file, []byte(`"gw-1"`), []byte(`""`), 1),
		bytes.Replace(file, []byte("2030-01-02T03:04:05Z"), []byte("0001-01-01T00:00:00Z"), 1),
		bytes.Replace(file, []byte(`"tries": 2`), []byte(`"tries": 0`), 1),
		append(slices.Clone(file), bytes.Repeat([]byte(" "), 70<<10)...),
		[]byte(`{"version":1,"hub":"hub-1.azure-devices.net","device_id":"gw-17"}`),
	}
	for _, b := range broken {
		if got := awsiot.ParseResult(b); got != nil {
			t.Errorf("%.60q is a result: %+v", b, got)
		}
	}
	for _, b := range []string{"", "{", `{"version":2,"dropped":3}`, `{"version":1,"dropped":-1}`, `{"version":1,"failures":-1}`, `{"version":1,"tries":-1}`} {
		if got := awsiot.ParseState([]byte(b)); got != (awsiot.State{}) {
			t.Errorf("%q is a state: %+v", b, got)
		}
	}
}

func TestCheckSubject(t *testing.T) {
	all := name("C", "JP", "O", "Example", "OU", "Plant 7", "dnQualifier", "Q1", "ST", "Tokyo", "CN", "gw-1",
		"serialNumber", "0001")
	ca := newCA(t, "CA")
	issued := ca.sign(t, device(all), newKey(t).Public())
	asked := awsiot.SubjectOf(issued.Subject.Names)
	if len(asked) != 7 {
		t.Fatalf("a subject has seven attributes for templates, not %+v", asked)
	}
	for _, test := range []struct {
		what   string
		issued pkix.Name
		want   []string
	}{
		{"all of them", all, nil},
		{"more than was asked for", name("C", "DE", "C", "JP", "O", "Example", "OU", "Line 2", "OU", "Plant 7",
			"dnQualifier", "Q1", "ST", "Tokyo", "CN", "gw-1", "serialNumber", "0001"), nil},
		{"libest's CA, which drops most", name("CN", "gw-1", "serialNumber", "0001"), []string{
			"C is missing (AWS::IoT::Certificate::Country)", "O is missing (AWS::IoT::Certificate::Organization)",
			"OU is missing (AWS::IoT::Certificate::OrganizationalUnit)",
			"dnQualifier is missing (AWS::IoT::Certificate::DistinguishedNameQualifier)",
			"ST is missing (AWS::IoT::Certificate::StateName)"}},
		{"no name at all", name("C", "JP", "O", "Example", "OU", "Plant 7", "dnQualifier", "Q1", "ST", "Tokyo"), []string{
			"CN is missing (AWS::IoT::Certificate::CommonName)",
			"serialNumber is missing (AWS::IoT::Certificate::SerialNumber)"}},
		{"another value, and a blank one", name("C", "DE", "O", " ", "OU", "Plant 7", "dnQualifier", "Q1", "ST", "Tokyo",
			"CN", "gw-1", "serialNumber", "0001"), []string{
			`C is "DE" in place of "JP" (AWS::IoT::Certificate::Country)`,
			"O is missing (AWS::IoT::Certificate::Organization)"}},
	} {
		p := awsiot.CheckSubject(ca.sign(t, device(test.issued), newKey(t).Public()), asked)
		if (p == nil) != (test.want == nil) {
			t.Errorf("%s: %+v", test.what, p)
			continue
		}
		if p != nil && (p.Code != awsiot.CodeSubject || p.Hint == "" ||
			p.Text != "the CA issued another subject than was asked for: "+strings.Join(test.want, "; ")) {
			t.Errorf("%s: %s, want %q", test.what, p.Text, test.want)
		}
	}
	if p := awsiot.CheckSubject(issued, nil); p != nil {
		t.Errorf("nothing was asked for: %+v", p)
	}
}

func TestAppendIssuer(t *testing.T) {
	root, other := newCA(t, "root"), newCA(t, "root")
	leaf := root.sign(t, device(gateway()), newKey(t).Public())
	for _, test := range []struct {
		what             string
		chain, cas, want []*x509.Certificate
	}{
		{"the root issued it", []*x509.Certificate{leaf}, []*x509.Certificate{other.cert, root.cert},
			[]*x509.Certificate{leaf, root.cert}},
		{"it came with its issuer", []*x509.Certificate{leaf, root.cert}, []*x509.Certificate{root.cert},
			[]*x509.Certificate{leaf, root.cert}},
		{"it came with more", []*x509.Certificate{leaf, root.cert, other.cert}, []*x509.Certificate{root.cert},
			[]*x509.Certificate{leaf, root.cert, other.cert}},
		{"the issuer is unknown", []*x509.Certificate{leaf}, []*x509.Certificate{other.cert}, []*x509.Certificate{leaf}},
		{"self-signed", []*x509.Certificate{root.cert}, []*x509.Certificate{root.cert}, []*x509.Certificate{root.cert}},
		{"nothing", nil, []*x509.Certificate{root.cert}, nil},
	} {
		if got := awsiot.AppendIssuer(test.chain, test.cas); !slices.Equal(got, test.want) {
			t.Errorf("%s: %d certificates", test.what, len(got))
		}
	}
}
