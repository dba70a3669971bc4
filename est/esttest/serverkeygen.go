package esttest

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"net/http"

	"go.mozilla.org/pkcs7"
)

// A server makes keys for devices that cannot (RFC 7030 section 4.4). The two faces answer as their models do. Behind
// globalsign's router it is a key of the kind that the request came with, as PKCS#8, and encrypted where the request
// names a key to encrypt to. libest makes an RSA key always, sends PKCS#1 under the name of PKCS#8, and in clear,
// whatever was asked for.

var (
	oidAsymmetricDecryptKeyID = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 2, 54}

	oidPlainData     = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	oidEnvelopedData = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 3}
	oidRSA           = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
	oidAES256CBC     = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 42}
)

var errNoSuchKey = errors.New("the request names a key to encrypt to that is not known here")

// generateLike makes a key of the kind that public is.
func generateLike(public any) (crypto.Signer, error) {
	switch public := public.(type) {
	case *rsa.PublicKey:
		return rsa.GenerateKey(rand.Reader, min(max(public.N.BitLen(), 2048), 4096))
	case *ecdsa.PublicKey:
		return ecdsa.GenerateKey(public.Curve, rand.Reader)
	case ed25519.PublicKey:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	}
	return nil, fmt.Errorf("no key like a %T is made here", public)
}

// enrolGenerated is enrol for a key that is put in place of the request's.
func (s *Server) enrolGenerated(
	ex *exchange, csr *x509.CertificateRequest, key crypto.Signer,
) (*x509.Certificate, error) {
	with := *csr
	with.PublicKey = key.Public()
	return s.enrol(ex, &with)
}

// serverKey makes the key that a request wants, and its certificate. What it returns as key is PKCS#8, or an
// EnvelopedData around it.
func (s *Server) serverKey(ex *exchange, csr *x509.CertificateRequest) (cert *x509.Certificate, key []byte, err error) {
	recipient, err := s.decryptKey(ex, csr)
	if err != nil {
		return nil, nil, err
	}
	private, err := generateLike(csr.PublicKey)
	if err != nil {
		return nil, nil, err
	}
	if cert, err = s.enrolGenerated(ex, csr, private); err != nil {
		return nil, nil, err
	}
	key, err = x509.MarshalPKCS8PrivateKey(private)
	if err != nil || recipient == nil {
		return cert, key, err
	}
	signed, err := s.signKeyPackage(key)
	if err != nil {
		return nil, nil, err
	}
	key, err = envelop(signed, recipient)
	return cert, key, err
}

// signKeyPackage puts a key into an AsymmetricKeyPackage (RFC 5958 section 2), and that into a SignedData of the CA's.
func (s *Server) signKeyPackage(key []byte) ([]byte, error) {
	keys, err := asn1.Marshal([]asn1.RawValue{{FullBytes: key}})
	if err != nil {
		return nil, err
	}
	message, err := pkcs7.NewSignedData(keys)
	if err != nil {
		return nil, fmt.Errorf("sign key package: %w", err)
	}
	message.SetDigestAlgorithm(pkcs7.OIDDigestAlgorithmSHA256)
	if err := message.AddSigner(s.Issuer, s.authority.issuing.key, pkcs7.SignerInfoConfig{}); err != nil {
		return nil, fmt.Errorf("sign key package: %w", err)
	}
	return message.Finish()
}

// makeKey answers as libest does, whose parts begin with an empty line.
func (f *libestFace) makeKey(w http.ResponseWriter, ex *exchange, csr *x509.CertificateRequest) error {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	cert, err := f.server.enrolGenerated(ex, csr, private)
	if err != nil {
		return err
	}
	certs, err := certsOnly([]*x509.Certificate{cert}, 64, "\n")
	if err != nil {
		return err
	}
	const boundary = "estServerKeyGenBoundary"
	var body bytes.Buffer
	for _, part := range []struct {
		contentType string
		content     []byte
	}{
		{"application/pkcs8", base64Lines(x509.MarshalPKCS1PrivateKey(private), 64, "\n")},
		{"application/pkcs7-mime; smime-type=certs-only", certs},
	} {
		fmt.Fprintf(&body, "\r\n--%s\r\nContent-Type: %s\r\nContent-Transfer-Encoding: base64\r\n\r\n%s",
			boundary, part.contentType, part.content)
	}
	fmt.Fprintf(&body, "\r\n--%s--\r\n", boundary)
	f.send(w, http.StatusOK, "multipart/mixed ; boundary="+boundary, body.Bytes())
	return nil
}

