package esttest

import (
	"bytes"
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Fault answers a request in place of the server. It may call real to have the server do its work, with w, or with a
// writer of its own to change the answer; it may panic with http.ErrAbortHandler to close the connection. The request
// ends with ctx when the client goes away or the server stops.
type Fault func(w http.ResponseWriter, r *http.Request, real http.Handler)

// queuedFault is a fault that waits for a request to op; an empty op means any. A fault that stays is for always, and
// never in the queue.
type queuedFault struct {
	op    string
	fault Fault
	stays bool
}

// Next queues faults: each answers one request, whatever it asks for, in this order. The faults that change a
// certificate or cut an answer stay in the queue until there was one to change: a request that is sent away with 401
// does not use them up.
func (s *Server) Next(faults ...Fault) { s.NextOn("", faults...) }

// NextOn is Next for requests to one operation, such as "simpleenroll"; others pass by.
func (s *Server) NextOn(op string, faults ...Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range faults {
		s.queue = append(s.queue, &queuedFault{op: op, fault: f})
	}
}

// Always answers every request to op so, or every request at all if op is empty, until Clear. Queued faults go
// first, and a fault for an operation goes before one for all.
func (s *Server) Always(op string, f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.always[op] = f
}

// Clear forgets every fault. Those that are at work go on.
func (s *Server) Clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue = nil
	clear(s.always)
}

// takeFault removes and returns the fault for a request, nil if there is none.
func (s *Server) takeFault(op string) *queuedFault {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, q := range s.queue {
		if q.op == "" || q.op == op {
			s.queue = slices.Delete(s.queue, i, i+1)
			return q
		}
	}
	for _, key := range []string{op, ""} {
		if f := s.always[key]; f != nil {
			return &queuedFault{op: key, fault: f, stays: true}
		}
	}
	return nil
}

// putBack queues a fault again, at the head.
func (s *Server) putBack(q *queuedFault) {
	if q.stays {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue = slices.Insert(s.queue, 0, q)
}

// Status answers with a status, and with headers given as name, value, name, value. The server does no work. It
// panics if a value is missing.
func Status(code int, headers ...string) Fault {
	if len(headers)%2 != 0 {
		panic("esttest.Status: headers come as name, value, name, value")
	}
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		for pair := range slices.Chunk(headers, 2) {
			w.Header().Add(pair[0], pair[1])
		}
		w.WriteHeader(code)
		if code != http.StatusNoContent && code != http.StatusNotModified {
			io.WriteString(w, strconv.Itoa(code)+" "+http.StatusText(code)+"\n")
		}
	}
}

// Pending202 answers 202 with Retry-After in whole seconds, rounded up, or without if it is negative (RFC 7030 section
// 4.2.3). For an HTTP date use Status. The server does no work.
func Pending202(retryAfter time.Duration) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		if retryAfter >= 0 {
			seconds := (retryAfter + time.Second - 1) / time.Second
			w.Header().Set("Retry-After", strconv.FormatInt(int64(seconds), 10))
		}
		w.Header().Set("Content-Length", "0")
		w.WriteHeader(http.StatusAccepted)
	}
}

// Hang answers nothing until until is done; then the server does its work, late. It ends without an answer when
// the client goes away or the server stops.
func Hang(until context.Context) Fault {
	return func(w http.ResponseWriter, r *http.Request, real http.Handler) {
		// Only once the body is read does net/http notice that a client has gone.
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		select {
		case <-until.Done():
			real.ServeHTTP(w, r)
		case <-r.Context().Done():
			panic(http.ErrAbortHandler)
		}
	}
}

// CloseBeforeAnswer is a Fault that closes the connection. The server does no work.
func CloseBeforeAnswer(http.ResponseWriter, *http.Request, http.Handler) {
	panic(http.ErrAbortHandler)
}

// LoseAnswer is a Fault that has the server do its work, and closes the connection in place of a good answer.
func LoseAnswer(w http.ResponseWriter, r *http.Request, real http.Handler) {
	answer := capture(real, r)
	if answer.status != http.StatusOK {
		exchangeOf(r).unspent = true
		answer.writeTo(w)
		return
	}
	panic(http.ErrAbortHandler)
}

