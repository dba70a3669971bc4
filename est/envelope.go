package est

import (
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha256" // for OAEP
	_ "crypto/sha512"
	"encoding/asn1"
	"errors"
	"fmt"
)

// recipientLimit bounds how many recipients of an envelope are tried: each costs an RSA operation.
const recipientLimit = 8

// Algorithms of an envelope, the contents octets of their object identifiers.
const (
	keyTransportRSA  = "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01" // RSAES-PKCS1-v1_5 (RFC 3370 4.2.1)
	keyTransportOAEP = "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x07" // RSAES-OAEP (RFC 3560)
	cipherAES128     = "\x60\x86\x48\x01\x65\x03\x04\x01\x02" // AES-CBC (RFC 3565 2.4)
	cipherAES192     = "\x60\x86\x48\x01\x65\x03\x04\x01\x16" //
	cipherAES256     = "\x60\x86\x48\x01\x65\x03\x04\x01\x2a" //
)

// envelope is an EnvelopedData (RFC 5652 6.1) as far as we can open one.
type envelope struct {
	recipients []recipient
	keySize    int // of the content's key, in bytes
	iv         []byte
	content    []byte // encrypted
}

// recipient is the content's key, encrypted for one of those that may read it (RFC 5652 6.2.1).
type recipient struct {
	options crypto.DecrypterOpts
	key     []byte // encrypted
}

// openEnvelope decrypts the content of an EnvelopedData. der, the message, has been through checkNesting. Which of the
// recipients is us is found by trying: a server may name one by the identifier that was sent, or by issuer and serial
// number. What another's key gives looks well padded once in 256 times, so the plaintext must be one SEQUENCE, which has
// been through checkNesting too. It is the caller's to clear.
func openEnvelope(der []byte, unwrap crypto.Decrypter) ([]byte, error) {
	contentType, content, err := readContentInfo(der)
	if err != nil {
		return nil, err
	}
	if contentType != typeEnvelopedData {
		return nil, errors.New("a PKCS#7 message of another kind than EnvelopedData")
	}
	sealed, err := parseEnvelope(content)
	if err != nil {
		return nil, fmt.Errorf("parse EnvelopedData: %w", err)
	}
	for _, r := range sealed.recipients {
		plain, ok := sealed.open(r, unwrap)
		if ok && checkNesting(plain) == nil {
			if e, rest, err := readElement(plain); err == nil && e.tag == tagSequence && len(rest) == 0 {
				return plain, nil
			}
		}
		clear(plain)
	}
	return nil, errors.New("it is not encrypted to our key")
}

func parseEnvelope(e element) (*envelope, error) {
	fields, err := e.children()
	if err != nil {
		return nil, err
	}
	var recipients, content element
	for _, field := range fields {
		switch field.tag {
		case tagSet:
			recipients = field
		case tagSequence:
			content = field
		}
	}
	sealed := &envelope{}
	if err := sealed.parseContent(content); err != nil {
		return nil, err
	}
	infos, err := recipients.children()
	if err != nil {
		return nil, err
	}
	if len(infos) > recipientLimit {
		return nil, fmt.Errorf("%d recipients, %d are the limit", len(infos), recipientLimit)
	}
	var refused error
	for _, info := range infos {
		r, err := parseRecipient(info, sealed.keySize)
		if err != nil {
			refused = err
			continue
		}
		sealed.recipients = append(sealed.recipients, r)
	}
	if len(sealed.recipients) == 0 && refused != nil {
		return nil, refused
	}
	return sealed, nil
}

// parseContent reads an EncryptedContentInfo. What is in it, it says itself: the content type is not looked at.
func (sealed *envelope) parseContent(e element) error {
	fields, err := e.children()
	if err != nil {
		return err
	}
	if len(fields) < 3 || fields[1].tag != tagSequence || fields[2].tag&^constructed != tagContext0 {
		return errors.New("no encrypted content")
	}
	algorithm, err := fields[1].children()
	if err != nil {
		return err
	}
	if len(algorithm) != 2 || algorithm[0].tag != tagOID {
		return errors.New("no content encryption algorithm")
	}
	switch string(algorithm[0].contents) {
	case cipherAES128:
		sealed.keySize = 16
	case cipherAES192:
		sealed.keySize = 24
	case cipherAES256:
		sealed.keySize = 32
	default:
		return errors.New("its content is encrypted with another algorithm than AES-CBC, which is what we ask for")
	}
	if sealed.iv, err = algorithm[1].octets(); err != nil {
		return err
	}
	if sealed.content, err = fields[2].octets(); err != nil {
		return err
	}
	if len(sealed.iv) != aes.BlockSize || len(sealed.content) == 0 || len(sealed.content)%aes.BlockSize != 0 {
		return errors.New("initialisation vector or content is not of whole blocks")
	}
	return nil
}

