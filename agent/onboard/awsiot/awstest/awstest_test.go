package awstest_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"certagent/agent/onboard/awsiot/awstest"
)

type pair struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// issue signs template by by; nil is the certificate itself.
func issue(t *testing.T, template *x509.Certificate, by *pair) *pair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p := &pair{template, key}
	if by == nil {
		by = p
	}
	template.SerialNumber, _ = rand.Int(rand.Reader, big.NewInt(1<<62))
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, template, by.cert, key.Public(), by.key)
	if err != nil {
		t.Fatal(err)
	}
	if p.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return p
}

func newCA(t *testing.T) *pair {
	return issue(t, &x509.Certificate{Subject: pkix.Name{CommonName: "CA"}, IsCA: true, BasicConstraintsValid: true}, nil)
}

func (p *pair) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.cert.Raw})
}

func named(cn string) *x509.Certificate { return &x509.Certificate{Subject: pkix.Name{CommonName: cn}} }

// A CA is registered with proof that somebody has its key, or for SNI alone; one without basicConstraints is not.
func TestRegisterCA(t *testing.T) {
	s := awstest.New(t, awstest.Options{})
	ca, other := newCA(t), newCA(t)
	code := s.RegistrationCode()
	if len(code) != 64 {
		t.Errorf("registration code %q", code)
	}
	plain := issue(t, named("no constraints"), nil)
	for _, test := range []struct {
		what             string
		ca, verification []byte
		want             string
	}{
		{"no basicConstraints", plain.pem(), issue(t, named(code), plain).pem(), "basicConstraints"},
		{"another name", ca.pem(), issue(t, named("gw-1"), ca).pem(), "not for the registration code"},
		{"another CA", ca.pem(), issue(t, named(code), other).pem(), "did not sign"},
		{"no PEM", ca.pem(), []byte("hello"), "not one certificate"},
		{"good", ca.pem(), issue(t, named(code), ca).pem(), ""},
		{"again", ca.pem(), nil, "registered already"},
		{"for SNI alone", other.pem(), nil, ""},
	} {
		id, err := s.RegisterCA(test.ca, test.verification)
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) ||
			err == nil && len(id) != 64 {
			t.Errorf("%s: %q, %v, want %q", test.what, id, err, test.want)
		}
	}
	late := awstest.New(t, awstest.Options{Now: func() time.Time { return time.Now().AddDate(1, 0, 0) }})
	if _, err := late.RegisterCA(ca.pem(), issue(t, named(late.RegistrationCode()), ca).pem()); err == nil {
		t.Error("a verification certificate that has expired was taken")
	}
	if list := s.CAs(); len(list) != 2 || list[0].Status != awstest.Inactive || list[0].AutoRegistration {
		t.Errorf("%+v", list)
	}
}

const template = `{"Parameters":{"AWS::IoT::Certificate::CommonName":{"Type":"String"},
"AWS::IoT::Certificate::Id":{"Type":"String"}},"Resources":{
"thing":{"Type":"AWS::IoT::Thing","Properties":{"ThingName":{"Ref":"AWS::IoT::Certificate::CommonName"}}OVERRIDE},
"certificate":{"Type":"AWS::IoT::Certificate","Properties":{"CertificateId":{"Ref":"AWS::IoT::Certificate::Id"}}},
"policy":{"Type":"AWS::IoT::Policy","Properties":{"PolicyDocument":"{}"}}}}`

