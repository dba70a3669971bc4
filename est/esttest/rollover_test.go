package esttest_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"slices"
	"testing"
	"time"

	"certagent/est/esttest"
)

// The four certificates are what RFC 4210 section 4.4 says, and every path between the two keys works.
func TestRollover(t *testing.T) {
	faces(t, func(t *testing.T, libest bool) {
		s := esttest.New(t, esttest.Options{LikeLibest: libest})
		c := newClient(t, s, withPassword("estuser", "estpwd"))
		before := c.post("simpleenroll", csrFor(t, "before")).certs(t)[0]

		r := s.Rollover()
		if !r.OldWithOld.Equal(s.Root) || !r.NewWithNew.NotAfter.After(r.OldWithOld.NotAfter) {
			t.Error("the new root should outlast the old one, which is the server's")
		}
		for _, tt := range []struct {
			name                string
			cert, signer, other *x509.Certificate
		}{
			{"OldWithOld", r.OldWithOld, r.OldWithOld, r.NewWithNew},
			{"OldWithNew", r.OldWithNew, r.NewWithNew, r.OldWithOld},
			{"NewWithOld", r.NewWithOld, r.OldWithOld, r.NewWithNew},
			{"NewWithNew", r.NewWithNew, r.NewWithNew, r.OldWithOld},
		} {
			if tt.cert.CheckSignatureFrom(tt.signer) != nil || tt.cert.CheckSignatureFrom(tt.other) == nil {
				t.Errorf("%s is signed with the wrong key", tt.name)
			}
			if !bytes.Equal(tt.cert.RawSubject, s.Root.RawSubject) || !bytes.Equal(tt.cert.RawIssuer, s.Root.RawSubject) {
				t.Errorf("%s: the CA's name has changed", tt.name)
			}
		}
		all := []*x509.Certificate{r.OldWithOld, r.OldWithNew, r.NewWithOld, r.NewWithNew}
		if got := c.get("cacerts").certs(t); !slices.EqualFunc(got, all, (*x509.Certificate).Equal) {
			t.Errorf("cacerts answers %d certificates, want the four", len(got))
		}
		during := c.post("simpleenroll", csrFor(t, "during")).certs(t)[0]
		verifies(t, during, s.Root)
		verifies(t, during, r.NewWithNew, r.OldWithNew)

		s.FinishRollover()
		c.http.CloseIdleConnections()
		if err := c.get("cacerts").err; err == nil {
			t.Error("who trusts the old root alone is still let in")
		}
		c = newClient(t, s, withPassword("estuser", "estpwd"),
			withTLS(func(c *tls.Config) { c.RootCAs = poolOf(r.NewWithNew) }))
		after := c.post("simpleenroll", csrFor(t, "after")).certs(t)[0]
		verifies(t, after, r.NewWithNew)
		verifies(t, after, s.Root, r.NewWithOld)
		verifies(t, before, r.NewWithNew, r.OldWithNew)
		if got := c.get("cacerts").certs(t); len(got) != 4 {
			t.Errorf("cacerts answers %d certificates afterwards", len(got))
		}
	})
}

// A certificate of the old root remains a login, also in the handshake; one of the new root is a login too.
func TestRolloverKeepsLogins(t *testing.T) {
	s := esttest.New(t, esttest.Options{Intermediate: true, RefuseByAlert: true})
	old := born(t, s, "old", time.Hour)
	r := s.Rollover()
	s.FinishRollover()
	for _, cert := range []tls.Certificate{old, born(t, s, "new", time.Hour)} {
		c := newClient(t, s, withCert(cert), withTLS(func(c *tls.Config) { c.RootCAs = poolOf(r.NewWithNew) }))
		leaf := c.post("simpleenroll", csrFor(t, "device")).certs(t)[0]
		certs := c.get("cacerts").certs(t)
		verifies(t, leaf, r.NewWithNew, certs[len(certs)-1])
	}
}

func TestRolloverTwice(t *testing.T) {
	s := esttest.New(t, esttest.Options{})
	first := s.Rollover()
	s.FinishRollover()
	second := s.Rollover()
	if !second.OldWithOld.Equal(first.NewWithNew) || !second.NewWithNew.NotAfter.After(first.NewWithNew.NotAfter) {
		t.Error("the second change does not begin where the first ended")
	}
	defer func() {
		if recover() == nil {
			t.Error("a change was begun during another")
		}
	}()
	s.Rollover()
}

func TestSetCACerts(t *testing.T) {
	faces(t, func(t *testing.T, libest bool) {
		s, other := esttest.New(t, esttest.Options{LikeLibest: libest}), esttest.New(t, esttest.Options{})
		c := newClient(t, s)
		s.SetCACerts(other.Root, s.Root, other.Root)
		if got := c.get("cacerts").certs(t); len(got) != 3 || !got[0].Equal(other.Root) || !got[1].Equal(s.Root) {
			t.Errorf("cacerts answers %d certificates", len(got))
		}
		s.SetCACerts()
		if got := c.get("cacerts").certs(t); len(got) != 1 || !got[0].Equal(s.Root) {
			t.Errorf("cacerts answers %d certificates", len(got))
		}
	})
}

// The server certificate has the usages asked for, and is made anew for others.
func TestCMCRA(t *testing.T) {
	dir := t.TempDir()
	for _, o := range []esttest.Options{{}, {CMCRA: true}, {CMCRA: true, NoServerAuth: true}} {
		o.Dir = dir
		s := esttest.New(t, o)
		insecure := withTLS(func(c *tls.Config) { c.InsecureSkipVerify = true }) // Go wants serverAuth
		server := newClient(t, s, insecure).get("cacerts").want(t, 200).TLS.PeerCertificates[0]
		if got := slices.Contains(server.ExtKeyUsage, x509.ExtKeyUsageServerAuth); got == o.NoServerAuth {
			t.Errorf("%+v: serverAuth: %v", o, got)
		}
		cmcRA := slices.ContainsFunc(server.UnknownExtKeyUsage, asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 28}.Equal)
		if cmcRA != o.CMCRA {
			t.Errorf("%+v: cmcRA: %v", o, cmcRA)
		}
		s.Close()
	}
}

func poolOf(cert *x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return pool
}
