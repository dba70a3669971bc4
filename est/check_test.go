package est

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

func rdn(pairs ...any) pkix.RDNSequence {
	var sequence pkix.RDNSequence
	for i := 0; i < len(pairs); i += 2 {
		sequence = append(sequence, pkix.RelativeDistinguishedNameSET{
			{Type: pairs[i].(asn1.ObjectIdentifier), Value: pairs[i+1]}})
	}
	return sequence
}

var (
	oidO  = asn1.ObjectIdentifier{2, 5, 4, 10}
	oidOU = asn1.ObjectIdentifier{2, 5, 4, 11}
)

// What an issued certificate may look like, by what was asked and what came.
func TestCheck(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	root := newRoot(t, "root")
	line := root.sub(t, "issuing CA")
	key := newKey(t)
	other := newKey(t)
	strange := newRoot(t, "strange root")
	expiredCA := newKey(t)
	dead := &authority{key: expiredCA, cert: sign(t, func() *x509.Certificate {
		c := caTemplate("dead CA")
		c.NotBefore, c.NotAfter = now.Add(-3*time.Hour), now.Add(-time.Hour)
		return c
	}(), expiredCA, root)}
	rootOnly := authorities{anchors: []*x509.Certificate{root.cert}}
	fromServer := gather(nil, Known{CAs: []*x509.Certificate{line.cert, root.cert}})

	type want struct {
		refused  string   // in the error; "" means accepted
		chain    int      // length of Issued.Chain
		warnings []string // one string in each
	}
	for _, test := range []struct {
		name   string
		asked  Template
		issue  x509.Certificate
		by     *authority          // nil: the root
		others []*x509.Certificate // what else is in the answer
		above  authorities         // none: the root
		accept Want
		want   want
	}{
		{name: "as asked", asked: Template{Subject: commonName("gw-1")},
			issue: x509.Certificate{Subject: pkix.Name{CommonName: "gw-1"}},
		},
		{name: "through an intermediate in the answer", by: line, others: []*x509.Certificate{root.cert, line.cert,
			line.cert},
			want: want{chain: 1}},
		{name: "through an intermediate of /cacerts", by: line, above: fromServer, want: want{chain: 1}},
		{name: "intermediate missing", by: line, want: want{refused: "comes from \"CN=issuing CA\""}},
		{name: "other CA", by: strange, others: []*x509.Certificate{strange.cert},
			want: want{refused: "comes from \"CN=strange root\""}},
		{name: "dead intermediate", by: dead, others: []*x509.Certificate{dead.cert},
			want: want{refused: "CA certificate above the issued one \"CN=dead CA\" expired at"}},
		{name: "expired", issue: x509.Certificate{NotBefore: now.Add(-time.Hour), NotAfter: now.Add(-time.Second)},
			want: want{refused: "expired at"}},
		{name: "born a little ahead", issue: x509.Certificate{NotBefore: now.Add(clockSkew),
			NotAfter: now.Add(2 * clockSkew)},
			want: want{warnings: []string{"not valid before"}}},
		{name: "born too far ahead", issue: x509.Certificate{NotBefore: now.Add(clockSkew + time.Second),
			NotAfter: now.Add(time.Hour)},
			want: want{refused: "not valid before"}},
		{name: "CA unasked", issue: *caTemplate("gw-1"), want: want{refused: "CA certificate was issued"}},
		{name: "CA asked", asked: Template{Subject: commonName("edge"), CA: true}, issue: *caTemplate("edge"),
			accept: Want{CA: true}},
		{name: "CA asked, none came", asked: Template{Subject: commonName("edge"), CA: true},
			issue: x509.Certificate{Subject: pkix.Name{CommonName: "edge"}}, accept: Want{CA: true},
			want: want{warnings: []string{"is not one"}}},
		{name: "another CN", asked: Template{Subject: commonName("gw-1")},
			issue: x509.Certificate{Subject: pkix.Name{CommonName: "gw-2"}},
			want:  want{refused: `has CN="gw-2", asked was CN="gw-1"`}},
		{name: "a second CN", asked: Template{Subject: commonName("gw-1")},
			issue: x509.Certificate{Subject: pkix.Name{ExtraNames: []pkix.AttributeTypeAndValue{
				{Type: oidCommonName, Value: "gw-1"}, {Type: oidCommonName, Value: "gw-2"}}}},
			want: want{refused: `has CN="gw-2"`}},
		{name: "CN dropped", asked: Template{Subject: commonName("gw-1")},
			want: want{warnings: []string{`left out of the subject: CN="gw-1"`}}},
		{name: "CN chosen by the CA", issue: x509.Certificate{Subject: pkix.Name{CommonName: "4711"}},
			want: want{warnings: []string{`chose the common name: CN="4711"`}}},
		{name: "other string type", asked: Template{Subject: rdn(oidCommonName, asn1.RawValue{Tag: asn1.TagUTF8String,
			Bytes: []byte("gw-1")})},
			issue: x509.Certificate{Subject: pkix.Name{CommonName: "gw-1"}}},
		{name: "case and spaces", asked: Template{Subject: commonName("Gate  Way")},
			issue: x509.Certificate{Subject: pkix.Name{CommonName: "gate way"}}, want: want{warnings: []string{"rewrote"}}},
		{name: "attribute dropped, as libest does", asked: Template{Subject: rdn(oidO, "Example", oidCommonName, "gw-1")},
			issue: x509.Certificate{Subject: pkix.Name{CommonName: "gw-1"}},
			want:  want{warnings: []string{`left out of the subject: O="Example"`}}},
		{name: "attribute added", asked: Template{Subject: commonName("gw-1")},
			issue: x509.Certificate{Subject: pkix.Name{CommonName: "gw-1", Organization: []string{"Ours"}}},
			want:  want{warnings: []string{`added to the subject: O="Ours"`}}},
		{name: "attribute of another value", asked: Template{Subject: rdn(oidO, "Example", oidCommonName, "gw-1")},
			issue: x509.Certificate{Subject: pkix.Name{CommonName: "gw-1", Organization: []string{"Evil"}}},
			want:  want{refused: `has O="Evil", asked was O="Example"`}},
		{name: "one unit of two, and one more", asked: Template{Subject: rdn(oidOU, "a", oidOU, "b")},
			issue: x509.Certificate{Subject: pkix.Name{OrganizationalUnit: []string{"b", "c"}}},
			want:  want{warnings: []string{`left out of the subject: OU="a"`, `added to the subject: OU="c"`}}},
		{name: "names dropped and added", asked: Template{DNSNames: []string{"A.example", "b.example"}},
			issue: x509.Certificate{DNSNames: []string{"a.example", "c.example"}},
			want: want{warnings: []string{"left out the subject alternative names dns:b.example",
				"added the subject alternative names dns:c.example"}}},
		{name: "usages dropped", asked: Template{Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth,
			x509.ExtKeyUsageClientAuth}},
			issue: x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}},
			want:  want{warnings: []string{"left out the extended key usages serverAuth"}}},
		{name: "any usage", asked: Template{Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}},
			issue: x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}},
		{name: "critical extension that nobody knows",
			issue: x509.Certificate{ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3},
				Critical: true, Value: []byte{5, 0}}}},
			want: want{refused: "does not verify"}},
		{name: "critical name that only devices know",
			issue: x509.Certificate{ExtraExtensions: []pkix.Extension{{Id: oidSubjectAltName, Critical: true,
				Value: []byte{0x30, 11, 0xa0, 9, 6, 3, 42, 3, 4, 0xa0, 2, 5, 0}}}},
			want: want{warnings: []string{"added the subject alternative names other:"}}},
	} {
		if test.by == nil {
			test.by = root
		}
		if test.above.anchors == nil {
			test.above = rootOnly
		}
		der, err := CreateRequest(key, test.asked)
		if err != nil {
			t.Fatal(err)
		}
		asked, err := parseAsked(der)
		if err != nil {
			t.Fatal(err)
		}
		template := test.issue
		leaf := test.by.certify(t, &template, key.Public())
		notOurs := root.certify(t, &x509.Certificate{Subject: pkix.Name{CommonName: "gw-1"}}, other.Public())
		// Ours is neither the first nor the last.
		answer := slices.Concat([]*x509.Certificate{notOurs}, []*x509.Certificate{leaf}, test.others)
		issued, err := check(asked, answer, test.above, test.accept, now)
		if test.want.refused != "" {
			if err == nil || !strings.Contains(err.Error(), test.want.refused) {
				t.Errorf("%s: %v, want %q", test.name, err, test.want.refused)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if !issued.Leaf.Equal(leaf) || len(issued.Chain) != test.want.chain || len(issued.CAs) != 1 ||
			!issued.CAs[0].Equal(root.cert) {
			t.Errorf("%s: our leaf: %v, chain of %d, %d CAs", test.name, issued.Leaf.Equal(leaf), len(issued.Chain),
				len(issued.CAs))
		}
		matched := slices.EqualFunc(issued.Warnings, test.want.warnings, strings.Contains)
		if !matched {
			t.Errorf("%s: warnings %q, want %q", test.name, issued.Warnings, test.want.warnings)
		}
	}
}

// What a CA writes into a certificate is shown, at a length that fits a line of a log.
func TestWarningsAreBounded(t *testing.T) {
	root := newRoot(t, "root")
	key, der := newRequest(t, Template{Subject: commonName("gw-1")})
	asked, err := parseAsked(der)
	if err != nil {
		t.Fatal(err)
	}
	subject := pkix.Name{CommonName: "gw-1"}
	leaf := &x509.Certificate{}
	for i := range 1000 {
		subject.ExtraNames = append(subject.ExtraNames,
			pkix.AttributeTypeAndValue{Type: asn1.ObjectIdentifier{1, 2, 3, i}, Value: "x"})
		leaf.DNSNames = append(leaf.DNSNames, fmt.Sprintf("host-%d.example", i))
	}
	leaf.Subject = subject
	issued, err := check(asked, []*x509.Certificate{root.certify(t, leaf, key.Public())},
		authorities{anchors: []*x509.Certificate{root.cert}}, Want{}, time.Now())
	if err != nil || len(issued.Warnings) != 2 {
		t.Fatalf("%v, %+v", err, issued)
	}
	for _, w := range issued.Warnings {
		if len(w) > 400 {
			t.Errorf("warning of %d bytes: %s", len(w), w)
		}
	}
}

// A CA whose signatures are not verified any more is not called unknown without saying so.
func TestIssuedWithSHA1(t *testing.T) {
	root := newRSARoot(t, "rsa root")
	leaf := sign(t, &x509.Certificate{SignatureAlgorithm: x509.SHA1WithRSA}, newKey(t), root)
	_, err := verifyIssued(leaf, []*x509.Certificate{leaf}, authorities{anchors: []*x509.Certificate{root.cert}}, time.Now())
	if err == nil || !strings.Contains(err.Error(), "insecure algorithm SHA1-RSA") {
		t.Error(err)
	}
}

func TestCertificateForAnotherKey(t *testing.T) {
	s := newServer(t)
	s.handlers["simpleenroll"] = func(w http.ResponseWriter, _ *http.Request) {
		_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
		s.answer(w, s.root.issue(t, csr), s.root.cert)
	}
	s.start()
	_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
	_, err := newClient(t, s.options()).Enroll(t.Context(), csr, Want{})
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Class != ErrBadResponse || e.Status != 200 || e.Refusal || e.Hint == "" ||
		!strings.Contains(err.Error(), "issued certificate is for another key") {
		t.Error(err)
	}
}

func TestAnswerThatIsNoCertificate(t *testing.T) {
	for _, test := range []struct{ contentType, body, want string }{
		{"text/html", "<h1>Welcome</h1>", `it is of type "text/html", not application/pkcs7-mime: "<h1>Welcome</h1>"`},
		{"application/pkcs7-mime", "garbage!", "neither base64 nor DER"},
		{"application/pkcs7-mime", "", "empty body"},
	} {
		s := newServer(t)
		s.handlers["simpleenroll"] = func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", test.contentType)
			w.Write([]byte(test.body))
		}
		s.start()
		_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
		_, err := newClient(t, s.options()).Enroll(t.Context(), csr, Want{})
		if !errors.Is(err, ErrBadResponse) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("got %v, want %q", err, test.want)
		}
	}
}

