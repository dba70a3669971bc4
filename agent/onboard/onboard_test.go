package onboard_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"certagent/agent/onboard"
)

// What names a host is what an application may connect to as it stands.
func TestIsHost(t *testing.T) {
	label := strings.Repeat("a", 63)
	for name, want := range map[string]bool{
		"hub-1.azure-devices.net": true, "a1b2-ats.iot.eu-central-1.amazonaws.com": true, "A.b": true, label + ".x": true,
		"": false, "localhost": false, "hub.": false, ".hub": false, "a..b": false, "-a.b": false, "a-.b": false, label + "a.x": false,
		strings.Repeat(label+".", 4) + "x": false, "127.0.0.1": false, "::1": false, "a.b:443": false, "a.b/c": false, "u@a.b": false,
		"a_b.c": false, "a b.c": false, "höst.example": false, "a.b\n": false, "*.a.b": false,
	} {
		if got := onboard.IsHost(name); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
}

func TestText(t *testing.T) {
	long := strings.Repeat("ä", 200) // of two bytes each
	for _, test := range []struct{ text, line, quoted string }{
		{"plain", "plain", `"plain"`},
		{" two\r\n\tlines ", "two lines", `" two\r\n\tlines "`},
		{"\x1b[31mred\x00\xff\u202e", "[31mred", `"\x1b[31mred\x00\xff\u202e"`},
		{long, long[:300] + "…", `"` + long[:300] + `…"`},
		{"a" + long, "a" + long[:298] + "…", `"a` + long[:298] + `…"`},
	} {
		if got := onboard.Line(test.text); got != test.line {
			t.Errorf("the line of %q is %q, want %q", test.text, got, test.line)
		}
		if got := onboard.Quote(test.text); got != test.quoted {
			t.Errorf("%q is quoted %s, want %s", test.text, got, test.quoted)
		}
	}
	if got := onboard.Printable(long); got != long {
		t.Errorf("%q", got)
	}
}

func TestFile(t *testing.T) {
	type state struct {
		Tries int `json:"tries"`
	}
	file := onboard.Encode(state{3})
	if want := "{\n  \"tries\": 3\n}\n"; string(file) != want {
		t.Errorf("%q, want %q", file, want)
	}
	for _, test := range []struct {
		file []byte
		want bool
	}{
		{file, true}, {append(bytes.Clone(file), file...), false}, {file[:8], false}, {nil, false}, {[]byte("[]"), false},
		{append(bytes.Clone(file), bytes.Repeat([]byte(" "), 64<<10)...), false},
	} {
		var s state
		if got := onboard.Decode(test.file, &s); got != test.want || got && s.Tries != 3 {
			t.Errorf("%.20q: %v, %+v", test.file, got, s)
		}
	}
}

func TestLeaf(t *testing.T) {
	leaf := &x509.Certificate{Raw: []byte("the certificate")}
	sum := onboard.Thumbprint(leaf)
	if want := "a5e2afc8"; len(sum) != 64 || sum[:8] != want {
		t.Errorf("thumbprint %s, want %s…", sum, want)
	}
	for _, test := range []struct {
		certificate *tls.Certificate
		thumbprint  string
		want        *x509.Certificate
		wrong       string
	}{
		{nil, sum, nil, "there is no certificate"},
		{&tls.Certificate{Leaf: leaf}, sum, nil, "there is no certificate"}, // nothing that could be shown
		{&tls.Certificate{Certificate: [][]byte{{1}}}, sum, nil, "the certificate cannot be read"},
		{&tls.Certificate{Certificate: [][]byte{{1}}, Leaf: leaf}, sum, leaf, ""},
		{&tls.Certificate{Certificate: [][]byte{{1}}, Leaf: leaf}, sum[1:] + "0", nil, "the certificate is not the one that is to be made known"},
	} {
		got, err := onboard.Leaf(test.certificate, test.thumbprint)
		if got != test.want || (err == nil) != (test.wrong == "") || err != nil && err.Error() != test.wrong {
			t.Errorf("%v, %v, want %q", got, err, test.wrong)
		}
	}
}

func TestValid(t *testing.T) {
	from := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	leaf := &x509.Certificate{NotBefore: from, NotAfter: from.Add(time.Hour)}
	for at, valid := range map[time.Duration]bool{-time.Second: false, 0: true, time.Hour: true, time.Hour + time.Second: false} {
		if err := onboard.Valid(leaf, from.Add(at)); (err == nil) != valid {
			t.Errorf("after %v: %v", at, err)
		} else if !valid && err.Error() != "the certificate is valid from 2030-01-01T00:00:00Z to 2030-01-01T01:00:00Z" {
			t.Error(err)
		}
	}
}

func TestDue(t *testing.T) {
	same := &onboard.Known{SameDevice: true, SHA256: "aa"}
	for _, test := range []struct {
		thumbprint string
		last       *onboard.Known
		again      bool
		want       onboard.Reason
	}{
		{"", nil, true, ""}, {"", same, true, ""}, // nothing to show
		{"aa", nil, true, onboard.Unknown},
		{"aa", &onboard.Known{SHA256: "aa"}, true, onboard.Changed}, {"bb", &onboard.Known{SHA256: "aa"}, false, onboard.Changed},
		{"bb", same, true, onboard.Renewed},
		{"aa", same, true, onboard.Asked},
		{"aa", same, false, ""},
	} {
		if got := onboard.Due(test.thumbprint, test.last, test.again); got != test.want {
			t.Errorf("%q, %+v, again %v: %q, want %q", test.thumbprint, test.last, test.again, got, test.want)
		}
	}
}

// A problem lasts since its code was first reported, by a clock that can be believed.
func TestProblemAfterProblem(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		before *onboard.Problem
		want   time.Time
	}{
		{nil, now},
		{&onboard.Problem{Code: "b", Since: now.Add(-time.Hour)}, now},
		{&onboard.Problem{Code: "a", Since: now.Add(-time.Hour)}, now.Add(-time.Hour)},
		{&onboard.Problem{Code: "a", Since: now.Add(time.Hour)}, now},
	} {
		if p := (onboard.Problem{Code: "a", Text: "no"}).After(test.before, now); !p.Since.Equal(test.want) || p.Text != "no" {
			t.Errorf("after %+v: %+v, want it since %v", test.before, p, test.want)
		}
	}
}

