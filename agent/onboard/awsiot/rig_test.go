package awsiot_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"math/big"
	"net/http"
	"regexp"
	"testing"
	"time"

	"certagent/agent/onboard"
	"certagent/agent/onboard/awsiot"
	"certagent/agent/onboard/awsiot/awstest"
	"certagent/est"
)

// ca is a CA for devices.
type ca struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newCA(t *testing.T, name string) *ca {
	t.Helper()
	c := &ca{key: newKey(t)}
	c.cert = &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(10, 0, 0),
	}
	c.cert = c.sign(t, c.cert, c.key.Public())
	return c
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (c *ca) sign(t *testing.T, template *x509.Certificate, public crypto.PublicKey) *x509.Certificate {
	t.Helper()
	template.SerialNumber, _ = rand.Int(rand.Reader, big.NewInt(1<<62))
	der, err := x509.CreateCertificate(rand.Reader, template, c.cert, public, c.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func (c *ca) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.cert.Raw})
}

// name is a subject from pairs of a short name and a value.
func name(pairs ...string) (n pkix.Name) {
	for i := 0; i < len(pairs); i += 2 {
		oid := map[string]asn1.ObjectIdentifier{
			"C": {2, 5, 4, 6}, "O": {2, 5, 4, 10}, "OU": {2, 5, 4, 11}, "dnQualifier": {2, 5, 4, 46}, "ST": {2, 5, 4, 8},
			"CN": {2, 5, 4, 3}, "serialNumber": {2, 5, 4, 5},
		}[pairs[i]]
		n.ExtraNames = append(n.ExtraNames, pkix.AttributeTypeAndValue{Type: oid, Value: pairs[i+1]})
	}
	return n
}

// device is a certificate of a month.
func device(subject pkix.Name) *x509.Certificate {
	return &x509.Certificate{
		Subject: subject, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().AddDate(0, 1, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
}

// issue makes a device certificate, followed by its CA.
func (c *ca) issue(t *testing.T, subject pkix.Name) *tls.Certificate {
	t.Helper()
	key := newKey(t)
	leaf := c.sign(t, device(subject), key.Public())
	pair := &tls.Certificate{PrivateKey: key, Leaf: leaf}
	for _, cert := range awsiot.AppendIssuer([]*x509.Certificate{leaf}, []*x509.Certificate{newCA(t, "other").cert, c.cert}) {
		pair.Certificate = append(pair.Certificate, cert.Raw)
	}
	return pair
}

// template asks for CN, C and serialNumber of the subject, and lets an existing thing be.
const template = `{
  "Parameters": {
    "AWS::IoT::Certificate::CommonName": {"Type": "String"},
    "AWS::IoT::Certificate::Country": {"Type": "String"},
    "AWS::IoT::Certificate::SerialNumber": {"Type": "String"},
    "AWS::IoT::Certificate::Id": {"Type": "String"}
  },
  "Resources": {
    "thing": {
      "Type": "AWS::IoT::Thing",
      "Properties": {
        "ThingName": {"Ref": "AWS::IoT::Certificate::CommonName"},
        "AttributePayload": {"country": {"Ref": "AWS::IoT::Certificate::Country"}}
      },
      "OverrideSettings": {"AttributePayload": "MERGE"}
    },
    "certificate": {
      "Type": "AWS::IoT::Certificate",
      "Properties": {"CertificateId": {"Ref": "AWS::IoT::Certificate::Id"}, "Status": "ACTIVE"}
    },
    "policy": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyName": "gateway"}}
  }
}`

func jitp() *awstest.RegistrationConfig {
	return &awstest.RegistrationConfig{TemplateBody: template, RoleARN: "arn:aws:iam::123456789012:role/jitp"}
}

// gateway is a subject that the template can use.
func gateway() pkix.Name { return name("CN", "gw-1", "C", "JP", "serialNumber", "0001") }

// rig is a device that keeps what it must on a disk, and has a clock that moves when it waits.
type rig struct {
	*testing.T
	server *awstest.Server
	ca     *ca
	o      awsiot.Options
	draw   float64
	now    time.Time

	state, result []byte // files
}

func newRig(t *testing.T, o awstest.Options, config *awstest.RegistrationConfig) *rig {
	t.Helper()
	r := &rig{T: t, server: awstest.New(t, o), ca: newCA(t, "device CA"), draw: .5, now: time.Now()}
	if _, err := r.server.Provision(r.ca.pem(), config); err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(r.server.Root)
	r.o = awsiot.Options{
		Registration: awsiot.Registration{Endpoint: r.server.Endpoint(), Port: awsiot.PortMQTT, ClientID: "gw-1"},
		Roots:        roots, Dialer: &est.Dialer{Proxy: http.ProxyURL(r.server.Proxy())},
	}
	r.renew(gateway())
	return r
}

// renew gives the device a new certificate.
func (r *rig) renew(subject pkix.Name) {
	r.Helper()
	r.o.Certificate = r.ca.issue(r.T, subject)
	r.o.Registration.SHA256 = onboard.Thumbprint(r.o.Certificate.Leaf)
}

func (r *rig) id() string { return r.o.Registration.SHA256 }

func (r *rig) next() awsiot.Step {
	return awsiot.Next(r.o.Registration, awsiot.ParseResult(r.result), awsiot.ParseState(r.state), r.now)
}

// try waits for the next step and does it. It reads and writes its files as one that is started anew for each does.
func (r *rig) try() (awsiot.State, error) {
	r.Helper()
	step := r.next()
	if step.Why == "" {
		r.Fatal("there is nothing to do")
	}
	if step.At.After(r.now) {
		r.now = step.At
	}
	want := r.o.Registration
	r.state = awsiot.ParseState(r.state).Begin(want, r.draw, r.now).Bytes()
	ctx, cancel := context.WithTimeout(r.Context(), time.Minute)
	defer cancel()
	err := awsiot.Connect(ctx, r.o)
	state, result := awsiot.ParseState(r.state).After(want, step, err, r.draw, r.now)
	if result != nil {
		r.result = result.Bytes()
	}
	r.state = state.Bytes()
	if p := state.Problem; p != nil && glued.MatchString(p.Text+"\n"+p.Hint) {
		r.Errorf("two texts are glued together: %q, %q", p.Text, p.Hint)
	}
	return awsiot.ParseState(r.state), err
}

// glued is what a text looks like that was made of two without a thought: a sentence that begins with a small letter, or
// with no blank in front of it.
var glued = regexp.MustCompile(`\. [a-z]|[a-z)][.;,][A-Z]|  `)

// until tries until nothing is to be done, and returns how often that was.
func (r *rig) until(most int) (tries int) {
	r.Helper()
	for r.next().Why != "" {
		if tries++; tries > most {
			r.Fatalf("not done after %d tries: %s", most, r.state)
		}
		r.try()
	}
	return tries
}

// await waits until ok says so about the connections that the server has seen.
func (r *rig) await(ok func([]awstest.Connection) bool) {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), time.Minute)
	defer cancel()
	if err := r.server.Await(ctx, ok); err != nil {
		r.Fatalf("%v: %+v", err, r.server.Connections())
	}
}

// is checks the code and the class of an error.
func is(t *testing.T, err error, class error, code string) *awsiot.Error {
	t.Helper()
	e, ok := errors.AsType[*awsiot.Error](err)
	if !ok || !errors.Is(err, class) || e.Code != code || e.Hint == "" {
		t.Fatalf("got %#v (%v), want %v, %s, and a hint", err, err, class, code)
	}
	return e
}
