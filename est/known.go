package est

import (
	"crypto/x509"
	"slices"
	"time"
)

// Known is what attempts learned of one server over authorised sessions, for the next ones. The zero value is nothing.
// A caller keeps what [Client.Known] returns, for the same URL alone, and hands it to [New] in Options.Known. Trust in
// it follows from Options.Anchors and Options.SystemRoots: a caller that is told to trust less than before forgets
// TLSAnchors and ImplicitOff.
type Known struct {
	// CAs are the certificates of /cacerts (RFC 7030 4.1): the self-signed ones, the latest notAfter first, so that of
	// each name the first is its NewWithNew (RFC 4210 4.4); then the others. The self-signed ones vouch for what this
	// server issues. The others, OldWithNew and NewWithOld among them, are verified whenever they are used.
	//
	// They are replaced by a newer answer, but never by nothing: a self-signed one that is no longer sent stays until it
	// expires (see Options.Reached), an answer without one takes nothing away, and an expired one goes only if another is left. Their
	// number and size are bounded as those of an answer are.
	CAs []*x509.Certificate

	// TLSAnchors are those of CAs that are explicit trust anchors (RFC 7030 3.6.1) for the server's own certificate as
	// well, beside Options.Anchors, which are not repeated here.
	//
	// RFC 7030 4.1.3 makes every CA certificate of the answer one. This is stricter. The CA that issues to devices is
	// often not the one behind TLS, and where it copies the names that a request asks for, a device could have a
	// certificate issued that impersonates the server to all others. So a root becomes an anchor for TLS only
	// if the server's own certificate verified under it in an authorised session, or if it succeeds an anchor: a
	// NewWithOld certificate, signed by that anchor, is for its name and key, or it has the name of a root under
	// which the session of this answer was authorised. That carries a device over a CA's change of key and name.
	//
	// There are at most 16. Where there would be more, those that authorised the session stay before those of the
	// answer, and those before what is no longer sent: a server that was in wrong hands for a day fills nothing up for
	// good.
	TLSAnchors []*x509.Certificate

	// ImplicitOff means that the implicit trust anchors count no more for this server (RFC 7030 4.1.3), though they do for
	// one that it redirects to: /cacerts answered, and the certificate of this server verified under explicit anchors, so
	// that it can be reached without. (RFC 7030 then wants the TLS extension trusted_ca_keys sent, RFC 6066 6. crypto/tls
	// cannot, and no server is known to want it.) It has no effect where there are no explicit anchors, or all of them
	// have expired: then nothing else could ever authorise the server.
	ImplicitOff bool

	// Fetched is when /cacerts last answered; zero if never.
	Fetched time.Time

	// Attributes is the DER of what /csrattrs last answered (RFC 7030 4.5), nil where that was nothing, and
	// AttributesFetched when it did; zero if never.
	Attributes        []byte
	AttributesFetched time.Time

	// Linking means that the server asked for a request that is linked to the TLS session (RFC 7030 3.5).
	Linking bool
}

// Known returns Options.Known, brought up to date by what this attempt learned, also where it failed. Like every method
// of a Client it is not for concurrent use.
func (c *Client) Known() Known {
	k := c.known
	k.CAs, k.TLSAnchors = slices.Clone(k.CAs), slices.Clone(k.TLSAnchors)
	k.Attributes = slices.Clone(k.Attributes)
	return k
}

// freshCAs reports whether CAs need not be fetched again: they are no older than within, and none has expired or does
// so before within has passed again (RFC 7030 4.1.2).
func (k Known) freshCAs(within time.Duration, now time.Time) bool {
	if within <= 0 || len(k.CAs) == 0 || k.Fetched.IsZero() || k.Fetched.After(now) || now.Sub(k.Fetched) >= within {
		return false
	}
	return !slices.ContainsFunc(k.CAs, func(cert *x509.Certificate) bool { return expired(cert, now.Add(within)) })
}

func expired(cert *x509.Certificate, now time.Time) bool { return now.After(cert.NotAfter) }

// intermediates are the certificates of CAs that are not anchors.
func (k Known) intermediates() []*x509.Certificate {
	return slices.DeleteFunc(slices.Clone(k.CAs), IsRoot)
}

// session is the connection that an answer came over, as far as it counts for trust. It is empty for a server that
// nobody named: such a one can be redirected to for /cacerts, but is not the server.
type session struct {
	chain []*x509.Certificate // the server's
	hosts []string            // it was judged by
	ends  []*x509.Certificate // the explicit anchors that authorised it
}

// learned returns k after an answer of /cacerts that came over s, at now. configured are the explicit anchors that a
// person gave. What had expired by reached, which is not after now, is forgotten.
func (k Known) learned(answer, configured []*x509.Certificate, s session, now, reached time.Time) Known {
	k.CAs = mergeCAs(k, answer, reached)
	k.TLSAnchors = tlsAnchors(k, configured, s, now)
	k.Fetched = now
	if len(k.TLSAnchors) > anchorLimit {
		rank := func(cert *x509.Certificate) int {
			return slices.IndexFunc([][]*x509.Certificate{s.ends, answer, {cert}}, func(list []*x509.Certificate) bool {
				return slices.ContainsFunc(list, cert.Equal)
			})
		}
		slices.SortStableFunc(k.TLSAnchors, func(a, b *x509.Certificate) int { return rank(a) - rank(b) })
		k.TLSAnchors = k.TLSAnchors[:anchorLimit]
	}
	return k
}

// anchorLimit is how many TLSAnchors there may be: few enough that an answer always has room in CAs beside them.
const anchorLimit = 16

// mergeCAs returns the CAs of k after an answer, without those that had expired by reached.
func mergeCAs(k Known, answer []*x509.Certificate, reached time.Time) []*x509.Certificate {
	checked := map[*x509.Certificate]bool{} // to check a signature takes longer than all else here
	isRoot := func(cert *x509.Certificate) bool {
		is, known := checked[cert]
		if !known {
			is = IsRoot(cert)
			checked[cert] = is
		}
		return is
	}
	anchors := func(cert *x509.Certificate) bool {
		return slices.ContainsFunc(k.TLSAnchors, cert.Equal) || isRoot(cert) // the cheap one first
	}
	kept := k.CAs
	if slices.ContainsFunc(answer, isRoot) {
		kept = slices.DeleteFunc(slices.Clone(k.CAs), func(cert *x509.Certificate) bool { return !anchors(cert) })
	}
	// In the order in which they are kept when there are too many: that which leads to the server first.
	all := unique(slices.Concat(k.TLSAnchors, answer, kept))
	current := slices.DeleteFunc(slices.Clone(all), func(cert *x509.Certificate) bool { return expired(cert, reached) })
	if slices.ContainsFunc(current, anchors) {
		all = current
	}
	var first, rest []*x509.Certificate
	for _, cert := range atMost(all, certificateLimit, answerLimit) {
		if anchors(cert) {
			first = append(first, cert)
		} else {
			rest = append(rest, cert)
		}
	}
	slices.SortStableFunc(first, func(a, b *x509.Certificate) int { return b.NotAfter.Compare(a.NotAfter) })
	return slices.Concat(first, rest)
}

// atMost cuts certs off where there would be more than number of them, or more than size bytes.
func atMost(certs []*x509.Certificate, number, size int) []*x509.Certificate {
	certs = certs[:min(len(certs), number)]
	for i, cert := range certs {
		if size -= len(cert.Raw); size < 0 {
			return certs[:i]
		}
	}
	return certs
}
