package esttest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Server is a CA and an EST server that listens. Its methods may be called from any goroutine. Its fields are as Open made
// them; a Rollover does not change them.
type Server struct {
	// Root is the CA that issues, or that the issuing intermediate is below.
	Root *x509.Certificate
	// TLSRoot is the CA behind the server certificate: Root, unless Options.SeparateTLSRoot.
	TLSRoot *x509.Certificate
	// Issuer is the CA that signs: Root, unless Options.Intermediate.
	Issuer *x509.Certificate

	options   Options // complete; never changed
	face      http.Handler
	nonces    nonces
	caFile    string
	temporary string // directory to remove at Close; empty if there is none
	binding   *binding

	mu          sync.Mutex // guards everything below
	authority   *authority
	accepted    *x509.CertPool      // CAs whose certificates are a login; replaced, never changed
	tls         *tls.Config         // for new connections; replaced, never changed
	cas         []*x509.Certificate // what SetCACerts says; empty if nothing
	running     *running            // nil during an outage and after Close
	closed      bool
	lifetime    time.Duration
	refuse      func(*x509.Certificate) bool
	queue       []*queuedFault
	always      map[string]Fault  // by operation; "" for all
	approved    map[[32]byte]bool // by SHA-256 of the public key: asked once under ManualApproval
	conduct     conduct           // what Misbehave put in the place of the server's own
	logins      []Login
	changed     chan struct{} // closed, and made anew, with each login
	connections int
	open        int // of the connections, those that are not closed yet
}

// running is what Start starts and Stop ends.
type running struct {
	http      *http.Server
	stop      context.CancelFunc // ends the context of every request, and waiting for a worker
	listeners sync.WaitGroup     // those that still accept
	conns     sync.WaitGroup     // those that are still served
}

// TB is the part of testing.TB that New needs, so that a program with this package does not link package testing.
type TB interface {
	Helper()
	Cleanup(func())
	Fatalf(format string, args ...any)
}

// New is Open for a test: it closes the server when the test ends, and an error ends the test.
func New(t TB, o Options) *Server {
	t.Helper()
	s, err := Open(o)
	if err != nil {
		t.Fatalf("open EST test server: %v", err)
	}
	t.Cleanup(s.Close)
	return s
}

// Open makes or loads the CA, and listens. Everything is on disk before the first connection is accepted. Who opened
// the server must close it.
func Open(o Options) (*Server, error) {
	o, err := o.completed()
	if err != nil {
		return nil, fmt.Errorf("EST test server: %w", err)
	}
	a, err := establish(folder(o.Dir), o)
	if err != nil {
		return nil, err
	}
	s := &Server{
		Root: a.root.cert, TLSRoot: a.tlsRoot.cert, Issuer: a.issuing.cert,
		options: o, authority: a, nonces: newNonces(),
		lifetime: o.Lifetime,
		always:   make(map[string]Fault),
		approved: make(map[[32]byte]bool),
		changed:  make(chan struct{}),
	}
	s.accepted = x509.NewCertPool()
	for _, c := range append([]*x509.Certificate{s.Root, s.Issuer}, o.ClientCAs...) {
		s.accepted.AddCert(c)
	}
	s.tls = s.tlsConfig()
	if o.LikeLibest {
		s.face = &libestFace{s}
	} else if s.face, err = newGlobalsignFace(s); err != nil {
		return nil, err
	}
	if err := s.placeCAFile(); err != nil {
		return nil, err
	}
	if s.binding, err = bind(o.Listen); err == nil {
		err = s.Start()
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// placeCAFile finds the file for CAFile; a CA in memory has it in a temporary directory.
func (s *Server) placeCAFile() error {
	if s.options.Dir != "" {
		name := nameRoot
		if s.options.SeparateTLSRoot {
			name = nameTLSRoot
		}
		file, err := filepath.Abs(folder(s.options.Dir).certFile(name))
		s.caFile = file
		return err
	}
	dir, err := os.MkdirTemp("", "esttest-")
	if err != nil {
		return fmt.Errorf("make directory for ca.pem: %w", err)
	}
	s.temporary, s.caFile = dir, filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(s.caFile, s.RootPEM(), 0o644); err != nil {
		os.RemoveAll(dir)
		return err
	}
	return nil
}

// tlsConfig returns the TLS settings for the CA as it is.
func (s *Server) tlsConfig() *tls.Config {
	c := &tls.Config{
		Certificates: []tls.Certificate{{
			Certificate: s.authority.chain,
			PrivateKey:  s.authority.server.key,
			Leaf:        s.authority.server.cert,
		}},
		ClientAuth: tls.RequestClientCert,
		ClientCAs:  s.accepted,
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"http/1.1"}, // a fault shall end a connection, not a stream of HTTP/2
		Time:       s.options.Now,
	}
	if s.options.LikeLibest {
		c.MaxVersion = tls.VersionTLS12
		c.CurvePreferences = []tls.CurveID{tls.CurveP256}
		c.SessionTicketsDisabled = true
		c.NextProtos = nil
	}
	if s.options.LikeLibest || s.options.RefuseByAlert {
		c.ClientAuth = tls.VerifyClientCertIfGiven
	}
	if s.options.ProofOfPossession {
		c.MaxVersion = tls.VersionTLS12 // tls-unique is not defined for TLS 1.3 (RFC 9266 section 1)
	}
	if s.options.RefuseByAlert {
		c.VerifyConnection = func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) > 0 && s.refuses(cs.PeerCertificates[0]) {
				return errors.New("client certificate refused by RefuseCertificates")
			}
			return nil
		}
	}
	return c
}

