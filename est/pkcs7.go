package est

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"mime"
	"slices"
	"strconv"
	"strings"
)

// Bounds on what is read of an answer. A gateway's certificate with its chain is some 5 KiB.
const (
	answerLimit      = 1 << 20 // bytes of an answer that is a success
	errorTextLimit   = 4 << 10 // bytes kept of one that is not
	certificateLimit = 64      // certificates in an answer

	// rsaLimit is the size in bits of an RSA key, as crypto/tls bounds it: the cost of a signature grows with its cube,
	// and one of a million bits takes minutes that no time limit ends.
	rsaLimit = 8192
)

// Content types of PKCS#7 messages (RFC 5652), the contents octets of their object identifiers.
const (
	typeSignedData    = "\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02" // 1.2.840.113549.1.7.2
	typeEnvelopedData = "\x2a\x86\x48\x86\xf7\x0d\x01\x07\x03" // 1.2.840.113549.1.7.3
)

// Media types of answers, beside none at all. EST has the first (RFC 7030 4.1.3, 4.2.3); the others are what servers
// that grew out of another protocol call the same bytes, or a certificate without a message around it.
var (
	messageTypes = []string{"application/pkcs7-mime", "application/x-pkcs7-mime", "application/x-pkcs7-certificates"}
	bareTypes    = []string{"application/pkix-cert", "application/x-x509-ca-cert", "application/x-x509-user-cert",
		"application/x-pem-file", "application/pem-certificate-chain"}
)

// mediaTypeOf returns the media type in a Content-Type header, in lower case. What stands behind it differs from server
// to server, often in a way that mime.ParseMediaType would not have.
func mediaTypeOf(contentType string) string {
	mediaType, _, _ := strings.Cut(contentType, ";")
	return strings.ToLower(strings.TrimSpace(mediaType))
}

// quoteType returns a Content-Type header for an error: what it says of the type, where that is one. Behind it may
// stand anything, and where a server leaves out the line between header and body, the body.
func quoteType(contentType string) string {
	mediaType := mediaTypeOf(contentType)
	if _, _, err := mime.ParseMediaType(mediaType); err != nil && mediaType != "" {
		return "that is none"
	}
	return strconv.Quote(shorten(printable(mediaType), 100))
}

// parseCertificates returns the certificates of a body with this Content-Type, which may be empty: those of a
// certs-only message, or bare ones where the media type says so. Otherwise it is parseCertsOnly.
func parseCertificates(contentType string, body []byte) (certs []*x509.Certificate, unread []string, err error) {
	mediaType := mediaTypeOf(contentType)
	switch {
	case mediaType == "" || slices.Contains(messageTypes, mediaType):
		return parseCertsOnly(body)
	case !slices.Contains(bareTypes, mediaType):
		return nil, nil, fmt.Errorf("it is of type %s, not application/pkcs7-mime", quoteType(contentType))
	case isArmoured(body):
		return parseCertsOnly(body)
	}
	der, err := decodeBody(body)
	if err != nil {
		return nil, nil, err
	}
	if err := checkNesting(der); err != nil {
		return nil, nil, err
	}
	cert, _, err := readElement(der)
	if err != nil {
		return nil, nil, err
	}
	return parseRaw([][]byte{cert.raw})
}

// parseCertsOnly returns the certificates of a certs-only answer (RFC 7030 4.1.3, 4.2.3), at least one. RFC 8951 3
// says what it looks like: the base64 of a DER SignedData, with white space anywhere. Real servers also end it with a
// NUL, send the DER itself, or PEM, of a message or of bare certificates: all of these are understood. What cannot be
// read of a certificate in it is told in unread, one sentence each, as long as another one can.
func parseCertsOnly(body []byte) (certs []*x509.Certificate, unread []string, err error) {
	raw, err := rawCertificates(body)
	if err != nil {
		return nil, nil, err
	}
	return parseRaw(raw)
}

func rawCertificates(body []byte) ([][]byte, error) {
	if !isArmoured(body) {
		der, err := decodeBody(body)
		if err != nil {
			return nil, err
		}
		return signedCertificates(der)
	}
	var raw [][]byte
	for block, rest := pem.Decode(body); block != nil; block, rest = pem.Decode(rest) {
		switch block.Type {
		case "CERTIFICATE", "X509 CERTIFICATE":
			raw = append(raw, block.Bytes)
		case "PKCS7", "CMS":
			return signedCertificates(block.Bytes)
		}
	}
	if len(raw) == 0 {
		return nil, errors.New("PEM, but neither of certificates nor of a PKCS#7 message")
	}
	return raw, nil
}

