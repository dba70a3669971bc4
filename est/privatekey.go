package est

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

const (
	// privateKeyLimit bounds the encoding of a key, in bytes. An RSA key of rsaLimit bits takes some 4.7 KiB, and the
	// work of checking one grows with the cube of its size.
	privateKeyLimit = 8 << 10

	// keyLayers is how many wrappings stand around a key at most: message, signed data, key package, key.
	keyLayers = 4
)

// decodeKey returns the DER in the body of a private key part: of base64, of PEM, or itself.
func decodeKey(body []byte) ([]byte, error) {
	if !isArmoured(body) {
		return decodeBody(body)
	}
	for block, rest := pem.Decode(body); block != nil; block, rest = pem.Decode(rest) {
		switch block.Type {
		case "PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "PKCS7", "CMS":
			return block.Bytes, nil
		}
	}
	return nil, errors.New("PEM, but not of a private key")
}

// parsePrivateKey reads a private key that is not encrypted: PKCS#8 (RFC 5958 2), which is what RFC 7030 4.4.2 has, or
// PKCS#1 or SEC 1 (RFC 8017 A.1.2, RFC 5915), which servers send under its name. It may stand in an
// AsymmetricKeyPackage (RFC 5958 2), and that in a SignedData, with a ContentInfo around it or without. Whose signature
// that is, RFC 7030 leaves open, so it is not verified: that the key is the certificate's says more. No error quotes
// any of it.
func parsePrivateKey(der []byte) (crypto.Signer, error) {
	return parseKeyLayer(der, keyLayers)
}

func parseKeyLayer(der []byte, layers int) (crypto.Signer, error) {
	if layers == 0 {
		return nil, errors.New("private key wrapped too often")
	}
	if err := checkNesting(der); err != nil {
		return nil, err
	}
	outer, _, err := readElement(der)
	if err != nil {
		return nil, err
	}
	fields, err := outer.children()
	if err != nil {
		return nil, err
	}
	var first, second byte
	if len(fields) > 0 {
		first = fields[0].tag
	}
	if len(fields) > 1 {
		second = fields[1].tag
	}
	switch {
	case outer.tag != tagSequence:
	case first == tagInteger && second == tagSequence:
		return parseKey(outer.raw, x509.ParsePKCS8PrivateKey)
	case first == tagInteger && second == tagInteger:
		return parseKey(outer.raw, func(der []byte) (any, error) { return x509.ParsePKCS1PrivateKey(der) })
	case first == tagInteger && second == tagOctetString:
		return parseKey(outer.raw, func(der []byte) (any, error) { return x509.ParseECPrivateKey(der) })
	case first == tagSequence && second == 0: // AsymmetricKeyPackage, of one key
		return parseKeyLayer(fields[0].raw, layers-1)
	case first == tagSequence && second == tagSequence:
		return nil, fmt.Errorf("%d private keys in place of one", len(fields))
	case first == tagSequence && second == tagOctetString:
		return nil, errors.New("the private key is encrypted with a password that nobody gave (EncryptedPrivateKeyInfo)")
	case first == tagInteger && second == tagSet && len(fields) > 2:
		content, err := signedContent(fields[2])
		if err != nil {
			return nil, err
		}
		return parseKeyLayer(content, layers-1)
	case first == tagOID:
		contentType, content, err := readContentInfo(outer.raw)
		if err != nil {
			return nil, err
		}
		if contentType != typeSignedData {
			return nil, errors.New("a PKCS#7 message, but not one with a key in it (SignedData)")
		}
		return parseKeyLayer(content.raw, layers) // the same layer: SignedData may stand without it
	}
	return nil, errors.New("not a private key")
}

// signedContent returns what an EncapsulatedContentInfo (RFC 5652 5.2) holds.
func signedContent(e element) ([]byte, error) {
	fields, err := e.children()
	if err != nil {
		return nil, err
	}
	if len(fields) != 2 || fields[1].tag != tagContext0Cons {
		return nil, errors.New("SignedData without content")
	}
	content, err := fields[1].children()
	if err != nil {
		return nil, err
	}
	if len(content) != 1 || content[0].tag&^constructed != tagOctetString {
		return nil, errors.New("SignedData without content")
	}
	return content[0].octets()
}

// parseKey has parse read a key, within the bounds that crypto/tls sets on what it makes connections with.
func parseKey(der []byte, parse func([]byte) (any, error)) (crypto.Signer, error) {
	if len(der) > privateKeyLimit {
		return nil, fmt.Errorf("private key of %d bytes, %d are the limit", len(der), privateKeyLimit)
	}
	key, err := parse(der)
	if err != nil {
		return nil, fmt.Errorf("parse private key: %w", err)
	}
	switch key := key.(type) {
	case *rsa.PrivateKey:
		if bits := key.N.BitLen(); bits < rsaLeast || bits > rsaLimit {
			return nil, fmt.Errorf("RSA key of %d bits, from %d to %d are taken", bits, rsaLeast, rsaLimit)
		}
		// Whether its primes are any crypto/x509 does not ask; a certificate fits it all the same, and no login would.
		if _, err := crypto.SignMessage(key, rand.Reader, nil, crypto.SHA256); err != nil {
			return nil, fmt.Errorf("RSA key that cannot sign: %w", err)
		}
		return key, nil
	case *ecdsa.PrivateKey:
		if key.Curve == elliptic.P224() {
			return nil, errors.New("key on the curve P-224, which TLS does not have")
		}
		return key, nil
	case ed25519.PrivateKey:
		return key, nil
	}
	return nil, fmt.Errorf("private key of a kind (%T) that cannot sign", key)
}
