package est

import (
	"bytes"
	"crypto"
	"encoding/asn1"
	"encoding/base64"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// The examples of RFC 9908 5 and RFC 7030 4.5.2, and what libest's example server answers.
const (
	rfc9908ACP = "MGgwZgYJKoZIhvcNAQkOMVkwVzBVBgNVHREBAf8ESzBJoEcGCCsGAQUFBwgKoDsWOXJmYzg5OTQrZmQ3" +
		"MzlmYzIzYzM0NDAxMTIyMzM0NDU1MDAwMDAwMDArQGFjcC5leGFtcGxlLmNvbQ=="
	rfc9908Original     = "MDIGCSqGSIb3DQEJBzASBgcqhkjOPQIBMQcGBSuBBAAiBgcrBgEBAQEWBggqhkjOPQQDAw=="
	rfc9908RSA          = "MCkGCSqGSIb3DQEJBzARBgkqhkiG9w0BAQExBAICEAAGCSqGSIb3DQEBCw=="
	rfc9908SerialNumber = "MC4GCSqGSIb3DQEJBzASBgcqhkjOPQIBMQcGBSuBBAAiBgNVBAUGCCqGSM49BAMD"
	rfc9908Drink        = "MEUGCSqGSIb3DQEJBzASBgcqhkjOPQIBMQcGBSuBBAAjBgkqhkiG9w0BCRQGCgmSJomT8ixkAQUGA1UE" +
		"BQYIKoZIzj0EAwQ="
	rfc7030Original  = "MEEGCSqGSIb3DQEJBzASBgcqhkjOPQIBMQcGBSuBBAAiMBYGCSqGSIb3DQEJDjEJBgcrBgEBAQEWBggqhkjOPQQDAw=="
	libestAttributes = "MCYGBysGAQEBARYGCSqGSIb3DQEJAQYFK4EEACIGCWCGSAFlAwQCAg=="
)

func fromBase64(t testing.TB, text string) []byte {
	t.Helper()
	der, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// tlv, seq, set, oids and octets write DER by hand.
func tlv(tag byte, contents ...[]byte) []byte {
	content := bytes.Join(contents, nil)
	switch n := len(content); {
	case n < 0x80:
		return append([]byte{tag, byte(n)}, content...)
	case n < 0x100:
		return append([]byte{tag, 0x81, byte(n)}, content...)
	default:
		return append([]byte{tag, 0x82, byte(n >> 8), byte(n)}, content...)
	}
}

func seq(contents ...[]byte) []byte    { return tlv(0x30, contents...) }
func set(contents ...[]byte) []byte    { return tlv(0x31, contents...) }
func octets(contents ...[]byte) []byte { return tlv(0x04, contents...) }
func utf8String(s string) []byte       { return tlv(0x0c, []byte(s)) }

func oid(t testing.TB, numbers ...int) []byte {
	t.Helper()
	der, err := asn1.Marshal(asn1.ObjectIdentifier(numbers))
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// rfc9908Template is the example of RFC 9908 3.4: a common name to fill in, two organizational units, a key on P-256, a
// host name and an address to fill in, critical key usage, and extended key usage to fill in.
func rfc9908Template(t testing.TB) []byte {
	t.Helper()
	template := seq(
		[]byte{2, 1, 0},
		seq(
			set(seq(oid(t, 2, 5, 4, 3))),
			set(seq(oid(t, 2, 5, 4, 11), utf8String("myDept"))),
			set(seq(oid(t, 2, 5, 4, 11), utf8String("myGroup"))),
		),
		tlv(0xa0, seq(oid(t, 1, 2, 840, 10045, 2, 1), oid(t, 1, 2, 840, 10045, 3, 1, 7))),
		tlv(0xa1, seq(oid(t, 1, 2, 840, 113549, 1, 9, 16, 2, 62), set(seq(
			seq(oid(t, 2, 5, 29, 17), octets(seq(tlv(0x82, []byte("www.myServer.com")), tlv(0x87)))),
			seq(oid(t, 2, 5, 29, 15), []byte{1, 1, 0xff}, octets([]byte{3, 2, 3, 0x88})),
			seq(oid(t, 2, 5, 29, 37)),
		)))),
	)
	return seq(seq(oid(t, 1, 2, 840, 113549, 1, 9, 16, 2, 61), set(template)))
}

func TestParseAttributes(t *testing.T) {
	rsaSample := func(bits int) []byte {
		n := make([]byte, bits/8+1)
		n[1] = 0x80
		return seq(tlv(2, n), []byte{2, 3, 1, 0, 1})
	}
	templated := func(fields ...[]byte) []byte {
		return seq(oid(t, 1, 2, 840, 113549, 1, 9, 7), // of which a client that knows templates hears nothing
			seq(oidDER(t, oidRequestInfoTemplate), set(seq(slices.Concat([]byte{2, 1, 0}, bytes.Join(fields, nil))))))
	}
	rsaKey := func(bits int) []byte {
		return templated(tlv(0xa0, seq(oidDER(t, oidRSAEncryption), []byte{5, 0}), tlv(3, []byte{0},
			rsaSample(bits))), tlv(0xa1))
	}
	uuidOID := tlv(6, []byte{0x69}, bytes.Repeat([]byte{0x83}, 18), []byte{1}) // 2.25, and 128 bits in septets
	for _, test := range []struct {
		name       string
		der        []byte
		algorithm  string
		bits       int
		hash       crypto.Hash
		link       bool
		subject    string
		extensions string
		otherKeys  string
	}{
		{name: "nothing", der: nil},
		{name: "empty list", der: seq()},
		{name: "RFC 9908 5.1", der: fromBase64(t, rfc9908ACP), extensions: "2.5.29.17"},
		{name: "RFC 9908 5.2", der: fromBase64(t, rfc9908Original), algorithm: "ec", bits: 384, hash: crypto.SHA384,
			link: true},
		{name: "RFC 7030 4.5.2", der: fromBase64(t, rfc7030Original), algorithm: "ec", bits: 384,
			hash: crypto.SHA384, link: true},
		{name: "RFC 9908 5.4", der: fromBase64(t, rfc9908RSA), algorithm: "rsa", bits: 4096, hash: crypto.SHA256, link: true},
		{name: "RFC 9908 5.5", der: fromBase64(t, rfc9908SerialNumber), algorithm: "ec", bits: 384,
			hash: crypto.SHA384, link: true,
			subject: "serialNumber"},
		{name: "RFC 9908 5.6", der: fromBase64(t, rfc9908Drink), algorithm: "ec", bits: 521, hash: crypto.SHA512, link: true,
			subject: "serialNumber"},
		{name: "RFC 9908 3.4", der: rfc9908Template(t), algorithm: "ec", bits: 256, subject: "CN OU OU",
			extensions: "2.5.29.17 2.5.29.15 2.5.29.37"},
		{name: "libest", der: fromBase64(t, libestAttributes), algorithm: "ec", bits: 384, hash: crypto.SHA384,
			subject: "emailAddress"},
		{name: "otpChallenge and revocationChallenge of RFC 7894", der: seq(oid(t, 1, 2, 840, 113549, 1, 9, 16, 2, 56),
			oidDER(t, oidESTIdentityLinking), oid(t, 1, 2, 840, 113549, 1, 9, 16, 2, 57)), link: true},
		{name: "first of several", der: seq(oidDER(t, oidSecp521r1), oidDER(t, oidSecp256r1), oidDER(t, oidRSAEncryption),
			oidDER(t, oidSHA512), oidDER(t, oidSHA256)), algorithm: "ec", bits: 521, hash: crypto.SHA512},
		{name: "Ed25519", der: seq(oidDER(t, oidEd25519)), algorithm: "ed25519"},
		{name: "unknown curve", der: seq(seq(oidDER(t, oidECPublicKey), set(oid(t, 1, 3, 132, 0, 10)))), algorithm: "ec",
			otherKeys: "a key on the curve 1.3.132.0.10"},
		{name: "RSA of 1024 bits", der: seq(seq(oidDER(t, oidRSAEncryption), set([]byte{2, 2, 4, 0}))), algorithm: "rsa",
			otherKeys: "an RSA key of 1024 bits"},
		{name: "RSA of a million bits", der: seq(seq(oidDER(t, oidRSAEncryption), set([]byte{2, 3, 0x0f, 0x42,
			0x40}))), algorithm: "rsa",
			otherKeys: "an RSA key of 1000000 bits"},
		{name: "unknown kind of key", der: templated(tlv(0xa0, seq(oid(t, 1, 2, 3))), tlv(0xa1)),
			otherKeys: "a key of kind 1.2.3"},
		{name: "RSA by sample", der: rsaKey(3072), algorithm: "rsa", bits: 3072},
		{name: "RSA by giant sample", der: rsaKey(65536), algorithm: "rsa", otherKeys: "an RSA key of 65536 bits"},
		{name: "unknown attribute with any value", der: seq(seq(oid(t, 1, 2, 3, 4), set(seq(set()), []byte{5, 0})))},
		{name: "a UUID's name", der: seq(uuidOID, seq(uuidOID, set([]byte{5, 0})), oidDER(t, oidChallengePassword),
			seq(oidDER(t, oidExtensionRequest), set(seq(seq(uuidOID, octets()), seq(oidDER(t, oidKeyUsage)))))),
			link: true, extensions: "2.5.29.15"},
		{name: "a UUID's name in an old extension request", der: seq(seq(oidDER(t, oidExtensionRequest),
			set(uuidOID, oidDER(t, oidKeyUsage)))), extensions: "2.5.29.15"},
		{name: "a UUID's name in a template", der: templated(tlv(0xa1, seq(uuidOID, set()),
			seq(oidDER(t, oidChallengePassword), set()))), link: true},
		{name: "template that wants nothing", der: templated(tlv(0xa1))},
		{name: "template that wants the link", der: templated(tlv(0xa1, seq(oidDER(t, oidChallengePassword),
			set()))), link: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			a, err := parseAttributes(test.der)
			if err != nil {
				t.Fatal(err)
			}
			if a == nil {
				a = &Attributes{}
			}
			var subject, extensions []string
			for _, set := range a.subject {
				for _, wish := range set {
					subject = append(subject, attributeName(wish.Type))
				}
			}
			for _, e := range a.extensions {
				extensions = append(extensions, e.ID.String())
			}
			if a.Algorithm != test.algorithm || a.Bits != test.bits || a.Hash != test.hash || a.Link != test.link {
				t.Errorf("%q of %d bits, %v, link %v", a.Algorithm, a.Bits, a.Hash, a.Link)
			}
			if got := strings.Join(subject, " "); got != test.subject {
				t.Errorf("subject %q, want %q", got, test.subject)
			}
			if got := strings.Join(extensions, " "); got != test.extensions {
				t.Errorf("extensions %q, want %q", got, test.extensions)
			}
			if got := strings.Join(a.otherKeys, " "); got != test.otherKeys {
				t.Errorf("other keys %q, want %q", got, test.otherKeys)
			}
		})
	}
}

func oidDER(t testing.TB, id asn1.ObjectIdentifier) []byte {
	t.Helper()
	return oid(t, id...)
}

// Of the two links the newer one is used, whichever stands first (RFC 7894 4).
func TestIdentityLinkingIsPreferred(t *testing.T) {
	password, linking := oidDER(t, oidChallengePassword), oidDER(t, oidESTIdentityLinking)
	for _, test := range []struct {
		der  []byte
		want asn1.ObjectIdentifier
	}{
		{seq(password), oidChallengePassword},
		{seq(linking), oidESTIdentityLinking},
		{seq(password, linking), oidESTIdentityLinking},
		{seq(linking, password), oidESTIdentityLinking},
	} {
		a, err := parseAttributes(test.der)
		if err != nil || !a.Link || !a.binding.Equal(test.want) {
			t.Errorf("%x: %v, %+v", test.der, err, a)
		}
	}
}

func TestParseAttributesRefuses(t *testing.T) {
	san := seq(oidDER(t, oidSubjectAltName), octets(seq()))
	request := func(lists ...[]byte) []byte { return seq(oidDER(t, oidExtensionRequest), set(lists...)) }
	template := func(fields ...[]byte) []byte { return seq(oidDER(t, oidRequestInfoTemplate), set(seq(fields...))) }
	deep := []byte{5, 0}
	for range depthLimit {
		deep = seq(deep)
	}
	for _, test := range []struct {
		name string
		der  []byte
		want string
	}{
		{"no list", oid(t, 1, 2, 3), "not a list"},
		{"cut short", fromBase64(t, rfc9908RSA)[:20], "cut short"},
		{"bytes behind", append(seq(), 0), "too many"},
		{"neither OID nor attribute", seq([]byte{2, 1, 0}), "neither an object identifier nor an attribute"},
		{"no object identifier", seq(tlv(6, []byte{0x80, 1})), "parse CSR attributes"},
		{"attribute without values", seq(seq(oid(t, 1, 2, 3))), "neither an object identifier nor an attribute"},
		{"deep", deep, "nested deeper"},
		{"large", seq(bytes.Repeat(oid(t, 1, 2, 3), attributesLimit/4+1)), "limit"},
		{"many", seq(bytes.Repeat(oid(t, 1, 2, 3), wishLimit+1)), "more than 256"},
		{"many extensions", seq(request(seq(bytes.Repeat(san, wishLimit+1)))), "more than 256"},
		{"many names", seq(template([]byte{2, 1, 0}, seq(bytes.Repeat(set(seq(oidDER(t, oidCommonName))),
			wishLimit+1)))), "more than 256"},
		{"many attributes of a name", seq(template([]byte{2, 1, 0},
			seq(set(bytes.Repeat(seq(oidDER(t, oidCommonName)), wishLimit))))), "more than 256"},
		{"many names in an extension request", seq(request(bytes.Repeat(oid(t, 1, 2, 3), wishLimit+1))), "more than 256"},
		{"two extension requests", seq(request(seq(san)), request(seq(san))), "more than one extension request"},
		{"two lists of extensions", seq(request(seq(san), seq(san))), "more than one list"},
		{"extension twice", seq(request(seq(san, san))), "2.5.29.17 more than once"},
		{"two templates", seq(template([]byte{2, 1, 0}), template([]byte{2, 1, 0})), "not exactly one template"},
		{"template of two values", seq(seq(oidDER(t, oidRequestInfoTemplate), set(seq(), seq()))),
			"not exactly one template"},
		{"template of version 2", seq(template([]byte{2, 1, 1})), "unknown version"},
		{"template without version", seq(template()), "empty template"},
		{"both extension requests", seq(template([]byte{2, 1, 0}, tlv(0xa1, request(seq(san)),
			seq(oidDER(t, oidExtensionReqTemplate), set(seq(san)))))), "more than one extension request"},
		{"sample that is no RSA key", seq(template([]byte{2, 1, 0},
			tlv(0xa0, seq(oidDER(t, oidRSAEncryption)), []byte{3, 2, 0, 7}))), "sample of an RSA key"},
	} {
		a, err := parseAttributes(test.der)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %+v, %v, want %q", test.name, a, err, test.want)
		}
	}
}

func FuzzParseAttributes(f *testing.F) {
	for _, seed := range []string{rfc9908ACP, rfc9908Original, rfc9908RSA, rfc9908SerialNumber, rfc9908Drink,
		rfc7030Original,
		libestAttributes} {
		f.Add([]byte(seed))
		f.Add(fromBase64(f, seed))
	}
	f.Add(rfc9908Template(f))
	f.Add([]byte("MAA=\x00"))
	f.Add([]byte{})
	own := Template{Subject: commonName("gw-1"), DNSNames: []string{"gw-1.example"}}
	f.Fuzz(func(t *testing.T, body []byte) {
		der, err := attributesDER(body)
		if err != nil {
			return
		}
		a, err := parseAttributes(der)
		if err != nil || a == nil {
			return
		}
		filled, unmet := a.Apply(own)
		for _, sentence := range unmet {
			if len(sentence) > 500 || printable(sentence) != sentence {
				t.Errorf("sentence %q", sentence)
			}
		}
		csr := requestFor(t, filled)
		if csr.Subject.CommonName != "gw-1" || csr.Subject.SerialNumber != "" || !slices.Equal(csr.DNSNames, own.DNSNames) ||
			len(csr.EmailAddresses)+len(csr.IPAddresses)+len(csr.URIs) > 0 {
			t.Errorf("identity %v, names %v", csr.Subject, csr.DNSNames)
		}
		for _, e := range csr.Extensions {
			if e.Id.Equal(oidBasicConstraints) {
				t.Error("basic constraints")
			}
			if e.Id.Equal(oidKeyUsage) {
				var usage asn1.BitString
				if _, err := asn1.Unmarshal(e.Value, &usage); err != nil || usage.At(5) != 0 || usage.At(6) != 0 {
					t.Errorf("key usage %x: %v", e.Value, err)
				}
			}
		}
	})
}

// csrattrs answers /csrattrs with a status and body.
func csrattrs(s *server, status int, body string) {
	s.handlers["csrattrs"] = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/csrattrs")
		w.WriteHeader(status)
		w.Write([]byte(body))
	}
}

