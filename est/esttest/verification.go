package esttest

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
)

// nameVerification is the base name of what [Verify] writes.
const nameVerification = "verification"

// verificationLifetime is for how long the certificate of [Verify] is valid; it is wanted for one upload.
const verificationLifetime = 30 * 24 * time.Hour

// Verify signs a verification certificate: the proof that whoever registers the CA somewhere has its key. Its common name
// is code, which that place gave out (AWS IoT calls it the registration code). It is written to Options.Dir as
// verification.pem, and its name returned. The CA is loaded, or made, as [Open] does it, also while a server runs in the same
// directory. The key of the certificate is kept nowhere.
func Verify(o Options, code string) (file string, err error) {
	switch {
	case o.Dir == "":
		return "", errors.New("a verification certificate needs a directory to be written to")
	case code == "" || len(code) > 64 || strings.ContainsFunc(code, func(r rune) bool {
		return r > unicode.MaxASCII || !unicode.IsPrint(r)
	}):
		return "", errors.New("a registration code is 1 to 64 printable characters (RFC 5280 appendix A.1)")
	}
	if o, err = o.completed(); err != nil {
		return "", err
	}
	a, err := establish(folder(o.Dir), o)
	if err != nil {
		return "", err
	}
	key, err := newKey()
	if err != nil {
		return "", fmt.Errorf("make key: %w", err)
	}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: code}, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
		PublicKey: key.Public(),
	}
	valid(template, o.Now(), verificationLifetime)
	cert, err := a.issuing.sign(template)
	if err != nil {
		return "", err
	}
	f := folder(o.Dir)
	return f.certFile(nameVerification), f.write(nameVerification, 0o644, cert)
}
