package est

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math"
	"slices"
	"time"
)

// tlsAnchors returns those of k.CAs that are anchors for the server's own certificate: that were one before, that this
// session's certificate verified under, or that succeed one (see Known.TLSAnchors).
func tlsAnchors(k Known, configured []*x509.Certificate, s session, now time.Time) []*x509.Certificate {
	roots := slices.DeleteFunc(slices.Clone(k.CAs), func(cert *x509.Certificate) bool {
		return slices.ContainsFunc(configured, cert.Equal) // is one anyway
	})
	var accepted []*x509.Certificate
	take := func(good func(root *x509.Certificate) bool) {
		roots = slices.DeleteFunc(roots, func(cert *x509.Certificate) bool {
			if !good(cert) {
				return false
			}
			accepted = append(accepted, cert)
			return true
		})
	}
	take(func(cert *x509.Certificate) bool { return slices.ContainsFunc(k.TLSAnchors, cert.Equal) })
	roots = slices.DeleteFunc(roots, func(cert *x509.Certificate) bool { return !IsRoot(cert) })

	// The server's own path, by the chain that it presented and nothing else: with an OldWithNew from /cacerts, which any
	// CA can make for any other, a path would lead to whoever made it.
	authorising := slices.Clone(s.ends)
	if s.chain != nil {
		ends, _ := authorise(s.chain, s.hosts, trusted{explicit: poolOf(roots)}, now) // that there is no path is no error
		take(func(root *x509.Certificate) bool { return slices.ContainsFunc(ends, root.Equal) })
		authorising = append(authorising, ends...)
	}
	take(func(root *x509.Certificate) bool {
		return slices.ContainsFunc(authorising, func(anchor *x509.Certificate) bool { return rekeyed(root, anchor) })
	})
	// The signature on each cross certificate is checked once by each anchor, however many roots it would be for and
	// however long the line of succession: no deadline ends this.
	cross := k.intermediates()
	for line := slices.Concat(configured, accepted); len(line) > 0; line = line[1:] {
		before := len(accepted)
		signed := slices.DeleteFunc(slices.Clone(cross), func(cert *x509.Certificate) bool {
			return !isNewWithOld(cert, line[0], now)
		})
		take(func(root *x509.Certificate) bool {
			return slices.ContainsFunc(signed, func(newWithOld *x509.Certificate) bool { return succeeds(root, newWithOld) })
		})
		line = slices.Concat(line, accepted[before:])
	}
	return slices.DeleteFunc(slices.Clone(k.CAs), func(cert *x509.Certificate) bool {
		return !slices.ContainsFunc(accepted, cert.Equal)
	})
}

// rekeyed reports whether root has the name of anchor, another root, that had no limit to be rid of.
func rekeyed(root, anchor *x509.Certificate) bool {
	const emptyName = 2 // bytes of an empty SEQUENCE
	return len(root.RawSubject) > emptyName && bytes.Equal(root.RawSubject, anchor.RawSubject) && IsRoot(anchor) &&
		!limitsNames(anchor) && !limitsUsage(anchor)
}

// isNewWithOld reports whether cert is signed by anchor for a CA (RFC 4210 4.4), without a limit that this CA would be
// rid of as an anchor: what it may do from then on is what it could do below anchor already.
func isNewWithOld(cert, anchor *x509.Certificate, now time.Time) bool {
	if !bytes.Equal(cert.RawIssuer, anchor.RawSubject) {
		return false
	}
	for _, cert := range []*x509.Certificate{anchor, cert} {
		if now.Before(cert.NotBefore) || expired(cert, now) || limitsNames(cert) || limitsUsage(cert) {
			return false
		}
	}
	// What an anchor issues to its own name does not count for the length of paths (RFC 5280 4.2.1.9).
	mayIssueCAs := pathLimit(anchor) > 0 || bytes.Equal(anchor.RawSubject, cert.RawSubject)
	return mayIssueCAs && cert.IsCA && cert.CheckSignatureFrom(anchor) == nil
}

// succeeds reports whether a NewWithOld certificate is for the name and key of root, which promises no more than it.
func succeeds(root, newWithOld *x509.Certificate) bool {
	return bytes.Equal(newWithOld.RawSubject, root.RawSubject) && sameKey(newWithOld.PublicKey, root.PublicKey) &&
		pathLimit(root) <= pathLimit(newWithOld)
}

func sameKey(a, b crypto.PublicKey) bool {
	key, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && key.Equal(b)
}

var oidNameConstraints = asn1.ObjectIdentifier{2, 5, 29, 30}

// limitsNames reports whether a CA certificate has name constraints (RFC 5280 4.2.1.10), of whatever kind.
func limitsNames(ca *x509.Certificate) bool {
	return slices.ContainsFunc(ca.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(oidNameConstraints) })
}

// limitsUsage reports whether what a CA certificate issues is no good for TLS servers.
func limitsUsage(ca *x509.Certificate) bool {
	return len(ca.ExtKeyUsage)+len(ca.UnknownExtKeyUsage) > 0 &&
		!slices.Contains(ca.ExtKeyUsage, x509.ExtKeyUsageServerAuth) &&
		!slices.Contains(ca.ExtKeyUsage, x509.ExtKeyUsageAny)
}

// pathLimit is how many CA certificates may follow below ca in a path (RFC 5280 4.2.1.9).
func pathLimit(ca *x509.Certificate) int {
	if ca.MaxPathLen > 0 || ca.MaxPathLenZero {
		return ca.MaxPathLen
	}
	return math.MaxInt
}
