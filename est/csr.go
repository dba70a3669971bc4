package est

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"
)

// Template is what a certification request asks for.
type Template struct {
	// Subject is the distinguished name, in its order. Values are strings, or asn1.RawValue to fix the encoding.
	Subject pkix.RDNSequence
	// RawSubject is the DER of a distinguished name, taken byte for byte; it wins over Subject.
	RawSubject []byte

	DNSNames []string
	IPs      []net.IP
	URIs     []*url.URL
	Emails   []string
	// RawSAN is the value of a subjectAltName extension, taken byte for byte; it wins over the four fields above.
	RawSAN []byte
	// SANCritical marks the subjectAltName extension critical.
	SANCritical bool

	// Usages is the extended key usage, asked for in an extension that is not critical; none means no extension.
	Usages []x509.ExtKeyUsage

	// CA asks for a CA certificate that may issue leaves only: critical basic constraints CA:TRUE with path length 0
	// and critical key usage keyCertSign and digitalSignature. It is what IoT Edge asks for as its Edge CA.
	CA bool

	// Hash is that of the signature; 0 means the one that goes with the key.
	Hash crypto.Hash
	// Binding is put in as the attribute that links the request to a TLS session; nil means none.
	Binding *Binding
	// DecryptKey is the certificate to whose key a server-generated private key shall be encrypted (RFC 7030 4.4.1.2); nil
	// means none.
	DecryptKey *x509.Certificate
}

var (
	oidCommonName      = asn1.ObjectIdentifier{2, 5, 4, 3}
	oidSerialNumber    = asn1.ObjectIdentifier{2, 5, 4, 5}
	oidCountryName     = asn1.ObjectIdentifier{2, 5, 4, 6}
	oidDNQualifier     = asn1.ObjectIdentifier{2, 5, 4, 46}
	oidEmailAddress    = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 1}
	oidDomainComponent = asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 25}

	oidKeyUsage         = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidSubjectAltName   = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidBasicConstraints = asn1.ObjectIdentifier{2, 5, 29, 19}
	oidExtKeyUsage      = asn1.ObjectIdentifier{2, 5, 29, 37}
)

// ubCommonName is ub-common-name of RFC 5280, appendix A.1, in characters.
const ubCommonName = 64

// CreateRequest returns the DER of a PKCS#10 request (RFC 2986) for key, signed by it: ECDSA with the hash of the
// curve's size (P-256 SHA-256, P-384 SHA-384, P-521 SHA-512), RSA PKCS#1 v1.5 with SHA-256, or Ed25519. It fails on
// a template that no CA could turn into a certificate.
func CreateRequest(key crypto.Signer, t Template) ([]byte, error) {
	subject, err := t.subject()
	if err != nil {
		return nil, fmt.Errorf("encode subject: %w", err)
	}
	extensions, err := t.extensions()
	if err != nil {
		return nil, err
	}
	request := &x509.CertificateRequest{RawSubject: subject, ExtraExtensions: extensions}
	der, err := x509.CreateCertificateRequest(rand.Reader, request, key)
	if err != nil {
		return nil, fmt.Errorf("sign certification request: %w", err)
	}
	return der, nil
}

// RenewalTemplate asks for what leaf has: its subject and subject alternative names byte for byte, as RFC 7030 4.2.2
// demands of a renewal (a name that is encoded anew may differ in its string types), client and server usage, and
// whether it is a CA certificate.
func RenewalTemplate(leaf *x509.Certificate) Template {
	t := Template{RawSubject: slices.Clone(leaf.RawSubject), CA: leaf.IsCA}
	for _, e := range leaf.Extensions {
		if e.Id.Equal(oidSubjectAltName) {
			t.RawSAN, t.SANCritical = slices.Clone(e.Value), e.Critical
		}
	}
	for _, u := range leaf.ExtKeyUsage {
		if u == x509.ExtKeyUsageClientAuth || u == x509.ExtKeyUsageServerAuth {
			t.Usages = append(t.Usages, u)
		}
	}
	return t
}

func (t Template) subject() ([]byte, error) {
	if len(t.RawSubject) > 0 {
		return t.RawSubject, nil
	}
	encoded := make(pkix.RDNSequence, len(t.Subject))
	for i, set := range t.Subject {
		encoded[i] = make(pkix.RelativeDistinguishedNameSET, len(set))
		for j, attribute := range set {
			value, err := encodeAttribute(attribute)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", attributeName(attribute.Type), err)
			}
			encoded[i][j] = pkix.AttributeTypeAndValue{Type: attribute.Type, Value: value}
		}
	}
	return asn1.Marshal(encoded)
}

