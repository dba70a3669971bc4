package est

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

var tlsVersions = []uint16{tls.VersionTLS12, tls.VersionTLS13}

// A server that knows no such CA ends the handshake, for /cacerts as for anything: the one question without the
// certificate tells that from a server that is down.
func TestRefusedClientCertificate(t *testing.T) {
	for _, version := range tlsVersions {
		for range 5 { // under TLS 1.3 it shows in several ways, by chance
			s := newServer(t)
			s.maxVersion = version
			s.clientAuth = tls.VerifyClientCertIfGiven
			s.clientCAs = poolOf([]*x509.Certificate{s.root.cert})
			s.start()
			o := s.options()
			o.Certificate = newRoot(t, "nobody knows").tlsCertificate(t, clientTemplate("gw-1"))
			o.Identity = "certificate mqtt"
			o.Login = login
			_, csr := newRequest(t, RenewalTemplate(o.Certificate.Leaf))
			c := newClient(t, o)
			_, err := c.Reenroll(t.Context(), csr, Want{})
			e, ok := errors.AsType[*Error](err)
			if !ok || e.Class != ErrUnauthorized || !e.Refusal || e.Status != 0 || e.Identity != "certificate mqtt" ||
				!strings.Contains(err.Error(), "answers without it") {
				t.Fatalf("%s: %v", tls.VersionName(version), err)
			}
			if c.connections != 2 {
				t.Errorf("%d connections, want 2: one, and one to ask", c.connections)
			}
			// The connection that was opened to ask serves nothing else: the next request offers the certificate again.
			if _, err = c.Reenroll(t.Context(), csr, Want{}); !errors.Is(err, ErrUnauthorized) {
				t.Errorf("again: %v", err)
			}
			for _, r := range s.log() {
				if r.Header.Get("Authorization") != "" || r.Method != http.MethodGet || len(r.TLS.PeerCertificates) != 0 {
					t.Errorf("%s %s with %d certificates, header %v", r.Method, r.URL, len(r.TLS.PeerCertificates), r.Header)
				}
			}
			c.Close()
			s.awaitClosed()
		}
	}
}

// nginx, ending TLS in front of an EST server, answers 400 to everything when it cannot verify the certificate. That is a
// refusal; a server that answers 400 to everybody is something else.
func TestRefusedByTLSTerminator(t *testing.T) {
	for _, everybody := range []bool{false, true} {
		s := newServer(t)
		s.all = func(w http.ResponseWriter, r *http.Request, usual http.Handler) {
			if everybody || len(r.TLS.PeerCertificates) > 0 {
				http.Error(w, "400 The SSL certificate error", http.StatusBadRequest)
				return
			}
			usual.ServeHTTP(w, r)
		}
		s.start()
		o := s.options()
		o.Certificate = newRoot(t, "nobody knows").tlsCertificate(t, clientTemplate("gw-1"))
		_, csr := newRequest(t, RenewalTemplate(o.Certificate.Leaf))
		c := newClient(t, o)
		_, err := c.Reenroll(t.Context(), csr, Want{})
		e, ok := errors.AsType[*Error](err)
		if !ok || e.Refusal == everybody || e.Status != http.StatusBadRequest || errors.Is(err, ErrUnauthorized) == everybody {
			t.Errorf("400 for everybody %v: %v", everybody, err)
		}
		c.Close()
		s.awaitClosed()
	}
}

// A server that answers nobody is not there, whatever was offered.
func TestServerThatDropsEveryConnection(t *testing.T) {
	for _, version := range tlsVersions {
		s := newServer(t)
		s.maxVersion = version
		s.all = func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { hijack(t, w).Close() }
		s.start()
		o := s.options()
		o.Certificate = s.root.tlsCertificate(t, clientTemplate("gw-1"))
		_, csr := newRequest(t, RenewalTemplate(o.Certificate.Leaf))
		c := newClient(t, o)
		_, err := c.Reenroll(t.Context(), csr, Want{})
		if e, ok := errors.AsType[*Error](err); !ok || e.Class != ErrUnavailable || e.Refusal || c.connections != 2 {
			t.Errorf("%s: %v, %d connections", tls.VersionName(version), err, c.connections)
		}

		// Nor does it matter to somebody who offers nothing; and then there is nothing to ask a second time.
		o.Certificate = nil
		c = newClient(t, o)
		_, err = c.Reenroll(t.Context(), csr, Want{})
		if e, ok := errors.AsType[*Error](err); !ok || e.Class != ErrUnavailable || e.Refusal || c.connections != 1 {
			t.Errorf("%s: %v, %d connections", tls.VersionName(version), err, c.connections)
		}
	}
}

