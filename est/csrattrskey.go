package est

import (
	"encoding/asn1"
	"fmt"
	"math/big"
)

// parseTemplateKey reads the SubjectPublicKeyInfoTemplate: an algorithm, and for the size of an RSA key a public key
// that serves for nothing else.
func (a *Attributes) parseTemplateKey(field asn1.RawValue) error {
	var key struct {
		Algorithm struct {
			Type       asn1.ObjectIdentifier
			Parameters asn1.RawValue `asn1:"optional"`
		}
		Sample asn1.BitString `asn1:"optional"`
	}
	if _, err := asn1.UnmarshalWithParams(field.FullBytes, &key, "tag:0"); err != nil {
		return err
	}
	if !key.Algorithm.Type.Equal(oidRSAEncryption) || len(key.Sample.Bytes) == 0 {
		a.wantKey(key.Algorithm.Type, key.Algorithm.Parameters)
		return nil
	}
	var sample struct{ N, E *big.Int }
	if _, err := asn1.Unmarshal(key.Sample.Bytes, &sample); err != nil {
		return fmt.Errorf("sample of an RSA key: %w", err)
	}
	a.Algorithm = "rsa"
	a.wantRSASize(big.NewInt(int64(sample.N.BitLen())))
	return nil
}

// wantKey notes a kind of key. parameter is the curve of an EC key or the size of an RSA one; anything else says
// nothing.
func (a *Attributes) wantKey(algorithm asn1.ObjectIdentifier, parameter asn1.RawValue) {
	if a.Algorithm != "" {
		return // of several, the first is what the server likes best
	}
	switch {
	case algorithm.Equal(oidECPublicKey):
		a.Algorithm = "ec"
		var curve asn1.ObjectIdentifier
		if _, err := asn1.Unmarshal(parameter.FullBytes, &curve); err != nil {
			return
		}
		if a.Bits = curveBits(curve); a.Bits == 0 {
			a.otherKeys = append(a.otherKeys, fmt.Sprintf("a key on the curve %v", curve))
		}
	case algorithm.Equal(oidRSAEncryption):
		a.Algorithm = "rsa"
		size := new(big.Int)
		if _, err := asn1.Unmarshal(parameter.FullBytes, &size); err == nil {
			a.wantRSASize(size)
		}
	case algorithm.Equal(oidEd25519):
		a.Algorithm = "ed25519"
	default:
		a.otherKeys = append(a.otherKeys, fmt.Sprintf("a key of kind %v", algorithm))
	}
}

func (a *Attributes) wantRSASize(bits *big.Int) {
	if bits.Cmp(big.NewInt(rsaLeast)) < 0 || bits.Cmp(big.NewInt(rsaLimit)) > 0 {
		a.otherKeys = append(a.otherKeys, fmt.Sprintf("an RSA key of %s bits", shorten(bits.String(), 20)))
		return
	}
	a.Bits = int(bits.Int64())
}

// curveBits returns the size of a curve of crypto/elliptic; 0 for any other.
func curveBits(curve asn1.ObjectIdentifier) int {
	switch {
	case curve.Equal(oidSecp256r1):
		return 256
	case curve.Equal(oidSecp384r1):
		return 384
	case curve.Equal(oidSecp521r1):
		return 521
	}
	return 0
}