// encodeAttribute gives a value the string type that RFC 5280, appendix A.1, fixes for its attribute. All others are
// DirectoryStrings, for which encoding/asn1 takes PrintableString where that is enough and UTF8String elsewhere.
func encodeAttribute(a pkix.AttributeTypeAndValue) (any, error) {
	if raw, ok := a.Value.(asn1.RawValue); ok {
		return raw, nil
	}
	s, ok := a.Value.(string)
	if !ok {
		return nil, fmt.Errorf("value of type %T is not a string", a.Value)
	}
	if s == "" {
		return nil, errors.New("empty value")
	}
	if !utf8.ValidString(s) {
		return nil, errors.New("not valid UTF-8")
	}
	switch {
	case a.Type.Equal(oidCommonName) && utf8.RuneCountInString(s) > ubCommonName:
		return nil, fmt.Errorf("%q is longer than %d characters", s, ubCommonName)
	case a.Type.Equal(oidCountryName) && len(s) != 2:
		return nil, fmt.Errorf("%q is not a two-letter country code", s)
	case a.Type.Equal(oidCountryName), a.Type.Equal(oidSerialNumber), a.Type.Equal(oidDNQualifier):
		if strings.ContainsFunc(s, notPrintableString) {
			return nil, fmt.Errorf("%q has characters other than letters, digits, space and '()+,-./:=?", s)
		}
		return asn1.RawValue{Tag: asn1.TagPrintableString, Bytes: []byte(s)}, nil
	case a.Type.Equal(oidEmailAddress), a.Type.Equal(oidDomainComponent):
		if !isASCII(s) {
			return nil, fmt.Errorf("%q has characters outside ASCII", s)
		}
		return asn1.RawValue{Tag: asn1.TagIA5String, Bytes: []byte(s)}, nil
	}
	return s, nil
}

func notPrintableString(r rune) bool {
	switch {
	case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9':
		return false
	}
	return !strings.ContainsRune(" '()+,-./:=?", r)
}

func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r >= utf8.RuneSelf })
}

func (t Template) extensions() ([]pkix.Extension, error) {
	var extensions []pkix.Extension
	san, err := t.subjectAltName()
	if err != nil {
		return nil, fmt.Errorf("encode subject alternative names: %w", err)
	}
	if san != nil {
		extensions = append(extensions, pkix.Extension{Id: oidSubjectAltName, Critical: t.SANCritical, Value: san})
	}
	if len(t.Usages) > 0 {
		value, err := marshalUsages(t.Usages)
		if err != nil {
			return nil, fmt.Errorf("encode extended key usage: %w", err)
		}
		extensions = append(extensions, pkix.Extension{Id: oidExtKeyUsage, Value: value})
	}
	if t.CA {
		extensions = append(extensions,
			// SEQUENCE { cA TRUE, pathLenConstraint 0 }
			pkix.Extension{Id: oidBasicConstraints, Critical: true, Value: []byte{0x30, 6, 1, 1, 0xff, 2, 1, 0}},
			// BIT STRING { digitalSignature (0), keyCertSign (5) }
			pkix.Extension{Id: oidKeyUsage, Critical: true, Value: []byte{3, 2, 2, 0x84}})
	}
	return extensions, nil
}

// subjectAltName returns the value of the extension (RFC 5280 4.2.1.6), nil if no name is asked for.
func (t Template) subjectAltName() ([]byte, error) {
	if len(t.RawSAN) > 0 {
		return t.RawSAN, nil
	}
	var names []asn1.RawValue
	add := func(tag int, name string) error {
		if name == "" || !isASCII(name) {
			return fmt.Errorf("%q is empty or has characters outside ASCII", name)
		}
		names = append(names, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tag, Bytes: []byte(name)})
		return nil
	}
	var errs []error
	for _, name := range t.DNSNames {
		errs = append(errs, add(tagDNSName, name))
	}
	for _, ip := range t.IPs {
		b := ip.To16()
		if v4 := ip.To4(); v4 != nil {
			b = v4
		}
		if b == nil {
			errs = append(errs, fmt.Errorf("%d bytes are no IP address", len(ip)))
			continue
		}
		names = append(names, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tagIPAddress, Bytes: b})
	}
	for _, u := range t.URIs {
		errs = append(errs, add(tagURI, u.String()))
	}
	for _, address := range t.Emails {
		errs = append(errs, add(tagEmail, address))
	}
	if err := errors.Join(errs...); err != nil || len(names) == 0 {
		return nil, err
	}
	return asn1.Marshal(names)
}

func marshalUsages(usages []x509.ExtKeyUsage) ([]byte, error) {
	oids := make([]asn1.RawValue, len(usages))
	for i, u := range usages {
		if u < x509.ExtKeyUsageAny || u > x509.ExtKeyUsageMicrosoftKernelCodeSigning {
			return nil, fmt.Errorf("unknown usage %d", int(u))
		}
		der, err := u.OID().MarshalBinary()
		if err != nil {
			return nil, err
		}
		oids[i] = asn1.RawValue{Tag: asn1.TagOID, Bytes: der}
	}
	return asn1.Marshal(oids)
}
