package est

import (
	"crypto/x509"
	"slices"
	"time"
)

// Known is what attempts learned of one server over authorised sessions, for the next ones. The zero value is nothing.
// A caller keeps what [Client.Known] returns, for the same URL alone, and hands it to [New] in Options.Known.
type Known struct {
	// CAs are the certificates of /cacerts (RFC 7030 4.1). The self-signed ones vouch for what this server issues. They
	// are replaced by a newer answer, but never by nothing.
	CAs []*x509.Certificate

	// TLSAnchors are those of CAs that are explicit trust anchors for the server's own certificate as well.
	TLSAnchors []*x509.Certificate

	// ImplicitOff means that the implicit trust anchors count no more for this server (RFC 7030 4.1.3): its own
	// certificate has verified under explicit ones.
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

// Known returns Options.Known, brought up to date by what this attempt learned. Like every method of a Client it is
// not for concurrent use.
func (c *Client) Known() Known {
	k := c.known
	k.CAs, k.TLSAnchors = slices.Clone(k.CAs), slices.Clone(k.TLSAnchors)
	k.Attributes = slices.Clone(k.Attributes)
	return k
}
