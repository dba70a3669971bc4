package est

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/smallstep/pkcs7"
)

// Bounds on what is read of an answer. A gateway's certificate with its chain is some 5 KiB.
const (
	answerLimit      = 1 << 20 // bytes of an answer that is a success
	errorTextLimit   = 4 << 10 // bytes kept of one that is not
	certificateLimit = 64      // certificates in an answer
	depthLimit       = 32      // nesting of ASN.1 values
	elementLimit     = 1 << 16 // ASN.1 values in all

	// rsaLimit is the size in bits of an RSA key, as crypto/tls bounds it: the cost of a signature grows with its cube,
	// and one of a million bits takes minutes that no time limit ends.
	rsaLimit = 8192
)

// parseCertsOnly returns the certificates of a certs-only answer (RFC 7030 4.1.3, 4.2.3), at least one. RFC 8951 3
// says what it looks like: the base64 of a DER SignedData, with white space anywhere. Real servers also end it with a
// NUL, armour it as PEM, or send the DER itself; all of these are understood.
func parseCertsOnly(body []byte) (certs []*x509.Certificate, err error) {
	der, err := decodeBody(body)
	if err != nil {
		return nil, err
	}
	// The bounds come first: the parser below recurses as deep as its input says.
	if err := checkNesting(der); err != nil {
		return nil, err
	}
	defer func() {
		// The bytes are from outside and the parser is not ours: a panic in it is a bad answer, not our end.
		if r := recover(); r != nil {
			certs, err = nil, fmt.Errorf("parse PKCS#7: parser panicked: %v", r)
		}
	}()
	message, err := pkcs7.Parse(der)
	switch {
	case err != nil:
		return nil, fmt.Errorf("parse PKCS#7: %w", err)
	case len(message.Certificates) == 0:
		return nil, errors.New("no certificate in it")
	case len(message.Certificates) > certificateLimit:
		return nil, fmt.Errorf("%d certificates in it, %d are the limit", len(message.Certificates), certificateLimit)
	}
	for _, cert := range message.Certificates {
		if key, ok := cert.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() > rsaLimit {
			return nil, fmt.Errorf("certificate with an RSA key of %d bits, %d are the limit", key.N.BitLen(), rsaLimit)
		}
	}
	return message.Certificates, nil
}

// decodeBody returns the DER in a body, which must not be larger than answerLimit.
func decodeBody(body []byte) ([]byte, error) {
	trimmed := bytes.Trim(body, "\r\n\t \x00")
	if len(trimmed) == 0 {
		return nil, errors.New("empty body")
	}
	if bytes.HasPrefix(trimmed, []byte("-----BEGIN ")) {
		block, _ := pem.Decode(trimmed)
		if block == nil || (block.Type != "PKCS7" && block.Type != "CMS") {
			return nil, errors.New("PEM, but not of a PKCS#7 message")
		}
		return block.Bytes, nil
	}
	stripped := bytes.Map(func(r rune) rune {
		switch r {
		case '\r', '\n', '\t', ' ', 0:
			return -1
		}
		return r
	}, trimmed)
	der, err := base64.StdEncoding.AppendDecode(nil, stripped)
	if err == nil {
		return der, nil
	}
	// DER begins with the tag of a SEQUENCE, which is also the letter 0; but none is all of base64's letters. Only the
	// front may be trimmed: the last byte of DER can be any.
	if raw := bytes.TrimLeft(body, "\r\n\t \x00"); raw[0] == 0x30 {
		return raw, nil
	}
	return nil, errors.New("neither base64 nor DER")
}

// checkNesting walks the BER encoding at the head of b, the way the PKCS#7 parser will, and fails on one that is cut
// short, nested too deep, or of too many elements. What follows the first value is not looked at.
func checkNesting(b []byte) error {
	left := elementLimit
	_, err := skipElement(b, 1, &left)
	return err
}

var errCutShort = errors.New("ASN.1: cut short")

// skipElement returns how many bytes the value at the head of b takes. depth is that of the value itself, left the
// number of elements that may still come.
func skipElement(b []byte, depth int, left *int) (int, error) {
	if depth > depthLimit {
		return 0, fmt.Errorf("ASN.1: nested deeper than %d", depthLimit)
	}
	if *left--; *left < 0 {
		return 0, fmt.Errorf("ASN.1: more than %d values", elementLimit)
	}
	head, length, err := readHeader(b)
	if err != nil {
		return 0, err
	}
	const constructed = 0x20
	indefinite := length < 0
	if b[0]&constructed == 0 {
		if indefinite {
			return 0, errors.New("ASN.1: primitive value of indefinite length")
		}
		return head + length, nil
	}
	at, end := head, len(b)
	if !indefinite {
		end = head + length
	}
	for at < end {
		if indefinite && end-at >= 2 && b[at] == 0 && b[at+1] == 0 {
			if at == head {
				// The parser takes this end mark for a value and reads on behind it, where we would not have looked.
				return 0, errors.New("ASN.1: empty value of indefinite length")
			}
			return at + 2, nil
		}
		n, err := skipElement(b[at:end], depth+1, left)
		if err != nil {
			return 0, err
		}
		at += n
	}
	if indefinite {
		return 0, errCutShort
	}
	return end, nil
}

// readHeader returns the size of the tag and length at the head of b, and the length they give: -1 for an indefinite
// one, else one that b can hold.
func readHeader(b []byte) (head, length int, err error) {
	if len(b) < 2 {
		return 0, 0, errCutShort
	}
	head = 1
	const highTag = 0x1f
	if b[0]&highTag == highTag {
		for head < len(b) && b[head]&0x80 != 0 {
			head++
		}
		head++
	}
	if head >= len(b) {
		return 0, 0, errCutShort
	}
	first := b[head]
	head++
	switch {
	case first < 0x80:
		length = int(first)
	case first == 0x80:
		return head, -1, nil
	default:
		n := int(first & 0x7f)
		if n > 3 { // answerLimit fits into three bytes
			return 0, 0, errors.New("ASN.1: length of more than three bytes")
		}
		if len(b)-head < n {
			return 0, 0, errCutShort
		}
		for range n {
			length = length<<8 | int(b[head])
			head++
		}
	}
	if length > len(b)-head {
		return 0, 0, errCutShort
	}
	return head, length, nil
}
