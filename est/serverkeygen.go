package est

import (
	"context"
	"crypto"
	"errors"
)

// ServerKeygen has the server make the key (RFC 7030 4.4) and returns it in Issued.Key, with the certificate for it. csr
// says what to ask for; its own key and signature only carry it. Where the request names the key of unwrap as
// the one to encrypt to (Template.DecryptKey), the reply must be encrypted, and unwrap opens it.
func (c *Client) ServerKeygen(ctx context.Context, csr []byte, want Want, unwrap crypto.Decrypter) (*Issued, error) {
	return nil, errors.New("not built")
}
