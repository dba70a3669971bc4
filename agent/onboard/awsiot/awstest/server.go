package awstest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"sync"
	"time"
)

// DefaultEndpoint is Options.Endpoint when it is empty.
const DefaultEndpoint = "a1b2c3d4e5f6g7-ats.iot.eu-central-1.amazonaws.test"

// alpn is what a client must ask for at port 443.
const alpn = "x-amzn-mqtt-ca"

// Options say what a Server is. The zero value answers admitted clients by itself.
type Options struct {
	// Endpoint is the complete name that clients must send (SNI). Empty means DefaultEndpoint.
	Endpoint string

	// Broker is where admitted connections go. Without an address they are answered here: CONNACK, and PUBACK for
	// what they publish with QoS 1.
	Broker Broker

	// Drops is how many connections of a new certificate are dropped beyond the first, while it is provisioned.
	Drops int

	// Alert drops a certificate that is not ACTIVE in the handshake, with a TLS alert, and not behind it.
	Alert bool

	// Suffix is what the policy lets follow the common name in a client id; "" is nothing.
	Suffix string

	// MaxVersion is the newest version of TLS that is spoken. 0 means 1.3.
	MaxVersion uint16

	// OnRegistered, if not nil, is told of each certificate that was registered, before its connection is dropped.
	OnRegistered func(Registration)

	// Now is the account's clock. Nil means time.Now.
	Now func() time.Time
}

// Broker is an MQTT broker behind the endpoint, which is reached by TLS.
type Broker struct {
	Address     string           // host:port
	ServerName  string           // that its certificate is for
	Roots       *x509.CertPool   // that verify it
	Certificate *tls.Certificate // that it is shown; nil is none
}

// Connection is one that a client made.
type Connection struct {
	Port       int    // that the client asked for
	ServerName string // SNI
	ALPN       string
	Version    uint16   // of TLS
	Chain      []string // fingerprints of what the client showed; empty where the handshake failed before
	ClientID   string   // "" where it did not come to that
	// Outcome is "handshake" for one that failed there, "dropped", "denied", or "admitted".
	Outcome string
	// Published is how many messages of an admitted client were acknowledged here, where there is no broker.
	Published int
	// Left says that such a client took its leave (DISCONNECT).
	Left bool
	// Expiry is the session expiry interval (MQTT 5) in seconds that such a client left with; -1 where it did not say.
	Expiry int64
}

// Server is the endpoint and the account. Its methods may be called from any goroutine.
type Server struct {
	*account

	// Root is the CA behind the endpoint's certificate. No device knows it but by configuration.
	Root *x509.Certificate

	options     Options
	certificate *tls.Certificate
	direct      net.Listener // speaks as port 8883
	proxy       net.Listener // an HTTP proxy that reaches the endpoint and nothing else
	served      sync.WaitGroup
	ctx         context.Context // until Close
	stop        context.CancelFunc

	mu          sync.Mutex // guards what follows
	connections []*Connection
	changed     chan struct{} // closed, and made anew, with each outcome
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
		t.Fatalf("open AWS IoT test server: %v", err)
	}
	t.Cleanup(s.Close)
	return s
}

// Open makes a CA for the endpoint's own certificate, and listens on loopback. Who opened the server must close it.
func Open(o Options) (*Server, error) {
	if o.Endpoint == "" {
		o.Endpoint = DefaultEndpoint
	}
	if o.MaxVersion == 0 {
		o.MaxVersion = tls.VersionTLS13
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Server{account: newAccount(o.Drops, o.Now), options: o, changed: make(chan struct{})}
	authority, err := newAuthority("AWS IoT test server root", o.Now())
	if err != nil {
		return nil, err
	}
	s.Root = authority.cert
	if s.certificate, err = authority.issue(o.Endpoint, o.Now()); err != nil {
		return nil, err
	}
	if s.direct, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	if s.proxy, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		s.direct.Close()
		return nil, fmt.Errorf("listen: %w", err)
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.accept(s.direct, func(c net.Conn) { s.serve(c, 8883) })
	s.accept(s.proxy, s.tunnel)
	return s, nil
}

// accept serves l until Close.
func (s *Server) accept(l net.Listener, serve func(net.Conn)) {
	s.served.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.served.Go(func() {
				defer c.Close()
				defer context.AfterFunc(s.ctx, func() { c.Close() })()
				serve(c)
			})
		}
	})
}

