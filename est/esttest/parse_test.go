package esttest

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"maps"
	"testing"
)

func TestParseAuthParams(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want map[string]string
	}{
		{`username="u", realm="r"`, map[string]string{"username": "u", "realm": "r"}},
		{`Qop=auth,nc=00000001, cnonce="a"`, map[string]string{"qop": "auth", "nc": "00000001", "cnonce": "a"}},
		{`a="with \"quotes\", and a comma"`, map[string]string{"a": `with "quotes", and a comma`}},
		{`a="open`, map[string]string{}},
		{`a="open\`, map[string]string{}},
		{`a=1,,b=2`, map[string]string{"a": "1", "b": "2"}},
		{`nothing`, map[string]string{}},
		{``, map[string]string{}},
	} {
		if got := parseAuthParams(tt.in); !maps.Equal(got, tt.want) {
			t.Errorf("parseAuthParams(%q) = %q, want %q", tt.in, got, tt.want)
		}
	}
}

func FuzzParseAuthParams(f *testing.F) {
	f.Add(`username="estuser", realm="estrealm", nonce="0", uri="/", qop=auth, nc=1, cnonce="\"", response="x"`)
	f.Add(`a="\`)
	f.Fuzz(func(t *testing.T, s string) {
		n := newNonces()
		if n.ours(parseAuthParams(s)["nonce"]) {
			t.Error("took a nonce that it did not make")
		}
	})
}

// testRequest is the DER of a request.
func testRequest(tb testing.TB, subject pkix.Name) []byte {
	tb.Helper()
	key, err := newKey()
	if err != nil {
		tb.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: subject}, key)
	if err != nil {
		tb.Fatal(err)
	}
	return der
}

// Whatever comes, libest's parser returns a request with a good signature, or an error.
func FuzzParseLibestRequest(f *testing.F) {
	der := testRequest(f, pkix.Name{CommonName: "device"})
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
	f.Add([]byte(base64.StdEncoding.EncodeToString(der)))
	f.Add([]byte("TUlJ\r\n"))
	f.Fuzz(func(t *testing.T, body []byte) {
		csr, err := parseLibestRequest(body)
		if err == nil && csr.CheckSignature() != nil {
			t.Error("accepted a wrong signature")
		}
		if err == nil {
			provesPossession(csr, []byte("unique"), oidChallengePassword, oidIdentityLinking)
		}
	})
}

// What cutSubject keeps is a Name of CN and serialNumber, with a CN.
func FuzzCutSubject(f *testing.F) {
	for _, name := range []pkix.Name{
		{CommonName: "device", SerialNumber: "42", Organization: []string{"Makers"}},
		{SerialNumber: "42"},
		{},
	} {
		raw, err := asn1.Marshal(name.ToRDNSequence())
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		kept, err := cutSubject(raw)
		if err != nil {
			return
		}
		var name pkix.RDNSequence
		if rest, err := asn1.Unmarshal(kept, &name); err != nil || len(rest) > 0 {
			return // a string that is none; CreateCertificate says so
		}
		named := false
		for _, set := range name {
			for _, a := range set {
				named = named || a.Type.Equal(asn1.ObjectIdentifier{2, 5, 4, 3})
				if !a.Type.Equal(asn1.ObjectIdentifier{2, 5, 4, 3}) && !a.Type.Equal(asn1.ObjectIdentifier{2, 5, 4, 5}) {
					t.Errorf("kept %v", a.Type)
				}
			}
		}
		if !named {
			t.Error("kept no common name")
		}
		if again, err := cutSubject(kept); err != nil || !bytes.Equal(again, kept) {
			t.Errorf("cut again: %x (%v), want %x", again, err, kept)
		}
	})
}

func TestCutSubjectWithoutCommonName(t *testing.T) {
	csr, err := x509.ParseCertificateRequest(testRequest(t, pkix.Name{Organization: []string{"Makers"}}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cutSubject(csr.RawSubject); !errors.Is(err, errNoCommonName) {
		t.Errorf("error %v", err)
	}
}
