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

// parse gives the certificate with that DER: the one that is in memory already, if there is one.
func (i *issuers) parse(der []byte) (*x509.Certificate, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	sum := sha256.Sum256(der)
	if there := i.known[sum].Value(); there != nil {
		return there, nil
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	if i.known == nil {
		i.known = map[[sha256.Size]byte]weak.Pointer[x509.Certificate]{}
	}
	for sum, p := range i.known { // there are few, and those that nobody uses any more go
		if p.Value() == nil {
			delete(i.known, sum)
		}
	}
	i.known[sum] = weak.Make(cert)
	return cert, nil
}