// decryptKey returns the certificate to whose key a request wants its key encrypted, nil if it does not: the one that
// the client logged in with, or one of Options.KeyRecipients.
func (s *Server) decryptKey(ex *exchange, csr *x509.CertificateRequest) (*x509.Certificate, error) {
	value, found, err := requestAttribute(csr, oidAsymmetricDecryptKeyID)
	if err != nil || !found {
		return nil, err
	}
	var id []byte
	if _, err := asn1.Unmarshal(value.FullBytes, &id); err != nil {
		return nil, errors.New("decode AsymmetricDecryptKeyIdentifier of the request")
	}
	known := s.options.KeyRecipients
	if ex.login.Certificate != nil {
		known = append([]*x509.Certificate{ex.login.Certificate}, known...)
	}
	for _, cert := range known {
		if _, ok := cert.PublicKey.(*rsa.PublicKey); ok && bytes.Equal(cert.SubjectKeyId, id) {
			return cert, nil
		}
	}
	return nil, errNoSuchKey
}

// The parts of a CMS message (RFC 5652). The libraries for it that there are encrypt with DES unless a variable of
// theirs is changed, for the whole program.
type (
	contentInfo struct {
		Type    asn1.ObjectIdentifier
		Content asn1.RawValue
	}
	issuerAndSerial struct {
		Issuer asn1.RawValue
		Serial *big.Int
	}
	recipientInfo struct {
		Version   int
		Recipient issuerAndSerial
		Algorithm pkix.AlgorithmIdentifier
		Key       []byte
	}
	encryptedContentInfo struct {
		Type      asn1.ObjectIdentifier
		Algorithm pkix.AlgorithmIdentifier
		Content   []byte `asn1:"tag:0"`
	}
	envelopedData struct {
		Version    int
		Recipients []recipientInfo `asn1:"set"`
		Content    encryptedContentInfo
	}
)

// envelop encrypts content to an RSA key with AES-256 in CBC mode: an EnvelopedData (RFC 5652 section 6).
func envelop(content []byte, to *x509.Certificate) ([]byte, error) {
	secret := make([]byte, 32+aes.BlockSize)
	rand.Read(secret) // never fails
	key, iv := secret[:32], secret[32:]
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	pad := aes.BlockSize - len(content)%aes.BlockSize
	sealed := append(bytes.Clone(content), bytes.Repeat([]byte{byte(pad)}, pad)...)
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(sealed, sealed)
	//lint:ignore SA1019 what servers write: CMS has had it since RFC 2630
	wrapped, err := rsa.EncryptPKCS1v15(rand.Reader, to.PublicKey.(*rsa.PublicKey), key)
	if err != nil {
		return nil, fmt.Errorf("encrypt to the key of %s: %w", to.Subject, err)
	}
	data, err := asn1.Marshal(envelopedData{
		Recipients: []recipientInfo{{
			Recipient: issuerAndSerial{asn1.RawValue{FullBytes: to.RawIssuer}, to.SerialNumber},
			Algorithm: pkix.AlgorithmIdentifier{Algorithm: oidRSA, Parameters: asn1.NullRawValue},
			Key:       wrapped,
		}},
		Content: encryptedContentInfo{
			Type: oidPlainData,
			Algorithm: pkix.AlgorithmIdentifier{
				Algorithm: oidAES256CBC, Parameters: asn1.RawValue{Tag: asn1.TagOctetString, Bytes: iv},
			},
			Content: sealed,
		},
	})
	if err != nil {
		return nil, err
	}
	return asn1.Marshal(contentInfo{oidEnvelopedData, asn1.RawValue{
		Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: data,
	}})
}
