package esttest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"slices"
	"strings"
	"time"
)

// badCertificates misbehave in what they issue, in a message that is well-formed.
func badCertificates() []Misbehaviour {
	// altered issues after a change of the template.
	altered := func(change func(*x509.Certificate)) func(*Server) {
		return onEnrol(answering(func(s *Server, csr *x509.CertificateRequest) []byte {
			return signedData(must(s.Issue(csr, change)).Raw)
		}))
	}
	subject := func(name pkix.Name) func(*Server) {
		return altered(func(t *x509.Certificate) { t.RawSubject, t.Subject = nil, name })
	}
	// forged answers with the bytes made from a good certificate.
	forged := func(change func(s *Server, leaf *x509.Certificate) [][]byte) func(*Server) {
		return onEnrol(answering(func(s *Server, csr *x509.CertificateRequest) []byte {
			return signedData(change(s, must(s.Issue(csr)))...)
		}))
	}
	return []Misbehaviour{
		{Name: "certificate for another key", Class: "bad-response", play: onEnrol(CertificateForAnotherKey)},
		{Name: "certificate of another common name", Class: "bad-response", play: onEnrol(CertificateOfAnotherSubject)},
		{Name: "certificate of two common names", Class: "bad-response", play: subject(pkix.Name{CommonName: "gateway",
			ExtraNames: []pkix.AttributeTypeAndValue{{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: "root"}}})},
		{Name: "NUL in the common name", Class: "bad-response", play: altered(func(t *x509.Certificate) {
			t.RawSubject = commonName(t.RawSubject, "\x00.evil.example")
		})},
		{Name: "escapes for the terminal in the common name", Class: "bad-response", play: altered(func(t *x509.Certificate) {
			t.RawSubject = commonName(nil, "\x1b[2J\x1b]0;owned\x07\r\nall is well\u202e")
		})},
		{Name: "common name of 200 KiB", Class: "bad-response", play: altered(func(t *x509.Certificate) {
			t.RawSubject = commonName(nil, strings.Repeat("x", 200<<10))
		})},
		{Name: "common name of 1 MiB", Class: "bad-response", play: altered(func(t *x509.Certificate) {
			t.RawSubject = commonName(nil, strings.Repeat("x", 1<<20))
		})},
		{Name: "empty subject", play: subject(pkix.Name{})},
		{Name: "expired certificate", Class: "bad-response", play: onEnrol(ExpiredCertificate)},
		{Name: "certificate not valid for an hour yet", Class: "bad-response", play: onEnrol(NotYetValid)},
		{Name: "certificate not valid for a day yet", Class: "bad-response", play: altered(func(t *x509.Certificate) {
			t.NotBefore, t.NotAfter = t.NotBefore.Add(24*time.Hour), t.NotAfter.Add(24*time.Hour)
		})},
		{Name: "certificate that ends before it begins", Class: "bad-response", play: altered(func(t *x509.Certificate) {
			t.NotBefore, t.NotAfter = t.NotAfter, t.NotBefore
		})},
		{Name: "CA certificate", Class: "bad-response", play: onEnrol(CACertificate)},
		{Name: "unknown critical extension", Class: "bad-response", play: altered(func(t *x509.Certificate) {
			t.ExtraExtensions = append(t.ExtraExtensions, unknownCritical())
		})},
		{Name: "usages left out", play: altered(func(t *x509.Certificate) {
			leaveOut(t, oidExtKeyUsage)
		})},
		{Name: "names added that nobody asked for", play: altered(func(t *x509.Certificate) {
			leaveOut(t, oidSubjectAltName)
			t.DNSNames = []string{"*.example", "xn--\x1b"}
		})},
		{Name: "bad signature", Class: "bad-response", play: forged(func(_ *Server, leaf *x509.Certificate) [][]byte {
			raw := bytes.Clone(leaf.Raw)
			raw[len(raw)-1] ^= 1
			return [][]byte{raw}
		})},
		{Name: "SHA-1 in the signature", Class: "bad-response",
			play: forged(func(s *Server, leaf *x509.Certificate) [][]byte {
				algorithm := pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 1}}
				return [][]byte{resign(leaf.RawTBSCertificate, algorithm, func(tbs []byte) []byte {
					sum := sha1.Sum(tbs)
					return must(ecdsa.SignASN1(rand.Reader, s.ca().issuing.key, sum[:]))
				})}
			})},
		{Name: "signature algorithm that nobody knows", Class: "bad-response",
			play: forged(func(_ *Server, leaf *x509.Certificate) [][]byte {
				algorithm := pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{2, 999, 1}}
				return [][]byte{resign(leaf.RawTBSCertificate, algorithm, func([]byte) []byte { return []byte{0} })}
			})},
		{Name: "issuer with an RSA key of 512 bits", Class: "bad-response", play: onEnrol(answering(underRSA512))},
		{Name: "RSA key of 16384 bits in the chain", Class: "bad-response",
			play: forged(func(s *Server, leaf *x509.Certificate) [][]byte {
				n := new(big.Int).Lsh(big.NewInt(1), 16383)
				giant := caTemplate("giant", &rsa.PublicKey{N: n.Add(n, big.NewInt(1)), E: 65537}, s.options.Now(), time.Hour)
				return [][]byte{leaf.Raw, must(s.ca().root.sign(giant)).Raw}
			})},
		{Name: "certificate of another CA", Class: "bad-response", play: onEnrol(answering(
			func(s *Server, csr *x509.CertificateRequest) []byte {
				ca := newCA(s, "somebody else's CA")
				return signedData(must(ca.sign(must(generousTemplate(csr, s.options.Now(), time.Hour)))).Raw, ca.cert.Raw)
			}))},
		{Name: "certificate of another CA with the name of the right one", Class: "bad-response", play: onEnrol(answering(
			func(s *Server, csr *x509.CertificateRequest) []byte {
				ca := newCA(s, s.Issuer.Subject.CommonName)
				return signedData(must(ca.sign(must(generousTemplate(csr, s.options.Now(), time.Hour)))).Raw, ca.cert.Raw)
			}))},
		{Name: "certificate that names itself as its issuer", Class: "bad-response", play: onEnrol(answering(
			func(s *Server, csr *x509.CertificateRequest) []byte {
				leaf := must(generousTemplate(csr, s.options.Now(), time.Hour))
				key := must(newKey()) // not the leaf's: that one nobody here has
				return signedData(must(pair{cert: &x509.Certificate{
					RawSubject: csr.RawSubject, PublicKey: key.Public(), NotAfter: leaf.NotAfter,
				}, key: key}.sign(leaf)).Raw)
			}))},
		{Name: "chain that goes in a circle", Class: "bad-response", play: onEnrol(answering(
			func(s *Server, csr *x509.CertificateRequest) []byte {
				a, b := newCA(s, "circle A"), newCA(s, "circle B")
				aByB := must(b.sign(caTemplate("circle A", a.key.Public(), s.options.Now(), time.Hour)))
				bByA := must(a.sign(caTemplate("circle B", b.key.Public(), s.options.Now(), time.Hour)))
				leaf := must(a.sign(must(generousTemplate(csr, s.options.Now(), time.Hour))))
				return signedData(leaf.Raw, aByB.Raw, bByA.Raw)
			}))},
		{Name: "seven CAs that certify each other", Class: "bad-response", play: onEnrol(answering(thicket))},
		{Name: "issuer that is no CA", Class: "bad-response", play: onEnrol(answering(
			func(s *Server, csr *x509.CertificateRequest) []byte {
				mate := pair{key: must(newKey())}
				t := bootstrapTemplate("another device", mate.key.Public(), s.options.Now(), time.Hour)
				mate.cert = must(s.ca().root.sign(t))
				return signedData(must(mate.sign(must(generousTemplate(csr, s.options.Now(), time.Hour)))).Raw, mate.cert.Raw)
			}))},
		{Name: "issuer that has expired", Class: "bad-response", play: onEnrol(answering(
			func(s *Server, csr *x509.CertificateRequest) []byte {
				old := pair{key: must(newKey())}
				t := caTemplate("expired CA", old.key.Public(), s.options.Now().Add(-48*time.Hour), time.Hour)
				old.cert = must(s.ca().root.sign(t))
				leaf := must(generousTemplate(csr, s.options.Now(), time.Hour))
				return signedData(must(old.sign(leaf)).Raw, old.cert.Raw)
			}))},
		{Name: "name that the issuer may not give", Class: "bad-response", play: onEnrol(answering(
			func(s *Server, csr *x509.CertificateRequest) []byte {
				narrow := pair{key: must(newKey())}
				t := caTemplate("CA for example.org", narrow.key.Public(), s.options.Now(), time.Hour)
				t.PermittedDNSDomainsCritical, t.PermittedDNSDomains = true, []string{"example.org"}
				narrow.cert = must(s.ca().root.sign(t))
				leaf := must(generousTemplate(csr, s.options.Now(), time.Hour))
				leaf.ExtraExtensions, leaf.DNSNames = nil, []string{"gateway.example.com"}
				return signedData(must(narrow.sign(leaf)).Raw, narrow.cert.Raw)
			}))},
		{Name: "root that is answered as the certificate", Class: "bad-response", play: onEnrol(answering(
			func(s *Server, _ *x509.CertificateRequest) []byte { return signedData(s.Root.Raw) }))},
	}
}

