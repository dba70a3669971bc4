package est

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/smallstep/pkcs7"
)

// wrap breaks lines as servers do.
func wrap(b []byte, columns int, end string) []byte {
	var out []byte
	for len(b) > columns {
		out = append(append(out, b[:columns]...), end...)
		b = b[columns:]
	}
	return append(append(out, b...), end...)
}

func TestParseCertsOnly(t *testing.T) {
	root := newRoot(t, "root")
	der := certsOnlyDER(t, root.cert)
	b64 := []byte(base64.StdEncoding.EncodeToString(der))
	for _, test := range []struct {
		name string
		body []byte
	}{
		{"one line", b64},
		{"64 columns, LF", wrap(b64, 64, "\n")},
		{"76 columns, CRLF", wrap(b64, 76, "\r\n")},
		{"spaces and tabs", wrap(b64, 10, " \t")},
		{"trailing NUL, as libest's", append(wrap(b64, 64, "\n"), 0)},
		{"DER", der},
		{"PEM", pem.EncodeToMemory(&pem.Block{Type: "PKCS7", Bytes: der})},
		{"PEM of CMS", pem.EncodeToMemory(&pem.Block{Type: "CMS", Bytes: der})},
		{"PEM of certificates", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.cert.Raw})},
		{"PEM behind text, as openssl's", append([]byte("\nsubject=CN = root\n"),
			pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.cert.Raw})...)},
		// DER would have three bytes of length fewer.
		{"BER whose lengths begin with zeros", slices.Concat([]byte{0x30, 0x85, 0, 0, 0}, der[2:4], der[4:])},
		// Nothing behind the message is looked at, so it can do no harm: here it would be nested too deep.
		{"DER and what follows", append(bytes.Clone(der), bytes.Repeat([]byte{0x30, 0x80}, 1000)...)},
	} {
		certs, _, err := parseCertsOnly(test.body)
		if err != nil || len(certs) != 1 || !certs[0].Equal(root.cert) {
			t.Errorf("%s: %d certificates, %v", test.name, len(certs), err)
		}
	}
}

func TestParseCertsOnlyRefuses(t *testing.T) {
	root := newRoot(t, "root")
	der := certsOnlyDER(t, root.cert)
	deep := bytes.Repeat([]byte{0x30, 0x80}, depthLimit+1)
	wide := append([]byte{0x30, 0x83, 3, 0, 0}, bytes.Repeat([]byte{5, 0}, 3<<16/2)...)
	for _, test := range []struct {
		name string
		body []byte
		want string
	}{
		{"nothing", nil, "empty"},
		{"white space", []byte(" \r\n\x00"), "empty"},
		{"text", []byte("<html>it works</html>"), "neither base64 nor DER"},
		{"base64 of text", []byte("aXQgd29ya3M="), "ASN.1"},
		{"base64, cut", []byte(base64.StdEncoding.EncodeToString(der))[:201], "neither"},
		{"DER, cut", der[:len(der)-1], "cut short"},
		{"PEM key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{5, 0}}), "neither of certificates"},
		{"PEM, cut", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.cert.Raw})[:100], "neither of cert"},
		{"certificate", root.cert.Raw, "PKCS#7"},
		{"encrypted message", readTestdata(t, "keygen/sealed.pkcs8.der"), "not one of certificates"},
		{"an object identifier alone", []byte{0x30, 2, 6, 0}, "not a PKCS#7"},
		{"a content that is none", []byte{0x30, 6, 6, 0, 0xa0, 2, 5, 0}, "not a PKCS#7"},
		{"no certificates", certsOnlyDER(t), "no certificate"},
		{"nested deep", deep, "nested deeper"},
		{"nested deep behind an empty one", append([]byte{0x30, 0x80, 0x30, 0x80, 0, 0}, deep...), "nested deeper"},
		{"indefinite, without an end", []byte{0x30, 0x80, 5, 0}, "cut short"},
		{"very wide", wide, "more than"},
		{"long length", []byte{0x30, 0x84, 0x7f, 0xff, 0xff, 0xff}, "three bytes"},
		{"primitive without length", []byte{0x04, 0x80, 0, 0}, "neither"},
		{"primitive without length inside", []byte{0x30, 4, 0x04, 0x80, 0, 0}, "indefinite"},
	} {
		certs, _, err := parseCertsOnly(test.body)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %d certificates, %v; want %q", test.name, len(certs), err, test.want)
		}
	}
}

