package onboard

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
)

// Leaf is the device's own certificate in certificate, which may be nil.
func Leaf(certificate *tls.Certificate) (*x509.Certificate, error) {
	switch {
	case certificate == nil || len(certificate.Certificate) == 0:
		return nil, errors.New("there is no certificate")
	case certificate.Leaf != nil:
		return certificate.Leaf, nil
	}
	leaf, err := x509.ParseCertificate(certificate.Certificate[0])
	if err != nil {
		return nil, errors.New("the certificate cannot be read")
	}
	return leaf, nil
}
