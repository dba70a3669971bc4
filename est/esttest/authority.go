package esttest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"time"
)

// pair is a certificate with its key.
type pair struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// authority is the CA: its root, the pair that issues, and the server certificate that it made for itself. It does not
// change once it is made: a rollover puts another in its place.
type authority struct {
	root    pair
	issuing pair // the root, or an intermediate below it
	tlsRoot pair // the root, or one of its own
	server  pair
	chain   [][]byte // of the TLS handshake: server certificate, intermediate, root

	next     pair      // the root to come, between Rollover and FinishRollover
	rollover *Rollover // the last one that was begun; nil if there was none
}

// Extensions that are copied from a request (RFC 5280 section 4.2.1).
var (
	oidKeyUsage         = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidSubjectAltName   = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidBasicConstraints = asn1.ObjectIdentifier{2, 5, 29, 19}
	oidExtKeyUsage      = asn1.ObjectIdentifier{2, 5, 29, 37}
)

// oidCMCRA is id-kp-cmcRA (RFC 6402 section 2.10): its bearer is an EST server by the CA's word.
var oidCMCRA = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 28}

// serverUsages are those of the server certificate.
func (o Options) serverUsages() (usages []x509.ExtKeyUsage, unknown []asn1.ObjectIdentifier) {
	if !o.NoServerAuth {
		usages = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	if o.CMCRA {
		unknown = []asn1.ObjectIdentifier{oidCMCRA}
	}
	return usages, unknown
}

// sign issues template, whose PublicKey says for which key, with a random serial number of 128 bits. The certificate
// never outlives its issuer, unless that has expired already.
func (p pair) sign(template *x509.Certificate) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 128))
	if err != nil {
		return nil, fmt.Errorf("draw serial number: %w", err)
	}
	template.SerialNumber = serial
	if template.SubjectKeyId, err = keyID(template.PublicKey); err != nil {
		return nil, err
	}
	if p.cert == nil {
		p.cert = template
	} else if template.NotAfter.After(p.cert.NotAfter) && template.NotBefore.Before(p.cert.NotAfter) {
		template.NotAfter = p.cert.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, template, p.cert, template.PublicKey, p.key)
	if err != nil {
		return nil, fmt.Errorf("issue certificate: %w", err)
	}
	return x509.ParseCertificate(der)
}

// keyID is a subject key identifier by method 1 of RFC 7093 section 2.
func keyID(public any) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("encode public key: %w", err)
	}
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		PublicKey asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &info); err != nil {
		return nil, fmt.Errorf("decode public key: %w", err)
	}
	sum := sha256.Sum256(info.PublicKey.Bytes)
	return sum[:20], nil
}

func newKey() (*ecdsa.PrivateKey, error) {
	return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
}

// valid sets the validity of template: from now, cut to the second, for lifetime.
func valid(template *x509.Certificate, now time.Time, lifetime time.Duration) {
	template.NotBefore = now.UTC().Truncate(time.Second)
	template.NotAfter = template.NotBefore.Add(lifetime)
}

// caTemplate is the certificate of a CA that may have others below it.
func caTemplate(cn string, public any, now time.Time, lifetime time.Duration) *x509.Certificate {
	t := &x509.Certificate{
		Subject:               pkix.Name{CommonName: cn},
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLen:            -1,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		PublicKey:             public,
	}
	valid(t, now, lifetime)
	return t
}

// serverTemplate is the certificate of the EST server itself.
func serverTemplate(hosts []string, public any, now time.Time, o Options) *x509.Certificate {
	t := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "certagent test EST server"},
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		PublicKey:             public,
	}
	t.ExtKeyUsage, t.UnknownExtKeyUsage = o.serverUsages()
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, h)
		}
	}
	valid(t, now, o.ServerLifetime)
	return t
}

