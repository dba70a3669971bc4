package dpstest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"slices"
	"strings"
	"time"
)

// Policy is what happens when a device registers that is assigned to a hub already.
type Policy string

// The policies of re-provisioning.
const (
	Migrate Policy = "migrate" // to the hub that is assigned now, with the device's data; the default
	Reset   Policy = "reset"   // likewise, with its initial data
	Never   Policy = "never"   // it stays where it is
)

// Enrolment is what DPS knows of a device, or of a group of them, before they register.
type Enrolment struct {
	Disabled bool
	// DeviceID is the device's name at the hub. Empty, and in a group always, it is the common name.
	DeviceID string
	// Hub is the one that is assigned. Empty means the first of the server's. A hub that the server does not have makes
	// the registration fail.
	Hub    string
	Policy Policy
	// Webhook, if not nil, is the custom allocation policy. It chooses the hub; an error of it makes the registration
	// fail. It is called once a registration, while the server's own state is locked: it must not call the server.
	Webhook Webhook
}

// Webhook is asked by the service which hub a device is for. payload is what the device sent along, nil if nothing;
// answer is for the device, nil if nothing.
type Webhook func(registrationID string, payload json.RawMessage) (hub string, answer json.RawMessage, err error)

// entry is an enrolment with whom it takes.
type entry struct {
	Enrolment
	certificates []*x509.Certificate // a CA, or of an individual entry certificates of the device, primary and secondary
}

// EnrolGroup adds a group enrolment for a CA that was uploaded and verified, a root or an intermediate, or replaces it.
func (s *Server) EnrolGroup(ca *x509.Certificate, e Enrolment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.groups = slices.DeleteFunc(s.groups, func(g *entry) bool { return g.certificates[0].Equal(ca) })
	s.groups = append(s.groups, &entry{e, []*x509.Certificate{ca}})
}

// EnrolIndividual adds an individual enrolment, or replaces it. Its certificates are the device's own, primary and
// secondary, or CAs above it.
func (s *Server) EnrolIndividual(registrationID string, e Enrolment, certificates ...*x509.Certificate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.individuals[strings.ToLower(registrationID)] = &entry{e, certificates}
}

// RemoveIndividual takes an individual enrolment away. The hub goes on knowing the device.
func (s *Server) RemoveIndividual(registrationID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.individuals, strings.ToLower(registrationID))
}

// attest finds the enrolment that takes a device which shows chain, its own certificate first. Without one, the message
// says what is wrong, as the service does: hardly anything.
func (s *Server) attest(registrationID string, chain []*x509.Certificate, now time.Time) (*entry, string) {
	const refused = "Unauthorized"
	if len(chain) == 0 || !strings.EqualFold(chain[0].Subject.CommonName, registrationID) {
		return nil, refused
	}
	if now.Before(chain[0].NotBefore) || now.After(chain[0].NotAfter) {
		return nil, "Invalid certificate"
	}
	if !takes(chain[0].PublicKey) {
		return nil, refused
	}
	if e := s.individuals[strings.ToLower(registrationID)]; e != nil {
		for _, c := range e.certificates {
			if !e.Disabled && (bytes.Equal(c.Raw, chain[0].Raw) || distance(chain, c, now) > 0) {
				return e, ""
			}
		}
		return nil, refused
	}
	var nearest *entry
	near := 0
	for _, g := range s.groups {
		if d := distance(chain, g.certificates[0], now); d > 0 && (nearest == nil || d < near) {
			nearest, near = g, d
		}
	}
	if nearest == nil || nearest.Disabled {
		return nil, refused
	}
	return nearest, ""
}

// takes reports whether the service can use a key: RSA, and the curves that it recommends.
func takes(key any) bool {
	switch key := key.(type) {
	case *rsa.PublicKey:
		return true
	case *ecdsa.PublicKey:
		return key.Curve == elliptic.P256() || key.Curve == elliptic.P384() || key.Curve == elliptic.P521()
	}
	return false
}

// distance is how many steps lead from the first of chain to ca, by way of the others alone; 0 if none do.
func distance(chain []*x509.Certificate, ca *x509.Certificate, now time.Time) int {
	if !ca.IsCA {
		return 0
	}
	roots, others := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(ca)
	for _, c := range chain[1:] {
		others.AddCert(c)
	}
	paths, err := chain[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: others, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return 0
	}
	shortest := len(paths[0])
	for _, p := range paths {
		shortest = min(shortest, len(p))
	}
	return shortest - 1
}