// Close ends every connection and stops the server. All its goroutines have ended when it returns.
func (s *Server) Close() {
	s.stop()
	s.direct.Close()
	s.proxy.Close()
	s.served.Wait()
}

// Endpoint is the name of the endpoint. No resolver knows it: see Addr and Proxy.
func (s *Server) Endpoint() string { return s.options.Endpoint }

// Addr is host:port where the endpoint's port 8883 is served.
func (s *Server) Addr() string { return s.direct.Addr().String() }

// Proxy is the URL of an HTTP proxy behind which the endpoint's name is known, at its ports 8883 and 443, and no other.
func (s *Server) Proxy() *url.URL { return &url.URL{Scheme: "http", Host: s.proxy.Addr().String()} }

// RootPEM is Root in PEM: what verifies the endpoint, in place of Amazon's roots.
func (s *Server) RootPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Root.Raw})
}

// Connections are those that clients made, in their order.
func (s *Server) Connections() (list []Connection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.connections {
		copied := *c
		copied.Chain = slices.Clone(c.Chain)
		list = append(list, copied)
	}
	return list
}

// Await returns when ok says so about the connections, or the error of ctx. It is asked again after each change.
func (s *Server) Await(ctx context.Context, ok func([]Connection) bool) error {
	for {
		s.mu.Lock()
		changed := s.changed
		s.mu.Unlock()
		if ok(s.Connections()) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// note changes what is known of a connection.
func (s *Server) note(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
	close(s.changed)
	s.changed = make(chan struct{})
}

// patience bounds how long a client may take for a step.
const patience = time.Minute

// serve is one connection to a port of the endpoint.
func (s *Server) serve(raw net.Conn, port int) {
	raw.SetDeadline(time.Now().Add(patience))
	k := &Connection{Port: port, Expiry: -1}
	var v verdict
	s.note(func() { s.connections = append(s.connections, k) })
	c := tls.Server(raw, &tls.Config{
		Certificates: []tls.Certificate{*s.certificate},
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			s.note(func() { k.ServerName = hello.ServerName })
			if hello.ServerName != s.options.Endpoint {
				return nil, fmt.Errorf("the client asked for %q", hello.ServerName)
			}
			settings := &tls.Config{
				Certificates: []tls.Certificate{*s.certificate}, MinVersion: tls.VersionTLS12,
				MaxVersion: s.options.MaxVersion, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: s.authorities(),
				SessionTicketsDisabled: true, Time: s.options.Now,
				VerifyConnection: func(state tls.ConnectionState) error {
					s.note(func() {
						for _, cert := range state.PeerCertificates {
							k.Chain = append(k.Chain, fingerprint(cert))
						}
					})
					verified := state.VerifiedChains[0]
					if len(verified) == 1 {
						return errors.New("the certificate is that of a CA itself")
					}
					if err := kind(verified[0]); err != nil {
						return err
					}
					v = s.meet(verified[0], verified[1])
					if v.event != nil && s.options.OnRegistered != nil {
						s.options.OnRegistered(*v.event)
					}
					if !v.admitted && s.options.Alert {
						return errors.New("the certificate is not active")
					}
					return nil
				},
			}
			if port == 443 {
				settings.NextProtos = []string{alpn}
			}
			return settings, nil
		},
	})
	err := c.HandshakeContext(s.ctx)
	state := c.ConnectionState()
	s.note(func() { k.ALPN, k.Version = state.NegotiatedProtocol, state.Version })
	switch {
	case err != nil:
		s.note(func() { k.Outcome = "handshake" })
	case !v.admitted || port == 443 && state.NegotiatedProtocol != alpn:
		s.note(func() { k.Outcome = "dropped" })
	default:
		s.session(c, k, v)
	}
}