func TestWaits(t *testing.T) {
	w := onboard.Waits{First: time.Second, Factor: 3, Most: 10 * time.Second}
	for failures, want := range []time.Duration{time.Second, time.Second, 3 * time.Second, 9 * time.Second, 10 * time.Second, 10 * time.Second} {
		if got := w.Mean(failures); got != want {
			t.Errorf("mean after %d failures: %v, want %v", failures, got, want)
		}
		for draw, part := range map[float64]time.Duration{0: want / 2, .5: want, .75: want * 5 / 4} {
			if got := w.After(failures, draw); got != part {
				t.Errorf("after %d failures, draw %g: %v, want %v", failures, draw, got, part)
			}
		}
	}
	if got := w.Mean(1 << 40); got != w.Most {
		t.Errorf("after very many: %v", got)
	}
}

func TestBelieved(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		ahead, last time.Duration
		want        bool
	}{
		{time.Hour, -time.Hour, true}, {-time.Hour, -2 * time.Hour, true}, {time.Hour, 5 * time.Second, true},
		{time.Hour, 6 * time.Second, false}, {2 * time.Hour, 0, true}, {2*time.Hour + 1, 0, false},
	} {
		at := now.Add(test.ahead)
		if got := onboard.Believed(at, now.Add(test.last), now, 2*time.Hour); got.Equal(at) != test.want || !test.want && !got.IsZero() {
			t.Errorf("%+v: %v", test, got)
		}
	}
}

// What the other side saw of the certificate is told from what it asked for.
func TestOffer(t *testing.T) {
	none := errors.New("none")
	for _, test := range []struct {
		chosen  *tls.Certificate
		err     error
		offered bool
	}{
		{&tls.Certificate{Certificate: [][]byte{{1}}}, nil, true}, {new(tls.Certificate), nil, false}, {nil, nil, false}, {nil, none, false},
	} {
		var o onboard.Offer
		settings := &tls.Config{GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return test.chosen, test.err }}
		o.Watch(settings)
		if o.Asked() || o.Offered() {
			t.Error("nobody asked yet")
		}
		chosen, err := settings.GetClientCertificate(nil)
		if chosen != test.chosen || err != test.err || !o.Asked() || o.Offered() != test.offered {
			t.Errorf("%+v: %v, %v, asked %v, offered %v", test, chosen, err, o.Asked(), o.Offered())
		}
	}
}

func TestHungUp(t *testing.T) {
	for err, want := range map[error]bool{
		io.EOF: true, io.ErrUnexpectedEOF: true, syscall.ECONNRESET: true, syscall.EPIPE: true, syscall.ECONNREFUSED: false, os.ErrDeadlineExceeded: false,
	} {
		if got := onboard.HungUp(&net.OpError{Op: "read", Err: err}); got != want {
			t.Errorf("%v: %v", err, got)
		}
	}
}

// A class is found by itself and by its name, however an error is wrapped.
func TestClass(t *testing.T) {
	one, other := &onboard.Class{Name: "one", Text: "it is one"}, &onboard.Class{Name: "one", Text: "it is one"}
	err := fmt.Errorf("%w: because", one)
	class, ok := errors.AsType[*onboard.Class](err)
	if !errors.Is(err, one) || errors.Is(err, other) || !ok || class.Name != "one" || err.Error() != "it is one: because" {
		t.Errorf("%v, %v", err, class)
	}
}
