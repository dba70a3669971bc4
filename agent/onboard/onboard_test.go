package onboard_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"strings"
	"testing"

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
	leaf := new(x509.Certificate)
	for _, test := range []struct {
		certificate *tls.Certificate
		want        *x509.Certificate
		wrong       string
	}{
		{nil, nil, "there is no certificate"},
		{&tls.Certificate{Leaf: leaf}, nil, "there is no certificate"}, // nothing that could be shown
		{&tls.Certificate{Certificate: [][]byte{{1}}}, nil, "the certificate cannot be read"},
		{&tls.Certificate{Certificate: [][]byte{{1}}, Leaf: leaf}, leaf, ""},
	} {
		got, err := onboard.Leaf(test.certificate)
		if got != test.want || (err == nil) != (test.wrong == "") || err != nil && err.Error() != test.wrong {
			t.Errorf("%v, %v, want %q", got, err, test.wrong)
		}
	}
}
