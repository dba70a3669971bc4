package est

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
)

func TestCreateRequestSignsByKey(t *testing.T) {
	generate := func(curve elliptic.Curve) crypto.Signer {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		key  crypto.Signer
		want x509.SignatureAlgorithm
	}{
		{generate(elliptic.P256()), x509.ECDSAWithSHA256},
		{generate(elliptic.P384()), x509.ECDSAWithSHA384},
		{generate(elliptic.P521()), x509.ECDSAWithSHA512},
		{rsaKey, x509.SHA256WithRSA},
		{edKey, x509.PureEd25519},
	} {
		der, err := CreateRequest(test.key, Template{Subject: commonName("gw-1")})
		if err != nil {
			t.Errorf("%v: %v", test.want, err)
			continue
		}
		csr, err := x509.ParseCertificateRequest(der)
		if err != nil || csr.CheckSignature() != nil || csr.SignatureAlgorithm != test.want {
			t.Errorf("%v: %v, %v, %v", test.want, csr.SignatureAlgorithm, err, csr.CheckSignature())
		}
	}
}

// requestFor makes a request of a template and reads it.
func requestFor(t testing.TB, template Template) *x509.CertificateRequest {
	t.Helper()
	_, der := newRequest(t, template)
	return parsedRequest(t, der)
}