func readTestdata(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// What other implementations write: certificates beside revocation lists, signatures and content, in DER or in BER of
// indefinite length, with strings in pieces. The other parser that we know reads the same.
func TestCertificatesOfOtherMessages(t *testing.T) {
	for _, name := range []string{"certs-only.der", "certs-indefinite.der"} {
		der := readTestdata(t, name)
		certs, unread, err := parseCertsOnly(der)
		if err != nil || len(certs) != 2 || len(unread) != 0 || certs[0].Subject.CommonName != "signer" ||
			certs[1].Subject.CommonName != "recipient" {
			t.Errorf("%s: %d certificates, %q, %v", name, len(certs), unread, err)
		}
		other, err := pkcs7.Parse(der)
		if err != nil || !slices.EqualFunc(certs, other.Certificates, (*x509.Certificate).Equal) {
			t.Errorf("%s: the other parser: %d certificates, %v", name, len(other.Certificates), err)
		}
	}
}

// message returns a SignedData with choices as its certificates, one after the other (RFC 5652 5.1, 10.2.2).
func message(t testing.TB, choices ...[]byte) []byte {
	t.Helper()
	wrap := func(tag byte, contents ...[]byte) []byte {
		body := slices.Concat(contents...)
		return slices.Concat([]byte{tag, 0x83, byte(len(body) >> 16), byte(len(body) >> 8), byte(len(body))}, body)
	}
	return wrap(0x30, append([]byte{6, 9}, typeSignedData...), wrap(0xa0, wrap(0x30,
		[]byte{2, 1, 1}, []byte{0x31, 0}, append([]byte{0x30, 11, 6, 9}, "\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01"...),
		wrap(0xa0, choices...), []byte{0x31, 0})))
}

// A certificate that cannot be read does not spoil the others, and what is no certificate is passed over.
func TestUnreadableCertificates(t *testing.T) {
	root := newRoot(t, "root").cert
	broken := bytes.Clone(root.Raw)
	broken[bytes.Index(broken, []byte{0xa0, 3, 2, 1})+4] = 9 // its version
	attribute, other := []byte{0xa2, 2, 5, 0}, []byte{0xa3, 0x80, 5, 0, 0, 0}
	for _, test := range []struct {
		name   string
		body   []byte
		certs  int
		unread []string // the beginnings
		err    string
	}{
		{"one of three", message(t, root.Raw, broken, root.Raw), 2,
			[]string{"certificate 2 of 3 cannot be read: x509: "}, ""},
		{"the first", message(t, broken, root.Raw), 1, []string{"certificate 1 of 2 cannot be read"}, ""},
		{"all", message(t, broken, broken), 0, nil, "certificate 1 of 2 cannot be read: x509: "},
		{"a hundred", message(t, repeat(broken, 100)...), 0, nil, "100 certificates in it, 64 are the limit"},
		{"attribute certificates and others", message(t, attribute, root.Raw, other), 1, nil, ""},
		{"nothing but these", message(t, attribute, other), 0, nil, "no certificate in it"},
		{"PEM", slices.Concat(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: broken}),
			pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw})), 1, []string{"certificate 1 of 2"}, ""},
	} {
		certs, unread, err := parseCertsOnly(test.body)
		if len(certs) != test.certs || (err == nil) != (test.err == "") ||
			err != nil && (!strings.HasPrefix(err.Error(), test.err) || len(err.Error()) > causeLimit) {
			t.Errorf("%s: %d certificates, %v", test.name, len(certs), err)
		}
		if !slices.EqualFunc(unread, test.unread, strings.HasPrefix) {
			t.Errorf("%s: unread %q", test.name, unread)
		}
	}
}