// Start ends an outage: the server listens again where it did before. It does nothing if there is no outage, and fails
// after Close.
func (s *Server) Start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errors.New("start EST test server: it is closed")
	}
	if s.running != nil {
		return nil
	}
	listeners, err := s.binding.listen()
	if err != nil {
		return fmt.Errorf("start EST test server: %w", err)
	}

	ctx, stop := context.WithCancel(context.Background())
	run := &running{stop: stop}
	run.http = &http.Server{
		Handler:           http.HandlerFunc(s.serve),
		ReadHeaderTimeout: 30 * time.Second,
		ErrorLog:          s.options.ErrorLog,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connectionKey{}, connection{c, s.countConnection()})
		},
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				run.conns.Add(1)
			case http.StateClosed, http.StateHijacked:
				run.conns.Done()
			}
		},
	}
	if run.http.ErrorLog == nil {
		run.http.ErrorLog = log.New(io.Discard, "", 0)
	}
	if s.options.LikeLibest {
		run.http.ReadHeaderTimeout = s.options.WorkerIdle
		run.http.IdleTimeout = s.options.WorkerIdle
		listeners = limitWorkers(ctx, listeners, s.options.Workers)
	}
	for _, l := range listeners {
		watched := &watchedListener{l, ctx, s, run}
		run.listeners.Go(func() { // until Stop
			secured := tls.NewListener(watched, &tls.Config{
				GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return s.currentTLS(), nil },
			})
			if err := run.http.Serve(secured); ctx.Err() == nil {
				run.http.ErrorLog.Printf("EST test server: %v", err)
			}
		})
	}
	s.running = run
	return nil
}

// Stop begins an outage: connections are refused, those that are open end, and requests in flight get no answer. It
// returns when all of that is over. The port stays reserved. It does nothing during an outage.
func (s *Server) Stop() {
	s.mu.Lock()
	run := s.running
	s.running = nil
	s.mu.Unlock()
	if run == nil {
		return
	}
	run.stop()       // first: http.Server.Close waits for Accept, which may be waiting for a worker
	run.http.Close() // its errors are those of listeners, which are closed all the same
	run.listeners.Wait()
	run.conns.Wait()
}

// Close stops the server for good. All its goroutines have ended when it returns. It may be called again.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.Stop()
	s.binding.release()
	if s.temporary != "" {
		os.RemoveAll(s.temporary)
	}
}

// Addr is host:port where the server listens; of several addresses the first.
func (s *Server) Addr() string { return s.binding.addrs[0] }

// URL is where a client finds the operations: https://host:port/.well-known/est, with the label if there is one.
func (s *Server) URL() string {
	_, port, _ := net.SplitHostPort(s.Addr()) // it was taken from a listener
	host := s.options.listenHost()
	if host == "" {
		host = "localhost"
		if len(s.options.Hosts) > 0 {
			host = s.options.Hosts[0]
		}
	}
	return "https://" + net.JoinHostPort(host, port) + strings.TrimSuffix(basePath(s.options.Label), "/")
}

// RootPEM is the CA certificate behind the server certificate as Open made it: what a client puts into its trust anchors.
func (s *Server) RootPEM() []byte { return certPEM(s.TLSRoot) }

// CAFile is the absolute path of a file with RootPEM. It is gone after Close if the CA was in memory only.
func (s *Server) CAFile() string { return s.caFile }

// Connections is how many TCP connections the server has begun to serve, those included whose handshake failed.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.connections
}

// currentTLS returns the TLS settings for a connection that begins now.
func (s *Server) currentTLS() *tls.Config {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conduct.tls != nil {
		return s.conduct.tls
	}
	return s.tls
}

// Open is how many TCP connections neither side has closed yet.
func (s *Server) Open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open
}

func (s *Server) countConnection() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.connections++
	return s.connections
}