func TestTemplates(t *testing.T) {
	s := awstest.New(t, awstest.Options{})
	id, err := s.RegisterCA(newCA(t).pem(), nil)
	if err != nil {
		t.Fatal(err)
	}
	good := strings.Replace(template, "OVERRIDE", `,"OverrideSettings":{"AttributePayload":"MERGE"}`, 1)
	for _, test := range []struct{ body, role, want string }{
		{good, "arn:aws:iam::123456789012:role/jitp", ""},
		{good, "jitp", "no ARN of a role"},
		{good[1:], "arn:aws:iam::123456789012:role/jitp", "no JSON"},
		{strings.Repeat(" ", 10241) + good, "arn:aws:iam::123456789012:role/jitp", "at most 10240"},
		{strings.ReplaceAll(good, "::CommonName", "::Locality"), "arn:aws:iam::123456789012:role/jitp", "Locality"},
		{strings.Replace(good, `"Ref":"AWS::IoT::Certificate::Id"`, `"Ref":"CSR"`, 1), "arn:aws:iam::123456789012:role/jitp",
			`refers to "CSR"`},
		{strings.Replace(good, `"MERGE"`, `"IGNORE"`, 1), "arn:aws:iam::123456789012:role/jitp", `cannot be "IGNORE"`},
		{strings.Replace(good, `"PolicyDocument":"{}"`, `"PolicyDocument":{}`, 1), "arn:aws:iam::123456789012:role/jitp",
			"JSON in a string"},
		{strings.Replace(good, "AWS::IoT::Thing", "AWS::IoT::Job", 1), "arn:aws:iam::123456789012:role/jitp", "AWS::IoT::Thing"},
		{strings.Replace(good, `"PolicyDocument":"{}"`, `"PolicyDocument":"{}","PolicyName":"gateway"`, 1),
			"arn:aws:iam::123456789012:role/jitp", "either PolicyName or PolicyDocument"},
		{strings.Replace(good, `"AttributePayload":"MERGE"`, `"ThingTypeName":"MERGE"`, 1), "arn:aws:iam::123456789012:role/jitp",
			`ThingTypeName cannot be "MERGE"`},
		{strings.Replace(good, `"AttributePayload":"MERGE"`, `"ThingName":"REPLACE"`, 1), "arn:aws:iam::123456789012:role/jitp",
			`ThingName cannot be "REPLACE"`},
		{strings.Replace(good, `"ThingName":{`, `"Name":{`, 1), "arn:aws:iam::123456789012:role/jitp", "has no Name"},
		{strings.Replace(good, `{"Ref":"AWS::IoT::Certificate::Id"}`, `{"Ref":"AWS::IoT::Certificate::CommonName"}`, 1),
			"arn:aws:iam::123456789012:role/jitp", "not the one with the id"},
		{strings.Replace(good, `{"Ref":"AWS::IoT::Certificate::Id"}`, `{"Ref":"AWS::IoT::Certificate::Id"},"Status":"PENDING"`, 1),
			"arn:aws:iam::123456789012:role/jitp", `cannot become "PENDING"`},
	} {
		err := s.UpdateCA(id, "", nil, &awstest.RegistrationConfig{TemplateBody: test.body, RoleARN: test.role})
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v, want %q", err, test.want)
		}
	}
	if err := s.UpdateCA("0a", awstest.Active, nil, nil); err == nil {
		t.Error("a CA that is not there was changed")
	}
	if err := s.UpdateCA(id, awstest.Revoked, nil, nil); err == nil {
		t.Error("a CA was revoked")
	}
}

// dial connects as a device does and returns what the endpoint answers to a CONNECT of MQTT 3.1.1.
func dial(t *testing.T, s *awstest.Server, name string, chain ...*pair) string {
	t.Helper()
	cn := chain[0].cert.Subject.CommonName
	return say(t, s, name, "\x10"+string(rune(12+len(cn)))+"\x00\x04MQTT\x04\x02\x00\x1e\x00"+string(rune(len(cn)))+cn, chain...)
}

// say connects and returns what the endpoint answers to a packet.
func say(t *testing.T, s *awstest.Server, name, packet string, chain ...*pair) string {
	t.Helper()
	certificate := tls.Certificate{PrivateKey: chain[0].key}
	for _, p := range chain {
		certificate.Certificate = append(certificate.Certificate, p.cert.Raw)
	}
	raw, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	return converse(raw, &tls.Config{ServerName: name, Certificates: []tls.Certificate{certificate}}, packet)
}

// converse returns what is answered to a packet. It believes whoever answers: that the endpoint looks is what is tested here.
func converse(raw net.Conn, settings *tls.Config, packet string) string {
	settings.InsecureSkipVerify = true
	c := tls.Client(raw, settings)
	defer c.Close()
	if err := c.Handshake(); err != nil {
		return err.Error()
	}
	io.WriteString(c, packet)
	answer := make([]byte, 4)
	if _, err := io.ReadFull(c, answer); err != nil {
		return "dropped"
	}
	return string(answer)
}