// signedCertificates returns the certificates in a SignedData (RFC 5652 5.1) as they stand there. Nothing else in it is
// looked at: a certs-only message has no content and no signature (RFC 5272 4.1), and where a server sends some they
// prove no more than the TLS session does. Certificates of another kind, such as attribute certificates, and revocation
// lists are passed over. So is what stands behind the message: servers end raw DER with a newline or a NUL.
func signedCertificates(der []byte) ([][]byte, error) {
	// Before anything else: what follows recurses as deep as its input says.
	if err := checkNesting(der); err != nil {
		return nil, err
	}
	contentType, content, err := readContentInfo(der)
	if err != nil {
		return nil, err
	}
	if contentType != typeSignedData {
		return nil, errors.New("a PKCS#7 message, but not one of certificates (SignedData)")
	}
	fields, err := content.children()
	if err != nil {
		return nil, fmt.Errorf("parse PKCS#7: %w", err)
	}
	var raw [][]byte
	for _, field := range fields {
		if field.tag != tagContext0Cons {
			continue
		}
		choices, err := field.children()
		if err != nil {
			return nil, fmt.Errorf("parse PKCS#7: %w", err)
		}
		for _, choice := range choices {
			if choice.tag == tagSequence {
				raw = append(raw, choice.raw)
			}
		}
	}
	return raw, nil
}

// readContentInfo takes the outermost layer off a PKCS#7 message (RFC 5652 3). der has been through checkNesting.
func readContentInfo(der []byte) (contentType string, content element, err error) {
	outer, _, err := readElement(der)
	if err != nil {
		return "", element{}, err
	}
	if outer.tag != tagSequence {
		return "", element{}, errors.New("not a PKCS#7 message")
	}
	fields, err := outer.children()
	if err != nil {
		return "", element{}, err
	}
	if len(fields) < 2 || fields[0].tag != tagOID || fields[1].tag != tagContext0Cons {
		return "", element{}, errors.New("not a PKCS#7 message")
	}
	inside, err := fields[1].children()
	if err != nil {
		return "", element{}, err
	}
	if len(inside) != 1 || inside[0].tag != tagSequence {
		return "", element{}, errors.New("not a PKCS#7 message")
	}
	return string(fields[0].contents), inside[0], nil
}

// parseRaw parses certificates. One that cannot be parsed does not spoil the others: a CA that adds an old root with an
// odd extension to its answer would else shut out every device.
func parseRaw(raw [][]byte) (certs []*x509.Certificate, unread []string, err error) {
	switch {
	case len(raw) == 0:
		return nil, nil, errors.New("no certificate in it")
	case len(raw) > certificateLimit:
		return nil, nil, fmt.Errorf("%d certificates in it, %d are the limit", len(raw), certificateLimit)
	}
	for i, der := range raw {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			unread = append(unread, fmt.Sprintf("certificate %d of %d cannot be read: %s", i+1, len(raw),
				shorten(printable(err.Error()), 200)))
			continue
		}
		if key, ok := cert.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() > rsaLimit {
			return nil, nil, fmt.Errorf("certificate with an RSA key of %d bits, %d are the limit", key.N.BitLen(), rsaLimit)
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, nil, errors.New(shorten(strings.Join(unread, "; "), causeLimit/2))
	}
	return certs, unread, nil
}

// padding is what may stand around and, but for the NUL, inside base64 (RFC 8951 3.1).
const padding = "\r\n\t \x00"

// isArmoured reports whether a body is PEM, perhaps behind lines of text about it, as openssl writes them.
func isArmoured(body []byte) bool {
	text := bytes.TrimLeft(body, padding)
	begin := []byte("-----BEGIN ")
	// DER could have it inside, but is known by its first byte.
	return bytes.HasPrefix(text, begin) ||
		len(text) > 0 && text[0] != tagSequence && bytes.Contains(text, append([]byte("\n"), begin...))
}

// decodeBody returns the DER in a body, which must not be larger than answerLimit: of base64, or of itself.
func decodeBody(body []byte) ([]byte, error) {
	trimmed := bytes.Trim(body, padding)
	if len(trimmed) == 0 {
		return nil, errors.New("empty body")
	}
	stripped := slices.DeleteFunc(bytes.Clone(trimmed), func(b byte) bool { return strings.IndexByte(padding, b) >= 0 })
	defer clear(stripped) // it may be a key
	der, err := base64.StdEncoding.AppendDecode(nil, stripped)
	if err == nil {
		return der, nil
	}
	// DER begins with the tag of a SEQUENCE, which is also the letter 0; but none is all of base64's letters. Only the
	// front may be trimmed: the last byte of DER can be any.
	if raw := bytes.TrimLeft(body, padding); raw[0] == tagSequence {
		return raw, nil
	}
	return nil, errors.New("neither base64 nor DER")
}
