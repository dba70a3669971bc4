package est

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"net"
	"slices"
	"strings"
	"testing"
)

func TestApply(t *testing.T) {
	name := func(fields ...[]byte) []byte { // a template with that subject
		return seq(seq(oidDER(t, oidRequestInfoTemplate), set(seq([]byte{2, 1, 0}, seq(fields...), tlv(0xa1)))))
	}
	rdn := func(value []byte, id ...int) []byte { return set(seq(oid(t, id...), value)) }
	extension := func(id asn1.ObjectIdentifier, value ...[]byte) []byte { // in the form of RFC 9908 3.2
		return seq(seq(oidDER(t, oidExtensionRequest), set(seq(seq(oidDER(t, id), octets(value...))))))
	}
	blank := func(id asn1.ObjectIdentifier) []byte { return seq(oidDER(t, id)) }
	keyUsage := func(bits ...byte) []byte { return extension(oidKeyUsage, tlv(3, append([]byte{0}, bits...))) }
	usages := func(ids ...[]byte) []byte { return extension(oidExtKeyUsage, seq(ids...)) }
	clientAuth, serverAuth, codeSigning := oid(t, 1, 3, 6, 1, 5, 5, 7, 3, 2), oid(t, 1, 3, 6, 1, 5, 5, 7, 3, 1),
		oid(t, 1, 3, 6, 1, 5, 5, 7, 3, 3)
	one := func(t Template) Template {
		if t.Subject == nil && t.RawSubject == nil {
			t.Subject = commonName("gw-1")
		}
		return t
	}
	for _, test := range []struct {
		name     string
		der      []byte
		own      Template
		subject  string
		keyUsage x509.KeyUsage
		usages   []x509.ExtKeyUsage
		unmet    []string
	}{
		{name: "RFC 9908 3.4", der: rfc9908Template(t), own: Template{DNSNames: []string{"www.myserver.com"},
			IPs: []net.IP{net.IPv4(192, 0, 2, 1)}, Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}},
			subject: "OU=myGroup,OU=myDept,CN=gw-1", keyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyAgreement,
			usages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}},
		{name: "RFC 9908 3.4, of which we have little", der: rfc9908Template(t),
			subject: "OU=myGroup,OU=myDept,CN=gw-1", keyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyAgreement,
			unmet: []string{"alternative names dns:www.myserver.com, which"}},

		{name: "organisation before and behind", der: name(rdn(utf8String("JP"), 2, 5, 4, 6),
			rdn(utf8String("Größe"), 2, 5, 4, 10),
			set(seq(oidDER(t, oidCommonName))), rdn(utf8String("x"), 2, 5, 4, 7)), subject: "L=x,CN=gw-1,O=Größe,C=JP"},
		{name: "what the configuration mentions stays", der: name(rdn(utf8String("theirs"), 2, 5, 4, 10),
			rdn(utf8String("unit"), 2, 5, 4, 11)),
			own: Template{Subject: pkix.RDNSequence{{{Type: oidCommonName, Value: "gw-1"}},
				{{Type: asn1.ObjectIdentifier{2, 5, 4, 10}, Value: "ours"}}}},
			subject: "OU=unit,O=ours,CN=gw-1", unmet: []string{`O="theirs" in the subject`}},
		{name: "order of the configuration stays", der: name(set(seq(oid(t, 2, 5, 4, 10))), set(seq(oidDER(t,
			oidCommonName))),
			rdn(utf8String("unit"), 2, 5, 4, 11)),
			own: Template{Subject: pkix.RDNSequence{{{Type: oidCommonName, Value: "gw-1"}},
				{{Type: asn1.ObjectIdentifier{2, 5, 4, 10}, Value: "ours"}}}},
			subject: "OU=unit,O=ours,CN=gw-1"},
		{name: "identity is never theirs", der: name(rdn(utf8String("evil"), 2, 5, 4, 3), rdn(utf8String("1"), 2, 5, 4, 5),
			rdn(utf8String("u"), 0, 9, 2342, 19200300, 100, 1, 1), rdn(tlv(0x16, []byte("a@b")), 1, 2, 840, 113549, 1, 9, 1),
			rdn(tlv(0x16, []byte("dc")), 0, 9, 2342, 19200300, 100, 1, 25), rdn(utf8String("q"), 2, 5, 4, 46),
			rdn(utf8String("?"), 1, 2, 3)),
			subject: "CN=gw-1",
			unmet: []string{`CN="evil", serialNumber="1", UID="u", ` +
				`emailAddress="a@b", DC="dc", dnQualifier="q", 1.2.3="?" in the subject`}},
		{name: "identity that is ours anyway", der: name(rdn(utf8String("GW-1"), 2, 5, 4, 3)), subject: "CN=gw-1"},
		{name: "values no CA could use", der: name(rdn(utf8String("Japan"), 2, 5, 4, 6),
			rdn(utf8String(strings.Repeat("x", 65)), 2, 5, 4, 10),
			rdn(utf8String("a\x1b[31m"), 2, 5, 4, 11), rdn(utf8String(""), 2, 5, 4, 7), rdn([]byte{2, 1, 7}, 2, 5, 4, 8)),
			subject: "CN=gw-1", unmet: []string{`C="Japan", O="xxx`}},
		{name: "what is left to us and we have not", der: seq(oidDER(t, oidSerialNumber), oidDER(t, oidEmailAddress),
			oidDER(t, oidSubjectAltName), oidDER(t, oidExtKeyUsage), oid(t, 2, 5, 29, 32), oid(t, 1, 2, 3)),
			subject: "CN=gw-1"},

		{name: "key usage", der: keyUsage(0xb0), subject: "CN=gw-1",
			keyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment | x509.KeyUsageDataEncipherment},
		{name: "key usage of nine bits", der: keyUsage(0x81, 0x80), subject: "CN=gw-1",
			keyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageEncipherOnly | x509.KeyUsageDecipherOnly},
		{name: "key usage of a CA", der: keyUsage(0x86), subject: "CN=gw-1", keyUsage: x509.KeyUsageDigitalSignature,
			unmet: []string{"key usage keyCertSign, cRLSign"}},
		{name: "key usage for a CA", der: keyUsage(0xa6), own: Template{CA: true}, subject: "CN=gw-1",
			keyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
			unmet:    []string{"key usage keyEncipherment"}},
		{name: "key usage to fill in", der: blank(oidKeyUsage), subject: "CN=gw-1", keyUsage: x509.KeyUsageDigitalSignature},
		{name: "key usage to fill in, and ours", der: blank(oidKeyUsage),
			own: Template{KeyUsage: x509.KeyUsageKeyAgreement}, subject: "CN=gw-1", keyUsage: x509.KeyUsageKeyAgreement},
		{name: "key usage that is ours", der: keyUsage(0xa0), own: Template{KeyUsage: x509.KeyUsageDigitalSignature},
			subject:  "CN=gw-1",
			keyUsage: x509.KeyUsageDigitalSignature, unmet: []string{"key usage keyEncipherment"}},
		{name: "key usage that is none", der: extension(oidKeyUsage, []byte{5, 0}), subject: "CN=gw-1",
			unmet: []string{"cannot be read"}},

		{name: "usages", der: usages(clientAuth, serverAuth, codeSigning, oid(t, 1, 2, 3)), subject: "CN=gw-1",
			usages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
			unmet:  []string{"extended key usage codeSigning, 1.2.3,"}},
		{name: "usages that are ours", der: usages(clientAuth, serverAuth),
			own:     Template{Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}},
			subject: "CN=gw-1", usages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
			unmet: []string{"extended key usage serverAuth"}},
		{name: "usages for a CA", der: usages(serverAuth), own: Template{CA: true}, subject: "CN=gw-1",
			unmet: []string{"extended key usage serverAuth"}},

		{name: "names are never theirs", der: fromBase64(t, rfc9908ACP), subject: "CN=gw-1",
			unmet: []string{"alternative names other:a047"}},
		{name: "CA is never theirs", der: extension(oidBasicConstraints, seq([]byte{1, 1, 0xff})), subject: "CN=gw-1",
			unmet: []string{"asks for a CA certificate"}},
		{name: "no CA", der: extension(oidBasicConstraints, seq()), subject: "CN=gw-1"},
		{name: "CA that is ours", der: extension(oidBasicConstraints, seq([]byte{1, 1, 0xff})),
			own: Template{CA: true}, subject: "CN=gw-1"},
		{name: "unknown extension", der: extension(asn1.ObjectIdentifier{1, 2, 3, 4}, []byte{5, 0}), subject: "CN=gw-1",
			unmet: []string{"extensions 1.2.3.4, which are never taken"}},
		{name: "a kind of key that we do not make", der: seq(seq(oidDER(t, oidECPublicKey), set(oid(t, 1, 3, 132, 0, 10)))),
			subject: "CN=gw-1", unmet: []string{"asks for a key on the curve 1.3.132.0.10, which certagent does not make"}},
		{name: "libest", der: fromBase64(t, libestAttributes), subject: "CN=gw-1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			a, err := parseAttributes(test.der)
			if err != nil {
				t.Fatal(err)
			}
			filled, unmet := a.Apply(one(test.own))
			csr := requestFor(t, filled)
			var subject pkix.RDNSequence
			if _, err := asn1.Unmarshal(csr.RawSubject, &subject); err != nil {
				t.Fatal(err)
			}
			if got := subject.String(); got != test.subject {
				t.Errorf("subject %s, want %s", got, test.subject)
			}
			if filled.KeyUsage != test.keyUsage || !slices.Equal(filled.Usages, test.usages) {
				t.Errorf("key usage %b, want %b; usages %v", filled.KeyUsage, test.keyUsage, filled.Usages)
			}
			// A CA that copies what is asked issues for the usage that was meant.
			if leaf := newRoot(t, "root").issue(t, csr.Raw); !test.own.CA && (leaf.KeyUsage != test.keyUsage || leaf.IsCA) {
				t.Errorf("issued for key usage %b, CA %v", leaf.KeyUsage, leaf.IsCA)
			}
			if len(unmet) != len(test.unmet) {
				t.Fatalf("unmet %q, want %q", unmet, test.unmet)
			}
			for i, want := range test.unmet {
				if !strings.Contains(unmet[i], want) {
					t.Errorf("unmet %q, want %q", unmet[i], want)
				}
			}
		})
	}
}

