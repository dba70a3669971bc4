package agent

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"

	"certagent/est"
	"certagent/store/keys"
)

// Pair is a certificate with its key, as a person brings it.
type Pair struct {
	Key   keys.Key
	Leaf  *x509.Certificate
	Chain []*x509.Certificate // intermediates, from the one that issued Leaf upwards
	CAs   []*x509.Certificate // roots that came along
	Spare []*x509.Certificate // what came along and belongs to none of these
}

// ReadPair reads a file of certificates in PEM, in any order, and one with the key of one of them. Errors name the file and
// quote nothing of it.
func ReadPair(certFile, keyFile string) (Pair, error) {
	certs, err := readCredential(certFile)
	if err != nil {
		return Pair{}, err
	}
	key, err := readCredential(keyFile)
	if err != nil {
		return Pair{}, err
	}
	defer clear(key)
	return parsePair(certs, key, certFile, keyFile)
}

func parsePair(certs, key []byte, certName, keyName string) (Pair, error) {
	all, err := parseCertificates(certs)
	if err != nil {
		return Pair{}, fmt.Errorf("%s: %w", certName, err)
	}
	p := Pair{}
	if p.Key, err = keys.ParsePEM(key); err != nil {
		return Pair{}, fmt.Errorf("%s %w", keyName, err)
	}
	if !p.Key.Algorithm().Valid() {
		return Pair{}, fmt.Errorf("%s holds a key of a kind that certagent does not keep", keyName)
	}
	own := slices.IndexFunc(all, func(c *x509.Certificate) bool { return keys.Equal(c.PublicKey, p.Key.Public()) })
	if own < 0 {
		return Pair{}, fmt.Errorf("%s is not the key of %s", keyName, certName)
	}
	p.Leaf = all[own]
	rest := slices.DeleteFunc(all, p.Leaf.Equal)
	for at := p.Leaf; ; {
		i := slices.IndexFunc(rest, func(c *x509.Certificate) bool {
			return bytes.Equal(c.RawSubject, at.RawIssuer) && !est.IsRoot(c) && at.CheckSignatureFrom(c) == nil
		})
		if i < 0 {
			break
		}
		at = rest[i]
		p.Chain = append(p.Chain, at)
		rest = slices.DeleteFunc(rest, at.Equal) // each is used once, so that this ends
	}
	for _, c := range rest {
		if est.IsRoot(c) {
			p.CAs = append(p.CAs, c)
		} else {
			p.Spare = append(p.Spare, c)
		}
	}
	return p, nil
}

// top is the last certificate of the way up from the leaf that came along, short of a root.
func (p Pair) top() *x509.Certificate {
	if n := len(p.Chain); n > 0 {
		return p.Chain[n-1]
	}
	return p.Leaf
}

// PEM is the pair as one text, the key among it: for a file that nobody else may read. The caller clears it.
func (p Pair) PEM() ([]byte, error) {
	der, err := keys.PKCS8(p.Key)
	if err != nil {
		return nil, err
	}
	defer clear(der)
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	all := slices.Concat([]*x509.Certificate{p.Leaf}, p.Chain, p.CAs)
	for _, c := range all {
		before := text
		text = append(slices.Clip(before), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
		clear(before)
	}
	return text, nil
}
