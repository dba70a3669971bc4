package store

import (
	"crypto/sha256"
	"crypto/x509"
	"sync"
	"weak"
)

// issuers keeps CA certificates in memory once, for all the generations that came from the same CA: parsed, one takes some
// 4 KiB. The zero value is ready.
type issuers struct {
	mu    sync.Mutex // guards known
	known map[[sha256.Size]byte]weak.Pointer[x509.Certificate]
}

// share replaces those of certs that are in memory already by those.
func (i *issuers) share(certs []*x509.Certificate) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.known == nil {
		i.known = map[[sha256.Size]byte]weak.Pointer[x509.Certificate]{}
	}
	for n, cert := range certs {
		sum := sha256.Sum256(cert.Raw)
		if there := i.known[sum].Value(); there != nil {
			certs[n] = there
			continue
		}
		for sum, p := range i.known { // there are few, and those that nobody uses any more go
			if p.Value() == nil {
				delete(i.known, sum)
			}
		}
		i.known[sum] = weak.Make(cert)
	}
}