// The string type of a value is the server's, which may compare bytes.
func TestApplyKeepsTheServersEncoding(t *testing.T) {
	a, err := parseAttributes(rfc9908Template(t))
	if err != nil {
		t.Fatal(err)
	}
	filled, _ := a.Apply(Template{Subject: commonName("gw-1")})
	if csr := requestFor(t, filled); !bytes.Contains(csr.RawSubject, utf8String("myDept")) {
		t.Errorf("subject %x", csr.RawSubject)
	}
}

// RFC 7030 4.2.2: a renewal keeps its names, whatever the server would like now.
func TestApplyToARenewal(t *testing.T) {
	a, err := parseAttributes(rfc9908Template(t))
	if err != nil {
		t.Fatal(err)
	}
	a.Hash = crypto.SHA512
	first := requestFor(t, Template{Subject: commonName("gw-1"), DNSNames: []string{"GW-1.example"}})
	leaf := newRoot(t, "root").issue(t, first.Raw)
	renewal := RenewalTemplate(leaf)
	filled, unmet := a.Apply(renewal)
	csr := requestFor(t, filled)
	if !bytes.Equal(csr.RawSubject, leaf.RawSubject) || !bytes.Equal(filled.RawSAN, renewal.RawSAN) {
		t.Errorf("subject %x, names %x", csr.RawSubject, filled.RawSAN)
	}
	if csr.SignatureAlgorithm != x509.ECDSAWithSHA512 || len(unmet) != 2 || !strings.Contains(unmet[0],
		`OU="myDept", OU="myGroup"`) {
		t.Errorf("signed by %v; unmet %q", csr.SignatureAlgorithm, unmet)
	}
}

func TestApplyHash(t *testing.T) {
	a := &Attributes{Hash: crypto.SHA384}
	if filled, unmet := a.Apply(Template{}); filled.Hash != crypto.SHA384 || len(unmet) != 0 {
		t.Errorf("%v, %q", filled.Hash, unmet)
	}
	filled, unmet := a.Apply(Template{Hash: crypto.SHA256})
	if filled.Hash != crypto.SHA256 || len(unmet) != 1 || !strings.Contains(unmet[0], "SHA-384") {
		t.Errorf("%v, %q", filled.Hash, unmet)
	}
	var none *Attributes
	if filled, unmet := none.Apply(Template{CA: true}); !filled.CA || unmet != nil {
		t.Errorf("%+v, %q", filled, unmet)
	}
}

// Apply must not write into what its caller keeps.
func TestApplyLeavesItsArgumentAlone(t *testing.T) {
	a, err := parseAttributes(rfc9908Template(t))
	if err != nil {
		t.Fatal(err)
	}
	backing := append(commonName("gw-1"), commonName("spare")...)
	a.Apply(Template{Subject: backing[:1]})
	if backing[1][0].Value != "spare" {
		t.Errorf("wrote %v into the caller's subject", backing[1])
	}
}
