package awstest

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"slices"
)

// kind says why AWS IoT takes no certificate of this kind: keys are RSA of 2048 bits and more, or on P-256, P-384 or P-521;
// signatures RSA or ECDSA with SHA-256, SHA-384 or SHA-512 (developer guide, "X.509 client certificates").
func kind(cert *x509.Certificate) error {
	bits := 0
	switch key := cert.PublicKey.(type) {
	case *rsa.PublicKey:
		bits = key.N.BitLen()
	case *ecdsa.PublicKey:
		bits = map[string]int{"P-256": 2048, "P-384": 2048, "P-521": 2048}[key.Params().Name]
	}
	if bits < 2048 {
		return fmt.Errorf("the key is %v, or too small, or on another curve", cert.PublicKeyAlgorithm)
	}
	if !slices.Contains([]x509.SignatureAlgorithm{x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA,
		x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS, x509.ECDSAWithSHA256, x509.ECDSAWithSHA384,
		x509.ECDSAWithSHA512}, cert.SignatureAlgorithm) {
		return fmt.Errorf("it is signed with %v", cert.SignatureAlgorithm)
	}
	return nil
}
