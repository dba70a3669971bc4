package est

import (
	"bytes"
	"crypto/sha1"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// The request names the key as RFC 7030 4.4.1.2 has it, and lists what its answer may be encrypted with.
func TestDecryptKeyAttributes(t *testing.T) {
	unwrap := unwrapKey(t)
	root := newRoot(t, "root")
	template := func(usage x509.KeyUsage, id []byte) *x509.Certificate {
		return root.certify(t, &x509.Certificate{KeyUsage: usage, SubjectKeyId: id}, unwrap.Public())
	}
	// SHA-1 of the key (RFC 5280 4.2.1.2), as openssl computes it.
	sum := sha1.Sum(x509.MarshalPKCS1PublicKey(&unwrap.PublicKey))
	for _, test := range []struct {
		cert *x509.Certificate
		id   []byte
		err  string
	}{
		{template(0, []byte("id")), []byte("id"), ""},
		{template(x509.KeyUsageKeyEncipherment|x509.KeyUsageDigitalSignature, nil), sum[:], ""},
		{template(x509.KeyUsageDigitalSignature, nil), nil, "keyEncipherment"},
		{root.cert, nil, "only RSA"},
	} {
		der, err := CreateRequest(newKey(t), Template{Subject: commonName("gw-1"), DecryptKey: test.cert})
		if test.err != "" {
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("%v, want %q", err, test.err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		var info requestInfo
		if _, err := asn1.Unmarshal(parsedRequest(t, der).RawTBSCertificateRequest, &info); err != nil {
			t.Fatal(err)
		}
		values := map[string]asn1.RawValue{}
		for _, a := range info.Attributes {
			values[a.Type.String()] = a.Values[0]
		}
		id := values["1.2.840.113549.1.9.16.2.54"]
		if id.Tag != asn1.TagOctetString || !bytes.Equal(id.Bytes, test.id) {
			t.Errorf("identifier %x, want %x", id.FullBytes, test.id)
		}
		// RSAES-OAEP with its defaults (RFC 3560 5); rsaEncryption, aes256-CBC, aes192-CBC, aes128-CBC, without parameters
		// (RFC 8551 2.5.2, RFC 3565 4.1).
		const capabilities = "3043300d06092a864886f70d0101073000300b06092a864886f70d010101" +
			"300b060960864801650304012a300b0609608648016503040116300b0609608648016503040102"
		if got := fmt.Sprintf("%x", values["1.2.840.113549.1.9.15"].FullBytes); got != capabilities {
			t.Errorf("capabilities %s, want %s", got, capabilities)
		}
	}
}

// A symmetric key to encrypt to (RFC 7030 4.4.1.1) is declined before anybody is asked.
func TestSymmetricDecryptKeyIsDeclined(t *testing.T) {
	s := newServer(t).start()
	key, der := newRequest(t, Template{Subject: commonName("gw-1")})
	var info requestInfo
	if _, err := asn1.Unmarshal(parsedRequest(t, der).RawTBSCertificateRequest, &info); err != nil {
		t.Fatal(err)
	}
	info.Attributes = []typedValues{{Type: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 2, 37},
		Values: []asn1.RawValue{{Tag: asn1.TagOctetString, Bytes: []byte("its name")}}}}
	changed, err := asn1.Marshal(info)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := signRequest(key, 0, changed)
	if err != nil {
		t.Fatal(err)
	}
	_, err = newClient(t, s.options()).ServerKeygen(t.Context(), csr, Want{}, nil)
	if !errors.Is(err, ErrRejected) || !strings.Contains(err.Error(), "symmetric key") || s.connections() != 0 {
		t.Errorf("%v, %d connections", err, s.connections())
	}
}