func TestAttributesOfAServer(t *testing.T) {
	wrapped := "\r\n" + rfc9908RSA[:20] + "\r\n \t" + rfc9908RSA[20:] + "\r\n"
	for _, test := range []struct {
		name   string
		status int
		body   string
		bits   int // 0 means that the server wants nothing
		class  error
	}{
		{"base64", 200, rfc9908RSA, 4096, nil},
		{"libest's NUL", 200, rfc9908RSA + "\x00", 4096, nil},
		{"lines", 200, wrapped, 4096, nil},
		{"DER", 200, string(fromBase64(t, rfc9908RSA)), 4096, nil},
		{"empty list", 200, "MAA=", 0, nil},
		{"empty list in DER", 200, "\x30\x00", 0, nil},
		{"empty body", 200, "", 0, nil},
		{"white body", 200, "\r\n\x00", 0, nil},
		{"204", 204, "", 0, nil},
		{"404", 404, "no", 0, nil},
		{"400", 400, "no", 0, nil},
		{"405", 405, "no", 0, nil},
		{"501", 501, "no", 0, nil},
		{"garbage", 200, "MIIgarbage", 0, ErrBadResponse},
		{"welcome page", 200, "<html>", 0, ErrBadResponse},
		{"endless", 200, strings.Repeat("A", answerLimit+1), 0, ErrBadResponse},
		{"large", 200, base64.StdEncoding.EncodeToString(seq(make([]byte, attributesLimit-1))), 0, ErrBadResponse},
		{"202", 202, "", 0, ErrBadResponse},
		{"403", 403, "", 0, ErrUnauthorized},
		{"503", 503, "", 0, ErrUnavailable},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newServer(t)
			csrattrs(s, test.status, test.body)
			s.start()
			o := s.options()
			o.Known = Known{Attributes: []byte{1}, AttributesFetched: time.Unix(1, 0), Linking: true}
			now := time.Now()
			o.Now = func() time.Time { return now }
			c := newClient(t, o)
			a, err := c.Attributes(t.Context())
			if test.class != nil {
				if !errors.Is(err, test.class) || !c.Known().AttributesFetched.Equal(time.Unix(1, 0)) || !c.Known().Linking {
					t.Errorf("%v, known %+v", err, c.Known())
				}
				return
			}
			if err != nil || (a == nil) != (test.bits == 0) || a != nil && a.Bits != test.bits {
				t.Fatalf("%+v, %v", a, err)
			}
			known := c.Known()
			if !known.AttributesFetched.Equal(now) || known.Linking != (a != nil) || a != nil != (len(known.Attributes) > 2) {
				t.Errorf("known %+v", known)
			}
			// Within an attempt it is asked once, whatever the answer.
			if again, err := c.Attributes(t.Context()); err != nil || again != a || len(s.log()) != 1 {
				t.Errorf("asked again: %v, %v", again, paths(s.log()))
			}
		})
	}
}

