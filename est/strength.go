package est

import (
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"slices"
)

// rsaLeast is the size in bits of the smallest RSA key that a server may be known by, have us make, or make for us:
// 1024 bits have been disallowed since 2013 (NIST SP 800-131A), and OpenSSL, which curl and libest stand on, takes none
// at the level that Debian sets. crypto/tls would.
const rsaLeast = 2048

// weakError is that a path leads over a key that is proof of nothing.
type weakError struct{ cert *x509.Certificate }

func (e *weakError) Error() string {
	return fmt.Sprintf("%s has an RSA key of %d bits, and %d are the least", subjectOf(e.cert),
		e.cert.PublicKey.(*rsa.PublicKey).N.BitLen(), rsaLeast)
}

// strongOnly returns those of a server's paths that lead over strong keys alone, at least one, or a *weakError. The
// anchor above does not count: it is trusted for what it is.
func strongOnly(paths [][]*x509.Certificate) ([][]*x509.Certificate, error) {
	var weak *weakError
	strong := slices.DeleteFunc(paths, func(path []*x509.Certificate) bool {
		i := slices.IndexFunc(path[:max(1, len(path)-1)], func(cert *x509.Certificate) bool {
			key, ok := cert.PublicKey.(*rsa.PublicKey)
			return ok && key.N.BitLen() < rsaLeast
		})
		if i >= 0 {
			weak = &weakError{path[i]}
		}
		return i >= 0
	})
	if len(strong) == 0 && weak != nil {
		return nil, weak
	}
	return strong, nil
}