// Who enrols is warned of such a certificate, and told of it where its absence is why an enrolment failed.
func TestUnreadableCertificatesAreTold(t *testing.T) {
	s := newServer(t)
	odd := bytes.Clone(newRoot(t, "odd").cert.Raw)
	odd[bytes.Index(odd, []byte{0xa0, 3, 2, 1})+4] = 9
	var withLeaf bool
	s.handlers["cacerts"] = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/pkcs7-mime")
		w.Write(message(t, odd, s.root.cert.Raw))
	}
	s.handlers["simpleenroll"] = func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		der, _ := base64.StdEncoding.DecodeString(string(body))
		leaf := s.root.issue(t, der).Raw
		if !withLeaf {
			leaf = s.root.cert.Raw
		}
		w.Header().Set("Content-Type", "application/pkcs7-mime")
		w.Write(message(t, leaf, odd))
	}
	s.start()
	_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
	_, err := newClient(t, s.options()).Enroll(t.Context(), csr, Want{})
	if err == nil || !strings.Contains(err.Error(), "certificate 2 of 2 cannot be read") {
		t.Error(err)
	}
	withLeaf = true
	issued, err := newClient(t, s.options()).Enroll(t.Context(), csr, Want{})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"of the server's CA certificates, certificate 1 of 2", "of the answer, certificate 2 of 2"}
	if !slices.EqualFunc(issued.Warnings, want, strings.HasPrefix) {
		t.Errorf("warnings %q", issued.Warnings)
	}
}

func TestTooManyCertificates(t *testing.T) {
	root := newRoot(t, "root").cert
	certs := append(repeat(root, certificateLimit), root)
	if _, _, err := parseCertsOnly(certsOnlyBody(t, certs...)); err == nil || !strings.Contains(err.Error(), "limit") {
		t.Error(err)
	}
	if got, _, err := parseCertsOnly(certsOnlyBody(t, certs[1:]...)); err != nil || len(got) != certificateLimit {
		t.Errorf("%d, %v", len(got), err)
	}
}

// The signature of a certificate is checked by a key that the certificate brings along: with one of a million bits that
// would take minutes.
func TestGiantKey(t *testing.T) {
	modulus := new(big.Int).Lsh(big.NewInt(1), rsaLimit)
	root := newRoot(t, "root")
	giant := root.certify(t, caTemplate("giant"), &rsa.PublicKey{N: modulus.Add(modulus, big.NewInt(1)), E: 65537})
	if _, _, err := parseCertsOnly(certsOnlyBody(t, root.cert, giant)); err == nil ||
		!strings.Contains(err.Error(), "RSA key of 8193 bits") {
		t.Error(err)
	}
}

func repeat[T any](x T, n int) []T {
	list := make([]T, n)
	for i := range list {
		list[i] = x
	}
	return list
}

func TestMediaTypes(t *testing.T) {
	body := certsOnlyBody(t, newRoot(t, "root").cert)
	for contentType, ok := range map[string]bool{
		"application/pkcs7-mime":                         true,
		"Application/PKCS7-Mime ; smime-type=certs-only": true,
		"application/pkcs7-mime; smime-type":             true, // what mime.ParseMediaType would not have
		"":                                               true,
		"text/plain":                                     false,
		"text/html; charset=utf-8":                       false,
		"application/pkcs7-mimeo":                        false,
		"application/json":                               false,
	} {
		certs, _, err := certsOnly(&answer{header: http.Header{"Content-Type": {contentType}}, body: body})
		if (err == nil) != ok || ok != (len(certs) == 1) {
			t.Errorf("%q: %v", contentType, err)
		}
	}
}

// Servers that do not speak EST only, name certificates by other types. A certificate alone is taken where the type
// says that it is one.
func TestBareCertificates(t *testing.T) {
	root := newRoot(t, "root").cert
	armoured := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw})
	encoded := []byte(base64.StdEncoding.EncodeToString(root.Raw))
	for _, test := range []struct {
		contentType string
		body        []byte
		ok          bool
	}{
		{"application/pkix-cert", root.Raw, true},
		{"application/pkix-cert", append(bytes.Clone(root.Raw), '\n'), true},
		{"Application/PKIX-Cert; name=x", encoded, true},
		{"application/x-x509-ca-cert", root.Raw, true},
		{"application/x-pem-file", armoured, true},
		{"application/pem-certificate-chain", slices.Concat(armoured, armoured), true},
		{"application/pkcs7-mime", armoured, true}, // the armour says what it is
		{"", armoured, true},
		{"", root.Raw, false},
		{"application/pkcs7-mime", root.Raw, false},
		{"text/plain", armoured, false},
		{"text/plain", root.Raw, false},
		{"application/pkix-cert", []byte{0x30, 0x80}, false},
		{"application/pkix-cert", []byte{0x30, 2, 5, 0}, false},
		{"application/pkix-cert", []byte("hello"), false},
	} {
		certs, _, err := parseCertificates(test.contentType, test.body)
		if (err == nil) != test.ok || test.ok && !certs[0].Equal(root) {
			t.Errorf("%s, %.20q: %v", test.contentType, test.body, err)
		}
	}
}

