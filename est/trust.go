package est

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
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

	// closeness is how far the certificate came under the rules that this error is of: where it fails both, the error of
	// those under which it came farther is the one to mend.
	closeness int
}

const (
	closeNothing = iota // there is nothing to verify it by
	closeNot            // its CA is unknown
	closePath           // its CA is known, but the path is not good
	closeHost           // the path is good, but it is for another host
)

func (e *trustError) Error() string { return e.text }
func (e *trustError) Unwrap() error { return e.err }

// trusted is what the certificate of a server is judged by: the two databases of RFC 7030 3.6, which stay apart.
type trusted struct {
	explicit *x509.CertPool // nil without explicit anchors
	implicit *x509.CertPool // nil without implicit ones, or where they count no more

	// between are certificates of the server's /cacerts that can lead to an explicit anchor where the server does not
	// present them: NewWithOld, for one.
	between []*x509.Certificate

	learned     bool // explicit holds anchors of Known
	implicitOff bool // the implicit ones were given up for this server
}

// authorise decides whether the server that presented chain (its own certificate first) may be spoken to. hosts are the
// host of the configured URL, then that of each redirect to another origin.
//
// A certificate that chains to an explicit anchor must be for the configured host or for that of the last redirect, or
// be that of a CMC registration authority (RFC 7030 3.6.1). One that chains to an implicit anchor must be for every one
// of hosts, whatever else it is (3.6.2). The explicit rules come first; what does not pass them may pass the
// others. No path leads through both databases. The error is a *trustError, of the rules that came closer.
//
// It returns the explicit anchors at which the certificate's paths end, and none where implicit ones authorised it.
func authorise(chain []*x509.Certificate, hosts []string, by trusted, now time.Time) ([]*x509.Certificate, error) {
	if len(chain) == 0 {
		return nil, &trustError{text: "server presented no certificate"}
	}
	refused := &trustError{text: "no trust anchor is left to verify the server by", closeness: closeNothing}
	if by.explicit != nil {
		ends, err := authoriseExplicit(chain, hosts, by, now)
		if err == nil {
			return ends, nil
		}
		refused = err
	}
	if by.implicit != nil {
		err := authoriseImplicit(chain, hosts, by, now)
		if err == nil {
			return nil, nil
		}
		if err.closeness > refused.closeness {
			refused = err
		}
	}
	return nil, refused
}

func authoriseExplicit(chain []*x509.Certificate, hosts []string, by trusted, now time.Time) ([]*x509.Certificate,
	*trustError) {
	between := poolOf(slices.Concat(chain[1:], by.between))
	paths, err := pathsTo(by.explicit, chain[0], between, x509.ExtKeyUsageServerAuth, now)
	var refused *trustError
	switch {
	case err != nil:
		refused = explainTrust(err, chain, by, now)
	default:
		configured, last := hosts[0], hosts[len(hosts)-1]
		if refused = checkHost(chain[0], last); refused != nil && configured != last {
			if checkHost(chain[0], configured) == nil {
				refused = nil
			}
		}
		if refused == nil {
			return endsOf(paths), nil
		}
	}
	if paths := authorityPaths(by.explicit, chain[0], between, now); len(paths) > 0 {
		return endsOf(paths), nil
	}
	return nil, refused
}

func authoriseImplicit(chain []*x509.Certificate, hosts []string, by trusted, now time.Time) *trustError {
	_, err := pathsTo(by.implicit, chain[0], poolOf(chain[1:]), x509.ExtKeyUsageServerAuth, now)
	if err != nil {
		return explainTrust(err, chain, by, now)
	}
	for _, host := range hosts {
		if refused := checkHost(chain[0], host); refused != nil {
			if len(hosts) > 1 {
				refused.hint = "under the system's root certificates a server that is redirected to must also be for the " +
					"host in the URL: set trusted_certs to its CA, or the URL to where the redirect leads"
			}
			if isAuthority(chain[0]) {
				refused.hint = "its being a CMC registration authority counts under trusted_certs alone: set that to its CA"
			}
			return refused
		}
	}
	return nil
}

func pathsTo(roots *x509.CertPool, leaf *x509.Certificate, between *x509.CertPool, usage x509.ExtKeyUsage,
	now time.Time) ([][]*x509.Certificate, error) {
	paths, err := leaf.Verify(x509.VerifyOptions{
		Roots:         roots,
		Intermediates: between,
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{usage},
	})
	if err != nil {
		return nil, err
	}
	return strongOnly(paths)
}

// oidCMCRA is id-kp-cmcRA (RFC 6402 2.10), the extended key usage of a CMC registration authority.
var oidCMCRA = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 28}

// isAuthority reports whether cert is that of a CMC registration authority. It must say so itself: that it says nothing
// about its usage, or allows any, is not enough.
func isAuthority(cert *x509.Certificate) bool {
	return slices.ContainsFunc(cert.UnknownExtKeyUsage, oidCMCRA.Equal)
}