func leaveOut(t *x509.Certificate, extension asn1.ObjectIdentifier) {
	t.ExtraExtensions = slices.DeleteFunc(t.ExtraExtensions, func(e pkix.Extension) bool { return e.Id.Equal(extension) })
}

// newCA makes a CA that nobody has heard of.
func newCA(s *Server, name string) pair {
	ca := pair{key: must(newKey())}
	ca.cert = must(ca.sign(caTemplate(name, ca.key.Public(), s.options.Now(), time.Hour)))
	return ca
}

// thicket answers with a leaf under CAs each of which has certified all others, and none of which leads to a root:
// there are more paths than anybody could try.
func thicket(s *Server, csr *x509.CertificateRequest) []byte {
	var cas []pair
	for range 7 {
		cas = append(cas, newCA(s, "thicket"))
	}
	certs := [][]byte{must(cas[0].sign(must(generousTemplate(csr, s.options.Now(), time.Hour)))).Raw}
	for _, issuer := range cas {
		for _, subject := range cas {
			if issuer != subject {
				t := caTemplate("thicket", subject.key.Public(), s.options.Now(), time.Hour)
				certs = append(certs, must(issuer.sign(t)).Raw)
			}
		}
	}
	return signedData(certs...)
}

// unknownCritical is an extension that nobody can process, and so must refuse (RFC 5280 4.2).
func unknownCritical() pkix.Extension {
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 999, 7}, Critical: true, Value: []byte{5, 0}}
}

