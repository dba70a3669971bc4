package keys

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

// ParsePEM finds the one private key in PEM text, as people provide it: PKCS#8 (RFC 5958), PKCS#1 (RFC 8017) or SEC 1
// (RFC 5915), unencrypted. Other blocks, certificates and curve parameters for example, are passed over. Errors read on
// from the name of the file ("holds no private key …") and quote nothing of it.
func ParsePEM(data []byte) (Key, error) {
	var found *fileKey
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		if !strings.HasSuffix(block.Type, "PRIVATE KEY") {
			continue
		}
		if found != nil {
			return nil, errors.New("holds more than one private key")
		}
		signer, err := parseBlock(block)
		if err != nil {
			return nil, err
		}
		found = newFileKey(signer)
	}
	if found == nil {
		return nil, errors.New("holds no private key in PEM form (-----BEGIN PRIVATE KEY-----)")
	}
	return found, nil
}

func parseBlock(b *pem.Block) (crypto.Signer, error) {
	if b.Type == "ENCRYPTED PRIVATE KEY" || strings.Contains(b.Headers["Proc-Type"], "ENCRYPTED") {
		return nil, errors.New("is encrypted; certagent needs the key unencrypted and with mode 0600 " +
			"(openssl pkey -in FILE -out NEWFILE)")
	}
	var key any
	var err error
	switch b.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(b.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(b.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(b.Bytes)
	default:
		return nil, fmt.Errorf("holds a private key in the form %q, which certagent does not read "+
			"(openssl pkey -in FILE -out NEWFILE)", b.Type)
	}
	if err != nil {
		return nil, fmt.Errorf("holds a private key that does not parse: %w", err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, errors.New("holds a private key that cannot sign")
	}
	return signer, nil
}