func FuzzParseCertsOnly(f *testing.F) {
	root := newRoot(f, "root")
	der := certsOnlyDER(f, root.cert, root.sub(f, "sub").cert)
	f.Add(der)
	f.Add([]byte(base64.StdEncoding.EncodeToString(der)))
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "PKCS7", Bytes: der}))
	f.Add([]byte{0x30, 0x80, 0x30, 0x80, 0, 0, 0, 0})
	f.Add([]byte{0x30, 0x80, 0, 0})
	f.Add(readTestdata(f, "certs-only.der"))
	f.Add(readTestdata(f, "certs-indefinite.der"))
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.cert.Raw}))
	f.Fuzz(func(t *testing.T, body []byte) {
		certs, unread, err := parseCertsOnly(body)
		if (err == nil) != (len(certs) > 0) || len(certs)+len(unread) > certificateLimit {
			t.Errorf("%d certificates, %q, %v", len(certs), unread, err)
		}
		if _, _, err := parseCertificates("application/pkix-cert", body); err != nil && len(err.Error()) > causeLimit {
			t.Errorf("error of %d bytes", len(err.Error()))
		}
		if err != nil || isArmoured(body) {
			return
		}
		der, err := decodeBody(body)
		if err != nil {
			t.Fatal(err)
		}
		// Where the other parser reads a message too, it finds every certificate that we do.
		for _, cert := range certs {
			if other := parseElsewhere(der); other != nil && !slices.ContainsFunc(other, cert.Equal) {
				t.Errorf("only we find a certificate in it: %v", cert.Subject)
			}
		}
	})
}

// parseElsewhere has smallstep/pkcs7 parse a message. It is nil where that cannot, and it panics on some.
func parseElsewhere(der []byte) (certs []*x509.Certificate) {
	defer func() { recover() }()
	message, err := pkcs7.Parse(der)
	if err != nil {
		return nil
	}
	return message.Certificates
}

// Whatever skipElement lets through is within the bounds: it says how far it went, and never beyond the end.
func FuzzNesting(f *testing.F) {
	f.Add([]byte{0x30, 3, 2, 1, 5})
	f.Add([]byte{0x30, 0x80, 5, 0, 0, 0})
	f.Add([]byte{0xbf, 0x81, 0x01, 2, 5, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		left := elementLimit
		n, err := skipElement(b, 1, &left)
		if err == nil && (n < 2 || n > len(b) || left < 0) {
			t.Errorf("%d of %d bytes, %d values left", n, len(b), left)
		}
	})
}

func FuzzRetryAfter(f *testing.F) {
	for _, seed := range []string{"", "120", "-1", "Sun, 01 Mar 2026 13:00:00 GMT", "99999999999999999999"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		if got := parseRetryAfter([]string{value, value}, time.Unix(0, 0)); got < 0 {
			t.Errorf("%q: %v", value, got)
		}
	})
}

func FuzzQuote(f *testing.F) {
	f.Add([]byte("no"), "geheim")
	f.Add([]byte("your geheim\x00\x1b[0m\r\n\xff"), "geheim")
	f.Add([]byte(strings.Repeat("é ", errorTextLimit)), "")
	f.Add([]byte("\u0270\x00&"), "\xb0&") // the secret is the end of a character and what comes to stand behind it
	f.Fuzz(func(t *testing.T, body []byte, secret string) {
		text := quoteBody(body, []string{secret})
		if len(text) > errorTextLimit || !utf8.ValidString(text) {
			t.Errorf("%d bytes: %q", len(text), text)
		}
		if i := strings.IndexFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 {
			t.Errorf("not printable at %d: %q", i, text)
		}
	})
}
