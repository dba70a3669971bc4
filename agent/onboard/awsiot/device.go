package awsiot

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"certagent/agent/onboard"
)

// ready is why a connection need not be tried, or nil: settings or a certificate that no AWS IoT would take.
func ready(want Registration, certificate *tls.Certificate, now time.Time) *Error {
	fail := func(code string, err error, hint string) *Error {
		return &Error{Target: want, Class: ErrDevice, Code: code, Err: err, Hint: hint}
	}
	if err := want.check(); err != nil {
		return fail(CodeSettings, err, "correct endpoint, client_id and port of [provisioning]")
	}
	leaf, err := onboard.Leaf(certificate, want.SHA256)
	if err != nil {
		return fail(CodeCertificate, err, "have it issued anew: certagent renew")
	}
	if err := onboard.Valid(leaf, now); err != nil {
		return fail(CodeCertificate, err, "AWS IoT is told as soon as a valid one was issued")
	}
	if err := unsuitable(leaf); err != nil {
		return fail(CodeKey, err, `take key = "ec-p256" or "rsa-2048" for this certificate, and a CA that signs with `+
			"ECDSA or RSA and SHA-256 or better")
	}
	return nil
}

// unsuitable says why AWS IoT takes no certificate like leaf: RSA keys of 2048 bits or more and the curves P-256, P-384
// and P-521 are what it lists (developer guide, "X.509 client certificates"), and of signatures those by RSA and ECDSA
// with SHA-2. Ed25519 is neither among the keys nor among the signatures.
func unsuitable(leaf *x509.Certificate) error {
	switch key := leaf.PublicKey.(type) {
	case *ecdsa.PublicKey:
		if key.Curve != elliptic.P256() && key.Curve != elliptic.P384() && key.Curve != elliptic.P521() {
			return errors.New("the certificate's key is on a curve that AWS IoT does not take: it is to be P-256, " +
				"P-384 or P-521")
		}
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < 2048 {
			return fmt.Errorf("the certificate's key is RSA of %d bits: AWS IoT takes 2048 or more", bits)
		}
	default:
		return fmt.Errorf("the certificate's key is %v: AWS IoT takes RSA, and ECDSA on P-256, P-384 and P-521",
			leaf.PublicKeyAlgorithm)
	}
	switch leaf.SignatureAlgorithm {
	case x509.PureEd25519, x509.SHA1WithRSA, x509.ECDSAWithSHA1, x509.MD5WithRSA, x509.UnknownSignatureAlgorithm:
		return fmt.Errorf("the CA signed the certificate with %v: AWS IoT takes RSA and ECDSA with SHA-256, SHA-384 or "+
			"SHA-512", leaf.SignatureAlgorithm)
	}
	return nil
}