// A CA that renews its own key gives old, new, and each signed with the other (RFC 7030 4.1.3). A device that knows the
// old root alone takes what the new one issues, and hands both roots on.
func TestCARollover(t *testing.T) {
	old, young := newRoot(t, "root"), newRoot(t, "root")
	oldWithNew, newWithOld := sign(t, caTemplate("root"), old.key, young), sign(t, caTemplate("root"), young.key, old)
	key, der := newRequest(t, Template{Subject: commonName("gw-1")})
	asked, err := parseAsked(der)
	if err != nil {
		t.Fatal(err)
	}
	leaf := young.certify(t, &x509.Certificate{Subject: pkix.Name{CommonName: "gw-1"}}, key.Public())
	anchors := []*x509.Certificate{old.cert}

	given := gather(anchors, Known{CAs: []*x509.Certificate{young.cert, oldWithNew, newWithOld, old.cert}})
	issued, err := check(asked, []*x509.Certificate{leaf}, given, Want{}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if len(issued.Chain) != 0 || len(issued.CAs) != 2 {
		t.Errorf("chain of %d, %d CAs; want 0, 2", len(issued.Chain), len(issued.CAs))
	}

	// Where the new root itself is not given, the path leads over the cross certificate to the old one.
	given = gather(anchors, Known{CAs: []*x509.Certificate{newWithOld}})
	issued, err = check(asked, []*x509.Certificate{leaf}, given, Want{}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if len(issued.Chain) != 1 || !issued.Chain[0].Equal(newWithOld) || len(issued.CAs) != 1 ||
		!issued.CAs[0].Equal(old.cert) {
		t.Errorf("chain of %d, %d CAs", len(issued.Chain), len(issued.CAs))
	}
}

// What /cacerts gives is an anchor only if it is self-signed.
func TestGather(t *testing.T) {
	root, line := newRoot(t, "root"), newRoot(t, "other root").sub(t, "line")
	got := gather([]*x509.Certificate{line.cert}, Known{CAs: []*x509.Certificate{root.cert, line.cert}})
	if !same(got.anchors, line.cert, root.cert) || !same(got.intermediates, line.cert) || !same(got.roots, root.cert) {
		t.Errorf("%d anchors, %d intermediates, %d roots", len(got.anchors), len(got.intermediates), len(got.roots))
	}
}

// same reports whether certs are want, in that order.
func same(certs []*x509.Certificate, want ...*x509.Certificate) bool {
	return slices.EqualFunc(certs, want, (*x509.Certificate).Equal)
}