// parseRecipient reads a KeyTransRecipientInfo. The other kinds are for keys that we cannot ask to be encrypted to.
func parseRecipient(e element, keySize int) (recipient, error) {
	if e.tag != tagSequence {
		return recipient{}, errors.New("its recipient is not of the kind for RSA keys (ktri)")
	}
	fields, err := e.children()
	if err != nil {
		return recipient{}, err
	}
	if len(fields) != 4 || fields[2].tag != tagSequence || fields[3].tag != tagOctetString {
		return recipient{}, errors.New("its recipient cannot be read")
	}
	algorithm, err := fields[2].children()
	if err != nil {
		return recipient{}, err
	}
	if len(algorithm) == 0 || algorithm[0].tag != tagOID {
		return recipient{}, errors.New("no key encryption algorithm")
	}
	switch string(algorithm[0].contents) {
	case keyTransportRSA:
		// The danger is Bleichenbacher's attack: who learns which paddings are right can have us decrypt and sign with the
		// device's login key. With the size given, a wrong one shows as a random key, which opens nothing, as does a right
		// one whose key the server did not know: it is told the same of both, by what we do next and by how long it takes.
		//lint:ignore SA1019 OAEP is better, and this is what CMS has had since RFC 2630 and most servers write
		return recipient{&rsa.PKCS1v15DecryptOptions{SessionKeyLen: keySize}, fields[3].contents}, nil
	case keyTransportOAEP:
		options := &rsa.OAEPOptions{Hash: crypto.SHA1, MGFHash: crypto.SHA1} // the defaults of RFC 8017, A.2.1
		if len(algorithm) > 1 {
			if options, err = parseOAEP(algorithm[1].raw); err != nil {
				return recipient{}, err
			}
		}
		return recipient{options, fields[3].contents}, nil
	}
	return recipient{}, errors.New("its key is encrypted with another algorithm than RSA")
}

// parseOAEP reads RSAES-OAEP-params (RFC 8017, A.2.1).
func parseOAEP(der []byte) (*rsa.OAEPOptions, error) {
	type algorithm struct {
		OID        asn1.ObjectIdentifier
		Parameters asn1.RawValue `asn1:"optional"`
	}
	var parameters struct {
		Hash   algorithm     `asn1:"optional,explicit,tag:0"`
		Mask   algorithm     `asn1:"optional,explicit,tag:1"`
		Source asn1.RawValue `asn1:"optional,explicit,tag:2"`
	}
	if _, err := asn1.Unmarshal(der, &parameters); err != nil {
		return nil, errors.New("parameters of RSA-OAEP that cannot be read")
	}
	options := &rsa.OAEPOptions{Hash: crypto.SHA1, MGFHash: crypto.SHA1}
	var err error
	if len(parameters.Hash.OID) > 0 {
		if options.Hash, err = hashOf(parameters.Hash.OID); err != nil {
			return nil, err
		}
	}
	if len(parameters.Mask.OID) > 0 {
		var hash algorithm
		if _, err := asn1.Unmarshal(parameters.Mask.Parameters.FullBytes, &hash); err != nil {
			return nil, errors.New("parameters of RSA-OAEP that cannot be read")
		}
		if options.MGFHash, err = hashOf(hash.OID); err != nil {
			return nil, err
		}
	}
	return options, nil
}

func hashOf(oid asn1.ObjectIdentifier) (crypto.Hash, error) {
	switch {
	case oid.Equal(asn1.ObjectIdentifier{1, 3, 14, 3, 2, 26}):
		return crypto.SHA1, nil
	case oid.Equal(oidSHA256):
		return crypto.SHA256, nil
	case oid.Equal(oidSHA384):
		return crypto.SHA384, nil
	case oid.Equal(oidSHA512):
		return crypto.SHA512, nil
	}
	return 0, errors.New("RSA-OAEP with a hash that we do not know")
}

// open decrypts the content with the key that was encrypted for r. It is false where that is not for us. The content is
// not authenticated: that is up to the TLS session, and to the certificate that what is in it must match.
func (sealed *envelope) open(r recipient, unwrap crypto.Decrypter) (plain []byte, ok bool) {
	key, err := unwrap.Decrypt(rand.Reader, r.key, r.options)
	if err != nil || len(key) != sealed.keySize {
		return nil, false
	}
	defer clear(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, false
	}
	plain = make([]byte, len(sealed.content))
	cipher.NewCBCDecrypter(block, sealed.iv).CryptBlocks(plain, sealed.content)
	// The padding (RFC 5652 6.3): n bytes of value n.
	n := int(plain[len(plain)-1])
	if n == 0 || n > aes.BlockSize {
		return plain, false
	}
	for _, b := range plain[len(plain)-n:] {
		if int(b) != n {
			return plain, false
		}
	}
	return plain[:len(plain)-n], true
}