// commonName is a Name of one common name: that of another Name, and what is added behind it.
func commonName(of []byte, added string) []byte {
	cn := ""
	var rdns pkix.RDNSequence
	if _, err := asn1.Unmarshal(of, &rdns); err == nil {
		var name pkix.Name
		name.FillFromRDNSequence(&rdns)
		cn = name.CommonName
	}
	const oid = "\x06\x03\x55\x04\x03"
	return tlv(0x30, tlv(0x31, tlv(0x30, []byte(oid), tlv(0x0c, []byte(cn+added)))))
}

// resign returns a certificate with the same content under another signature.
func resign(tbs []byte, algorithm pkix.AlgorithmIdentifier, sign func(tbs []byte) []byte) []byte {
	var fields []asn1.RawValue
	if _, err := asn1.Unmarshal(tbs, &fields); err != nil {
		panic(err)
	}
	const signatureField = 2 // behind version and serial number (RFC 5280 4.1)
	var parts [][]byte
	for i, f := range fields {
		if i == signatureField {
			f.FullBytes = must(asn1.Marshal(algorithm))
		}
		parts = append(parts, f.FullBytes)
	}
	tbs = tlv(0x30, parts...)
	return tlv(0x30, tbs, must(asn1.Marshal(algorithm)), tlv(0x03, []byte{0}, sign(tbs)))
}

// underRSA512 issues below an intermediate whose key is as short as they were in the nineties. crypto/rsa makes and
// uses no such key any more, so the arithmetic is done here.
func underRSA512(s *Server, csr *x509.CertificateRequest) []byte {
	e := big.NewInt(65537)
	var n, d *big.Int
	for d == nil { // until e and the primes fit together
		p, q := must(rand.Prime(rand.Reader, 256)), must(rand.Prime(rand.Reader, 256))
		one := big.NewInt(1)
		n = new(big.Int).Mul(p, q)
		d = new(big.Int).ModInverse(e, new(big.Int).Mul(p.Sub(p, one), q.Sub(q, one)))
	}
	public := &rsa.PublicKey{N: n, E: int(e.Int64())}
	ca := must(s.ca().root.sign(caTemplate("RSA-512 CA", public, s.options.Now(), time.Hour)))
	leaf := must(generousTemplate(csr, s.options.Now(), time.Hour))
	stand := pair{cert: ca, key: must(newKey())} // signs first, for the content
	algorithm := pkix.AlgorithmIdentifier{
		Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}, Parameters: asn1.NullRawValue,
	}
	parent := *ca
	parent.PublicKey = stand.key.Public() // CreateCertificate compares them
	stand.cert = &parent
	content := must(stand.sign(leaf)).RawTBSCertificate
	return signedData(resign(content, algorithm, func(tbs []byte) []byte {
		sum := sha256.Sum256(tbs)
		const digestInfo = "\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20"
		digest := digestInfo + string(sum[:])
		padded := []byte("\x00\x01" + strings.Repeat("\xff", 64-3-len(digest)) + "\x00" + digest)
		return new(big.Int).Exp(new(big.Int).SetBytes(padded), d, n).FillBytes(make([]byte, 64))
	}), ca.Raw)
}
