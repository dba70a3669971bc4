package est_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"slices"
	"testing"

	"certagent/est"
	"certagent/est/esttest"
)

// device is one that enrols again and again and keeps what it learned.
type device struct {
	t testing.TB
	o est.Options
}

// enrol makes one attempt. What it learned is kept, whether it went well or not.
func (d *device) enrol() (*est.Issued, error) {
	d.t.Helper()
	csr, err := est.CreateRequest(newKey(d.t), est.Template{
		Subject: pkix.RDNSequence{{{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: "gw-1"}}}})
	if err != nil {
		d.t.Fatal(err)
	}
	c, err := est.New(d.o)
	if err != nil {
		d.t.Fatal(err)
	}
	defer c.Close()
	issued, err := c.Enroll(d.t.Context(), csr, est.Want{})
	d.o.Known = c.Known()
	return issued, err
}

// mustEnrol is enrol where it has to go well; what consumers are given must verify what was issued.
func (d *device) mustEnrol(when string) *est.Issued {
	d.t.Helper()
	issued, err := d.enrol()
	if err != nil {
		d.t.Fatalf("%s: %v", when, err)
	}
	if _, err := issued.Leaf.Verify(x509.VerifyOptions{Roots: pool(issued.CAs), Intermediates: pool(issued.Chain),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		d.t.Errorf("%s: what consumers are given does not verify: %v", when, err)
	}
	return issued
}

func newDevice(t testing.TB, s *esttest.Server) *device {
	o := optionsFor(t, s)
	o.Login = &est.Login{Username: esttest.DefaultUser, Password: esttest.DefaultPassword}
	return &device{t, o}
}

func has(certs []*x509.Certificate, cert *x509.Certificate) bool {
	return slices.ContainsFunc(certs, cert.Equal)
}

// A CA changes its key, and its server with it: old alone, then both, then new alone. A device that is told nothing
// follows, with the cross certificates of RFC 4210 4.4 and without. One that saw nothing of it in time does not.
func TestRollover(t *testing.T) {
	for _, crossed := range []bool{true, false} {
		for _, face := range []esttest.Options{{}, {LikeLibest: true}, {Intermediate: true, SendChain: true}} {
			s := esttest.New(t, face)
			gateway, asleep := newDevice(t, s), newDevice(t, s)
			gateway.mustEnrol("old alone")
			asleep.mustEnrol("old alone")
			if known := gateway.o.Known; len(known.TLSAnchors) != 0 || !has(known.CAs, s.Root) {
				t.Errorf("the configured root was learned: %d anchors for TLS", len(known.TLSAnchors))
			}

			r := s.Rollover()
			if !crossed {
				s.SetCACerts(r.OldWithOld, r.NewWithNew)
			}
			issued := gateway.mustEnrol("both")
			if !has(gateway.o.Known.TLSAnchors, r.NewWithNew) || len(gateway.o.Known.TLSAnchors) != 1 {
				t.Errorf("crossed %v: %d anchors for TLS, want the new root", crossed, len(gateway.o.Known.TLSAnchors))
			}
			if len(issued.CAs) != 2 || !issued.CAs[0].Equal(r.NewWithNew) || !issued.CAs[1].Equal(r.OldWithOld) {
				t.Errorf("crossed %v: consumers are given %d roots, want the new one and the old one", crossed,
					len(issued.CAs))
			}

			s.FinishRollover()
			s.SetCACerts(r.NewWithNew)
			for range 2 {
				issued = gateway.mustEnrol("new alone")
				if !has(issued.CAs, r.NewWithNew) || !has(issued.CAs, r.OldWithOld) {
					t.Errorf("crossed %v: consumers lack a root that has not expired", crossed)
				}
			}
			if _, err := asleep.enrol(); !errors.Is(err, est.ErrUntrusted) {
				t.Errorf("crossed %v: a device that slept through it: %v", crossed, err)
			}
		}
	}
}
