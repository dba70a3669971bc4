package est

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// trustError says why a server is not authorised.
type trustError struct {
	text string
	hint string
	err  error // what crypto/x509 said; may be nil
}

func (e *trustError) Error() string { return e.text }
func (e *trustError) Unwrap() error { return e.err }

// authorise decides whether the server that presented chain (its own certificate first) may be spoken to as host. It
// must chain, for server authentication, to the explicit anchors or else to the implicit ones, and be for host by
// its subject alternative names. The two databases are asked one after the other and never mixed, so that no path
// leads through both (RFC 7030 3.3.1, 3.6). Either pool may be nil. The error is a *trustError.
func authorise(chain []*x509.Certificate, host string, explicit, implicit *x509.CertPool, now time.Time) error {
	if len(chain) == 0 {
		return &trustError{text: "server presented no certificate"}
	}
	leaf := chain[0]
	options := x509.VerifyOptions{
		Intermediates: poolOf(chain[1:]),
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	var refused error
	for _, roots := range []*x509.CertPool{explicit, implicit} {
		if roots == nil {
			continue
		}
		options.Roots = roots
		_, err := leaf.Verify(options)
		if err == nil {
			return checkHost(leaf, host)
		}
		if refused == nil {
			refused = err
		}
	}
	return explainTrust(refused, chain, explicit == nil, now)
}

func checkHost(leaf *x509.Certificate, host string) error {
	address, _, _ := strings.Cut(host, "%") // a link-local address's zone means something to this machine alone
	err := leaf.VerifyHostname(address)
	if err == nil {
		return nil
	}
	names := slices.Clone(leaf.DNSNames)
	for _, ip := range leaf.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) == 0 {
		return &trustError{
			text: fmt.Sprintf("server certificate %s names no host, asked was %s", subjectOf(leaf), host),
			hint: "have the server's certificate issued with its host name among the subject alternative names; " +
				"a common name alone is not enough",
			err: err,
		}
	}
	return &trustError{
		text: fmt.Sprintf("server certificate is for %s, asked was %s",
			shorten(printable(strings.Join(names, ", ")), 200), host),
		hint: "use one of the names in the server's certificate in the URL, or have the certificate issued for " + host,
		err:  err,
	}
}

const (
	hintClock   = "check the clock of this device and of the server"
	hintAnchors = "add the certificate of the CA that issued the server's certificate to trusted_certs"
)

// explainTrust words an error of x509.Certificate.Verify for the person who has to mend it.
func explainTrust(err error, chain []*x509.Certificate, implicitOnly bool, now time.Time) error {
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		what := "server certificate"
		if invalid.Cert != nil && !invalid.Cert.Equal(chain[0]) {
			what = "CA certificate above the server's"
		}
		cert := invalid.Cert
		if cert == nil {
			cert = chain[0]
		}
		return &trustError{text: outOfValidity(what, cert, now), hint: hintClock, err: err}
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		top := chain[len(chain)-1]
		among := "is not among the trusted certificates, nor issued by one of them"
		hint := hintAnchors
		if implicitOnly {
			among = "is not known to the system's root certificates"
			hint = "set trusted_certs to the certificate of the CA that issued the server's certificate"
		}
		return &trustError{
			text: fmt.Sprintf("unknown CA: server certificate %s was issued by %s, which %s%s",
				subjectOf(chain[0]), issuerOf(top), among, whyUnknown(err)),
			hint: hint,
			err:  err,
		}
	}
	return &trustError{
		text: fmt.Sprintf("server certificate %s: %s", subjectOf(chain[0]), shorten(printable(err.Error()), 300)),
		hint: "have the server's certificate issued anew",
		err:  err,
	}
}

// whyUnknown returns what kept a CA of the right name from being the issuer (SHA-1, a key that is too small), in
// brackets behind a space; "" where there was no such CA.
func whyUnknown(err error) string {
	if err.Error() == (x509.UnknownAuthorityError{}).Error() {
		return ""
	}
	return " (" + shorten(printable(err.Error()), 300) + ")"
}

// outOfValidity says that a certificate has expired or is not valid yet, and by which clock.
func outOfValidity(what string, cert *x509.Certificate, now time.Time) string {
	if now.After(cert.NotAfter) {
		return fmt.Sprintf("%s %s expired at %s, our clock says %s",
			what, subjectOf(cert), utc(cert.NotAfter), utc(now))
	}
	return fmt.Sprintf("%s %s is not valid before %s, our clock says %s",
		what, subjectOf(cert), utc(cert.NotBefore), utc(now))
}

func utc(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// subjectOf and issuerOf quote a name that somebody else wrote.
func subjectOf(cert *x509.Certificate) string { return quoteName(cert.Subject.String()) }
func issuerOf(cert *x509.Certificate) string  { return quoteName(cert.Issuer.String()) }

func quoteName(name string) string {
	if name == "" {
		return "without a subject"
	}
	return fmt.Sprintf("%q", shorten(printable(name), 200))
}

func poolOf(certs []*x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, cert := range certs {
		pool.AddCert(cert)
	}
	return pool
}

// isRoot reports whether cert is a self-signed CA certificate: one that can end a path. A CA's new certificate signed
// with its old key, and the other way round (RFC 7030 4.1.3), has its own name as issuer but is not one. A signature
// with an algorithm that is no longer verified (SHA-1) is taken for its own, since the signature of an anchor
// carries no trust.
func isRoot(cert *x509.Certificate) bool {
	if !bytes.Equal(cert.RawSubject, cert.RawIssuer) {
		return false
	}
	err := cert.CheckSignatureFrom(cert) // wants a CA certificate as the signer
	if _, insecure := errors.AsType[x509.InsecureAlgorithmError](err); insecure {
		return len(cert.AuthorityKeyId) == 0 || bytes.Equal(cert.AuthorityKeyId, cert.SubjectKeyId)
	}
	return err == nil
}
