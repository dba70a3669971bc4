package agent

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"certagent/est"
)

// shows is a server that nobody trusts yet.
type shows struct {
	err error

	mu    sync.Mutex // guards what follows
	certs []*x509.Certificate
	asked []est.Options
}

func (s *shows) show(certs ...*x509.Certificate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.certs = certs
}

// contacts are the options of each contact so far.
func (s *shows) contacts() []est.Options {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

func (s *shows) provisional(o *Options) {
	o.Provisional = func(_ context.Context, eo est.Options) ([]*x509.Certificate, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.asked = append(s.asked, eo)
		return s.certs, s.err
	}
}

// TestAnchorByFingerprint: with a fingerprint in place of trusted_certs the server's CA certificate is taken from itself, once,
// without any login; everything else goes over connections that it vouches for.
func TestAnchorByFingerprint(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, day, oneCertificate)
		good := &shows{certs: []*x509.Certificate{stranger(t), d.ca.cert}}
		d.text = strings.Replace(d.text, "trusted_certs = [\"file://"+d.dir+"/ca.pem\"]",
			"bootstrap_fingerprint = \""+thumbprint(d.ca.cert)+"\"", 1)
		d.change = good.provisional
		_, stop := d.boot()
		time.Sleep(day)
		settle()
		stop()
		_, stop = d.boot()
		defer stop()
		time.Sleep(day)
		settle()
		contacts := good.contacts()
		if len(contacts) != 1 {
			t.Fatalf("the server was asked %d times without trust", len(contacts))
		}
		if o := contacts[0]; o.Certificate != nil || o.Login != nil || o.URL.Host != "est.example" {
			t.Errorf("options of the first contact: %+v", o)
		}
		if n := d.live("device-id").Number; n < 3 {
			t.Errorf("generation %d after two days", n)
		}
		for _, c := range d.ca.seen() {
			if len(c.o.Anchors) != 1 || !c.o.Anchors[0].Equal(d.ca.cert) || c.o.SystemRoots {
				t.Fatalf("an enrolment that trusts %d anchors, system's roots %v", len(c.o.Anchors), c.o.SystemRoots)
			}
		}
	})
}

func TestFingerprintThatDoesNotMatch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, day, oneCertificate)
		other := &shows{certs: []*x509.Certificate{stranger(t)}}
		d.text = strings.Replace(d.text, "trusted_certs = [\"file://"+d.dir+"/ca.pem\"]",
			"bootstrap_fingerprint = \""+thumbprint(d.ca.cert)+"\"", 1)
		d.change = other.provisional
		a, stop := d.boot()
		defer stop()
		settle()
		if n := len(d.ca.seen()) + len(d.ca.fetches()); n != 0 {
			t.Errorf("%d requests to a server that is not trusted", n)
		}
		c := a.Snapshot().Certificates[0]
		if !hasProblem(c.Problems, "fingerprint-mismatch") || c.LastClass != "untrusted" {
			t.Fatalf("class %s, problems %+v", c.LastClass, c.Problems)
		}
		for _, part := range []string{thumbprint(d.ca.cert), thumbprint(other.certs[0]), "est.example"} {
			if !strings.Contains(c.Problems[0].Text, part) {
				t.Errorf("the problem does not say %s: %s", part, c.Problems[0].Text)
			}
		}
		other.show(other.certs[0], d.ca.cert)
		time.Sleep(time.Hour)
		settle()
		d.live("device-id")
	})
}

// TestFilesGoBeforeTheFingerprint: the server is not asked while the configured anchors can be read, and a fingerprint that
// was changed since takes nothing from the store.
func TestFilesGoBeforeTheFingerprint(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, day, oneCertificate)
		s := &shows{err: errors.New("asked")}
		good := d.text
		with := func(fingerprint string) string {
			return strings.Replace(good, "trusted_certs", "bootstrap_fingerprint = \""+fingerprint+"\"\ntrusted_certs", 1)
		}
		d.text = with(thumbprint(d.ca.cert))
		d.change = s.provisional
		a, stop := d.boot()
		defer stop()
		settle()
		d.live("device-id")
		remove(t, filepath.Join(d.dir, "ca.pem"))
		a.RenewAll() // the certificate with that fingerprint was fetched meanwhile
		settle()
		if g := d.live("device-id"); g.Number != 2 || len(s.contacts()) != 0 {
			t.Errorf("generation %d, and the server was asked %d times", g.Number, len(s.contacts()))
		}
		d.text = with(strings.Repeat("0a", 32))
		a.Reload()
		settle()
		a.RenewAll()
		settle()
		if g := d.live("device-id"); g.Number != 2 || len(s.contacts()) == 0 {
			t.Errorf("generation %d under a fingerprint of something else; asked %d times", g.Number, len(s.contacts()))
		}
	})
}

// stranger is a CA certificate that nobody knows.
func stranger(t *testing.T) *x509.Certificate {
	t.Helper()
	ca := newFakeCA(t, day)
	ca.cert.Subject = pkix.Name{CommonName: "stranger"}
	return ca.cert
}