// CutBody has the server do its work, announces the whole body of a good answer, sends n bytes of it, never the last,
// and closes the connection.
func CutBody(n int) Fault {
	return func(w http.ResponseWriter, r *http.Request, real http.Handler) {
		answer := capture(real, r)
		if answer.status != http.StatusOK || len(answer.body) == 0 {
			exchangeOf(r).unspent = true
			answer.writeTo(w)
			return
		}
		answer.header.Set("Content-Length", strconv.Itoa(len(answer.body)))
		answer.writeHeader(w)
		w.Write(answer.body[:min(n, len(answer.body)-1)])
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
}

// Garbage answers 200 with this Content-Type, or without one if it is empty, and this body. The server does no work.
func Garbage(contentType, body string) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.Header()["Content-Type"] = nil // an empty one would be guessed
		if contentType != "" {
			w.Header().Set("Content-Type", contentType)
		}
		io.WriteString(w, body)
	}
}

// Endless answers 200 with n bytes of well-formed base64 lines, without saying how many there will be. It ends when the
// client stops reading. The server does no work.
func Endless(n int64) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.Header().Set("Content-Type", "application/pkcs7-mime; smime-type=certs-only")
		lines := []byte(strings.Repeat(strings.Repeat("A", 64)+"\n", 512))
		for left := n; left > 0; { // n is for every answer, and they may be given at the same time
			chunk := lines[:min(left, int64(len(lines)))]
			if _, err := w.Write(chunk); err != nil {
				panic(http.ErrAbortHandler)
			}
			left -= int64(len(chunk))
		}
	}
}

// altered has the server do its work, and changes the certificate that it issues.
func altered(w http.ResponseWriter, r *http.Request, real http.Handler, alter func(*x509.Certificate)) {
	ex := exchangeOf(r)
	ex.alter, ex.unspent = alter, true
	real.ServeHTTP(w, r)
}

// CertificateForAnotherKey is a Fault: the certificate issued is as asked for, but for a key that nobody has.
func CertificateForAnotherKey(w http.ResponseWriter, r *http.Request, real http.Handler) {
	key, err := newKey()
	if err != nil {
		panic(err)
	}
	altered(w, r, real, func(t *x509.Certificate) { t.PublicKey = key.Public() })
}

// CertificateOfAnotherSubject is a Fault: the certificate issued is for the right key, but has the common name
// "somebody else" and nothing else in its subject.
func CertificateOfAnotherSubject(w http.ResponseWriter, r *http.Request, real http.Handler) {
	altered(w, r, real, func(t *x509.Certificate) {
		t.RawSubject = nil
		t.Subject = pkix.Name{CommonName: "somebody else"}
	})
}

// ExpiredCertificate is a Fault: the certificate issued expired an hour ago, after a lifetime of as long as asked for.
func ExpiredCertificate(w http.ResponseWriter, r *http.Request, real http.Handler) {
	altered(w, r, real, func(t *x509.Certificate) {
		life := t.NotAfter.Sub(t.NotBefore)
		t.NotAfter = t.NotBefore.Add(-time.Hour)
		t.NotBefore = t.NotAfter.Add(-life)
	})
}

// NotYetValid is a Fault: the certificate issued becomes valid in an hour.
func NotYetValid(w http.ResponseWriter, r *http.Request, real http.Handler) {
	altered(w, r, real, func(t *x509.Certificate) {
		t.NotBefore = t.NotBefore.Add(time.Hour)
		t.NotAfter = t.NotAfter.Add(time.Hour)
	})
}

// CACertificate is a Fault: the certificate issued is one of a CA, whatever was asked for.
func CACertificate(w http.ResponseWriter, r *http.Request, real http.Handler) {
	altered(w, r, real, func(t *x509.Certificate) {
		t.IsCA, t.MaxPathLen = true, -1
		t.KeyUsage = x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign
		t.ExtraExtensions = slices.DeleteFunc(t.ExtraExtensions, func(e pkix.Extension) bool {
			return e.Id.Equal(oidKeyUsage)
		})
	})
}