func TestAttributesNotAskedForWhileFresh(t *testing.T) {
	s := newServer(t)
	csrattrs(s, 200, rfc9908SerialNumber)
	s.start()
	now := time.Now()
	for _, test := range []struct {
		name    string
		der     []byte
		fetched time.Time
		fresh   time.Duration
		asks    bool
		bits    int
	}{
		{"fresh", fromBase64(t, rfc9908RSA), now.Add(-time.Hour), 2 * time.Hour, false, 4096},
		{"fresh nothing", nil, now.Add(-time.Hour), 2 * time.Hour, false, 0},
		{"stale", fromBase64(t, rfc9908RSA), now.Add(-2 * time.Hour), 2 * time.Hour, true, 384},
		{"always asked", fromBase64(t, rfc9908RSA), now, 0, true, 384},
		{"never asked", nil, time.Time{}, 2 * time.Hour, true, 384},
		{"of the future", fromBase64(t, rfc9908RSA), now.Add(time.Minute), 2 * time.Hour, true, 384},
		{"damaged", []byte{1, 2, 3}, now.Add(-time.Hour), 2 * time.Hour, true, 384},
	} {
		before := len(s.log())
		o := s.options()
		o.Now = func() time.Time { return now }
		o.Known, o.Fresh = Known{Attributes: test.der, AttributesFetched: test.fetched}, test.fresh
		a, err := newClient(t, o).Attributes(t.Context())
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if asked := len(s.log()) > before; asked != test.asks || (a == nil) != (test.bits == 0) || a != nil &&
			a.Bits != test.bits {
			t.Errorf("%s: asked %v, got %+v", test.name, asked, a)
		}
	}
}

