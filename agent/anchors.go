package agent

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"certagent/agent/config"
	"certagent/est"
	"certagent/store"
)

// configuredAnchors finds what c trusts a server by without asking anybody: the files of trusted_certs, or else what was
// taken by bootstrap_fingerprint before. unmet is true where only the server itself can provide the anchor that
// the fingerprint names. warning says which file could not be read where the fingerprint stands in for it.
func configuredAnchors(c *config.Certificate, stored store.Trust) (by anchoring, unmet bool, warning string, err error) {
	by.systemRoots = c.Trust.SystemRoots
	by.anchors, err = readAnchors(c.Trust.Files)
	switch {
	case c.Trust.Fingerprint == "" && err != nil:
		return by, false, "", configurationFailure("anchors-unreadable", fmt.Errorf("read the trust anchors: %w", err),
			"put the CA certificate of the EST server there (trusted_certs), readable for the agent")
	case err == nil && len(by.anchors) > 0, c.Trust.Fingerprint == "":
		return by, false, "", nil
	case err != nil:
		warning = fmt.Sprintf("read the trust anchors: %v; bootstrap_fingerprint stands in for them", err)
	}
	// The fingerprint is compared at each attempt, so that the store is believed in nothing.
	by.anchors = covered(slices.Concat(stored.Bootstrap, stored.CAs), c.Trust.Fingerprint)
	return by, len(by.anchors) == 0, warning, nil
}

// covered are those of certs that a configured fingerprint names.
func covered(certs []*x509.Certificate, fingerprint string) []*x509.Certificate {
	found, err := est.Fingerprinted(certs, fingerprint)
	if err != nil {
		return nil // the configuration was checked; what is not understood covers nothing
	}
	return found
}

// anchorsFor finds what c trusts server by. For the first contact with a server by fingerprint it asks that server,
// which it does not trust yet, for its CA certificates (RFC 7030 section 4.1.1), and keeps the one that the fingerprint names.
func (a *Agent) anchorsFor(
	ctx context.Context, c *config.Certificate, server *url.URL, stored store.Trust, e *event,
) (anchoring, error) {
	by, unmet, warning, err := configuredAnchors(c, stored)
	if warning != "" {
		e.Warnings = append(e.Warnings, warning)
	}
	if err != nil || !unmet {
		return by, err
	}
	shown, err := a.o.Provisional(ctx, est.Options{
		URL: server, Now: a.o.Now, Timeout: c.Timeout, UserAgent: a.userAgent(),
	})
	if err != nil {
		return by, err
	}
	if by.anchors = covered(shown, c.Trust.Fingerprint); len(by.anchors) == 0 {
		return by, mismatch(server, c.Trust.Fingerprint, shown)
	}
	err = a.o.Store.UpdateTrust(server.String(), func(t store.Trust) store.Trust {
		t.Bootstrap = by.anchors
		return t
	})
	if err != nil {
		return by, storeFailure("keep the trust anchor taken by its fingerprint", err)
	}
	z := a.o.Log.Info().Str("event", "trust").Str("server", server.String())
	list(z, "added", namesOf(by.anchors, nil))
	z.Msg("trust anchor taken by its fingerprint")
	return by, nil
}

// mismatch says that a server shows no certificate with the configured fingerprint.
func mismatch(server *url.URL, fingerprint string, shown []*x509.Certificate) error {
	const most = 8
	names := namesOf(shown, nil)
	if more := len(names) - most; more > 0 {
		names = append(names[:most], fmt.Sprintf("%d more", more))
	}
	text := "none"
	if len(names) > 0 {
		text = strings.Join(names, ", ")
	}
	return &failure{
		class: "untrusted",
		problem: Problem{
			Code: "fingerprint-mismatch",
			Hint: "compare the fingerprint with the one that whoever runs the server tells you, and write that one as " +
				"bootstrap_fingerprint; if they are the same, somebody stands between this device and the server",
		},
		err: errors.New("trust " + server.String() + ": bootstrap_fingerprint is " + fingerprint +
			", and the CA certificates that the server shows are " + text),
	}
}
