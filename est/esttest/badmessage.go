package esttest

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"io"
	"net/http"
	"slices"
)

// badMessages misbehave in the encoding of the PKCS#7 message that an enrolment is answered with (RFC 5652).
func badMessages() []Misbehaviour {
	// der answers with these bytes.
	der := func(b []byte) func(*Server) {
		return onEnrol(Garbage(certsOnlyType, base64.StdEncoding.EncodeToString(b)))
	}
	// issued answers with what encode makes of a certificate that is good, and of the CA's.
	issued := func(encode func(s *Server, leaf *x509.Certificate) []byte) func(*Server) {
		return onEnrol(answering(func(s *Server, csr *x509.CertificateRequest) []byte {
			return encode(s, must(s.Issue(csr)))
		}))
	}
	return []Misbehaviour{
		{Name: "base64 that breaks off", Class: "bad-response", play: onEnrol(
			func(w http.ResponseWriter, r *http.Request, real http.Handler) {
				answer := capture(real, r)
				Garbage(certsOnlyType, string(answer.body[:201]))(w, r, real)
			})},
		{Name: "base64 with letters that are none", Class: "bad-response",
			play: onEnrol(Garbage(certsOnlyType, "MIIB*_*-garbage="))},
		{Name: "base64 of text", Class: "bad-response", play: der([]byte("it works, or does it?"))},
		{Name: "base64 twice", Class: "bad-response", play: onEnrol(
			func(w http.ResponseWriter, r *http.Request, real http.Handler) {
				answer := capture(real, r)
				Garbage(certsOnlyType, base64.StdEncoding.EncodeToString(answer.body))(w, r, real)
			})},
		{Name: "PEM of a request", Class: "bad-response", play: onEnrol(Garbage(certsOnlyType,
			string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: []byte("0\x00")}))))},
		{Name: "PEM of a private key", Class: "bad-response", play: onEnrol(Garbage(certsOnlyType,
			string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("0\x00")}))))},
		{Name: "ASN.1 nested 10000 deep", Class: "bad-response", play: der(nested(10000))},
		{Name: "ASN.1 nested without an end", Class: "bad-response", play: der(bytes.Repeat([]byte{0x30, 0x80}, 300_000))},
		{Name: "ASN.1 of 100000 elements", Class: "bad-response", play: der(tlv(0x30, bytes.Repeat([]byte{5, 0}, 100_000)))},
		{Name: "ASN.1 that claims 2 GiB", Class: "bad-response", play: der([]byte{0x30, 0x84, 0x80, 0, 0, 0, 6, 0})},
		{Name: "ASN.1 that claims 2^63 bytes", Class: "bad-response",
			play: der(append([]byte{0x30, 0x88, 0x7f}, bytes.Repeat([]byte{0xff}, 7)...))},
		{Name: "ASN.1 whose length is 126 bytes long", Class: "bad-response",
			play: der(append([]byte{0x30, 0xfe}, bytes.Repeat([]byte{1}, 200)...))},
		{Name: "ASN.1 tag without an end", Class: "bad-response", play: der(bytes.Repeat([]byte{0xff}, 100_000))},
		{Name: "ASN.1 that is cut short", Class: "bad-response", play: issued(func(_ *Server, leaf *x509.Certificate) []byte {
			m := signedData(leaf.Raw)
			return m[:len(m)-len(leaf.Raw)/2]
		})},
		{Name: "certificate with no message around it", Class: "bad-response",
			play: issued(func(_ *Server, leaf *x509.Certificate) []byte { return leaf.Raw })},
		{Name: "message of plain data", Class: "bad-response",
			play: der(tlv(0x30, []byte(oidData), tlv(0xa0, tlv(0x04, []byte("hello")))))},
		{Name: "signed data of nothing", Class: "bad-response", play: der(tlv(0x30, []byte(oidSignedData), tlv(0xa0)))},
		{Name: "zero certificates", Class: "bad-response", play: der(signedData())},
		{Name: "a hundred certificates", Class: "bad-response", play: issued(func(s *Server, leaf *x509.Certificate) []byte {
			list := [][]byte{leaf.Raw}
			for range 99 {
				list = append(list, s.Root.Raw)
			}
			return signedData(list...)
		})},
		{Name: "a certificate that cannot be read and no other", Class: "bad-response",
			play: der(signedData(tlv(0x30, []byte{2, 1, 1})))},
		{Name: "a certificate that cannot be read among good ones",
			play: issued(func(s *Server, leaf *x509.Certificate) []byte {
				return signedData(tlv(0x30, []byte{2, 1, 1}), leaf.Raw,
					tlv(0x30, tlv(0x30), tlv(0x30), tlv(3, []byte{0})))
			})},
		{Name: "the same certificate fifty times", play: issued(func(_ *Server, leaf *x509.Certificate) []byte {
			return signedData(slices.Repeat([][]byte{leaf.Raw}, 50)...)
		})},
		{Name: "a message of indefinite lengths", play: issued(func(_ *Server, leaf *x509.Certificate) []byte {
			return indefinite(0x30, []byte(oidSignedData), indefinite(0xa0, indefinite(0x30,
				[]byte{2, 1, 1}, tlv(0x31), indefinite(0x30, []byte(oidData)), indefinite(0xa0, leaf.Raw), tlv(0x31))))
		})},
		{Name: "NUL, CR, LF and tabs all over the base64", play: onEnrol(
			func(w http.ResponseWriter, r *http.Request, real http.Handler) {
				answer := capture(real, r)
				var spaced []byte
				for _, b := range answer.body {
					spaced = append(spaced, b, '\t', '\r', '\n', ' ')
				}
				if answer.status == http.StatusOK {
					answer.body = append(spaced, 0, 0)
				}
				answer.header.Del("Content-Length")
				answer.writeTo(w)
			})},
	}
}

