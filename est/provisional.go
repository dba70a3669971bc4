package est

import (
	"context"
	"crypto/x509"
	"errors"
)

// Provisional fetches /cacerts from a server that is not authorised (RFC 7030 4.1.1), so that a person or a fingerprint
// can decide which of them to trust: that operation alone, no login, no client certificate. Of o only
// URL, Now, Timeout, Proxy and UserAgent count. What it returns must not be trusted before it has been compared with something from elsewhere.
func Provisional(ctx context.Context, o Options) ([]*x509.Certificate, error) {
	return nil, errors.New("not built")
}

// Fingerprinted returns those of certs whose SHA-256 is fingerprint, in hex with or without colons.
func Fingerprinted(certs []*x509.Certificate, fingerprint string) ([]*x509.Certificate, error) {
	return nil, errors.New("not built")
}
