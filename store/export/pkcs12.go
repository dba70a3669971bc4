package export

import (
	"crypto/sha3"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"strings"
	"unicode/utf8"

	"software.sslmate.com/src/go-pkcs12"

	"certagent/store/keys"
)

// renderPKCS12 is key, certificate and chain as PKCS#12 (RFC 7292), encrypted with PBES2, PBKDF2-HMAC-SHA-256 and
// AES-256-CBC (RFC 8018), and with a MAC by HMAC-SHA-256: what OpenSSL from 1.1.1 and Java from 8u301 read. The encoder
// is named by its year, so that a new version of the module cannot change what consumers have to read.
//
// Salts and initialization vector are not drawn at random but derived from all that goes into the file, the private key
// among it (the way of RFC 6979): nobody else can tell them from random ones, they differ whenever anything in the file
// differs, and a file can be told to be right by its bytes. To decode one instead would let whoever may write it choose
// the number of iterations, and with it how long the agent is busy.
func renderPKCS12(p Pair, o Output) ([]byte, error) {
	password := ""
	if o.Password != nil {
		var err error
		if password, err = o.Password(); err != nil {
			return nil, refusePassword(o, err)
		}
		switch {
		case password == "":
			return nil, refusePassword(o, errNoPassword)
		case !utf8.ValidString(password) || strings.HasPrefix(password, "\ufeff"):
			return nil, refusePassword(o, errEncoding)
		}
	}
	der, err := keys.PKCS8(p.Key)
	if err != nil {
		return nil, refuseMaterial(o, err)
	}
	defer clear(der)
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("write %s: read the private key: %w", o.Path, err)
	}
	salts := sha3.NewSHAKE256()
	add := func(part []byte) {
		salts.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
		salts.Write(part)
	}
	add([]byte("certagent pkcs12 output"))
	add(der)
	add([]byte(password))
	add(p.Leaf.Raw)
	for _, c := range p.Chain {
		add(c.Raw)
	}
	data, err := pkcs12.Modern2023.WithRand(salts).Encode(key, p.Leaf, p.Chain, password)
	if err != nil {
		return nil, refuseMaterial(o, err)
	}
	return data, nil
}
