package esttest

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

var errNotApproved = errors.New("waiting for approval")

// basePath is the path before the operation (RFC 7030 section 3.2.2).
func basePath(label string) string {
	if label == "" {
		return "/.well-known/est/"
	}
	return "/.well-known/est/" + label + "/"
}

// operation returns what a path asks of the server; ok is false for a path that is not its own.
func (s *Server) operation(path string) (op string, ok bool) {
	op, ok = strings.CutPrefix(path, basePath(s.options.Label))
	return op, ok && isOperation(op)
}

func isOperation(name string) bool {
	return slices.Contains([]string{
		"cacerts", "csrattrs", "simpleenroll", "simplereenroll", "serverkeygen", "fullcmc", "tpmenroll",
	}, name)
}

// clientCertificate returns the certificate that a client offered, if a CA that counts issued it and it is valid
// now, and whether RefuseCertificates refuses it.
func (s *Server) clientCertificate(r *http.Request) (cert *x509.Certificate, refused bool) {
	if len(r.TLS.PeerCertificates) == 0 {
		return nil, false
	}
	cert = r.TLS.PeerCertificates[0]
	between := x509.NewCertPool()
	for _, c := range r.TLS.PeerCertificates[1:] {
		between.AddCert(c)
	}
	s.mu.Lock()
	accepted := s.accepted
	s.mu.Unlock()
	_, err := cert.Verify(x509.VerifyOptions{
		Roots:         accepted,
		Intermediates: between,
		CurrentTime:   s.options.Now(),
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return nil, false
	}
	return cert, s.refuses(cert)
}

// passwordLogin returns the user name if the request has the right password with it, else "".
func (s *Server) passwordLogin(r *http.Request) string {
	o := s.options
	if o.Digest {
		if s.nonces.checkDigest(r, o.User, o.Password) {
			return o.User
		}
		return ""
	}
	user, password, _ := r.BasicAuth()
	same := subtle.ConstantTimeCompare([]byte(user), []byte(o.User)) &
		subtle.ConstantTimeCompare([]byte(password), []byte(o.Password))
	if same == 1 {
		return user
	}
	return ""
}

// mayEnrol decides whether a login is enough for an enrolment.
func (s *Server) mayEnrol(l Login) bool {
	if l.Username != "" {
		return true
	}
	return l.Certificate != nil && !l.Refused && !s.options.AskPassword
}

// RefuseCertificates refuses from now on client certificates for which refuse is true: by an alert in the handshake
// with Options.RefuseByAlert, otherwise by taking no account of them. Nil refuses none. Several goroutines may call
// refuse at a time.
func (s *Server) RefuseCertificates(refuse func(*x509.Certificate) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse = refuse
}

func (s *Server) refuses(c *x509.Certificate) bool {
	s.mu.Lock()
	refuse := s.refuse
	s.mu.Unlock()
	return refuse != nil && refuse(c)
}

// SetLifetime sets how long the certificates are valid that are issued from now on.
func (s *Server) SetLifetime(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lifetime = d
}

// Issue issues a certificate past EST, to the rules of the server's face. Each alter may change the template, its
// PublicKey included, before it is signed.
func (s *Server) Issue(csr *x509.CertificateRequest, alter ...func(*x509.Certificate)) (*x509.Certificate, error) {
	s.mu.Lock()
	lifetime := s.lifetime
	s.mu.Unlock()
	profile := generousTemplate
	if s.options.LikeLibest {
		profile = libestTemplate
	}
	template, err := profile(csr, s.options.Now(), lifetime)
	if err != nil {
		return nil, err
	}
	for _, f := range alter {
		f(template)
	}
	return s.ca().issuing.sign(template)
}

// IssueBootstrap issues a client certificate for cn and makes its key: what a device is born with. certPEM has the
// intermediate too if there is one; keyPEM is PKCS#8. A lifetime of zero or less gives one that expired that long
// ago. It panics if cn is not UTF-8.
func (s *Server) IssueBootstrap(cn string, lifetime time.Duration) (certificate, key []byte) {
	certificate, key, err := s.issueBootstrap(cn, lifetime)
	if err != nil {
		panic(fmt.Sprintf("esttest: issue bootstrap certificate: %v", err))
	}
	return certificate, key
}

func (s *Server) issueBootstrap(cn string, lifetime time.Duration) (certificate, key []byte, err error) {
	private, err := newKey()
	if err != nil {
		return nil, nil, err
	}
	ca := s.ca()
	cert, err := ca.issuing.sign(bootstrapTemplate(cn, private.Public(), s.options.Now(), lifetime))
	if err != nil {
		return nil, nil, err
	}
	key, err = keyPEM(private)
	return certPEM(append([]*x509.Certificate{cert}, ca.intermediates()...)...), key, err
}

// enrol answers a request that may be answered. It returns errNotApproved for one that must wait.
func (s *Server) enrol(ex *exchange, csr *x509.CertificateRequest) (*x509.Certificate, error) {
	if s.options.ManualApproval {
		key := sha256.Sum256(csr.RawSubjectPublicKeyInfo)
		s.mu.Lock()
		asked := s.approved[key]
		s.approved[key] = true
		s.mu.Unlock()
		if !asked {
			return nil, errNotApproved
		}
	}
	var alter []func(*x509.Certificate)
	if ex.alter != nil {
		alter = append(alter, ex.alter)
	}
	cert, err := s.Issue(csr, alter...)
	if err == nil {
		ex.login.Issued, ex.unspent = cert, false
	}
	return cert, err
}
