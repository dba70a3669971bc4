package awstest_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"certagent/agent/onboard/awsiot/awstest"
)

type pair struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
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
	} {
		err := s.UpdateCA(id, "", nil, &awstest.RegistrationConfig{TemplateBody: test.body, RoleARN: test.role})
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v, want %q", err, test.want)
		}
	}
	if err := s.UpdateCA("0a", awstest.Active, nil, nil); err == nil {
		t.Error("a CA that is not there was changed")
	}
}

// dial connects as a device does and returns what the endpoint answers to a CONNECT of MQTT 3.1.1.
func dial(t *testing.T, s *awstest.Server, name string, chain ...*pair) string {
	t.Helper()
	certificate := tls.Certificate{PrivateKey: chain[0].key}
	for _, p := range chain {
		certificate.Certificate = append(certificate.Certificate, p.cert.Raw)
	}
	roots := x509.NewCertPool()
	roots.AddCert(s.Root)
	c, err := tls.Dial("tcp", s.Addr(), &tls.Config{ServerName: name, RootCAs: roots, Certificates: []tls.Certificate{certificate}})
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	cn := chain[0].cert.Subject.CommonName
	io.WriteString(c, "\x10"+string(rune(12+len(cn)))+"\x00\x04MQTT\x04\x02\x00\x1e\x00"+string(rune(len(cn)))+cn)
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