// answering is a Fault that answers a request with a DER message.
func answering(message func(*Server, *x509.CertificateRequest) []byte) Fault {
	return func(w http.ResponseWriter, r *http.Request, real http.Handler) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		csr, err := parseLibestRequest(body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		Garbage(certsOnlyType, base64.StdEncoding.EncodeToString(message(exchangeOf(r).server, csr)))(w, r, real)
	}
}

// Content types of CMS in DER (RFC 5652 4, 5.1).
const (
	oidData       = "\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01"
	oidSignedData = "\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02"
)

// signedData is a certs-only message around certificates that may be anything.
func signedData(certs ...[]byte) []byte {
	return tlv(0x30, []byte(oidSignedData), tlv(0xa0, tlv(0x30,
		[]byte{2, 1, 1}, tlv(0x31), tlv(0x30, []byte(oidData)), tlv(0xa0, certs...), tlv(0x31))))
}

// tlv is a value in DER.
func tlv(tag byte, parts ...[]byte) []byte {
	content := bytes.Join(parts, nil)
	n := len(content)
	switch {
	case n < 1<<7:
		return append([]byte{tag, byte(n)}, content...)
	case n < 1<<8:
		return append([]byte{tag, 0x81, byte(n)}, content...)
	case n < 1<<16:
		return append([]byte{tag, 0x82, byte(n >> 8), byte(n)}, content...)
	default:
		return append([]byte{tag, 0x83, byte(n >> 16), byte(n >> 8), byte(n)}, content...)
	}
}

// indefinite is a value in BER whose end is a mark.
func indefinite(tag byte, parts ...[]byte) []byte {
	return append(append([]byte{tag, 0x80}, bytes.Join(parts, nil)...), 0, 0)
}

// nested is a sequence in a sequence, and so on.
func nested(depth int) []byte {
	var b []byte
	for range depth {
		b = tlv(0x30, b)
	}
	return b
}
