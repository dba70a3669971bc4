package esttest

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"slices"
	"time"
)

// A Misbehaviour is one way in which an EST server, or what stands before it, is hostile, broken or unlucky.
type Misbehaviour struct {
	// Name says what the server does. It is unique.
	Name string

	// Class is what a careful client takes it for, in the words of certagent's status: "pending", "unauthorized",
	// "rejected", "unavailable", "untrusted" or "bad-response". Empty means that the certificate is good all the same, and
	// that a client should be issued it.
	Class string

	// Silent means that nothing but the client's own time limit ends it.
	Silent bool

	// Proxy means that it is not the server's but that of a CONNECT proxy: the client must be told to take the server's
	// address for one.
	Proxy bool

	// Certificate means that it is about the client's certificate: who offers none is served well.
	Certificate bool

	play func(*Server)
}

// Misbehaviours returns the catalogue, from the TCP connection upwards to the certificate that is issued.
func Misbehaviours() []Misbehaviour {
	return slices.Concat(badConnections(), badHandshakes(), badHTTP(), badStatuses(), badMessages(), badCertificates(),
		badProxies())
}

// conduct is what a misbehaviour changes below HTTP. The zero value changes nothing.
type conduct struct {
	take func(net.Conn) // speaks on a TCP connection in place of the server; it is closed after that, once the client goes
	tls  *tls.Config    // stands in for the server's own
}

// Misbehave has the server behave so from now on, for every request and connection; the one before is forgotten, and
// so are all faults. Enrolments misbehave for those only who have logged in: others get the 401 that they would get
// otherwise. Connections that are open already stay as they are.
func (s *Server) Misbehave(m Misbehaviour) {
	s.Clear()
	s.setConduct(conduct{})
	m.play(s)
}

func (s *Server) setConduct(c conduct) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conduct = c
}

func (s *Server) currentConduct() conduct {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conduct
}

// taking plays a misbehaviour on the bare TCP connection.
func taking(speak func(net.Conn)) func(*Server) {
	return func(s *Server) { s.setConduct(conduct{take: speak}) }
}

// securing plays one inside TLS, before the first byte of HTTP. A handshake that fails is the client's choice.
func securing(speak func(*tls.Conn)) func(*Server) {
	return func(s *Server) {
		s.setConduct(conduct{take: func(c net.Conn) {
			secured := tls.Server(c, s.currentTLS())
			if secured.Handshake() == nil {
				speak(secured)
			}
		}})
	}
}

// onCACerts plays one on /cacerts.
func onCACerts(f Fault) func(*Server) {
	return func(s *Server) { s.Always("cacerts", f) }
}

// onAttributes plays one on /csrattrs, whose answer is advice.
func onAttributes(f Fault) func(*Server) {
	return func(s *Server) { s.Always("csrattrs", f) }
}

// onEnrol plays one on both kinds of enrolment, for those who are logged in.
func onEnrol(f Fault) func(*Server) {
	return onEnrolOfAnybody(func(w http.ResponseWriter, r *http.Request, real http.Handler) {
		if login := exchangeOf(r).login; login.Certificate == nil && login.Username == "" {
			real.ServeHTTP(w, r)
			return
		}
		f(w, r, real)
	})
}

// onEnrolOfAnybody plays one on both kinds of enrolment.
func onEnrolOfAnybody(f Fault) func(*Server) {
	return func(s *Server) {
		s.Always("simpleenroll", f)
		s.Always("simplereenroll", f)
	}
}

// raw is a Fault that reads the request and lets speak answer it on the connection itself, past net/http. If speak
// leaves the connection open, it stays so until the client goes.
func raw(speak func(net.Conn)) Fault {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		io.Copy(io.Discard, r.Body)
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err) // HTTP/1.1 is all that the server offers
		}
		defer c.Close()
		defer context.AfterFunc(r.Context(), func() { c.Close() })()
		speak(c)
		linger(c)
	}
}

// text is what raw says.
func text(answer string) Fault {
	return raw(func(c net.Conn) { io.WriteString(c, answer) })
}

// textAndEnd is text, with the end of the connection behind it.
func textAndEnd(answer string) Fault {
	return raw(func(c net.Conn) {
		io.WriteString(c, answer)
		c.Close()
	})
}

// flood writes until the client has enough.
func flood(c net.Conn, piece string) {
	for {
		if _, err := io.WriteString(c, piece); err != nil {
			return
		}
	}
}

// drip writes a byte every few milliseconds, and all over again, until the client has enough: no limit on the time
// between two bytes would ever end it.
func drip(c net.Conn, text string) {
	for tick := time.NewTicker(20 * time.Millisecond); ; {
		for i := range len(text) {
			<-tick.C
			if _, err := io.WriteString(c, text[i:i+1]); err != nil {
				tick.Stop()
				return
			}
		}
	}
}
