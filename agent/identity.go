package agent

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"slices"
	"time"
)

// identityName is a kind of login, as it stands in logs, in retry.json and in status.
type identityName string

// The identities in the order in which they are tried: what proves most about the device comes first.
const (
	identitySelf      identityName = "certificate"           // the certificate being renewed
	identityEST       identityName = "est-identity"          // the certificate kept only to log in
	identityBootstrap identityName = "bootstrap-certificate" // what the device was born with
	identityPassword  identityName = "password"              // user name and password without a certificate
	identityNone      identityName = "none"                  // nothing is configured: the server must do without
)

// identity is one way to log in at an attempt. Either it can be used, or why says why not.
type identity struct {
	name identityName
	// label names it in errors: "certificate mqtt", "bootstrap certificate /etc/…/idevid.pem".
	label string
	cert  *tls.Certificate
	// why is empty for an identity that can be used.
	why string
	// problem is set where why is something that a person must mend; an identity that simply does not exist yet has none.
	problem *Problem
}

func (i identity) usable() bool { return i.why == "" }

// chooseIdentity picks the identity for the next attempt, from those in order, by how often the server has refused each
// since the last success. An identity refused twice is passed over, the next is tried once, and so on; when all have been
// refused they alternate. ok is false when none can be used.
func chooseIdentity(order []identity, refusals map[string]int) (chosen identity, ok bool) {
	first := true
	best := 0
	for _, i := range order {
		if !i.usable() {
			continue
		}
		n := refusals[string(i.name)]
		if first {
			// Two refusals before the first is passed over: one may be the server's mistake.
			n = max(0, n-1)
		}
		if first || n < best {
			chosen, best, ok = i, n, true
		}
		first = false
	}
	return chosen, ok
}

// checkLeaf says why a certificate cannot log in now: "" if it can. Checked before dialling, since under TLS 1.3 a server's
// refusal shows as anything.
func checkLeaf(cert *tls.Certificate, now time.Time) string {
	leaf := cert.Leaf
	switch {
	case now.Before(leaf.NotBefore):
		return fmt.Sprintf("is not valid before %s", leaf.NotBefore.UTC().Format(time.RFC3339))
	case !now.Before(leaf.NotAfter):
		return fmt.Sprintf("expired at %s", leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	return ""
}

// forClients tells whether a certificate's extended key usage lets it log in as a TLS client (RFC 5280 section 4.2.1.12).
func forClients(leaf *x509.Certificate) bool {
	return len(leaf.ExtKeyUsage)+len(leaf.UnknownExtKeyUsage) == 0 ||
		slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageClientAuth) || slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageAny)
}
