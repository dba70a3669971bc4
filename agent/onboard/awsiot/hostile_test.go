package awsiot_test

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
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"certagent/agent/onboard"
	"certagent/agent/onboard/awsiot"
	"certagent/agent/onboard/awsiot/awstest"
	"certagent/est"
)

func fixed(t *testing.T, to string) func(*http.Request) (*url.URL, error) {
	t.Helper()
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	return http.ProxyURL(u)
}

// direct dials one address, whatever it is asked for.
type direct struct {
	est.Dialer
	address string
}

func (d *direct) DialContext(ctx context.Context, network, _ string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, network, d.address)
}

// endpoint is a TLS server with a certificate for the endpoint's name that does what serve does with each connection.
func endpoint(t *testing.T, settings *tls.Config, serve func(*tls.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { // until l is closed, and the connection that it serves is
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			secured := tls.Server(c, settings)
			if secured.Handshake() == nil {
				serve(secured)
			}
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String()
}

// Whatever an endpoint does that everybody trusts, the device neither hangs nor takes it for a yes.
func TestHostileEndpoint(t *testing.T) {
	pair, roots := amazon(t)
	says := func(answer string) func(*tls.Conn) {
		return func(c *tls.Conn) {
			c.Read(make([]byte, 1024)) // CONNECT
			io.WriteString(c, answer)
			io.Copy(io.Discard, c) // until the device hangs up
		}
	}
	long := strings.Repeat("x", 100<<10)
	asking := &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	for _, test := range []struct {
		what     string
		settings *tls.Config
		serve    func(*tls.Conn)
		class    error // nil: it is a yes
		code     string
		text     string
	}{
		{"yes", asking, says("\x20\x03\x00\x00\x00"), nil, "", ""},
		{"yes, with properties and more behind it", asking,
			says("\x20\x06\x01\x00\x03\x21\x00\x0a" + long), nil, "", ""},
		{"yes, without a look at the certificate", new(tls.Config), says("\x20\x03\x00\x00\x00"), awsiot.ErrBadResponse,
			awsiot.CodeBadResponse, "did not ask for the device's certificate"},
		{"yes, of MQTT 3", asking, says("\x20\x02\x00\x00"),
			awsiot.ErrBadResponse, awsiot.CodeBadResponse, "no CONNACK of MQTT 5"},
		{"MQTT 3 only", asking, says("\x20\x02\x00\x01"),
			awsiot.ErrBadResponse, awsiot.CodeBadResponse, "speaks no MQTT 5"},
		{"not authorized, of MQTT 3", asking, says("\x20\x02\x00\x05"),
			awsiot.ErrDenied, awsiot.CodeDenied, "not authorized (CONNACK reason code 0x05)"},
		{"client id not valid", asking, says("\x20\x03\x00\x85\x00"),
			awsiot.ErrDenied, awsiot.CodeDenied, "client id is not valid"},
		{"banned", asking, says("\x20\x03\x00\x8a\x00"), awsiot.ErrDenied,
			awsiot.CodeDenied, "0x8a"},
		{"rate exceeded", asking, says("\x20\x03\x00\x9f\x00"),
			awsiot.ErrUnavailable, awsiot.CodeThrottled, "quota"},
		{"unavailable", asking, says("\x20\x03\x00\x88\x00"),
			awsiot.ErrUnavailable, awsiot.CodeUnavailable, "cannot serve now"},
		{"a code that there is not", asking, says("\x20\x03\x00\x42\x00"),
			awsiot.ErrBadResponse, awsiot.CodeBadResponse, "0x42"},
		{"a refusal with a session", asking, says("\x20\x03\x01\x87\x00"),
			awsiot.ErrBadResponse, awsiot.CodeBadResponse, "reason code"},
		{"reserved flags", asking, says("\x20\x03\x02\x00\x00"),
			awsiot.ErrBadResponse, awsiot.CodeBadResponse, "flags"},
		{"properties beyond the end", asking, says("\x20\x03\x00\x00\x7f"),
			awsiot.ErrBadResponse, awsiot.CodeBadResponse, "properties"},
		{"256 MiB", asking, says("\x20\xff\xff\xff\x7f" + long),
			awsiot.ErrBadResponse, awsiot.CodeBadResponse, "too long"},
		{"9 KiB", asking, says("\x20\x80\x48" + long),
			awsiot.ErrBadResponse, awsiot.CodeBadResponse, "too long"},
		{"no body", asking, says("\x20\x00"), awsiot.ErrBadResponse, awsiot.CodeBadResponse, "flags"},
		{"half a body", asking, says("\x20\x01\x00"), awsiot.ErrBadResponse, awsiot.CodeBadResponse, "flags"},
		{"a code of MQTT 3 in MQTT 5", asking, says("\x20\x03\x00\x05\x00"),
			awsiot.ErrBadResponse, awsiot.CodeBadResponse, "reason code is 0x05"},
		{"a length without end", asking, says("\x20\x80\x80\x80\x80\x00"),
			awsiot.ErrBadResponse, awsiot.CodeBadResponse, "length has no end"},
		{"a web server", asking, says("HTTP/1.1 400 Bad Request\r\n\r\n"),
			awsiot.ErrBadResponse, awsiot.CodeBadResponse, "no CONNACK"},
		{"another packet", asking, says("\xe0\x02\x87\x00"),
			awsiot.ErrBadResponse, awsiot.CodeBadResponse, "no CONNACK"},
		{"the end in the middle", asking, func(c *tls.Conn) {
			c.Read(make([]byte, 1024))
			io.WriteString(c, "\x20\x03\x00")
		}, awsiot.ErrDropped, awsiot.CodePending, "without a word"},
		{"a polite end", asking, func(c *tls.Conn) { c.Close() },
			awsiot.ErrDropped, awsiot.CodePending, "without a word"},
		{"a rude end", asking, func(c *tls.Conn) {
			c.NetConn().(*net.TCPConn).SetLinger(0)
		}, awsiot.ErrDropped, awsiot.CodePending, "without a word"},
		{"silence", asking, func(c *tls.Conn) { io.Copy(io.Discard, c) },
			awsiot.ErrUnavailable, awsiot.CodeUnavailable, "no answer within"},
		{"one byte, and silence", asking, says("\x20"), awsiot.ErrUnavailable,
			awsiot.CodeUnavailable, "no answer within"},
		{"another ALPN", &tls.Config{ClientAuth: tls.RequireAnyClientCert, NextProtos: []string{"http/1.1"}},
			func(*tls.Conn) {}, awsiot.ErrBadResponse, awsiot.CodeBadResponse, "no application protocol"},
	} {
		t.Run(test.what, func(t *testing.T) {
			r := newRig(t, awstest.Options{}, jitp())
			settings := test.settings.Clone()
			settings.Certificates = []tls.Certificate{pair}
			address := endpoint(t, settings, test.serve)
			r.o.Roots, r.o.Dialer, r.o.Timeout = roots, &direct{address: address}, 30*time.Second
			if strings.Contains(test.text, "no answer") {
				r.o.Timeout = 300 * time.Millisecond
			}
			if strings.Contains(test.what, "ALPN") {
				r.o.Registration.Port = awsiot.PortHTTPS
			}
			s, err := r.try()
			if test.class == nil {
				if err != nil || r.result == nil {
					t.Fatalf("%v", err)
				}
				return
			}
			is(t, err, test.class, test.code)
			if !strings.Contains(err.Error(), test.text) || len(err.Error()) > 600 || r.result != nil {
				t.Errorf("%v, want %q", err, test.text)
			}
			if (s.Dropped > 0) != (test.class == awsiot.ErrDropped || test.class == awsiot.ErrDenied) {
				t.Errorf("%+v", s)
			}
		})
	}
}

// What ends before the certificate was shown says nothing about it. Neither does what is no TLS.
func TestBrokenBeforeTheCertificate(t *testing.T) {
	for _, test := range []struct {
		what, answer string
		class        error
		code         string
	}{
		{"the end", "", awsiot.ErrUnavailable, awsiot.CodeUnavailable},
		{"no TLS", "HTTP/1.1 400 Bad Request\r\n\r\n", awsiot.ErrBadResponse, awsiot.CodeBadResponse},
		{"an alert", "\x15\x03\x03\x00\x02\x02\x70", awsiot.ErrBadResponse, awsiot.CodeBadResponse}, // unrecognized_name
		{"an alert over a certificate", "\x15\x03\x03\x00\x02\x02\x2a", awsiot.ErrBadResponse, awsiot.CodeBadResponse},
		{"TLS of another age", "\x15\x03\x01\x00\x02\x02\x46", awsiot.ErrBadResponse, awsiot.CodeBadResponse}, // protocol_version
		{"rubbish in TLS", "\x16\x03\x03\x00\x04\x63\x00\x00\x00", awsiot.ErrBadResponse, awsiot.CodeBadResponse},
		{"rubbish in a record that is no handshake", "\x17\x03\x03\x00\x04\x63\x00\x00\x00", awsiot.ErrBadResponse,
			awsiot.CodeBadResponse},
	} {
		r := newRig(t, awstest.Options{}, jitp())
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go func() { // until the device has hung up, or l is closed
			c, err := l.Accept()
			if err == nil {
				c.Read(make([]byte, 4096))
				io.WriteString(c, test.answer)
				c.(*net.TCPConn).CloseWrite()
				io.Copy(io.Discard, c)
				c.Close()
			}
		}()
		r.o.Dialer = &direct{address: l.Addr().String()}
		s, tried := r.try()
		l.Close()
		is(t, tried, test.class, test.code)
		if s.Dropped != 0 || strings.Contains(tried.Error(), "EOF") {
			t.Errorf("%s: %v, %+v", test.what, tried, s)
		}
	}
}

// A context that ends ends the connection at any point, and is not taken for something that AWS did.
func TestStoppedWhileItWaits(t *testing.T) {
	r := newRig(t, awstest.Options{}, jitp())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() { // until the device hangs up
		c, err := l.Accept()
		if err == nil {
			c.Read(make([]byte, 1))
			cancel()
			io.Copy(io.Discard, c)
			c.Close()
		}
	}()
	r.o.Dialer = &direct{address: l.Addr().String()}
	err = awsiot.Connect(ctx, r.o)
	if _, ours := errors.AsType[*awsiot.Error](err); ours || !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// nobody fails the test when it is asked to dial.
type nobody struct {
	est.Dialer
	t *testing.T
}

func (n *nobody) DialContext(context.Context, string, string) (net.Conn, error) {
	n.t.Error("somebody was dialled")
	return nil, errors.New("no")
}

// What AWS IoT takes is not refused before dialling.
func TestTaken(t *testing.T) {
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521(), nil} {
		var key crypto.Signer
		var err error
		if key, err = rsa.GenerateKey(rand.Reader, 2048); curve != nil {
			key, err = ecdsa.GenerateKey(curve, rand.Reader)
		}
		if err != nil {
			t.Fatal(err)
		}
		r := newRig(t, awstest.Options{}, jitp())
		leaf := r.ca.sign(t, device(gateway()), key.Public())
		r.o.Certificate = &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
		r.o.Registration.SHA256 = onboard.Thumbprint(leaf)
		if tries := r.until(2); tries != 2 {
			t.Errorf("%v: %d tries", leaf.PublicKeyAlgorithm, tries)
		}
	}
}

// What no AWS IoT takes is said before anybody is dialled, with the reason.
func TestRefusedBeforeDialling(t *testing.T) {
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("GODEBUG", "rsa1024min=0")
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	edCA := &x509.Certificate{Subject: name("CN", "CA")}
	for _, test := range []struct {
		what   string
		key    crypto.Signer
		change func(*awsiot.Options)
		code   string
		text   string
	}{
		{"Ed25519", edKey, nil, awsiot.CodeKey, "key is Ed25519: AWS IoT takes RSA, and ECDSA on P-256, P-384 and P-521"},
		{"RSA of 1024 bits", small, nil, awsiot.CodeKey, "RSA of 1024 bits"},
		{"P-224", p224, nil, awsiot.CodeKey, "curve that AWS IoT does not take"},
		{"signed with Ed25519", p521, func(o *awsiot.Options) {
			der, err := x509.CreateCertificate(rand.Reader, device(gateway()), edCA, p521.Public(), edKey)
			if err != nil {
				t.Fatal(err)
			}
			o.Certificate.Certificate, o.Certificate.Leaf = [][]byte{der}, nil
			leaf, _ := x509.ParseCertificate(der)
			o.Registration.SHA256 = onboard.Thumbprint(leaf)
		}, awsiot.CodeKey, "signed the certificate with Ed25519"},
		{"signed with SHA-1", p521, func(o *awsiot.Options) { o.Certificate.Leaf.SignatureAlgorithm = x509.ECDSAWithSHA1 },
			awsiot.CodeKey, "signed the certificate with ECDSA-SHA1"},
		{"signed with RSA and SHA-1", p521, func(o *awsiot.Options) { o.Certificate.Leaf.SignatureAlgorithm = x509.SHA1WithRSA },
			awsiot.CodeKey, "signed the certificate with SHA1-RSA"},
		{"no certificate", p521, func(o *awsiot.Options) { o.Certificate = nil }, awsiot.CodeCertificate, "no certificate"},
		{"another certificate", p521, func(o *awsiot.Options) { o.Registration.SHA256 = strings.Repeat("0a", 32) },
			awsiot.CodeCertificate, "not the one"},
		{"rubbish", p521, func(o *awsiot.Options) { o.Certificate = &tls.Certificate{Certificate: [][]byte{{1}}} },
			awsiot.CodeCertificate, "cannot be read"},
		{"expired", p521, func(o *awsiot.Options) {
			o.Now = func() time.Time { return time.Now().AddDate(1, 0, 0) }
		}, awsiot.CodeCertificate, "valid from"},
		{"not yet valid", p521, func(o *awsiot.Options) {
			o.Now = func() time.Time { return time.Now().AddDate(-1, 0, 0) }
		}, awsiot.CodeCertificate, "valid from"},
		{"an address", p521, func(o *awsiot.Options) { o.Registration.Endpoint = "192.0.2.1" }, awsiot.CodeSettings,
			"no complete host name"},
		{"a label that begins with a dash", p521, func(o *awsiot.Options) { o.Registration.Endpoint = "-a.example" },
			awsiot.CodeSettings, "no complete host name"},
		{"a label that ends with a dash", p521, func(o *awsiot.Options) { o.Registration.Endpoint = "a-.example" },
			awsiot.CodeSettings, "no complete host name"},
		{"an empty label", p521, func(o *awsiot.Options) { o.Registration.Endpoint = "a.example." },
			awsiot.CodeSettings, "no complete host name"},
		{"a URL", p521, func(o *awsiot.Options) { o.Registration.Endpoint = "https://user:geheim@x.example" },
			awsiot.CodeSettings, "no complete host name"},
		{"port", p521, func(o *awsiot.Options) { o.Registration.Port = 0 }, awsiot.CodeSettings, "no port 0"},
		{"no client id", p521, func(o *awsiot.Options) { o.Registration.ClientID = "" }, awsiot.CodeSettings,
			"client id is empty"},
		{"long client id", p521, func(o *awsiot.Options) { o.Registration.ClientID = strings.Repeat("x", 129) },
			awsiot.CodeSettings, "129 bytes"},
		{"client id", p521, func(o *awsiot.Options) { o.Registration.ClientID = "gw\x00" }, awsiot.CodeSettings,
			`"gw\x00"`},
		{"broken UTF-8", p521, func(o *awsiot.Options) { o.Registration.ClientID = "gw\xff" }, awsiot.CodeSettings, `"gw\xff"`},
		{"a port beyond all", p521, func(o *awsiot.Options) { o.Registration.Port = 65536 }, awsiot.CodeSettings, "no port 65536"},
	} {
		r := newRig(t, awstest.Options{}, jitp())
		leaf := r.ca.sign(t, device(gateway()), test.key.Public())
		r.o.Certificate = &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: test.key, Leaf: leaf}
		r.o.Registration.SHA256 = onboard.Thumbprint(leaf)
		r.o.Dialer = &nobody{t: t}
		if test.change != nil {
			test.change(&r.o)
		}
		err := awsiot.Connect(t.Context(), r.o)
		is(t, err, awsiot.ErrDevice, test.code)
		if !strings.Contains(err.Error(), test.text) {
			t.Errorf("%s: %v, want %q", test.what, err, test.text)
		}
	}
}