// bootstrapTemplate is a credential that a device is born with, good for logging in and nothing else.
func bootstrapTemplate(cn string, public any, now time.Time, lifetime time.Duration) *x509.Certificate {
	t := &x509.Certificate{
		Subject:               pkix.Name{CommonName: cn},
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		PublicKey:             public,
	}
	valid(t, now, max(lifetime, 0))
	if lifetime <= 0 { // as if issued an hour before it expired
		t.NotAfter = t.NotBefore.Add(lifetime)
		t.NotBefore = t.NotAfter.Add(-time.Hour)
	}
	return t
}

// generousTemplate grants a request what it asks for: the subject's own bytes, subjectAltName, both key usages, and
// to be a CA with the path length it names.
func generousTemplate(csr *x509.CertificateRequest, now time.Time, lifetime time.Duration) (*x509.Certificate, error) {
	t := &x509.Certificate{
		RawSubject:            csr.RawSubject,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		PublicKey:             csr.PublicKey,
	}
	valid(t, now, lifetime)
	if csr.PublicKeyAlgorithm == x509.RSA {
		t.KeyUsage |= x509.KeyUsageKeyEncipherment
	}
	for _, e := range csr.Extensions {
		switch {
		case e.Id.Equal(oidSubjectAltName), e.Id.Equal(oidKeyUsage), e.Id.Equal(oidExtKeyUsage):
			t.ExtraExtensions = append(t.ExtraExtensions, e)
		case e.Id.Equal(oidBasicConstraints):
			var wanted struct {
				CA      bool `asn1:"optional"`
				PathLen int  `asn1:"optional,default:-1"`
			}
			if rest, err := asn1.Unmarshal(e.Value, &wanted); err != nil || len(rest) > 0 {
				return nil, errors.New("decode basicConstraints of the request")
			}
			if wanted.CA {
				t.IsCA = true
				t.MaxPathLen, t.MaxPathLenZero = wanted.PathLen, wanted.PathLen == 0
				t.KeyUsage |= x509.KeyUsageCertSign | x509.KeyUsageCRLSign
			}
		}
	}
	return t, nil
}

// libestTemplate grants a request what libest's example CA does: CN and serialNumber of its subject, no extension, and
// the address of a revocation list that does not exist. It returns errNoCommonName for a subject without a CN.
func libestTemplate(csr *x509.CertificateRequest, now time.Time, lifetime time.Duration) (*x509.Certificate, error) {
	subject, err := cutSubject(csr.RawSubject)
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		RawSubject:            subject,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		CRLDistributionPoints: []string{"http://crl.invalid/estCA.crl"},
		PublicKey:             csr.PublicKey,
	}
	valid(t, now, lifetime)
	return t, nil
}

var errNoCommonName = errors.New("the subject has no common name")

// cutSubject keeps CN and serialNumber of an encoded Name, their string types included.
func cutSubject(raw []byte) ([]byte, error) {
	type attribute struct {
		Type  asn1.ObjectIdentifier
		Value asn1.RawValue
	}
	type relativeNameSET []attribute // encoding/asn1 makes a SET of a slice type whose name ends in SET

	var name, kept []relativeNameSET
	if rest, err := asn1.Unmarshal(raw, &name); err != nil || len(rest) > 0 {
		return nil, errors.New("decode subject of the request")
	}
	oidCommonName := asn1.ObjectIdentifier{2, 5, 4, 3}
	oidSerialNumber := asn1.ObjectIdentifier{2, 5, 4, 5}
	named := false
	for _, set := range name {
		for _, a := range set {
			if a.Type.Equal(oidCommonName) || a.Type.Equal(oidSerialNumber) {
				kept = append(kept, relativeNameSET{a})
			}
			named = named || a.Type.Equal(oidCommonName)
		}
	}
	if !named {
		return nil, errNoCommonName
	}
	return asn1.Marshal(kept)
}

func certPEM(certs ...*x509.Certificate) []byte {
	var out []byte
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

func keyPEM(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
