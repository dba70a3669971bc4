package dpstest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"sync"
	"time"
)

// The defaults of Options.
const (
	DefaultIDScope    = "0ne00C0FFEE"
	DefaultHub        = "hub-1.azure-devices.test"
	DefaultRetryAfter = 3 * time.Second
)

// Options say what a Server is. The zero value listens on a free port of 127.0.0.1, has one hub, and has decided a
// registration by the first poll.
type Options struct {
	// Listen is host:port. Empty means a free port of 127.0.0.1.
	Listen string

	// Listener, if not nil, is served in place of Listen, and closed with the server: a test in a bubble of fake time
	// has no use for sockets.
	Listener net.Listener

	// IDScope is that of the instance. Empty means DefaultIDScope.
	IDScope string

	// Hubs are the names of the hubs, all served by this server (see HubURL). An enrolment without hubs of its own
	// assigns the first. Empty means DefaultHub.
	Hubs []string

	// Takes is how long a registration takes from when it was asked for. RetryAfter is what the service asks to wait
	// meanwhile, in whole seconds; 0 means DefaultRetryAfter, and less than that none.
	Takes      time.Duration
	RetryAfter time.Duration

	// MaxVersion is the newest version of TLS that is spoken. 0 means 1.2, as the service does.
	MaxVersion uint16

	// Now is the service's clock. Nil means time.Now.
	Now func() time.Time

	// ErrorLog receives failed handshakes and the like. Nil means nobody.
	ErrorLog *log.Logger
}

// Server is the endpoint and its hubs. Its methods may be called from any goroutine.
type Server struct {
	// Root is the CA behind the server certificate of the endpoint and of the hubs.
	Root *x509.Certificate

	options  Options
	listener net.Listener
	http     *http.Server
	stop     context.CancelFunc // ends the context of every request
	served   sync.WaitGroup     // the serving goroutine and the connections

	mu          sync.Mutex // guards everything below
	individuals map[string]*entry
	groups      []*entry
	records     map[string]*record // by registration id in lower case
	devices     map[deviceKey]*device
	queue       []queuedFault
	always      map[string]Fault
	requests    []Request
	changed     chan struct{} // closed, and made anew, with each request
	connections int
	serial      int
}

// TB is the part of testing.TB that New needs.
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
		t.Fatalf("open DPS test server: %v", err)
	}
	t.Cleanup(s.Close)
	return s
}

// Open makes a CA for the server's own certificates, and listens. Who opened the server must close it.
func Open(o Options) (*Server, error) {
	if o.Listen == "" {
		o.Listen = "127.0.0.1:0"
	}
	if o.IDScope == "" {
		o.IDScope = DefaultIDScope
	}
	if len(o.Hubs) == 0 {
		o.Hubs = []string{DefaultHub}
	}
	if o.RetryAfter == 0 {
		o.RetryAfter = DefaultRetryAfter
	}
	if o.MaxVersion == 0 {
		o.MaxVersion = tls.VersionTLS12
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.ErrorLog == nil {
		o.ErrorLog = log.New(io.Discard, "", 0)
	}
	s := &Server{
		options: o, individuals: map[string]*entry{}, records: map[string]*record{}, devices: map[deviceKey]*device{},
		always: map[string]Fault{}, changed: make(chan struct{}),
	}
	certificate, root, err := serverCertificate(o.Hubs, o.Now())
	if err != nil {
		return nil, err
	}
	s.Root = root
	if s.listener = o.Listener; s.listener == nil {
		if s.listener, err = net.Listen("tcp", o.Listen); err != nil {
			return nil, fmt.Errorf("listen: %w", err)
		}
	}
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.http = &http.Server{
		Handler:           http.HandlerFunc(s.serve),
		ReadHeaderTimeout: 30 * time.Second,
		ErrorLog:          o.ErrorLog,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				s.served.Add(1)
				s.mu.Lock()
				s.connections++
				s.mu.Unlock()
			case http.StateClosed, http.StateHijacked:
				s.served.Done()
			}
		},
	}
	secured := tls.NewListener(s.listener, &tls.Config{
		Certificates: []tls.Certificate{*certificate},
		ClientAuth:   tls.RequireAnyClientCert, // what it is worth is decided by the enrolments
		MinVersion:   tls.VersionTLS12,
		MaxVersion:   o.MaxVersion,
		NextProtos:   []string{"http/1.1"},
		Time:         o.Now,
	})
	s.served.Go(func() { s.http.Serve(secured) }) // until Close
	return s, nil
}

// Close ends every request without an answer and stops the server. All its goroutines have ended when it returns.
func (s *Server) Close() {
	s.stop()
	s.http.Close()
	s.served.Wait()
}

// Addr is host:port where the endpoint and the hubs are served.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// URL is the endpoint, as a device's configuration has it: https://host:port.
func (s *Server) URL() string { return "https://" + s.Addr() }

// IDScope is the ID scope of the instance.
func (s *Server) IDScope() string { return s.options.IDScope }

// RootPEM is Root in PEM: what verifies the endpoint and the hubs.
func (s *Server) RootPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Root.Raw})
}

// Connections is how many TCP connections there have been.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.connections
}

// serverCertificate makes a CA and a certificate of it for the endpoint on loopback and for the hubs by their names.
func serverCertificate(hubs []string, now time.Time) (*tls.Certificate, *x509.Certificate, error) {
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	from, until := now.Add(-time.Hour), now.AddDate(10, 0, 0)
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "DPS test server root"},
		NotBefore: from, NotAfter: until,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, authority, authority, rootKey.Public(), rootKey)
	if err != nil {
		return nil, nil, fmt.Errorf("make root: %w", err)
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, err
	}
	own := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "DPS test server"},
		NotBefore: from, NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames: append([]string{"localhost"}, hubs...), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	if der, err = x509.CreateCertificate(rand.Reader, own, root, key.Public(), rootKey); err != nil {
		return nil, nil, fmt.Errorf("make server certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, root, nil
}