// authorityPaths returns the paths by which leaf is the certificate of a CMC registration authority: every CA
// certificate above that limits the usages of what it issues must allow this one. crypto/x509 checks that for usages it
// knows. A registration authority need not be good for TLS servers besides.
func authorityPaths(roots *x509.CertPool, leaf *x509.Certificate, between *x509.CertPool,
	now time.Time) [][]*x509.Certificate {
	if !isAuthority(leaf) {
		return nil
	}
	paths, err := pathsTo(roots, leaf, between, x509.ExtKeyUsageAny, now)
	if err != nil {
		return nil
	}
	forbids := func(cert *x509.Certificate) bool {
		limits := len(cert.ExtKeyUsage)+len(cert.UnknownExtKeyUsage) > 0
		return limits && !isAuthority(cert) && !slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageAny)
	}
	return slices.DeleteFunc(paths, func(path []*x509.Certificate) bool {
		return slices.ContainsFunc(path, forbids)
	})
}

// endsOf returns the anchors of paths.
func endsOf(paths [][]*x509.Certificate) []*x509.Certificate {
	var ends []*x509.Certificate
	for _, path := range paths {
		ends = append(ends, path[len(path)-1])
	}
	return unique(ends)
}

func checkHost(leaf *x509.Certificate, host string) *trustError {
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
			err:       err,
			closeness: closeHost,
		}
	}
	return &trustError{
		text: fmt.Sprintf("server certificate is for %s, asked was %s",
			shorten(printable(strings.Join(names, ", ")), 200), host),
		hint:      "use one of the names in the server's certificate in the URL, or have the certificate issued for " + host,
		err:       err,
		closeness: closeHost,
	}
}

const (
	hintClock    = "check the clock of this device and of the server"
	hintExplicit = "set trusted_certs to the certificate of the CA that issued the server's certificate"
	hintAnchors  = "add the certificate of the CA that issued the server's certificate to trusted_certs"
)

// explainTrust words an error of pathsTo for the person who has to mend it.
func explainTrust(err error, chain []*x509.Certificate, by trusted, now time.Time) *trustError {
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		what := "server certificate"
		if invalid.Cert != nil && !invalid.Cert.Equal(chain[0]) {
			what = "CA certificate above the server's"
		}
		cert := invalid.Cert
		if cert == nil {
			cert = chain[0]
		}
		hint := hintClock + "; if both are right, have that certificate renewed"
		if by.implicitOff {
			hint += "; " + by.hint()
		}
		return &trustError{text: outOfValidity(what, cert, now), hint: hint, err: err, closeness: closePath}
	}
	if weak, ok := errors.AsType[*weakError](err); ok {
		what := "server certificate"
		if !weak.cert.Equal(chain[0]) {
			what = "CA certificate above the server's,"
		}
		return &trustError{
			text:      what + " " + weak.Error(),
			hint:      "have it issued anew, for a key of EC P-256 or RSA 2048",
			err:       err,
			closeness: closePath,
		}
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return &trustError{
			text: fmt.Sprintf("unknown CA: server certificate %s was issued by %s, which %s%s",
				subjectOf(chain[0]), issuerOf(chain[len(chain)-1]), by.lacks(), whyUnknown(err)),
			hint:      by.hint(),
			err:       err,
			closeness: closeNot,
		}
	}
	return &trustError{
		text:      fmt.Sprintf("server certificate %s: %s", subjectOf(chain[0]), shorten(printable(err.Error()), 300)),
		hint:      "have the server's certificate issued anew",
		err:       err,
		closeness: closePath,
	}
}

// lacks says where a CA was looked for in vain.
func (by trusted) lacks() string {
	switch {
	case by.explicit == nil:
		return "is not known to the system's root certificates"
	case by.learned:
		return "is not among the trusted certificates and those that this server's CA led to before, " +
			"nor issued by one of them"
	}
	return "is not among the trusted certificates, nor issued by one of them"
}

// hint says what to do about an unknown CA.
func (by trusted) hint() string {
	switch {
	case by.implicitOff:
		return "the system's root certificates count no more for this server, because its certificate has verified under a " +
			"CA of its own: if it has moved to another CA on purpose, add that to trusted_certs, or delete what is stored of " +
			"this server in trust/ of the state directory"
	case by.explicit == nil:
		return hintExplicit
	}
	return hintAnchors
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

// IsRoot reports whether cert is a self-signed CA certificate: one that can end a path. A CA's new certificate signed
// with its old key, and the other way round (RFC 7030 4.1.3), has its own name as issuer but is not one. A signature
// with an algorithm that is no longer verified (SHA-1) is taken for its own, since the signature of an anchor
// carries no trust.
func IsRoot(cert *x509.Certificate) bool {
	if !bytes.Equal(cert.RawSubject, cert.RawIssuer) {
		return false
	}
	err := cert.CheckSignatureFrom(cert) // wants a CA certificate as the signer
	if _, insecure := errors.AsType[x509.InsecureAlgorithmError](err); insecure {
		return len(cert.AuthorityKeyId) == 0 || bytes.Equal(cert.AuthorityKeyId, cert.SubjectKeyId)
	}
	return err == nil
}
