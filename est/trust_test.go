package est

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

func TestServerTrust(t *testing.T) {
	now := time.Now()
	root, other := newRoot(t, "our root"), newRoot(t, "other root")
	line := root.sub(t, "issuing CA")
	make := func(by *authority, change func(*x509.Certificate)) []*x509.Certificate {
		template := serverTemplate()
		if change != nil {
			change(template)
		}
		pair := by.tlsCertificate(t, template)
		return append([]*x509.Certificate{pair.Leaf}, by.chain...)
	}
	good := make(line, func(c *x509.Certificate) { c.IPAddresses = append(c.IPAddresses, net.ParseIP("fe80::1")) })
	expired := make(line, func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = now.Add(-2*time.Hour), now.Add(-time.Hour)
	})
	future := make(line, func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = now.Add(time.Hour), now.Add(2*time.Hour)
	})
	clientOnly := make(line, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })
	nameless := make(line, func(c *x509.Certificate) { c.DNSNames, c.IPAddresses = nil, nil })
	rsaRoot := newRSARoot(t, "rsa root")
	sha1 := make(rsaRoot, func(c *x509.Certificate) { c.SignatureAlgorithm = x509.SHA1WithRSA })
	ourPool, otherPool := poolOf([]*x509.Certificate{root.cert}), poolOf([]*x509.Certificate{other.cert})

	for _, test := range []struct {
		name               string
		chain              []*x509.Certificate
		host               string
		explicit, implicit *x509.CertPool
		want               []string // in the text; none: authorised
		hint               string
	}{
		{"explicit", good, "localhost", ourPool, nil, nil, ""},
		{"by address", good, "127.0.0.1", ourPool, nil, nil, ""},
		{"implicit", good, "localhost", nil, ourPool, nil, ""},
		{"implicit beside explicit", good, "localhost", otherPool, ourPool, nil, ""},
		{"explicit beside implicit", good, "localhost", ourPool, otherPool, nil, ""},
		{"the anchor itself as server", []*x509.Certificate{good[0]}, "localhost", poolOf(good[:1]), nil, nil, ""},
		{"unknown CA", good, "localhost", otherPool, nil,
			[]string{"unknown CA", "CN=localhost", "CN=our root", "trusted certificates"}, "trusted_certs"},
		{"unknown to the system", good, "localhost", nil, otherPool,
			[]string{"unknown CA", "the system's root certificates"}, "trusted_certs"},
		{"intermediate missing", good[:1], "localhost", ourPool, nil, []string{"unknown CA", "CN=issuing CA"},
			"trusted_certs"},
		{"other host", good, "est.example", ourPool, nil, []string{"for localhost, 127.0.0.1, fe80::1, asked was est.example"}, "URL"},
		{"other host under implicit", good, "est.example", nil, ourPool, []string{"asked was est.example"}, "URL"},
		{"no names", nameless, "localhost", ourPool, nil, []string{"names no host"}, "common name alone"},
		{"expired", expired, "localhost", ourPool, nil,
			[]string{"expired at " + utc(expired[0].NotAfter), "our clock says " + utc(now)}, "clock"},
		{"not yet valid", future, "localhost", ourPool, nil,
			[]string{"not valid before " + utc(future[0].NotBefore), "our clock says " + utc(now)}, "clock"},
		{"signed with SHA-1", sha1, "localhost", poolOf([]*x509.Certificate{rsaRoot.cert}), nil,
			[]string{"unknown CA", "insecure algorithm SHA1-RSA", `"rsa root"`}, ""},
		{"zone of a link-local address", good, "fe80::1%eth0", ourPool, nil, nil, ""},
		{"client certificate", clientOnly, "localhost", ourPool, nil, []string{"key usage"}, "issued anew"},
		{"no certificate", nil, "localhost", ourPool, nil, []string{"no certificate"}, ""},
	} {
		_, err := authorise(test.chain, []string{test.host}, trusted{explicit: test.explicit, implicit: test.implicit}, now)
		if len(test.want) == 0 {
			if err != nil {
				t.Errorf("%s: %v", test.name, err)
			}
			continue
		}
		trust, ok := errors.AsType[*trustError](err)
		if !ok {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		for _, want := range test.want {
			if !strings.Contains(trust.text, want) {
				t.Errorf("%s: %q, want %q in it", test.name, trust.text, want)
			}
		}
		if !strings.Contains(trust.hint, test.hint) {
			t.Errorf("%s: hint %q, want %q in it", test.name, trust.hint, test.hint)
		}
	}
}

func TestRootsAreToldFromCrossCertificates(t *testing.T) {
	old, young := newRoot(t, "root"), newRoot(t, "root")
	newWithOld := sign(t, caTemplate("root"), young.key, old)
	leaf := sign(t, clientTemplate("self-made"), newKey(t), nil)
	for _, test := range []struct {
		name string
		cert *x509.Certificate
		want bool
	}{
		{"root", old.cert, true},
		{"new with old", newWithOld, false},
		{"intermediate", old.sub(t, "sub").cert, false},
		{"self-signed leaf", leaf, false},
	} {
		if got := IsRoot(test.cert); got != test.want {
			t.Errorf("%s: %v", test.name, got)
		}
	}
}

