package awstest_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"strings"
	"testing"
	"time"

	"certagent/agent/onboard/awsiot/awstest"
)

// newAccount is a server with a CA whose devices are provisioned.
func newAccount(t *testing.T) (*awstest.Server, *pair) {
	t.Helper()
	s := awstest.New(t, awstest.Options{})
	ca := newCA(t)
	if _, err := s.Provision(ca.pem(), &awstest.RegistrationConfig{
		TemplateBody: strings.Replace(template, "OVERRIDE", "", 1), RoleARN: "arn:aws:iam::1:role/jitp",
	}); err != nil {
		t.Fatal(err)
	}
	return s, ca
}

// While RegisterThing is throttled a certificate is registered and waits; afterwards its next connection is admitted.
func TestThrottle(t *testing.T) {
	s, ca := newAccount(t)
	device := issue(t, named("gw-1"), ca)
	s.Throttle(true)
	for range 3 {
		if got := dial(t, s, s.Endpoint(), device); got != "dropped" {
			t.Errorf("%q", got)
		}
	}
	c := s.Certificate(s.Connections()[0].Chain[0])
	if c.Status != awstest.PendingActivation || c.Registered != 1 || c.Dropped != 3 || c.Failure != "" {
		t.Errorf("%+v", c)
	}
	s.Throttle(false)
	if got := dial(t, s, s.Endpoint(), device); got != "\x20\x02\x00\x00" {
		t.Errorf("%q", got)
	}
}

// Without a broker what is published with QoS 1 is acknowledged here, and a packet that is too short for that is the end.
func TestPublish(t *testing.T) {
	s, ca := newAccount(t)
	device := issue(t, named("gw-1"), ca)
	dial(t, s, s.Endpoint(), device)
	roots := x509.NewCertPool()
	roots.AddCert(s.Root)
	settings := &tls.Config{ServerName: s.Endpoint(), RootCAs: roots,
		Certificates: []tls.Certificate{{Certificate: [][]byte{device.cert.Raw}, PrivateKey: device.key}}}
	const topic = "\x00\x0agw-1/hello"
	for _, test := range []struct {
		packet, want string
		published    int
	}{
		{"\x32\x10" + topic + "\x12\x34hi", "\x40\x02\x12\x34", 1},
		{"\x32\x0d" + topic + "\x12", "", 0},
		{"\x32\x01\x00", "", 0},
	} {
		c, err := tls.Dial("tcp", s.Addr(), settings)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, "\x10\x10\x00\x04MQTT\x04\x02\x00\x1e\x00\x04gw-1")
		io.WriteString(c, test.packet)
		if test.published > 0 {
			io.WriteString(c, "\xe0\x00") // not read after the end, and what is unread would reset the connection
		}
		if got, _ := io.ReadAll(c); string(got) != "\x20\x02\x00\x00"+test.want {
			t.Errorf("%q: got %q, want %q behind the CONNACK", test.packet, got, test.want)
		}
		c.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := s.Await(ctx, func(all []awstest.Connection) bool {
			last := all[len(all)-1]
			return last.Published == test.published && last.Left == (test.published > 0)
		}); err != nil {
			t.Errorf("%q: %v, %+v", test.packet, err, s.Connections())
		}
	}
}