// Where the question without the certificate finds another server, or an unwell one, that is what is told.
func TestProbeFindsSomethingElse(t *testing.T) {
	root := newRoot(t, "root")
	stranger := newRoot(t, "stranger").tlsCertificate(t, serverTemplate())
	own := root.tlsCertificate(t, serverTemplate())
	var again atomic.Bool
	address := listen(t, func(c net.Conn) {
		config := &tls.Config{Certificates: []tls.Certificate{*own}, ClientAuth: tls.RequireAndVerifyClientCert,
			ClientCAs: x509.NewCertPool(), MaxVersion: tls.VersionTLS12}
		if again.Swap(true) {
			config = &tls.Config{Certificates: []tls.Certificate{*stranger}}
		}
		tls.Server(c, config).Handshake()
	})
	o := Options{URL: mustParse(t, "https://"+address+"/.well-known/est"), Anchors: []*x509.Certificate{root.cert},
		Certificate: root.tlsCertificate(t, clientTemplate("gw-1"))}
	_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
	if _, err := newClient(t, o).Enroll(t.Context(), csr, Want{}); !errors.Is(err, ErrUntrusted) {
		t.Error(err)
	}

	s := newServer(t)
	s.maxVersion, s.clientAuth = tls.VersionTLS12, tls.VerifyClientCertIfGiven
	s.clientCAs = x509.NewCertPool()
	s.handlers["cacerts"] = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }
	s.start()
	o = s.options()
	o.Certificate = s.root.tlsCertificate(t, clientTemplate("gw-1"))
	_, err := newClient(t, o).Enroll(t.Context(), csr, Want{})
	if e, ok := errors.AsType[*Error](err); !ok || e.Class != ErrUnavailable || e.Refusal {
		t.Error(err)
	}
}

// A server that insists on a client certificate refuses who has none, and so does it one that it does not know.
func TestServerThatDemandsACertificate(t *testing.T) {
	for _, known := range []bool{false, true} {
		s := newServer(t)
		s.maxVersion = tls.VersionTLS12 // its alert arrives for certain, inside the handshake
		s.clientAuth = tls.RequireAndVerifyClientCert
		s.clientCAs = poolOf([]*x509.Certificate{s.root.cert})
		s.start()
		o := s.options()
		want := "got none"
		if known {
			o.Certificate = newRoot(t, "nobody knows").tlsCertificate(t, clientTemplate("gw-1"))
			want = "without one as well"
		}
		_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
		_, err := newClient(t, o).Enroll(t.Context(), csr, Want{})
		e, ok := errors.AsType[*Error](err)
		if !ok || e.Class != ErrUnauthorized || !e.Refusal || !strings.Contains(err.Error(), want) || e.Hint == "" {
			t.Errorf("certificate: %v: %v", known, err)
		}
	}
}

// All kinds of key that an identity may have can log in, under both versions of TLS.
func TestClientCertificateKeys(t *testing.T) {
	root := newRoot(t, "root")
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, version := range tlsVersions {
		s := newServer(t)
		s.root, s.maxVersion, s.clientAuth = root, version, tls.RequireAndVerifyClientCert
		s.clientCAs = poolOf([]*x509.Certificate{root.cert})
		s.start()
		for _, pair := range []*tls.Certificate{
			{PrivateKey: rsaKey, Certificate: [][]byte{sign(t, clientTemplate("rsa"), rsaKey, root).Raw}},
			{PrivateKey: edKey, Certificate: [][]byte{sign(t, clientTemplate("ed25519"), edKey, root).Raw}},
			{PrivateKey: p521, Certificate: [][]byte{sign(t, clientTemplate("p521"), p521, root).Raw}},
		} {
			o := s.options()
			o.Certificate = pair
			if _, err := newClient(t, o).CACerts(t.Context()); err != nil {
				t.Errorf("%s, %T: %v", tls.VersionName(version), pair.PrivateKey, err)
			}
		}
	}
}

