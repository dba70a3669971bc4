package onboard

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"time"
)

// Thumbprint is how clouds and our files name a certificate: the SHA-256 of its DER form in lower-case hexadecimal.
func Thumbprint(leaf *x509.Certificate) string {
	sum := sha256.Sum256(leaf.Raw)
	return hex.EncodeToString(sum[:])
}

// Leaf is the device's own certificate in certificate, which may be nil. It must be the one with that thumbprint.
func Leaf(certificate *tls.Certificate, thumbprint string) (*x509.Certificate, error) {
	if certificate == nil || len(certificate.Certificate) == 0 {
		return nil, errors.New("there is no certificate")
	}
	leaf := certificate.Leaf
	if leaf == nil {
		var err error
		if leaf, err = x509.ParseCertificate(certificate.Certificate[0]); err != nil {
			return nil, errors.New("the certificate cannot be read")
		}
	}
	if Thumbprint(leaf) != thumbprint {
		return nil, errors.New("the certificate is not the one that is to be made known")
	}
	return leaf, nil
}

// Valid says why nobody would take leaf at now.
func Valid(leaf *x509.Certificate, now time.Time) error {
	if now.After(leaf.NotAfter) || now.Before(leaf.NotBefore) {
		return fmt.Errorf("the certificate is valid from %s to %s", leaf.NotBefore.UTC().Format(time.RFC3339),
			leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}