// The second certificate of a thing is what OverrideSettings are for.
func TestExistingThing(t *testing.T) {
	for override, want := range map[string]string{
		"": "thing gw-1 exists", `,"OverrideSettings":{"ThingTypeName":"FAIL"}`: "thing gw-1 exists",
		`,"OverrideSettings":{"AttributePayload":"MERGE"}`: "",
	} {
		s := awstest.New(t, awstest.Options{})
		ca := newCA(t)
		if _, err := s.Provision(ca.pem(), &awstest.RegistrationConfig{
			TemplateBody: strings.Replace(template, "OVERRIDE", override, 1), RoleARN: "arn:aws:iam::1:role/jitp",
		}); err != nil {
			t.Fatal(err)
		}
		first, second := issue(t, named("gw-1"), ca), issue(t, named("gw-1"), ca)
		for i, p := range []*pair{first, second} {
			if got := dial(t, s, s.Endpoint(), p); got != "dropped" {
				t.Errorf("the first connection: %q", got)
			}
			if got, admitted := dial(t, s, s.Endpoint(), p), i == 0 || want == ""; (got == "\x20\x02\x00\x00") != admitted {
				t.Errorf("the second connection of certificate %d: %q", i, got)
			}
		}
		if n := len(s.Thing("gw-1").Principals); (n == 2) != (want == "") {
			t.Errorf("%d certificates", n)
		}
		all := s.Connections()
		if c := s.Certificate(all[2].Chain[0]); !strings.HasSuffix(c.Failure, want) || (c.Failure == "") != (want == "") {
			t.Errorf("%+v, want %q", c, want)
		}
	}
}

// Keys and signatures that AWS IoT does not list are no login, and no CA.
func TestKinds(t *testing.T) {
	s := awstest.New(t, awstest.Options{})
	ca := newCA(t)
	if _, err := s.Provision(ca.pem(), nil); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GODEBUG", "rsa1024min=0")
	must := func(key crypto.Signer, err error) crypto.Signer {
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	for _, test := range []struct {
		what string
		key  crypto.Signer
		good bool
	}{
		{"P-384", must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)), true},
		{"P-521", must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader)), true},
		{"RSA 2048", must(rsa.GenerateKey(rand.Reader, 2048)), true},
		{"RSA 1024", must(rsa.GenerateKey(rand.Reader, 1024)), false},
		{"Ed25519", must(edKey, err), false},
	} {
		template := named(test.what)
		template.SerialNumber, template.NotBefore, template.NotAfter = big.NewInt(7), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, test.key.Public(), ca.key)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		dial(t, s, s.Endpoint(), &pair{leaf, test.key})
		if err := s.Await(t.Context(), func(all []awstest.Connection) bool { return all[len(all)-1].Outcome != "" }); err != nil {
			t.Fatal(err)
		}
		all := s.Connections()
		if last := all[len(all)-1]; len(last.Chain) != 1 || (s.Certificate(last.Chain[0]).ID != "") != test.good {
			t.Errorf("%s: %+v, %+v", test.what, last, s.Certificate(last.Chain[0]))
		}
		template.IsCA, template.BasicConstraintsValid = true, true
		if der, err = x509.CreateCertificate(rand.Reader, template, template, test.key.Public(), test.key); err != nil {
			t.Fatal(err)
		}
		_, err = s.RegisterCA(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil)
		if (err == nil) != test.good {
			t.Errorf("a CA with %s: %v", test.what, err)
		}
	}
}

