package est

import (
	"crypto/rsa"
	"crypto/x509"
	"fmt"
)

// rsaLeast is the size in bits of the smallest RSA key that a server may be known by, or have us make: 1024 bits have
// been disallowed since 2013 (NIST SP 800-131A), and OpenSSL, which curl and libest stand on, takes none at the level
// that Debian sets. crypto/tls would.
const rsaLeast = 2048

// checkStrength decides whether the key in a server's certificate is proof of anything. The error is a *trustError.
func checkStrength(leaf *x509.Certificate) error {
	key, ok := leaf.PublicKey.(*rsa.PublicKey)
	if !ok || key.N.BitLen() >= rsaLeast {
		return nil
	}
	return &trustError{
		text: fmt.Sprintf("server certificate %s has an RSA key of %d bits, and %d are the least", subjectOf(leaf),
			key.N.BitLen(), rsaLeast),
		hint: "have the server's certificate issued anew, for a key of EC P-256 or RSA 2048",
	}
}
