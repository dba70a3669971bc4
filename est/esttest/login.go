package esttest

import (
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Login is one request that got as far as the handler, whether the server or a fault answered it. It is recorded before
// the first byte of the answer goes out, so a client that has an answer finds it in Logins.
type Login struct {
	Time      time.Time // when the request came
	Operation string    // last segment of the path: "simpleenroll"

	// Certificate is the client certificate that was offered and verified, nil if there was none. Refused
	// says that it did not count, because of RefuseCertificates.
	Certificate *x509.Certificate
	Refused     bool

	Username   string            // sent with the right password, else empty
	Status     int               // of the answer; 0 if there was none
	Issued     *x509.Certificate // what the CA issued for this request, also if the answer got lost
	Connection int               // number of the TLS connection, from 1
}

// By says what the client logged in with: "certificate", "password", "certificate+password" or "none".
func (l Login) By() string {
	switch certificate, password := l.Certificate != nil && !l.Refused, l.Username != ""; {
	case certificate && password:
		return "certificate+password"
	case certificate:
		return "certificate"
	case password:
		return "password"
	default:
		return "none"
	}
}

// String is one line of key=value pairs, always the same keys in the same order. Values with a space, a quote or an
// unprintable character in them are quoted as Go strings, the two names always. Serial numbers are hexadecimal as
// openssl prints them, times RFC 3339 in UTC; what there is not is empty. It holds no secret.
func (l Login) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "time=%s op=%s status=%d login=%s",
		l.Time.UTC().Format(time.RFC3339Nano), quoted(l.Operation), l.Status, l.By())
	name, serial, notAfter := "", "", ""
	if l.Certificate != nil {
		name, serial = l.Certificate.Subject.CommonName, hexSerial(l.Certificate)
	}
	fmt.Fprintf(&b, " login_cn=%q login_serial=%s", name, serial)
	name, serial = "", ""
	if l.Issued != nil {
		name, serial = l.Issued.Subject.CommonName, hexSerial(l.Issued)
		notAfter = l.Issued.NotAfter.UTC().Format(time.RFC3339)
	}
	fmt.Fprintf(&b, " issued_cn=%q issued_serial=%s not_after=%s", name, serial, notAfter)
	return b.String()
}

func hexSerial(c *x509.Certificate) string { return fmt.Sprintf("%X", c.SerialNumber.Bytes()) }

func quoted(s string) string {
	if q := strconv.Quote(s); len(q) != len(s)+2 || strings.ContainsAny(s, " =") {
		return q
	}
	return s
}

// record appends a login and tells everybody who waits for one.
func (s *Server) record(l Login) {
	s.mu.Lock()
	s.logins = append(s.logins, l)
	close(s.changed)
	s.changed = make(chan struct{})
	s.mu.Unlock()
	if s.options.OnLogin != nil {
		s.options.OnLogin(l)
	}
}

// Logins returns all requests so far, in the order of their answers.
func (s *Server) Logins() []Login {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.logins)
}

// Wait blocks until the condition holds for what Logins returns, looking at it now and after each new login. It ends
// with an error that lists the logins when ctx does.
func (s *Server) Wait(ctx context.Context, until func([]Login) bool) error {
	for {
		s.mu.Lock()
		logins, changed := slices.Clone(s.logins), s.changed
		s.mu.Unlock()
		if until(logins) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			lines := make([]string, len(logins))
			for i, l := range logins {
				lines[i] = "\n  " + l.String()
			}
			return fmt.Errorf("wait for logins: %w; there were %d:%s",
				context.Cause(ctx), len(logins), strings.Join(lines, ""))
		}
	}
}
