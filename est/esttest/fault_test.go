package esttest_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"certagent/est/esttest"
)

func withFaults(t *testing.T, libest bool, faults ...esttest.Fault) (*esttest.Server, *client) {
	t.Helper()
	s := esttest.New(t, esttest.Options{LikeLibest: libest, Workers: 5})
	s.Next(faults...)
	return s, newClient(t, s, withPassword("estuser", "estpwd"))
}

func TestFaultStatus(t *testing.T) {
	faces(t, func(t *testing.T, libest bool) {
		s, c := withFaults(t, libest, esttest.Status(503, "Retry-After", "7", "X-Two", "2"), esttest.Status(403))
		r := c.post("simpleenroll", csrFor(t, "device")).want(t, 503)
		if r.Header.Get("Retry-After") != "7" || r.Header.Get("X-Two") != "2" {
			t.Errorf("headers %v", r.Header)
		}
		c.post("simpleenroll", csrFor(t, "device")).want(t, 403)
		c.post("simpleenroll", csrFor(t, "device")).want(t, 200)
		l := s.Logins()
		if len(l) != 3 || l[0].Status != 503 || l[0].Issued != nil || l[0].By() != "password" || l[2].Issued == nil {
			t.Errorf("logins %v", l)
		}
	})
}

func TestFaultPending(t *testing.T) {
	_, c := withFaults(t, false, esttest.Pending202(1500*time.Millisecond), esttest.Pending202(-1))
	if r := c.get("cacerts").want(t, 202); r.Header.Get("Retry-After") != "2" || len(r.body) > 0 {
		t.Errorf("Retry-After %q, body %q", r.Header.Get("Retry-After"), r.body)
	}
	if r := c.get("cacerts").want(t, 202); r.Header["Retry-After"] != nil {
		t.Errorf("Retry-After %q", r.Header["Retry-After"])
	}
}

// Which fault meets which request.
func TestFaultOrder(t *testing.T) {
	s, c := withFaults(t, false)
	s.Always("", esttest.Status(500))
	s.Always("csrattrs", esttest.Status(501))
	s.NextOn("cacerts", esttest.Status(502))
	s.Next(esttest.Status(503))
	for _, tt := range []struct {
		op     string
		status int
	}{
		{"csrattrs", 503}, // the first in the queue is not for it, the second is
		{"csrattrs", 501},
		{"cacerts", 502},
		{"cacerts", 500},
		{"csrattrs", 501},
	} {
		c.get(tt.op).want(t, tt.status)
	}
	s.Next(esttest.Status(503))
	s.Clear()
	c.get("cacerts").want(t, 200)
}

func TestFaultHang(t *testing.T) {
	// hanging queues the fault, and closes arrived when a request has met it.
	hanging := func(until context.Context) (fault esttest.Fault, arrived chan struct{}) {
		arrived = make(chan struct{})
		return func(w http.ResponseWriter, r *http.Request, real http.Handler) {
			close(arrived)
			esttest.Hang(until)(w, r, real)
		}, arrived
	}
	t.Run("released", func(t *testing.T) {
		until, release := context.WithCancel(t.Context())
		fault, arrived := hanging(until)
		s, c := withFaults(t, true, fault)
		done, csr := make(chan reply), csrFor(t, "device")
		go func() { done <- c.post("simpleenroll", csr) }() // ends with the answer
		<-arrived
		newClient(t, s).get("cacerts").want(t, 200)
		if l := s.Logins(); len(l) != 1 {
			t.Errorf("%d answers before the release, want that of cacerts", len(l))
		}
		release()
		(<-done).want(t, 200)
	})
	t.Run("client gone", func(t *testing.T) {
		fault, arrived := hanging(t.Context())
		s, c := withFaults(t, false, fault)
		ctx, leave := context.WithCancel(t.Context())
		go func() { // ends with arrived, or with the test
			select {
			case <-arrived:
			case <-t.Context().Done():
			}
			leave()
		}()
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL()+"/cacerts", nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp, err := c.http.Do(r); err == nil {
			resp.Body.Close()
			t.Errorf("an answer: %d", resp.StatusCode)
		}
		if err := s.Wait(t.Context(), func(l []esttest.Login) bool { return len(l) == 1 }); err != nil {
			t.Fatal(err)
		}
		if l := s.Logins()[0]; l.Status != 0 || l.Issued != nil {
			t.Errorf("recorded as %s", l)
		}
	})
	t.Run("server closed", func(t *testing.T) {
		fault, arrived := hanging(context.Background())
		s, c := withFaults(t, false, fault)
		done, csr := make(chan reply), csrFor(t, "device")
		go func() { done <- c.post("simpleenroll", csr) }() // ends with the server
		<-arrived
		s.Close()
		if r := <-done; r.err == nil {
			t.Errorf("an answer: %d", r.StatusCode)
		}
	})
}

func TestFaultNoAnswer(t *testing.T) {
	faces(t, func(t *testing.T, libest bool) {
		s, c := withFaults(t, libest, esttest.CloseBeforeAnswer, esttest.LoseAnswer)
		for _, issued := range []bool{false, true} {
			if r := c.post("simpleenroll", csrFor(t, "device")); !errors.Is(r.err, io.EOF) {
				t.Errorf("error %v, want EOF", r.err)
			}
			logins := s.Logins()
			if l := logins[len(logins)-1]; l.Status != 0 || (l.Issued != nil) != issued {
				t.Errorf("recorded as %s", l)
			}
		}
		c.post("simpleenroll", csrFor(t, "device")).want(t, 200)
	})
}

