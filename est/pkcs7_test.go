package est

import (
	"bytes"
	"crypto/rsa"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
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
	} {
		certs, err := parseCertsOnly(test.body)
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
		{"PEM certificate", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.cert.Raw}), "not of a PKCS#7"},
		{"certificate", root.cert.Raw, "PKCS#7"},
		{"no certificates", certsOnlyDER(t), "no certificate"},
		{"nested deep", deep, "nested deeper"},
		{"nested deep behind an empty one", append([]byte{0x30, 0x80, 0, 0}, bytes.Repeat([]byte{0x30, 0x80},
			1000)...), "empty value"},
		{"very wide", wide, "more than"},
		{"long length", []byte{0x30, 0x84, 0x7f, 0xff, 0xff, 0xff}, "three bytes"},
		{"primitive without length", []byte{0x04, 0x80, 0, 0}, "neither"},
		{"primitive without length inside", []byte{0x30, 4, 0x04, 0x80, 0, 0}, "indefinite"},
	} {
		certs, err := parseCertsOnly(test.body)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %d certificates, %v; want %q", test.name, len(certs), err, test.want)
		}
	}
}

func TestTooManyCertificates(t *testing.T) {
	root := newRoot(t, "root").cert
	certs := append(repeat(root, certificateLimit), root)
	if _, err := parseCertsOnly(certsOnlyBody(t, certs...)); err == nil || !strings.Contains(err.Error(), "limit") {
		t.Error(err)
	}
	if got, err := parseCertsOnly(certsOnlyBody(t, certs[1:]...)); err != nil || len(got) != certificateLimit {
		t.Errorf("%d, %v", len(got), err)
	}
}

// The signature of a certificate is checked by a key that the certificate brings along: with one of a million bits that
// would take minutes.
func TestGiantKey(t *testing.T) {
	modulus := new(big.Int).Lsh(big.NewInt(1), rsaLimit)
	root := newRoot(t, "root")
	giant := root.certify(t, caTemplate("giant"), &rsa.PublicKey{N: modulus.Add(modulus, big.NewInt(1)), E: 65537})
	if _, err := parseCertsOnly(certsOnlyBody(t, root.cert, giant)); err == nil ||
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
		certs, err := certsOnly(&answer{header: http.Header{"Content-Type": {contentType}}, body: body})
		if (err == nil) != ok || ok != (len(certs) == 1) {
			t.Errorf("%q: %v", contentType, err)
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
	f.Fuzz(func(t *testing.T, body []byte) {
		certs, err := parseCertsOnly(body)
		if (err == nil) != (len(certs) > 0) || len(certs) > certificateLimit {
			t.Errorf("%d certificates, %v", len(certs), err)
		}
		if err != nil && strings.Contains(err.Error(), "panicked") {
			t.Errorf("the bounds let through what the parser cannot take: %v", err)
		}
	})
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