// A CA without auto-registration, or without a word for what it is asked, has no device come in.
func TestNoAutoRegistration(t *testing.T) {
	s := awstest.New(t, awstest.Options{})
	ca := newCA(t)
	id, err := s.RegisterCA(ca.pem(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.UpdateCA(id, awstest.Active, nil, nil); err != nil {
		t.Fatal(err)
	}
	device := issue(t, named("gw-1"), ca)
	for range 3 {
		if got := dial(t, s, s.Endpoint(), device); got != "dropped" {
			t.Errorf("%q", got)
		}
	}
	if c := s.Certificate(s.Connections()[0].Chain[0]); c.ID != "" {
		t.Errorf("%+v", c)
	}
}

// Packets that are no CONNECT of a version that is spoken, or with what the specification forbids, have no answer.
func TestMalformedConnect(t *testing.T) {
	s := awstest.New(t, awstest.Options{})
	ca := newCA(t)
	if _, err := s.Provision(ca.pem(), &awstest.RegistrationConfig{TemplateBody: strings.Replace(template, "OVERRIDE", "", 1),
		RoleARN: "arn:aws:iam::1:role/jitp"}); err != nil {
		t.Fatal(err)
	}
	device := issue(t, named("gw-1"), ca)
	say(t, s, s.Endpoint(), "", device)
	const good = "\x10\x10\x00\x04MQTT\x04\x02\x00\x1e\x00\x04gw-1"
	for packet, want := range map[string]string{
		good:                                     "\x20\x02\x00\x00",
		strings.Replace(good, "\x02", "\x03", 1): "dropped", // the reserved flag
		strings.Replace(good, "MQTT\x04", "MQTT\x03", 1):         "dropped",
		strings.Replace(good, "\x10\x10", "\x11\x10", 1):         "dropped",
		strings.Replace(good, "\x10\x10", "\x10\x11", 1) + "x":   "dropped", // more than a client id
		strings.Replace(good, "\x00\x04gw-1", "\x00\x05gw-1", 1): "dropped",
	} {
		if got := say(t, s, s.Endpoint(), packet, device); got != want {
			t.Errorf("%q: %q", packet, got)
		}
	}
}

// At port 443 MQTT is what asks for it by ALPN.
func TestPort443(t *testing.T) {
	s := awstest.New(t, awstest.Options{})
	ca := newCA(t)
	if _, err := s.Provision(ca.pem(), &awstest.RegistrationConfig{TemplateBody: strings.Replace(template, "OVERRIDE", "", 1),
		RoleARN: "arn:aws:iam::1:role/jitp"}); err != nil {
		t.Fatal(err)
	}
	device := issue(t, named("gw-1"), ca)
	say(t, s, s.Endpoint(), "", device)
	for alpn, want := range map[string]string{"x-amzn-mqtt-ca": "\x20\x02\x00\x00", "": "dropped"} {
		raw, err := net.Dial("tcp", s.Proxy().Host)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(raw, "CONNECT "+s.Endpoint()+":443 HTTP/1.1\r\nHost: "+s.Endpoint()+":443\r\n\r\n")
		if _, err := io.ReadFull(raw, make([]byte, len("HTTP/1.1 200 OK\r\n\r\n"))); err != nil {
			t.Fatal(err)
		}
		settings := &tls.Config{ServerName: s.Endpoint(), Certificates: []tls.Certificate{
			{Certificate: [][]byte{device.cert.Raw}, PrivateKey: device.key}}}
		if alpn != "" {
			settings.NextProtos = []string{alpn}
		}
		if got := converse(raw, settings, "\x10\x10\x00\x04MQTT\x04\x02\x00\x1e\x00\x04gw-1"); got != want {
			t.Errorf("ALPN %q: %q", alpn, got)
		}
	}
}

// Who does not name the complete endpoint, or has a certificate that another CA issued, or one above the CA that is
// registered, does not get in and is not known.
func TestStrangers(t *testing.T) {
	s := awstest.New(t, awstest.Options{})
	ca := newCA(t)
	if _, err := s.Provision(ca.pem(), nil); err != nil {
		t.Fatal(err)
	}
	below := issue(t, &x509.Certificate{Subject: pkix.Name{CommonName: "below"}, IsCA: true, BasicConstraintsValid: true}, ca)
	name, _, _ := strings.Cut(s.Endpoint(), ".")
	for what, answer := range map[string]string{
		"another name":      dial(t, s, name, issue(t, named("gw-1"), ca)),
		"no name":           dial(t, s, "127.0.0.1", issue(t, named("gw-1"), ca)),
		"another CA":        dial(t, s, s.Endpoint(), issue(t, named("gw-1"), newCA(t))),
		"a CA in between":   dial(t, s, s.Endpoint(), issue(t, named("gw-1"), below), below),
		"the CA's own name": dial(t, s, s.Endpoint(), issue(t, named("CA"), nil)),
		"the CA itself":     dial(t, s, s.Endpoint(), ca),
	} {
		if answer == "\x20\x02\x00\x00" {
			t.Errorf("%s is admitted", what)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := s.Await(ctx, func(all []awstest.Connection) bool {
		return !slices.ContainsFunc(all, func(c awstest.Connection) bool { return c.Outcome == "" })
	}); err != nil {
		t.Fatal(err)
	}
	for _, c := range s.Connections() {
		if c.Outcome == "admitted" || len(c.Chain) > 0 && s.Certificate(c.Chain[0]).ID != "" {
			t.Errorf("%+v", c)
		}
	}
}
