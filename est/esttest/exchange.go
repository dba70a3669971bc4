package esttest

import (
	"context"
	"crypto/x509"
	"net"
	"net/http"
	"strings"
)

// exchange is one request on its way through the server. It belongs to the goroutine of its handler.
type exchange struct {
	server   *Server
	conn     connection
	login    Login
	recorded bool

	fault *queuedFault // what answers; nil if the face does
	// alter changes the certificate that is issued for this request; a fault sets it.
	alter func(*x509.Certificate)
	// unspent says that the fault has not come to what it is for. It goes back into the queue before the answer goes
	// out, so that the client's next request meets it.
	unspent bool
	// drop closes the connection after the answer, unannounced.
	drop bool
}

// connection is a TLS connection and its number.
type connection struct {
	net.Conn
	number int
}

type (
	exchangeKey   struct{}
	connectionKey struct{}
)

// exchangeOf returns the exchange of a request that came through Server.serve.
func exchangeOf(r *http.Request) *exchange {
	return r.Context().Value(exchangeKey{}).(*exchange)
}

// serve is the outermost handler: it finds out who asks, lets a fault or the face answer, and keeps the record.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	ex := &exchange{server: s, conn: r.Context().Value(connectionKey{}).(connection)}
	ex.login = Login{
		Time:       s.options.Now(),
		Operation:  r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:],
		Connection: ex.conn.number,
	}
	ex.login.Certificate, ex.login.Refused = s.clientCertificate(r)
	ex.login.Username = s.passwordLogin(r)
	r = r.WithContext(context.WithValue(r.Context(), exchangeKey{}, ex))
	defer ex.record(0) // for what aborts, or never answers

	answer := &recordingWriter{w, ex}
	if ex.fault = s.takeFault(ex.login.Operation); ex.fault != nil {
		ex.fault.fault(answer, r, s.face)
	} else {
		s.face.ServeHTTP(answer, r)
	}
	if ex.drop && http.NewResponseController(answer).Flush() == nil {
		ex.conn.Close()
	}
}

// record writes the login down, once.
func (ex *exchange) record(status int) {
	if ex.recorded {
		return
	}
	ex.recorded = true
	if ex.unspent {
		ex.server.putBack(ex.fault)
	}
	ex.login.Status = status
	ex.server.record(ex.login)
}

// recordingWriter records the exchange before the first byte of the answer.
type recordingWriter struct {
	http.ResponseWriter
	ex *exchange
}

func (w *recordingWriter) WriteHeader(status int) {
	if status >= 200 { // 1xx is no answer yet
		w.ex.record(status)
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *recordingWriter) Write(p []byte) (int, error) {
	w.ex.record(http.StatusOK)
	return w.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController flush.
func (w *recordingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// capturedAnswer holds an answer in memory, for those who want to change it.
type capturedAnswer struct {
	header http.Header
	status int
	body   []byte
}

// capture has a handler answer into memory.
func capture(h http.Handler, r *http.Request) *capturedAnswer {
	c := &capturedAnswer{header: make(http.Header)}
	h.ServeHTTP(c, r)
	if c.status == 0 {
		c.status = http.StatusOK
	}
	return c
}

func (c *capturedAnswer) Header() http.Header { return c.header }

func (c *capturedAnswer) WriteHeader(status int) {
	if c.status == 0 {
		c.status = status
	}
}

func (c *capturedAnswer) Write(p []byte) (int, error) {
	c.WriteHeader(http.StatusOK)
	c.body = append(c.body, p...)
	return len(p), nil
}

// writeHeader copies status and headers to w.
func (c *capturedAnswer) writeHeader(w http.ResponseWriter) {
	for name, values := range c.header {
		w.Header()[name] = values
	}
	w.WriteHeader(c.status)
}

// writeTo copies the answer to w.
func (c *capturedAnswer) writeTo(w http.ResponseWriter) {
	c.writeHeader(w)
	w.Write(c.body)
}