func parsedRequest(t testing.TB, der []byte) *x509.CertificateRequest {
	t.Helper()
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

func TestRequestSubject(t *testing.T) {
	// Order, a relative name of two attributes, and the string types that RFC 5280 fixes.
	csr := requestFor(t, Template{Subject: pkix.RDNSequence{
		{{Type: oidCountryName, Value: "JP"}},
		{{Type: asn1.ObjectIdentifier{2, 5, 4, 10}, Value: "Größe"}},
		{{Type: asn1.ObjectIdentifier{2, 5, 4, 11}, Value: "plain"}},
		{{Type: oidDomainComponent, Value: "example"}},
		{{Type: oidCommonName, Value: "gw_1@x"}, {Type: oidSerialNumber, Value: "0042"}},
		{{Type: oidDNQualifier, Value: "q"}},
		{{Type: oidEmailAddress, Value: "a@b.example"}},
	}})
	type value struct {
		oid string
		tag int
		raw string
	}
	var sequence []asn1.RawValue
	if _, err := asn1.Unmarshal(csr.RawSubject, &sequence); err != nil {
		t.Fatal(err)
	}
	var got []value
	for _, set := range sequence {
		rest := set.Bytes
		for len(rest) > 0 {
			var a struct {
				Type  asn1.ObjectIdentifier
				Value asn1.RawValue
			}
			var err error
			if rest, err = asn1.Unmarshal(rest, &a); err != nil {
				t.Fatal(err)
			}
			got = append(got, value{attributeName(a.Type), a.Value.Tag, string(a.Value.Bytes)})
		}
	}
	want := []value{
		{"C", asn1.TagPrintableString, "JP"},
		{"O", asn1.TagUTF8String, "Größe"},
		{"OU", asn1.TagPrintableString, "plain"},
		{"DC", asn1.TagIA5String, "example"},
		{"serialNumber", asn1.TagPrintableString, "0042"}, // DER sorts what shares a relative name
		{"CN", asn1.TagUTF8String, "gw_1@x"},
		{"dnQualifier", asn1.TagPrintableString, "q"},
		{"emailAddress", asn1.TagIA5String, "a@b.example"},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestRequestRefuses(t *testing.T) {
	one := func(oid asn1.ObjectIdentifier, value any) Template {
		return Template{Subject: pkix.RDNSequence{{{Type: oid, Value: value}}}}
	}
	for _, test := range []struct {
		name     string
		template Template
		want     string
	}{
		{"long CN", one(oidCommonName, strings.Repeat("x", 65)), "longer than 64"},
		{"empty CN", one(oidCommonName, ""), "CN: empty"},
		{"number", one(oidCommonName, 7), "not a string"},
		{"not UTF-8", one(oidCommonName, "\xff"), "UTF-8"},
		{"long country", one(oidCountryName, "JPN"), "two-letter"},
		{"odd country", one(oidCountryName, "J_"), "other than"},
		{"odd serial", one(oidSerialNumber, "a_b"), "serialNumber"},
		{"umlaut in e-mail", one(oidEmailAddress, "ä@b"), "ASCII"},
		{"umlaut in host", Template{DNSNames: []string{"gerät.example"}}, "ASCII"},
		{"empty host", Template{DNSNames: []string{""}}, "empty"},
		{"odd IP", Template{IPs: []net.IP{{1, 2, 3}}}, "no IP address"},
		{"usage", Template{Usages: []x509.ExtKeyUsage{99}}, "usage"},
	} {
		if _, err := CreateRequest(newKey(t), test.template); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
	}
	if _, err := CreateRequest(newKey(t), one(oidCommonName, strings.Repeat("ä", 64))); err != nil {
		t.Errorf("64 characters of two bytes: %v", err)
	}
}

func TestRequestExtensions(t *testing.T) {
	template := Template{
		DNSNames: []string{"gw-1.example"},
		IPs:      []net.IP{net.IPv4(192, 0, 2, 1), net.ParseIP("2001:db8::1")},
		URIs:     []*url.URL{{Scheme: "urn", Opaque: "dev:1"}},
		Emails:   []string{"a@b.example"},
		Usages:   []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		CA:       true,
	}
	csr := requestFor(t, template)
	if !slices.Equal(csr.DNSNames, template.DNSNames) || len(csr.IPAddresses) != 2 ||
		!csr.IPAddresses[0].Equal(template.IPs[0]) ||
		!csr.IPAddresses[1].Equal(template.IPs[1]) || len(csr.URIs) != 1 || csr.URIs[0].String() != "urn:dev:1" ||
		!slices.Equal(csr.EmailAddresses, template.Emails) {
		t.Errorf("names: %v %v %v %v", csr.DNSNames, csr.IPAddresses, csr.URIs, csr.EmailAddresses)
	}
	if len(csr.Subject.Names) != 0 {
		t.Errorf("subject %v, none was asked for", csr.Subject)
	}
	// A CA that copies the extensions makes the certificate that was meant.
	leaf := newRoot(t, "root").issue(t, csr.Raw)
	if !leaf.IsCA || leaf.MaxPathLen != 0 || !leaf.MaxPathLenZero ||
		leaf.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageDigitalSignature ||
		!slices.Equal(leaf.ExtKeyUsage, template.Usages) || len(leaf.UnhandledCriticalExtensions) != 0 {
		t.Errorf("CA %v, path length %d, key usage %b, usages %v", leaf.IsCA, leaf.MaxPathLen, leaf.KeyUsage,
			leaf.ExtKeyUsage)
	}
	for _, e := range csr.Extensions {
		if want := e.Id.Equal(oidBasicConstraints) || e.Id.Equal(oidKeyUsage); e.Critical != want {
			t.Errorf("extension %v is critical: %v", e.Id, e.Critical)
		}
	}
	if plain := requestFor(t, Template{Subject: commonName("gw-1")}); len(plain.Extensions) != 0 {
		t.Errorf("extensions nobody asked for: %v", plain.Extensions)
	}
}

// RFC 7030 4.2.2 wants subject and names identical, and servers compare bytes: string types and order of the
// certificate stay, whatever we would have chosen.
func TestRenewalTemplateKeepsBytes(t *testing.T) {
	utf8CN := asn1.RawValue{Tag: asn1.TagUTF8String, Bytes: []byte("gw-1")}
	subject, err := asn1.Marshal(pkix.RDNSequence{{{Type: oidCommonName, Value: utf8CN}}})
	if err != nil {
		t.Fatal(err)
	}
	// A hardware module name (RFC 4108), which crypto/x509 does not know, and marked critical.
	san, err := asn1.Marshal([]asn1.RawValue{
		{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: []byte{6, 3, 42, 3, 4, 0xa0, 2, 5, 0}},
		{Class: asn1.ClassContextSpecific, Tag: tagDNSName, Bytes: []byte("GW-1.example")},
	})
	if err != nil {
		t.Fatal(err)
	}
	root := newRoot(t, "root")
	leaf := root.certify(t, &x509.Certificate{
		RawSubject:      subject,
		ExtraExtensions: []pkix.Extension{{Id: oidSubjectAltName, Critical: true, Value: san}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageCodeSigning,
			x509.ExtKeyUsageClientAuth},
	}, newKey(t).Public())

	template := RenewalTemplate(leaf)
	csr := requestFor(t, template)
	if !bytes.Equal(csr.RawSubject, leaf.RawSubject) || !bytes.Equal(csr.RawSubject, subject) {
		t.Errorf("subject %x, want %x", csr.RawSubject, leaf.RawSubject)
	}
	i := slices.IndexFunc(csr.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(oidSubjectAltName) })
	if i < 0 || !bytes.Equal(csr.Extensions[i].Value, san) || !csr.Extensions[i].Critical {
		t.Errorf("extensions %v, want the names byte for byte", csr.Extensions)
	}
	if !slices.Equal(template.Usages, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}) ||
		template.CA {
		t.Errorf("usages %v, CA %v", template.Usages, template.CA)
	}
	if ca := RenewalTemplate(root.cert); !ca.CA {
		t.Error("the renewal of a CA certificate does not ask for one")
	}
}

func newEd25519Key(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestRequestKeyUsage(t *testing.T) {
	const all = x509.KeyUsageDecipherOnly<<1 - 1
	for _, test := range []struct {
		usage x509.KeyUsage
		ca    bool
		want  []byte // of the extension
	}{
		{0, false, nil},
		{x509.KeyUsageDigitalSignature, false, []byte{3, 2, 7, 0x80}},
		{x509.KeyUsageDigitalSignature | x509.KeyUsageKeyAgreement, false, []byte{3, 2, 3, 0x88}},
		{x509.KeyUsageDecipherOnly, false, []byte{3, 3, 7, 0, 0x80}},
		{all, true, []byte{3, 3, 7, 0xff, 0x80}},
		{0, true, []byte{3, 2, 2, 0x84}},
		{x509.KeyUsageCertSign, true, []byte{3, 2, 2, 0x04}},
	} {
		csr := requestFor(t, Template{Subject: commonName("gw-1"), KeyUsage: test.usage, CA: test.ca})
		var got []byte
		for _, e := range csr.Extensions {
			if e.Id.Equal(oidKeyUsage) {
				got = e.Value
			}
		}
		if !bytes.Equal(got, test.want) {
			t.Errorf("%b: %x, want %x", test.usage, got, test.want)
		}
	}
	for _, test := range []struct {
		template Template
		want     string
	}{
		{Template{KeyUsage: x509.KeyUsageCertSign}, "only a CA"},
		{Template{KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCRLSign}, "only a CA"},
		{Template{KeyUsage: x509.KeyUsageDigitalSignature, CA: true}, "to sign certificates"},
		{Template{KeyUsage: 1 << 9}, "unknown usage"},
		{Template{KeyUsage: -128}, "unknown usage"},
	} {
		if _, err := CreateRequest(newKey(t), test.template); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v: %v, want %q", test.template.KeyUsage, err, test.want)
		}
	}
}

// Every size of key signs with every hash that a server may ask for.
func TestRequestHash(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		key  crypto.Signer
		hash crypto.Hash
		want x509.SignatureAlgorithm
	}{
		{newKey(t), crypto.SHA256, x509.ECDSAWithSHA256},
		{newKey(t), crypto.SHA384, x509.ECDSAWithSHA384},
		{newKey(t), crypto.SHA512, x509.ECDSAWithSHA512},
		{rsaKey, crypto.SHA256, x509.SHA256WithRSA},
		{rsaKey, crypto.SHA384, x509.SHA384WithRSA},
		{rsaKey, crypto.SHA512, x509.SHA512WithRSA},
		{newEd25519Key(t), crypto.SHA384, x509.PureEd25519},
	} {
		der, err := CreateRequest(test.key, Template{Subject: commonName("gw-1"), Hash: test.hash})
		if err != nil {
			t.Errorf("%v: %v", test.want, err)
			continue
		}
		csr, err := x509.ParseCertificateRequest(der)
		if err != nil || csr.CheckSignature() != nil || csr.SignatureAlgorithm != test.want {
			t.Errorf("%v: %v, %v, %v", test.want, csr.SignatureAlgorithm, err, csr.CheckSignature())
		}
	}
	for _, weak := range []crypto.Hash{crypto.SHA1, crypto.MD5, 99} {
		if _, err := CreateRequest(newKey(t), Template{Hash: weak}); err == nil || !strings.Contains(err.Error(),
			"not a hash for signatures") {
			t.Errorf("%d: %v", weak, err)
		}
	}
}