func TestFaultCutBody(t *testing.T) {
	faces(t, func(t *testing.T, libest bool) {
		_, c := withFaults(t, libest, esttest.CutBody(100), esttest.CutBody(1<<20))
		whole := 0
		for _, n := range []int{100, 1 << 20} {
			r := c.get("cacerts")
			if !errors.Is(r.err, io.ErrUnexpectedEOF) {
				t.Fatalf("error %v, want an unexpected EOF", r.err)
			}
			whole = int(r.ContentLength)
			if len(r.body) != min(n, whole-1) {
				t.Errorf("%d bytes of %d", len(r.body), whole)
			}
		}
		if r := c.get("cacerts").want(t, 200); len(r.body) != whole {
			t.Errorf("%d bytes, announced were %d", len(r.body), whole)
		}
	})
}

func TestFaultGarbage(t *testing.T) {
	_, c := withFaults(t, true, esttest.Garbage("text/html", "<html>"), esttest.Garbage("", "\x00"))
	if r := c.get("cacerts").want(t, 200); string(r.body) != "<html>" || r.Header.Get("Content-Type") != "text/html" {
		t.Errorf("%q of type %q", r.body, r.Header.Get("Content-Type"))
	}
	if r := c.get("cacerts").want(t, 200); string(r.body) != "\x00" || r.Header["Content-Type"] != nil {
		t.Errorf("%q of type %q", r.body, r.Header["Content-Type"])
	}
}

func TestFaultEndless(t *testing.T) {
	s, c := withFaults(t, false, esttest.Endless(3<<20+1), esttest.Endless(1<<60))
	if r := c.get("cacerts").want(t, 200); len(r.body) != 3<<20+1 || r.ContentLength != -1 {
		t.Errorf("%d bytes, announced %d", len(r.body), r.ContentLength)
	}
	resp, err := c.http.Get(s.URL() + "/cacerts")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, resp.Body, 1<<20); err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	s.Close() // returns, so the handler has ended
}

func TestFaultCertificate(t *testing.T) {
	faces(t, func(t *testing.T, libest bool) {
		s, c := withFaults(t, libest)
		csr := csrFor(t, "device")
		now := time.Now()

		s.Next(esttest.CertificateForAnotherKey)
		if leaf := c.post("simpleenroll", csr).certs(t)[0]; sameKey(t, leaf, csr) || leaf.Subject.CommonName != "device" {
			t.Error("the certificate is for the key of the request, or has another subject")
		}
		s.Next(esttest.CertificateOfAnotherSubject)
		if leaf := c.post("simpleenroll", csr).certs(t)[0]; !sameKey(t, leaf, csr) || leaf.Subject.CommonName == "device" {
			t.Error("the certificate has the subject of the request, or another key")
		}
		s.Next(esttest.ExpiredCertificate)
		if leaf := c.post("simpleenroll", csr).certs(t)[0]; !leaf.NotAfter.Before(now) || !sameKey(t, leaf, csr) {
			t.Errorf("valid until %s", leaf.NotAfter)
		}
		s.Next(esttest.NotYetValid)
		if leaf := c.post("simpleenroll", csr).certs(t)[0]; !leaf.NotBefore.After(time.Now()) || !sameKey(t, leaf, csr) {
			t.Errorf("valid from %s", leaf.NotBefore)
		}
		s.Next(esttest.CACertificate)
		if leaf := c.post("simpleenroll", csr).certs(t)[0]; !leaf.IsCA || !sameKey(t, leaf, csr) {
			t.Error("no CA certificate")
		}
		verifies(t, c.post("simpleenroll", csr).certs(t)[0], s.Root)
	})
}

// A fault about a certificate waits for one: neither cacerts nor a request that is sent away with 401 uses it up.
func TestFaultStaysInTheQueue(t *testing.T) {
	faces(t, func(t *testing.T, libest bool) {
		for _, fault := range []esttest.Fault{esttest.ExpiredCertificate, esttest.LoseAnswer, esttest.CutBody(10)} {
			s, c := withFaults(t, libest)
			s.NextOn("simpleenroll", fault, esttest.Status(503))
			for range 3 {
				newClient(t, s).post("simpleenroll", csrFor(t, "device")).want(t, 401)
			}
			r := c.post("simpleenroll", csrFor(t, "device"))
			if r.err == nil && r.certs(t)[0].NotAfter.After(time.Now()) {
				t.Error("the answer is a good one")
			}
			c.post("simpleenroll", csrFor(t, "device")).want(t, 503)
			c.post("simpleenroll", csrFor(t, "device")).want(t, 200)
		}
		s, c := withFaults(t, libest, esttest.ExpiredCertificate)
		c.get("cacerts").want(t, 200)
		if leaf := c.post("simpleenroll", csrFor(t, "device")).certs(t)[0]; leaf.NotAfter.After(time.Now()) {
			t.Error("cacerts used the fault up")
		}
		if l := s.Logins()[1]; l.Issued == nil || !strings.Contains(l.String(), `issued_cn="device"`) {
			t.Errorf("recorded as %s", l)
		}
	})
}
