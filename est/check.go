package est

import (
	"cmp"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// clockSkew is how far ahead of our clock an issued certificate's notBefore may be: CAs whose clock runs fast are
// common, and the certificate becomes valid by waiting.
const clockSkew = 5 * time.Minute

// asked is what a certification request asks for, as far as the answer is compared with it.
type asked struct {
	key     crypto.PublicKey
	subject []attribute
	names   []string // subject alternative names
	usages  []x509.ExtKeyUsage
	ca      bool
}

// parseAsked reads a PKCS#10 request and checks that it is signed by its own key.
func parseAsked(der []byte) (*asked, error) {
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("parse certification request: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("check certification request: %w", err)
	}
	a := &asked{key: csr.PublicKey}
	if a.subject, err = parseName(csr.RawSubject); err != nil {
		return nil, err
	}
	for _, e := range csr.Extensions {
		switch {
		case e.Id.Equal(oidSubjectAltName):
			a.names, err = parseGeneralNames(e.Value)
		case e.Id.Equal(oidExtKeyUsage):
			a.usages, err = parseUsages(e.Value)
		case e.Id.Equal(oidBasicConstraints):
			a.ca, err = parseBasicConstraints(e.Value)
		}
		if err != nil {
			return nil, fmt.Errorf("parse certification request: %w", err)
		}
	}
	return a, nil
}

func parseBasicConstraints(der []byte) (ca bool, err error) {
	var constraints struct {
		CA      bool `asn1:"optional"`
		PathLen int  `asn1:"optional,default:-1"`
	}
	_, err = asn1.Unmarshal(der, &constraints)
	return constraints.CA, err
}

// parseUsages returns the usages that a Template can ask for; others are passed over.
func parseUsages(der []byte) ([]x509.ExtKeyUsage, error) {
	var oids []asn1.ObjectIdentifier
	if _, err := asn1.Unmarshal(der, &oids); err != nil {
		return nil, fmt.Errorf("extended key usage: %w", err)
	}
	var usages []x509.ExtKeyUsage
	for u := x509.ExtKeyUsageAny; u <= x509.ExtKeyUsageMicrosoftKernelCodeSigning; u++ {
		if slices.ContainsFunc(oids, u.OID().EqualASN1OID) {
			usages = append(usages, u)
		}
	}
	return usages, nil
}

// authorities are the certificates that may stand above an issued one.
type authorities struct {
	anchors       []*x509.Certificate
	intermediates []*x509.Certificate
	roots         []*x509.Certificate // the self-signed ones that came from the server
}

// gather sorts what is trusted. Explicit anchors are taken as they are. Of what the server's /cacerts gave only
// self-signed CA certificates become anchors; RFC 7030 4.1.3 has the others verified before they are used, so they are
// intermediates.
func gather(explicit []*x509.Certificate, known Known) authorities {
	a := authorities{anchors: slices.Concat(explicit, known.TLSAnchors)}
	for _, cert := range known.CAs {
		if IsRoot(cert) {
			a.anchors = append(a.anchors, cert)
			a.roots = append(a.roots, cert)
		} else {
			a.intermediates = append(a.intermediates, cert)
		}
	}
	a.anchors = unique(a.anchors)
	return a
}

// unique drops repetitions and keeps the order.
func unique(certs []*x509.Certificate) []*x509.Certificate {
	var kept []*x509.Certificate
	for _, cert := range certs {
		if !slices.ContainsFunc(kept, cert.Equal) {
			kept = append(kept, cert)
		}
	}
	return kept
}

// notAcceptable says why an issued certificate is not taken.
type notAcceptable struct {
	text string
	hint string
	err  error // may be nil
}

func (e *notAcceptable) Error() string { return e.text }
func (e *notAcceptable) Unwrap() error { return e.err }

func notAcceptablef(hint, format string, args ...any) error {
	return &notAcceptable{text: fmt.Sprintf(format, args...), hint: hint}
}

// check picks the issued certificate out of an answer and decides whether it is what was asked for.
func check(asked *asked, answer []*x509.Certificate, above authorities, want Want, now time.Time) (*Issued, error) {
	leaf, err := pick(answer, asked.key)
	if err != nil {
		return nil, err
	}
	if leaf.IsCA && !want.CA {
		return nil, notAcceptablef("have the CA issue with a profile for end entities",
			"a CA certificate was issued, but none was asked for")
	}
	at, err := validAt(leaf, now)
	if err != nil {
		return nil, err
	}
	chain, err := verifyIssued(leaf, answer, above, at)
	if err != nil {
		return nil, err
	}
	warnings, err := compareSubject(asked.subject, leaf)
	if err != nil {
		return nil, err
	}
	warnings = append(warnings, compareNames(asked.names, leaf)...)
	warnings = append(warnings, compareUsages(asked.usages, leaf)...)
	if asked.ca && !leaf.IsCA {
		warnings = append(warnings, "a CA certificate was asked for, but the certificate issued is not one")
	}
	if leaf.NotBefore.After(now) {
		warnings = append(warnings, outOfValidity("the issued certificate", leaf, now))
	}
	return &Issued{
		Leaf:     leaf,
		Chain:    unique(chain[1 : len(chain)-1]),
		CAs:      consumersCAs(above.roots, chain[len(chain)-1], at),
		Warnings: warnings,
	}, nil
}

// pick returns the certificate in an answer whose key is the request's. RFC 7030 4.2.3 has the answer hold that one
// alone, but servers add the chain, in any order. Where a server gives several, the one that lasts longest is taken.
func pick(answer []*x509.Certificate, key crypto.PublicKey) (*x509.Certificate, error) {
	own, ok := key.(interface{ Equal(crypto.PublicKey) bool })
	if !ok {
		return nil, fmt.Errorf("key of type %T cannot be compared", key)
	}
	var matching []*x509.Certificate
	for _, cert := range answer {
		if own.Equal(cert.PublicKey) {
			matching = append(matching, cert)
		}
	}
	if len(matching) == 0 {
		return nil, notAcceptablef("look at the EST server: it mixes up requests, or answers from a cache",
			"issued certificate is for another key (%s)", subjectOf(answer[0]))
	}
	return slices.MaxFunc(matching, func(a, b *x509.Certificate) int {
		return cmp.Or(a.NotAfter.Compare(b.NotAfter), a.NotBefore.Compare(b.NotBefore))
	}), nil
}

// validAt returns the time at which to verify the chain: now, or notBefore where that is ahead by no more than
// clockSkew.
func validAt(leaf *x509.Certificate, now time.Time) (time.Time, error) {
	if leaf.NotAfter.Before(leaf.NotBefore) {
		return time.Time{}, notAcceptablef("look at the CA: it draws up certificates that are never valid",
			"issued certificate %s ends at %s, before it begins", subjectOf(leaf), utc(leaf.NotAfter))
	}
	if now.After(leaf.NotAfter) || leaf.NotBefore.After(now.Add(clockSkew)) {
		return time.Time{}, notAcceptablef(hintClock, "%s", outOfValidity("issued certificate", leaf, now))
	}
	if leaf.NotBefore.After(now) {
		return leaf.NotBefore, nil
	}
	return now, nil
}

// verifyIssued returns the path from leaf to one of the anchors, both included; the shortest, if there are several.
func verifyIssued(leaf *x509.Certificate, answer []*x509.Certificate, above authorities,
	at time.Time) ([]*x509.Certificate, error) {
	// A subjectAltName that crypto/x509 cannot read (a hardware module name) is no reason to refuse the certificate when
	// it is critical: it is compared with the one asked for.
	judged := *leaf
	judged.UnhandledCriticalExtensions = slices.DeleteFunc(slices.Clone(leaf.UnhandledCriticalExtensions),
		oidSubjectAltName.Equal)
	chains, err := judged.Verify(x509.VerifyOptions{
		Roots:         poolOf(above.anchors),
		Intermediates: poolOf(slices.Concat(answer, above.intermediates)),
		CurrentTime:   at,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return nil, explainChain(err, leaf, at)
	}
	shortest := slices.MinFunc(chains, func(a, b []*x509.Certificate) int { return len(a) - len(b) })
	if len(shortest) < 2 {
		return nil, notAcceptablef("have the CA issue a certificate that is not its own",
			"issued certificate %s is itself a trust anchor", subjectOf(leaf))
	}
	return shortest, nil
}

// wantsAuthority reports whether err is that of an issued certificate that other CA certificates could verify.
func wantsAuthority(err error) bool {
	if _, unknown := errors.AsType[x509.UnknownAuthorityError](err); unknown {
		return true
	}
	invalid, ok := errors.AsType[x509.CertificateInvalidError](err)
	return ok && invalid.Reason == x509.Expired // of a CA: that of the leaf is judged before
}

func explainChain(err error, leaf *x509.Certificate, at time.Time) error {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return &notAcceptable{
			text: fmt.Sprintf("issued certificate %s comes from %s, to which neither the trust anchors nor the server's "+
				"CA certificates lead%s", subjectOf(leaf), issuerOf(leaf), whyUnknown(err)),
			hint: "add the root of the issuing CA to trusted_certs, or have the server give it in /cacerts",
			err:  err,
		}
	}
	invalid, ok := errors.AsType[x509.CertificateInvalidError](err)
	if ok && invalid.Reason == x509.Expired && invalid.Cert != nil {
		return &notAcceptable{
			text: outOfValidity("CA certificate above the issued one", invalid.Cert, at),
			hint: "have the CA renew its certificates; " + hintClock,
			err:  err,
		}
	}
	return &notAcceptable{
		text: fmt.Sprintf("issued certificate %s does not verify: %s", subjectOf(leaf),
			shorten(printable(err.Error()), 300)),
		err: err,
	}
}

// consumersCAs returns the server's roots that are valid, and anchor where it is not one of them.
func consumersCAs(roots []*x509.Certificate, anchor *x509.Certificate, at time.Time) []*x509.Certificate {
	var cas []*x509.Certificate
	for _, cert := range append(slices.Clone(roots), anchor) {
		if !at.Before(cert.NotBefore) && !at.After(cert.NotAfter) {
			cas = append(cas, cert)
		}
	}
	return unique(cas)
}

// compareNames returns warnings about subject alternative names that were left out or added.
func compareNames(wanted []string, leaf *x509.Certificate) []string {
	var got []string
	for _, e := range leaf.Extensions {
		if !e.Id.Equal(oidSubjectAltName) {
			continue
		}
		names, err := parseGeneralNames(e.Value)
		if err != nil {
			return []string{fmt.Sprintf("the certificate's subject alternative names cannot be read: %v", err)}
		}
		got = names
	}
	var warnings []string
	if missing := without(wanted, got); len(missing) > 0 {
		warnings = append(warnings, "the CA left out the subject alternative names "+quoteList(missing))
	}
	if added := without(got, wanted); len(added) > 0 {
		warnings = append(warnings, "the CA added the subject alternative names "+quoteList(added))
	}
	return warnings
}

// compareUsages returns a warning about extended key usages that were left out. A certificate without the extension
// is good for every usage by RFC 5280 4.2.1.12, but some consumers insist on it.
func compareUsages(wanted []x509.ExtKeyUsage, leaf *x509.Certificate) []string {
	if slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageAny) {
		return nil
	}
	missing := without(wanted, leaf.ExtKeyUsage)
	if len(missing) == 0 {
		return nil
	}
	names := make([]string, len(missing))
	for i, u := range missing {
		names[i] = u.String()
	}
	return []string{"the CA left out the extended key usages " + quoteList(names)}
}

// without returns what is in a and not in b.
func without[T comparable](a, b []T) []T {
	var rest []T
	for _, x := range a {
		if !slices.Contains(b, x) {
			rest = append(rest, x)
		}
	}
	return rest
}

// quoteList joins what others may have written, for one line of text.
func quoteList(list []string) string {
	return shorten(printable(strings.Join(list, ", ")), 300)
}
