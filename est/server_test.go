package est

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"
)

// server is a real TLS server on loopback that speaks enough EST for the tests of this package. Its fields are set
// before start; log fields are read through methods.
type server struct {
	t    testing.TB
	root *authority // of the TLS certificate, and of what is issued

	// Settings, fixed once it started.
	template   *x509.Certificate // of the TLS certificate
	clientAuth tls.ClientAuthType
	clientCAs  *x509.CertPool
	minVersion uint16
	maxVersion uint16

	certificate func() *tls.Certificate     // of each connection, in place of template
	handlers    map[string]http.HandlerFunc // by operation; one of these stands in for the usual behaviour
	all         func(w http.ResponseWriter, r *http.Request, usual http.Handler)

	http *httptest.Server

	mu       sync.Mutex // guards what follows
	requests []*received
	conns    int
	open     map[net.Conn]bool
	closed   chan struct{} // gets a value for each closed connection
}

type received struct {
	*http.Request
	body []byte
}

func newServer(t testing.TB) *server {
	t.Helper()
	return &server{
		t:          t,
		root:       newRoot(t, "test root"),
		template:   serverTemplate(),
		clientAuth: tls.RequestClientCert,
		handlers:   map[string]http.HandlerFunc{},
		open:       map[net.Conn]bool{},
		closed:     make(chan struct{}, 1000),
	}
}

func (s *server) start() *server {
	s.t.Helper()
	s.http = httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	s.http.TLS = &tls.Config{
		Certificates: []tls.Certificate{*s.root.tlsCertificate(s.t, s.template)},
		ClientAuth:   s.clientAuth,
		ClientCAs:    s.clientCAs,
		MinVersion:   s.minVersion,
		MaxVersion:   s.maxVersion,
		NextProtos:   []string{"http/1.1"},
	}
	if s.certificate != nil {
		s.http.TLS.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
			config := s.http.TLS.Clone()
			config.Certificates, config.GetConfigForClient = []tls.Certificate{*s.certificate()}, nil
			return config, nil
		}
	}
	s.http.Config.ErrorLog = log.New(io.Discard, "", 0) // refused handshakes are what is tested
	s.http.Config.ConnState = func(c net.Conn, state http.ConnState) {
		s.mu.Lock()
		defer s.mu.Unlock()
		switch state {
		case http.StateNew:
			s.conns++
			s.open[c] = true
		case http.StateClosed, http.StateHijacked:
			delete(s.open, c)
			s.closed <- struct{}{}
		}
	}
	s.http.StartTLS()
	s.t.Cleanup(s.http.Close)
	return s
}

func (s *server) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	s.mu.Lock()
	s.requests = append(s.requests, &received{r, body})
	s.mu.Unlock()
	r.Body = io.NopCloser(bytes.NewReader(body))
	if s.all != nil {
		s.all(w, r, http.HandlerFunc(s.usual))
		return
	}
	s.usual(w, r)
}

func (s *server) usual(w http.ResponseWriter, r *http.Request) {
	op := r.URL.Path[len("/.well-known/est/"):]
	if h := s.handlers[op]; h != nil {
		h(w, r)
		return
	}
	switch {
	case op == "cacerts" && r.Method == http.MethodGet:
		s.answer(w, s.root.cert)
	case op == "simpleenroll" && r.Method == http.MethodPost, op == "simplereenroll" && r.Method == http.MethodPost:
		body, _ := io.ReadAll(r.Body)
		der, err := base64.StdEncoding.DecodeString(string(body))
		if err != nil {
			http.Error(w, "not base64", http.StatusBadRequest)
			return
		}
		s.answer(w, s.root.issue(s.t, der))
	default:
		http.NotFound(w, r)
	}
}

func (s *server) answer(w http.ResponseWriter, certs ...*x509.Certificate) {
	w.Header().Set("Content-Type", "application/pkcs7-mime; smime-type=certs-only")
	w.Write(certsOnlyBody(s.t, certs...))
}

func (s *server) base() *url.URL {
	u, err := url.Parse(s.http.URL + "/.well-known/est")
	if err != nil {
		s.t.Fatal(err)
	}
	return u
}

// options trust the server explicitly.
func (s *server) options() Options {
	return Options{URL: s.base(), Anchors: []*x509.Certificate{s.root.cert}, Timeout: 20 * time.Second}
}

func (s *server) connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns
}

func (s *server) log() []*received {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// awaitClosed waits until every connection that was opened is closed.
func (s *server) awaitClosed() {
	s.t.Helper()
	for {
		s.mu.Lock()
		n := len(s.open)
		s.mu.Unlock()
		if n == 0 {
			return
		}
		select {
		case <-s.closed:
		case <-time.After(20 * time.Second):
			s.t.Fatalf("%d connections are still open", n)
		}
	}
}

// hijack takes the connection away from net/http, for answers that it would not send.
func hijack(t testing.TB, w http.ResponseWriter) net.Conn {
	c, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		t.Error(err)
		panic(http.ErrAbortHandler)
	}
	return c
}

func newClient(t testing.TB, o Options) *Client {
	t.Helper()
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func mustParse(t testing.TB, text string) *url.URL {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}