// However a server goes silent, an attempt ends in its time and leaves nothing behind.
func TestHangingServer(t *testing.T) {
	release := make(chan struct{})
	root := newRoot(t, "root")
	pair := root.tlsCertificate(t, serverTemplate())
	secured := func(then func(c *tls.Conn)) func(net.Conn) {
		return func(c net.Conn) {
			server := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{*pair}})
			if server.Handshake() == nil {
				then(server)
			}
			<-release
		}
	}
	readRequest := func(c net.Conn) { c.Read(make([]byte, 4096)) }
	for _, test := range []struct {
		name  string
		serve func(net.Conn)
		want  string
	}{
		{"accepts and says nothing", func(net.Conn) { <-release }, "TLS handshake did not end"},
		{"hangs in the handshake", func(c net.Conn) {
			c.Read(make([]byte, 4096))
			c.Write([]byte{22, 3, 3, 0, 100, 2}) // the head of a record that never comes
			<-release
		}, "TLS handshake did not end"},
		{"trickles in the handshake", func(c net.Conn) {
			c.Read(make([]byte, 4096))
			trickle(c, release, "\x16\x03\x03\x40\x00\x02\x00\x3f\xfc"+strings.Repeat("\x00", 16<<10))
		}, "TLS handshake did not end"},
		{"trickles the header", secured(func(c *tls.Conn) {
			readRequest(c)
			trickle(c, release, "HTTP/1.1 200 OK\r\n"+strings.Repeat("X-More: y\r\n", 1000))
		}), "only in part"},
		{"trickles 1xx answers", secured(func(c *tls.Conn) {
			readRequest(c)
			trickle(c, release, strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", 1000))
		}), "only in part"},
		{"trickles chunks", secured(func(c *tls.Conn) {
			readRequest(c)
			fmt.Fprint(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
			trickle(c, release, strings.Repeat("1\r\nM\r\n", 1000))
		}), "only in part"},
		{"hangs before the answer", secured(func(c *tls.Conn) { readRequest(c) }), "no answer"},
		{"hangs in the header", secured(func(c *tls.Conn) {
			readRequest(c)
			fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Type:")
		}), "only in part"},
		{"hangs after the header", secured(func(c *tls.Conn) {
			readRequest(c)
			fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
		}), "only in part"},
		{"answers a byte at a time", secured(func(c *tls.Conn) {
			readRequest(c)
			fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
			trickle(c, release, strings.Repeat("M", 1000))
		}), "only in part"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			address := listen(t, test.serve)
			o := Options{URL: mustParse(t, "https://"+address+"/.well-known/est"), Anchors: []*x509.Certificate{root.cert}}
			err := withLimits(test.want, func(limit time.Duration) error {
				o.Timeout = limit
				began := time.Now()
				_, err := newClient(t, o).CACerts(t.Context())
				if took := time.Since(began); took > limit+30*time.Second {
					t.Errorf("took %v", took)
				}
				return err
			})
			e, ok := errors.AsType[*Error](err)
			if !ok || e.Class != ErrUnavailable || e.Refusal || e.Status != 0 || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
	t.Cleanup(func() {
		close(release)
		awaitNoClientGoroutines(t)
	})
}

// withLimits does something with a short time limit, and with longer ones as long as its error does not have that text: on a
// busy machine it may not come far enough for that. It returns the last error.
func withLimits(text string, do func(limit time.Duration) error) error {
	for limit := time.Second; ; limit *= 4 {
		err := do(limit)
		if err == nil || strings.Contains(err.Error(), text) || limit > 10*time.Second {
			return err
		}
	}
}

// trickle writes text a byte at a time, slowly, until it cannot or end is closed.
func trickle(c net.Conn, end chan struct{}, text string) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for i := range len(text) {
		select {
		case <-end:
			return
		case <-tick.C:
		}
		if _, err := io.WriteString(c, text[i:i+1]); err != nil {
			return
		}
	}
}

// awaitNoClientGoroutines waits until no goroutine is left that works for a connection of ours: of net/http's, of this
// package's own, or inside a dial.
func awaitNoClientGoroutines(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		buf := make([]byte, 1<<20)
		stacks := string(buf[:runtime.Stack(buf, true)])
		left := false
		for _, of := range []string{"net/http.(*persistConn)", "net/http.(*Transport)", "est.(*Client).", "est.(*Dialer).",
			"est.(*promptConn).", "net.(*Dialer)."} {
			left = left || strings.Contains(stacks, of)
		}
		if !left {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("client connections still have goroutines:\n%s", stacks)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// Whatever the client waits for, its caller's word ends it, and then nothing is left: no connection, no goroutine.
func TestCancelAtEveryStage(t *testing.T) {
	root := newRoot(t, "root")
	pair := root.tlsCertificate(t, serverTemplate())
	body := certsOnlyBody(t, root.cert)
	secured := func(then func(c *tls.Conn, request *http.Request)) func(net.Conn) {
		return func(raw net.Conn) {
			c := tls.Server(raw, &tls.Config{Certificates: []tls.Certificate{*pair}, ClientAuth: tls.RequestClientCert})
			for r := bufio.NewReader(c); ; {
				request, err := http.ReadRequest(r)
				if err != nil {
					return
				}
				io.Copy(io.Discard, request.Body)
				then(c, request)
			}
		}
	}
	for _, test := range []struct {
		name  string
		serve func(c net.Conn, n int, stage func()) // stage says that the client waits now
	}{
		{"for the handshake", func(_ net.Conn, _ int, stage func()) { stage() }},
		{"inside the handshake", func(c net.Conn, _ int, stage func()) {
			c.Read(make([]byte, 4096))
			c.Write([]byte{22, 3, 3, 0, 100, 2})
			stage()
		}},
		{"for an answer", func(c net.Conn, _ int, stage func()) {
			secured(func(*tls.Conn, *http.Request) { stage() })(c)
		}},
		{"for the rest of a header", func(c net.Conn, _ int, stage func()) {
			secured(func(c *tls.Conn, _ *http.Request) { io.WriteString(c, "HTTP/1.1 200 OK\r\nX-"); stage() })(c)
		}},
		{"for the rest of a body", func(c net.Conn, _ int, stage func()) {
			secured(func(c *tls.Conn, _ *http.Request) { io.WriteString(c, ok(body)[:len(ok(body))-10]); stage() })(c)
		}},
		{"for the rest of an error's body", func(c net.Conn, _ int, stage func()) {
			secured(func(c *tls.Conn, r *http.Request) {
				if r.Method == http.MethodGet {
					io.WriteString(c, ok(body))
					return
				}
				io.WriteString(c, "HTTP/1.1 401 No\r\nWWW-Authenticate: Basic\r\nContent-Length: 9\r\n\r\n")
				stage()
			})(c)
		}},
		{"for the enrolment", func(c net.Conn, _ int, stage func()) {
			secured(func(c *tls.Conn, r *http.Request) {
				if r.Method == http.MethodGet {
					io.WriteString(c, ok(body))
					return
				}
				stage()
			})(c)
		}},
		{"for the connection that the password goes over", func(c net.Conn, n int, stage func()) {
			if n > 1 {
				stage()
				return
			}
			secured(func(c *tls.Conn, r *http.Request) { io.WriteString(c, asksForLogin) })(c)
		}},
		{"for why its certificate was refused", func(c net.Conn, n int, stage func()) {
			if n > 1 {
				stage()
				return
			}
			tls.Server(c, &tls.Config{Certificates: []tls.Certificate{*pair}, MaxVersion: tls.VersionTLS12,
				ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: x509.NewCertPool()}).Handshake()
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var conns atomic.Int32
			closed := make(chan struct{}, 10)
			address := listen(t, func(c net.Conn) {
				defer func() { closed <- struct{}{} }()
				defer c.Close()
				staged := false
				stage := func() { staged = true; cancel() }
				test.serve(c, int(conns.Add(1)), stage)
				if staged {
					io.Copy(io.Discard, c) // until the client closes it
				}
			})
			o := Options{URL: mustParse(t, "https://"+address+"/.well-known/est"), Anchors: []*x509.Certificate{root.cert},
				Login: login, Certificate: root.tlsCertificate(t, clientTemplate("gw-1")), Timeout: time.Hour}
			_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
			c := newClient(t, o)
			_, err := c.Enroll(ctx, csr, Want{})
			if !errors.Is(err, ErrUnavailable) || !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
			c.Close()
			awaitNoClientGoroutines(t)
			for range conns.Load() {
				<-closed
			}
		})
	}
}

// After Close nothing is left, whether the attempt went well or not.
func TestNothingLeaks(t *testing.T) {
	s := newServer(t)
	s.handlers["simplereenroll"] = func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusForbidden) }
	s.start()
	_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
	for range 10 {
		c := newClient(t, s.options())
		if _, err := c.Enroll(t.Context(), csr, Want{}); err != nil {
			t.Error(err)
		}
		if _, err := c.Reenroll(t.Context(), csr, Want{}); !errors.Is(err, ErrUnauthorized) {
			t.Error(err)
		}
		c.Close()
		c.Close()
	}
	s.awaitClosed()
	awaitNoClientGoroutines(t)
}

// The end of a connection is announced: a server can tell it from an attack that cuts answers off (RFC 8446 6.1).
func TestCloseSendsCloseNotify(t *testing.T) {
	root := newRoot(t, "root")
	pair := root.tlsCertificate(t, serverTemplate())
	ended := make(chan error, 1)
	address := listen(t, func(c net.Conn) {
		server := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{*pair}})
		buf := make([]byte, 4096)
		if _, err := server.Read(buf); err != nil {
			ended <- err
			return
		}
		body := certsOnlyBody(t, root.cert)
		fmt.Fprintf(server, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		_, err := server.Read(buf)
		ended <- err
	})
	o := Options{URL: mustParse(t, "https://"+address+"/.well-known/est"), Anchors: []*x509.Certificate{root.cert}}
	c := newClient(t, o)
	if _, err := c.CACerts(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.Close()
	// crypto/tls says EOF for a close-notify and unexpected EOF for a connection that ends without.
	if err := <-ended; err == nil || err.Error() != "EOF" {
		t.Errorf("server saw %v", err)
	}
}
