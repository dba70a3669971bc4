package est

import (
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
)

var (
	// id-aa-decryptKeyID (RFC 4108 2.2.5) and id-aa-asymmDecryptKeyID (RFC 7030 4.4.1.2) name the key in a request to
	// which the one that the server makes shall be encrypted.
	oidDecryptKeyID           = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 2, 37}
	oidAsymmetricDecryptKeyID = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 2, 54}

	oidSMIMECapabilities = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 15} // RFC 8551 2.5.2
)

// decryptKeyAttributes returns the values of the two attributes that ask for a key encrypted to that of cert (RFC 7030
// 4.4.1): AsymmetricDecryptKeyIdentifier, which is its subject key identifier, and SMIMECapabilities, which lists what
// openEnvelope understands, the best first.
func decryptKeyAttributes(cert *x509.Certificate) (identifier, capabilities []byte, err error) {
	key, ok := cert.PublicKey.(*rsa.PublicKey)
	if !ok {
		return nil, nil, fmt.Errorf("a key of type %T cannot be encrypted to, only RSA", cert.PublicKey)
	}
	if cert.KeyUsage != 0 && cert.KeyUsage&x509.KeyUsageKeyEncipherment == 0 {
		return nil, nil, errors.New("its key usage does not allow that keys are encrypted to it (keyEncipherment)")
	}
	id := cert.SubjectKeyId
	if len(id) == 0 {
		sum := sha1.Sum(x509.MarshalPKCS1PublicKey(key)) // method 1 of RFC 5280 4.2.1.2
		id = sum[:]
	}
	if identifier, err = asn1.Marshal(id); err != nil {
		return nil, nil, err
	}
	type capability struct {
		Type       asn1.RawValue
		Parameters asn1.RawValue `asn1:"optional"`
	}
	var list []capability
	for _, contents := range []string{keyTransportOAEP, keyTransportRSA, cipherAES256, cipherAES192, cipherAES128} {
		list = append(list, capability{Type: asn1.RawValue{Tag: asn1.TagOID, Bytes: []byte(contents)}})
	}
	// What OAEP has by default, as every implementation of it knows (RFC 3560 5). We understand the others too.
	list[0].Parameters = asn1.RawValue{FullBytes: []byte{tagSequence, 0}}
	capabilities, err = asn1.Marshal(list)
	return identifier, capabilities, err
}

// asksForEncryption reports whether a request names a key to encrypt the answer's key to. It fails on one that names a
// symmetric key.
func asksForEncryption(csr []byte) (bool, error) {
	parsed, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return false, fmt.Errorf("parse certification request: %w", err)
	}
	var info requestInfo
	if _, err := asn1.Unmarshal(parsed.RawTBSCertificateRequest, &info); err != nil {
		return false, fmt.Errorf("parse certification request: %w", err)
	}
	names := func(oid asn1.ObjectIdentifier) bool {
		return slices.ContainsFunc(info.Attributes, func(a typedValues) bool { return a.Type.Equal(oid) })
	}
	if names(oidDecryptKeyID) {
		return false, errors.New("the request names a symmetric key to encrypt to (RFC 7030 4.4.1.1), which is not " +
			"supported: name an RSA key")
	}
	return names(oidAsymmetricDecryptKeyID), nil
}