// A stored answer that a refused request followed may be out of date.
func TestRefusalMakesStoredAttributesDoubtful(t *testing.T) {
	for _, test := range []struct {
		status  int
		doubted bool
	}{{400, true}, {401, true}, {422, true}, {500, false}, {503, false}, {202, false}} {
		s := newServer(t)
		csrattrs(s, 200, "MAA=")
		s.handlers["simpleenroll"] = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(test.status) }
		s.start()
		_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
		o := s.options()
		o.Known, o.Fresh = Known{AttributesFetched: time.Now().Add(-time.Minute)}, time.Hour
		for _, ask := range []bool{false, true} {
			o.Fresh = time.Hour
			if ask {
				o.Fresh = 0
			}
			c := newClient(t, o)
			if _, err := c.Attributes(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Enroll(t.Context(), csr, Want{}); err == nil {
				t.Fatal("no error")
			}
			if doubted := c.Known().AttributesFetched.IsZero(); doubted != (test.doubted && !ask) {
				t.Errorf("%d, just asked %v: doubted %v", test.status, ask, doubted)
			}
		}
	}
}

// A server may want a login for its attributes as well (RFC 7030 4.5.1).
func TestAttributesBehindALogin(t *testing.T) {
	s := newServer(t)
	s.handlers["csrattrs"] = func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "u" || password != "p" {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Write([]byte(rfc9908RSA))
	}
	s.start()
	o := s.options()
	o.Login = &Login{Username: "u", Password: "p"}
	a, err := newClient(t, o).Attributes(t.Context())
	if err != nil || a == nil || a.Bits != 4096 {
		t.Errorf("%+v, %v", a, err)
	}
}
