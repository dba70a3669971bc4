package agent

import (
	"crypto/x509"
	"errors"
	"fmt"

	"certagent/est"
	"certagent/store"
	"certagent/store/keys"
)

// decryptKey is the certificate to whose key a key that the server makes shall be encrypted (RFC 7030 section 4.4.1.2): the
// one that logs in, if its key is RSA and may be used so; else nil, and the key comes in clear. A key that itself came in
// clear keeps nothing from whoever saw it; to ask for it all the same would shut out servers that encrypt nothing, which
// make RSA keys (libest), at the first renewal.
func decryptKey(o order, id identity) *x509.Certificate {
	if id.cert == nil || keys.Decrypter(id.cert.PrivateKey) == nil {
		return nil
	}
	leaf := id.cert.Leaf
	if leaf.KeyUsage != 0 && leaf.KeyUsage&x509.KeyUsageKeyEncipherment == 0 {
		return nil
	}
	for _, g := range []*store.Generation{o.live, o.estLogin} {
		if g != nil && g.Leaf.Equal(leaf) && g.Meta.Operation == opServerKeygen && !g.Meta.KeyEncrypted {
			return nil
		}
	}
	return leaf
}

// serverKey is the key that the server made.
func serverKey(issued *est.Issued) (keys.Key, error) {
	if issued.Key == nil {
		return nil, serverKeyFailure(errors.New("there is none in its answer"))
	}
	key, err := keys.Of(issued.Key)
	if err != nil {
		return nil, serverKeyFailure(err)
	}
	return key, nil
}

func serverKeyFailure(err error) error {
	return &failure{
		class: "key",
		problem: Problem{
			Code: "server-key", Hint: "have the server make a key of the kind that key = \"…\" says, or leave out server_key",
		},
		err: fmt.Errorf("take the key that the server made: %w", err),
	}
}