// What a person reads when the server is not trusted, end to end; and that nothing but a handshake reached it.
func TestUntrustedServer(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*server, *Options)
		want   string
	}{
		{"unknown CA", func(_ *server, o *Options) { o.Anchors = []*x509.Certificate{newRoot(t, "other").cert} },
			"unknown CA"},
		{"implicit anchors that are switched off", func(s *server, o *Options) {
			o.Anchors, o.Roots = []*x509.Certificate{newRoot(t, "other").cert}, pool(s.root.cert)
		}, "unknown CA"},
		{"other host", func(s *server, _ *Options) {
			s.template.IPAddresses, s.template.Subject = nil, pkix.Name{CommonName: "127.0.0.1"}
		}, "server certificate is for localhost, asked was 127.0.0.1"},
		{"expired", func(s *server, _ *Options) {
			s.template.NotBefore, s.template.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
		}, "expired at"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newServer(t)
			var o Options
			test.change(s, &o)
			s.start()
			full := s.options()
			if o.Anchors != nil {
				full.Anchors, full.Roots = o.Anchors, o.Roots
			}
			full.Login, full.Certificate = login, s.root.tlsCertificate(t, clientTemplate("gw-1"))
			_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
			c := newClient(t, full)
			_, err := c.Enroll(t.Context(), csr, Want{})
			e, ok := errors.AsType[*Error](err)
			if !ok || !errors.Is(err, ErrUntrusted) || !strings.Contains(err.Error(), test.want) || e.Hint == "" || e.Refusal {
				t.Errorf("got %v, want %q", err, test.want)
			}
			if len(s.log()) != 0 || c.connections != 1 {
				t.Errorf("%d requests over %d connections", len(s.log()), c.connections)
			}
			s.awaitClosed()
		})
	}
}

// A key of RSA-1024 proves nothing, wherever it stands on the way to an anchor; the anchor itself is trusted for what it
// is, and a path past the weak key will do.
func TestWeakKeysOnTheServersPath(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	root := newRoot(t, "root")
	weak := &authority{cert: sign(t, caTemplate("line"), key, root), key: key}
	weak.chain = []*x509.Certificate{weak.cert}
	anchor := &authority{cert: sign(t, caTemplate("old root"), key, nil), key: key}
	own := sign(t, serverTemplate(), key, root)
	for _, test := range []struct {
		name   string
		chain  []*x509.Certificate
		anchor *x509.Certificate
		want   string // in the error; "" is authorised
	}{
		{"the server's", []*x509.Certificate{own}, root.cert, `server certificate "CN=localhost" has an RSA key of 1024 bits`},
		{"the server's, pinned", []*x509.Certificate{own}, own, `server certificate "CN=localhost" has an RSA key of 1024`},
		{"a CA's in between", serverChain(t, weak, "localhost"), root.cert, `above the server's, "CN=line" has an RSA key`},
		{"that CA's, as the anchor", serverChain(t, weak, "localhost"), weak.cert, ""},
		{"the anchor's", serverChain(t, anchor, "localhost"), anchor.cert, ""},
	} {
		for _, by := range []trusted{{explicit: pool(test.anchor)}, {implicit: pool(test.anchor)}} {
			_, err := authorise(test.chain, []string{"localhost"}, by, time.Now())
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("%s: %v, want %q", test.name, err, test.want)
			}
		}
	}
}

func TestNotTLSAtAll(t *testing.T) {
	listener := listen(t, func(c net.Conn) {
		buf := make([]byte, 1)
		c.Read(buf)
		io.WriteString(c, "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTPS request to an HTTP server\n")
	})
	o := Options{URL: mustParse(t, "https://"+listener+"/.well-known/est"), Anchors: []*x509.Certificate{newRoot(t,
		"r").cert}}
	_, err := newClient(t, o).CACerts(t.Context())
	e, ok := errors.AsType[*Error](err)
	if !ok || !errors.Is(err, ErrUntrusted) || !strings.Contains(err.Error(), "does not speak TLS") ||
		!strings.Contains(e.Hint, "port") {
		t.Error(err)
	}
}

// An old server is not spoken to; that the handshake came to nothing is its say, in an alert.
func TestOldTLS(t *testing.T) {
	root := newRoot(t, "root")
	config := &tls.Config{Certificates: []tls.Certificate{*root.tlsCertificate(t, serverTemplate())},
		MaxVersion: tls.VersionTLS11,
		MinVersion: tls.VersionTLS10}
	ended := make(chan error, 1)
	address := listen(t, func(c net.Conn) { ended <- tls.Server(c, config).Handshake() })
	o := Options{URL: mustParse(t, "https://"+address+"/.well-known/est"), Anchors: []*x509.Certificate{root.cert}}
	_, err := newClient(t, o).CACerts(t.Context())
	if e, ok := errors.AsType[*Error](err); !ok || e.Class != ErrUnavailable || !strings.Contains(e.Hint, "TLS 1.2") {
		t.Error(err)
	}
	if err := <-ended; err == nil {
		t.Error("a handshake of TLS 1.1 went through")
	}
}

func TestNobodyThere(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	o := Options{URL: mustParse(t, "https://"+listener.Addr().String()), Anchors: []*x509.Certificate{newRoot(t,
		"r").cert}}
	_, err = newClient(t, o).CACerts(t.Context())
	if e, ok := errors.AsType[*Error](err); !ok || e.Class != ErrUnavailable || !strings.Contains(e.Hint, "port") ||
		e.Refusal {
		t.Error(err)
	}
}

// listen serves each connection with serve and closes it after. It returns the address.
func listen(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { // ends when the listener is closed
		defer close(ended)
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go func() { // ends with serve
				defer c.Close()
				serve(c)
			}()
		}
	}()
	t.Cleanup(func() {
		listener.Close()
		<-ended
	})
	return listener.Addr().String()
}
