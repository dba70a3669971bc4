package esttest

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Rollover is what a CA publishes while it changes its key (RFC 4210 section 4.4). All four have the CA's one name;
// only the first and the last are self-signed.
type Rollover struct {
	OldWithOld *x509.Certificate // the root so far
	OldWithNew *x509.Certificate // its key, signed with the new one
	NewWithOld *x509.Certificate // the new key, signed with the old one
	NewWithNew *x509.Certificate // the root to come: of the two roots the one that is valid longer
}

// certificates are all four, in the order of RFC 7030 section 4.1.3.
func (r *Rollover) certificates() []*x509.Certificate {
	return []*x509.Certificate{r.OldWithOld, r.OldWithNew, r.NewWithOld, r.NewWithNew}
}

// Rollover begins a change of the root's key: from now on /cacerts answers all four certificates, and the issuing CA's
// if it is another. The old key goes on issuing and stands behind TLS until FinishRollover. The new key is kept in
// memory alone: with Options.Dir, the next Open is back at the old one. Fields and methods that name a CA go on naming
// the old one. It panics if a change that was begun is not finished.
func (s *Server) Rollover() Rollover {
	r, err := s.beginRollover()
	if err != nil {
		panic(fmt.Sprintf("esttest: begin CA rollover: %v", err))
	}
	return *r
}

func (s *Server) beginRollover() (*Rollover, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.authority.next.key != nil {
		return nil, errors.New("another one is not finished")
	}
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	changed := *s.authority
	old, now := changed.root, s.options.Now()
	name := old.cert.Subject.CommonName
	r := &Rollover{OldWithOld: old.cert}

	template := caTemplate(name, key.Public(), now, s.options.RootLifetime)
	if !template.NotAfter.After(old.cert.NotAfter) {
		template.NotAfter = old.cert.NotAfter.Add(time.Second) // or nobody could tell which is the new one
	}
	if r.NewWithNew, err = (pair{key: key}).sign(template); err != nil {
		return nil, err
	}
	changed.next = pair{r.NewWithNew, key}

	// CreateCertificate names the issuer's key only where the issuer's name is another.
	template = caTemplate(name, key.Public(), now, s.options.RootLifetime)
	template.AuthorityKeyId = old.cert.SubjectKeyId
	if r.NewWithOld, err = old.sign(template); err != nil {
		return nil, err
	}
	template = caTemplate(name, old.key.Public(), now, 0)
	template.AuthorityKeyId = r.NewWithNew.SubjectKeyId
	template.NotBefore, template.NotAfter = old.cert.NotBefore, old.cert.NotAfter
	if r.OldWithNew, err = changed.next.sign(template); err != nil {
		return nil, err
	}
	changed.rollover = r
	s.adopt(&changed)
	return r, nil
}

// FinishRollover ends what Rollover began: from now on the new root issues, or a new intermediate below it, and stands
// behind TLS in new connections unless Options.SeparateTLSRoot. /cacerts goes on answering all four, and client
// certificates of the old root remain a login. It panics if no change was begun.
func (s *Server) FinishRollover() {
	if err := s.endRollover(); err != nil {
		panic(fmt.Sprintf("esttest: finish CA rollover: %v", err))
	}
}

func (s *Server) endRollover() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.authority.next.key == nil {
		return errors.New("none was begun")
	}
	changed := *s.authority
	changed.root, changed.next = changed.next, pair{}
	changed.issuing = changed.root
	now, memory := s.options.Now(), folder("")
	var err error
	if s.options.Intermediate {
		lifetime := s.options.RootLifetime
		changed.issuing, err = memory.ca(nameIntermediate, intermediateName, changed.root, now, lifetime)
		if err != nil {
			return err
		}
	}
	if !s.options.SeparateTLSRoot {
		changed.tlsRoot = changed.root
		if err := changed.serveUnder(memory, changed.issuing, s.options); err != nil {
			return err
		}
	}
	s.adopt(&changed)
	return nil
}

// adopt makes a the CA from now on. s.mu is held.
func (s *Server) adopt(a *authority) {
	s.accepted = s.accepted.Clone()
	s.accepted.AddCert(a.root.cert)
	s.accepted.AddCert(a.issuing.cert)
	if a.next.cert != nil {
		s.accepted.AddCert(a.next.cert)
	}
	s.authority = a
	s.tls = s.tlsConfig()
}

// SetCACerts has /cacerts answer these certificates from now on, in this order, whatever they are. Without any it
// answers those of its own CA again. What issues and stands behind TLS does not change.
func (s *Server) SetCACerts(certs ...*x509.Certificate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cas = slices.Clone(certs)
}

// caCerts is what /cacerts answers: the root, or all of a rollover, and the intermediate below it.
func (s *Server) caCerts() []*x509.Certificate {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.cas) > 0 {
		return s.cas
	}
	a := s.authority
	if a.rollover != nil {
		return append(a.rollover.certificates(), a.intermediates()...)
	}
	return append([]*x509.Certificate{a.root.cert}, a.intermediates()...)
}

// ca is the CA as it is now.
func (s *Server) ca() *authority {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.authority
}
