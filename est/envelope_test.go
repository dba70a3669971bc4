package est

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"encoding/binary"
	"io"
	"strings"
	"testing"
)

// What openssl encrypts is opened: by issuer and serial number or by identifier, to us alone or to others too, with old
// and new RSA paddings, in DER or of indefinite length; with RFC 7030's SignedData in it, or the bare key.
func TestEnvelopes(t *testing.T) {
	unwrap := unwrapKey(t)
	want, err := parsePrivateKey(readTestdata(t, "keygen/key.pkcs8.der"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range named(t, "sealed.*.der") {
		for _, encrypted := range []bool{true, false} { // where it was not asked for it does no harm
			key, err := openKeyPart(part{body: readTestdata(t, name)}, encrypted, unwrap)
			if err != nil || !want.Public().(*ecdsa.PublicKey).Equal(key.Public()) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := openKeyPart(part{body: readTestdata(t, name)}, false, nil); err == nil ||
			!strings.Contains(err.Error(), "no key to decrypt it with") {
			t.Errorf("%s without a key: %v", name, err)
		}
	}
}

// An envelope that is not for us, or is of another make, is refused with its reason.
func TestEnvelopesRefused(t *testing.T) {
	unwrap := unwrapKey(t)
	reasons := map[string]string{
		"keygen/unopened.stranger.der": "not encrypted to our key",
		"keygen/unopened.gcm.der":      "another kind than EnvelopedData",
		"keygen/unopened.des3.der":     "another algorithm than AES-CBC",
		"keygen/unopened.ecdh.der":     "not of the kind for RSA keys",
		"keygen/unopened.kek.der":      "not of the kind for RSA keys",
	}
	for _, name := range named(t, "unopened.*.der") {
		_, err := openKeyPart(part{body: readTestdata(t, name)}, true, unwrap)
		if err == nil || !strings.Contains(err.Error(), reasons[name]) || reasons[name] == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// decrypterFunc is a key that opens as a test says.
type decrypterFunc func(message []byte) []byte

func (decrypterFunc) Public() crypto.PublicKey { return nil }

func (f decrypterFunc) Decrypt(_ io.Reader, message []byte, _ crypto.DecrypterOpts) ([]byte, error) {
	return f(message), nil
}

// What is encrypted to others, which PKCS #1 v1.5 opens with a random key, hides nothing that is encrypted to us: here
// that key gives octets that are well padded and look like a value.
func TestEnvelopeToOthersFirst(t *testing.T) {
	der := readTestdata(t, "keygen/key.pkcs8.der")
	iv, ours := make([]byte, aes.BlockSize), bytes.Repeat([]byte{7}, 16)
	pad := aes.BlockSize - len(der)%aes.BlockSize
	content := append(bytes.Clone(der), bytes.Repeat([]byte{byte(pad)}, pad)...)
	block, err := aes.NewCipher(ours)
	if err != nil {
		t.Fatal(err)
	}
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(content, content)
	theirs := make([]byte, 16)
	for n := uint64(0); ; n++ {
		binary.BigEndian.PutUint64(theirs, n)
		block, err := aes.NewCipher(theirs)
		if err != nil {
			t.Fatal(err)
		}
		plain := make([]byte, len(content))
		cipher.NewCBCDecrypter(block, iv).CryptBlocks(plain, content)
		if plain[len(plain)-1] == 1 && checkNesting(plain) == nil {
			break
		}
	}
	recipient := func(key []byte) []byte {
		return seq([]byte{2, 1, 0}, seq(), seq(tlv(6, []byte(keyTransportRSA))), octets(key))
	}
	message := seq(tlv(6, []byte(typeEnvelopedData)), tlv(0xa0, seq([]byte{2, 1, 0},
		set(recipient(theirs), recipient(ours)),
		seq(seq(), seq(tlv(6, []byte(cipherAES128)), octets(iv)), tlv(0x80, content)))))
	key, err := openKeyPart(part{body: message}, true, decrypterFunc(bytes.Clone))
	if err != nil || key == nil {
		t.Errorf("%v", err)
	}
}
