package est

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
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

	// KeyUsage is asked for in a critical extension (RFC 5280 4.2.1.3); 0 means no extension, for a CA keyCertSign and
	// digitalSignature. What only a CA may do needs CA.
	KeyUsage x509.KeyUsage

	// CA asks for a CA certificate that may issue leaves only: critical basic constraints CA:TRUE with path length 0
	// and critical key usage. It is what IoT Edge asks for as its Edge CA.
	CA bool

	// Hash is that of the signature: SHA-256, SHA-384 or SHA-512. 0 means the one that goes with the key. Ed25519 leaves
	// no choice, and Hash counts for nothing.
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
// curve's size (P-256 SHA-256, P-384 SHA-384, P-521 SHA-512), RSA PKCS#1 v1.5 with SHA-256, or Ed25519, unless t.Hash
// says another hash. It fails on a template that no CA could turn into a certificate.
func CreateRequest(key crypto.Signer, t Template) ([]byte, error) {
	subject, err := t.subject()
	if err != nil {
		return nil, fmt.Errorf("encode subject: %w", err)
	}
	attributes, err := t.attributes()
	if err != nil {
		return nil, err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("encode public key: %w", err)
	}
	info, err := asn1.Marshal(requestInfo{
		Subject: asn1.RawValue{FullBytes: subject}, PublicKey: asn1.RawValue{FullBytes: public}, Attributes: attributes,
	})
	if err != nil {
		return nil, fmt.Errorf("encode certification request: %w", err)
	}
	der, err := signRequest(key, t.Hash, info)
	if err != nil {
		return nil, fmt.Errorf("sign certification request: %w", err)
	}
	return der, nil
}

// requestInfo is the CertificationRequestInfo of RFC 2986 4.1. crypto/x509 makes it only without attributes of one
// value, such as challengePassword.
type requestInfo struct {
	Version    int
	Subject    asn1.RawValue
	PublicKey  asn1.RawValue
	Attributes []typedValues `asn1:"tag:0,set"`
}

// typedValues is an Attribute of RFC 2986 4.1.
type typedValues struct {
	Type   asn1.ObjectIdentifier
	Values []asn1.RawValue `asn1:"set"`
}

// attributes lists what a request carries beside subject and key.
func (t Template) attributes() ([]typedValues, error) {
	var list []typedValues
	add := func(oid asn1.ObjectIdentifier, value []byte) {
		list = append(list, typedValues{Type: oid, Values: []asn1.RawValue{{FullBytes: value}}})
	}
	extensions, err := t.extensions()
	if err != nil {
		return nil, err
	}
	if len(extensions) > 0 {
		value, err := asn1.Marshal(extensions)
		if err != nil {
			return nil, fmt.Errorf("encode extensions: %w", err)
		}
		add(oidExtensionRequest, value)
	}
	if t.Binding != nil {
		value, err := t.Binding.encode()
		if err != nil {
			return nil, fmt.Errorf("encode the link to the TLS session: %w", err)
		}
		add(t.Binding.Attribute, value)
	}
	if t.DecryptKey != nil {
		identifier, capabilities, err := decryptKeyAttributes(t.DecryptKey)
		if err != nil {
			return nil, fmt.Errorf("key to encrypt to: %w", err)
		}
		add(oidAsymmetricDecryptKeyID, identifier)
		add(oidSMIMECapabilities, capabilities)
	}
	return list, nil
}

// signRequest wraps up a CertificationRequestInfo with its signature.
func signRequest(key crypto.Signer, hash crypto.Hash, info []byte) ([]byte, error) {
	algorithm, hash, err := signatureAlgorithm(key.Public(), hash)
	if err != nil {
		return nil, err
	}
	signature, err := crypto.SignMessage(key, rand.Reader, info, hash)
	if err != nil {
		return nil, err
	}
	der, err := asn1.Marshal(struct {
		Info      asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}{asn1.RawValue{FullBytes: info}, algorithm, asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}})
	if err != nil {
		return nil, err
	}
	// A key that lives elsewhere may sign wrongly, and the server would only say that it does not like the request.
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, err
	}
	return der, csr.CheckSignature()
}

// signatureAlgorithm returns how a key signs; hash 0 is its own choice (RFC 5758 3.2, RFC 4055 5, RFC 8410 3).
func signatureAlgorithm(public crypto.PublicKey, hash crypto.Hash) (pkix.AlgorithmIdentifier, crypto.Hash, error) {
	var byHash map[crypto.Hash]asn1.ObjectIdentifier
	var parameters asn1.RawValue
	switch public := public.(type) {
	case ed25519.PublicKey:
		return pkix.AlgorithmIdentifier{Algorithm: oidEd25519}, 0, nil
	case *ecdsa.PublicKey:
		byHash = map[crypto.Hash]asn1.ObjectIdentifier{
			crypto.SHA256: oidECDSAWithSHA256, crypto.SHA384: oidECDSAWithSHA384, crypto.SHA512: oidECDSAWithSHA512,
		}
		if hash == 0 {
			hash = hashOfCurve(public.Curve)
		}
	case *rsa.PublicKey:
		byHash = map[crypto.Hash]asn1.ObjectIdentifier{
			crypto.SHA256: oidSHA256WithRSA, crypto.SHA384: oidSHA384WithRSA, crypto.SHA512: oidSHA512WithRSA,
		}
		parameters = asn1.NullRawValue
		if hash == 0 {
			hash = crypto.SHA256
		}
	default:
		return pkix.AlgorithmIdentifier{}, 0, fmt.Errorf("a key of type %T cannot sign requests", public)
	}
	oid, ok := byHash[hash]
	if !ok {
		return pkix.AlgorithmIdentifier{}, 0,
			fmt.Errorf("%v is not a hash for signatures: SHA-256, SHA-384 and SHA-512 are", hash)
	}
	return pkix.AlgorithmIdentifier{Algorithm: oid, Parameters: parameters}, hash, nil
}

func hashOfCurve(curve elliptic.Curve) crypto.Hash {
	switch bits := curve.Params().BitSize; {
	case bits <= 256:
		return crypto.SHA256
	case bits <= 384:
		return crypto.SHA384
	}
	return crypto.SHA512
}

// RenewalTemplate asks for what leaf has: its subject and subject alternative names byte for byte, as RFC 7030 4.2.2
// demands of a renewal (a name that is encoded anew may differ in its string types), client and server usage, and
// whether it is a CA certificate. Another name is asked for by simpleenroll: no server is known to act on the attribute
// ChangeSubjectName (RFC 6402 2.8), which would let a renewal ask for one.
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
