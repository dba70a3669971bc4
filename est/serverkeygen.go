package est

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strings"
)

// keyPartLimit bounds the decoded private key part, in bytes: an envelope, the signed key in it, the signer's chain.
const keyPartLimit = 64 << 10

const (
	hintExposed = "the key must be thought exposed: have its certificate revoked, and have the server encrypt keys"
	hintNoKeys  = "have the device make its key (simpleenroll), or use a URL or label that makes keys"
)

// ServerKeygen has the server make the key (RFC 7030 4.4) and returns it in Issued.Key, with the certificate for it. It
// is for devices that cannot make good keys themselves. csr (DER) says what to ask for; its own key and signature only
// carry it.
//
// Where csr names the key of unwrap as the one to encrypt to ([Template].DecryptKey), the key must come encrypted, and
// unwrap opens it: a CMS EnvelopedData for an RSA key, with AES in CBC mode. unwrap is nil where no encryption is asked
// for. A symmetric key to encrypt to (RFC 7030 4.4.1.1) is not supported: it would have to be shared with the server by
// other means, and could as well be the device's key.
//
// The server must be authorised by explicit trust anchors; by implicit ones nothing is asked of it (RFC 7030 6), and
// that is an ErrUntrusted. The certificate must be for the key that came with it, and passes the checks of
// [Client.Enroll] besides. A key that a server made for us and that fails a check is not used, but somebody has it. No
// error has anything of an answer in it that could hold a key.
func (c *Client) ServerKeygen(ctx context.Context, csr []byte, want Want, unwrap crypto.Decrypter) (*Issued, error) {
	r := &request{op: "serverkeygen", certificate: c.o.Certificate, csr: csr, secret: true}
	encrypted, err := asksForEncryption(csr)
	if err == nil && encrypted && unwrap == nil {
		err = errors.New("the request asks for an encrypted key, but there is none to decrypt it with")
	}
	if err != nil {
		return nil, c.fail(r, ErrRejected, nil, err)
	}
	issued, err := c.enroll(ctx, r, want, func(r *request, a *answer) (granted, error) {
		return c.openKeygen(r, a, encrypted, unwrap)
	})
	if e, ok := errors.AsType[*Error](err); ok && e.Op == r.op {
		switch e.Status {
		case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented:
			e.Err, e.Hint, e.Refusal = errors.New("the server makes no keys"), hintNoKeys, false
		}
		if e.Status < http.StatusBadRequest {
			e.Detail = "" // text that is no error's may be a key
		}
	}
	return issued, err
}

// openKeygen takes the answer to serverkeygen apart (RFC 7030 4.4.2), and clears it.
func (c *Client) openKeygen(r *request, a *answer, encrypted bool, unwrap crypto.Decrypter) (granted, error) {
	defer clear(a.body)
	refuse := func(hint string, err error) (granted, error) {
		e := c.failHint(r, ErrBadResponse, err, hint)
		e.Status = a.status
		return granted{}, e
	}
	parts, err := splitMultipart(a.header.Get("Content-Type"), a.body)
	if err != nil {
		return refuse("check that the URL leads to an EST server", err)
	}
	key, certificate, err := tellApart(parts)
	if err != nil {
		return refuse("", err)
	}
	defer clear(key.body) // the certificates may go on to use the other part's
	private, err := openKeyPart(key, encrypted, unwrap)
	if errors.Is(err, errInClear) {
		return refuse(hintExposed, err)
	}
	if err != nil {
		return refuse("", fmt.Errorf("private key part: %w", err))
	}
	certs, unread, err := parseCertificates(certificate.contentType, certificate.body)
	if err != nil {
		return refuse("", fmt.Errorf("certificate part: %w", err))
	}
	return granted{key: private, certs: certs, unread: unread}, nil
}

// tellApart finds out which part is the key. They come in either order.
func tellApart(parts [2]part) (key, certificate part, err error) {
	switch first, second := parts[0].isKey(), parts[1].isKey(); {
	case first && !second:
		return parts[0], parts[1], nil
	case second && !first:
		return parts[1], parts[0], nil
	}
	return key, certificate, fmt.Errorf("its parts are of type %s and %s, not a private key and a certificate",
		quoteType(parts[0].contentType), quoteType(parts[1].contentType))
}

const mediaTypePKCS8 = "application/pkcs8"

// isKey reports whether a part is a private key, encrypted or not. Where its smime-type does not say what a PKCS#7
// message is, the message itself does.
func (p part) isKey() bool {
	if p.mediaType == mediaTypePKCS8 {
		return true
	}
	if !slices.Contains(messageTypes, p.mediaType) {
		return false
	}
	if _, parameters, err := mime.ParseMediaType(p.contentType); err == nil && parameters["smime-type"] != "" {
		return strings.EqualFold(parameters["smime-type"], "server-generated-key")
	}
	der, err := decodeBody(p.body)
	return err == nil && messageType(der) == typeEnvelopedData
}

// messageType returns the content type of a PKCS#7 message, "" for what is none.
func messageType(der []byte) string {
	if checkNesting(der) != nil {
		return ""
	}
	contentType, _, err := readContentInfo(der)
	if err != nil {
		return ""
	}
	return contentType
}

var errInClear = errors.New("the private key came in clear, although it was to be encrypted")

// openKeyPart returns the key in a part. An envelope is known by what it is, not by what the part is called.
func openKeyPart(p part, encrypted bool, unwrap crypto.Decrypter) (crypto.Signer, error) {
	der, err := decodeKey(p.body)
	if err != nil {
		return nil, err
	}
	defer clear(der)
	if len(der) > keyPartLimit {
		return nil, fmt.Errorf("%d bytes, %d are the limit", len(der), keyPartLimit)
	}
	switch messageType(der) {
	case "", typeSignedData:
		if encrypted {
			return nil, errInClear // also if we could not read it: others may
		}
		return parsePrivateKey(der)
	}
	if unwrap == nil {
		return nil, errors.New("it came encrypted, but there is no key to decrypt it with")
	}
	plain, err := openEnvelope(der, unwrap)
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	return parsePrivateKey(plain)
}
