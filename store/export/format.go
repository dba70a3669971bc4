package export

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"

	"certagent/store/keys"
)

// Format is what is in an output, in the configuration's words.
type Format string

// The formats. All but PKCS12 are PEM (RFC 7468) without text between the blocks.
const (
	Cert      Format = "cert"      // the certificate
	Chain     Format = "chain"     // the intermediate certificates, the issuer first; empty where there are none
	Fullchain Format = "fullchain" // both
	// FullchainRoot is both, and on to the CA certificate at the top: what AWS IoT wants from a device that registers
	// itself just in time.
	FullchainRoot Format = "fullchain+root"
	CA            Format = "ca"       // the CA certificates to trust
	Key           Format = "key"      // the private key, PKCS#8 (RFC 5958)
	Combined      Format = "combined" // key, certificate, chain: for HAProxy, lighttpd and others that read one file
	PKCS12        Format = "pkcs12"   // key, certificate, chain (RFC 7292)
)

// half reports whether the file holds the key or the certificate without the other, so that it only serves beside
// another file.
func (f Format) half() bool {
	switch f {
	case Cert, Chain, Fullchain, FullchainRoot, Key:
		return true
	}
	return false
}

func (f Format) holdsKey() bool { return f == Key || f == Combined || f == PKCS12 }

// Pair is what outputs are made of: one generation of a certificate.
type Pair struct {
	Key   keys.Key // needed by Key, Combined and PKCS12 only
	Leaf  *x509.Certificate
	Chain []*x509.Certificate // intermediates, the issuer of Leaf first
	CAs   []*x509.Certificate // trust anchors
}

// render is the content of an output. The same pair and the same password always give the same bytes, so that bytes can
// be compared. The caller clears them.
func render(p Pair, o Output) ([]byte, error) {
	full := append([]*x509.Certificate{p.Leaf}, p.Chain...)
	switch o.Format {
	case Cert:
		return encode(p.Leaf), nil
	case Chain:
		return encode(p.Chain...), nil
	case Fullchain:
		return encode(full...), nil
	case FullchainRoot:
		roots, err := upward(full, p.CAs)
		if err != nil {
			return nil, refuseMaterial(o, err)
		}
		return encode(append(full, roots...)...), nil
	case CA:
		if len(p.CAs) == 0 {
			return nil, refuseMaterial(o, errNoCA)
		}
		return encode(p.CAs...), nil
	case Key, Combined:
		der, err := keys.PKCS8(p.Key)
		if err != nil {
			return nil, refuseMaterial(o, err)
		}
		defer clear(der)
		key := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
		if o.Format == Key {
			return key, nil
		}
		defer clear(key)
		return slices.Concat(key, encode(full...)), nil
	case PKCS12:
		return renderPKCS12(p, o)
	}
	return nil, fmt.Errorf("write %s: there is no format %q", o.Path, o.Format)
}

func encode(certs ...*x509.Certificate) []byte {
	var b bytes.Buffer
	for _, c := range certs {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	return b.Bytes()
}

// upward continues a chain among the CA certificates, up to one that is self-signed or has no issuer there. While a CA
// changes its key there are several of one name (RFC 4210 section 4.4): the signature decides, and the self-signed one
// is preferred to its cross-signed twin.
func upward(chain, cas []*x509.Certificate) (more []*x509.Certificate, err error) {
	top := chain[len(chain)-1]
	for !selfSigned(top) {
		var next *x509.Certificate
		for _, ca := range cas {
			if slices.ContainsFunc(slices.Concat(chain, more), ca.Equal) || !issued(ca, top) {
				continue
			}
			if next == nil || selfSigned(ca) && !selfSigned(next) {
				next = ca
			}
		}
		if next == nil {
			break
		}
		more, top = append(more, next), next
	}
	if !selfSigned(top) && !slices.ContainsFunc(cas, top.Equal) {
		if len(cas) == 0 {
			return nil, errNoCA
		}
		return nil, fmt.Errorf("none of the CA certificates known for it issued %q", top.Subject)
	}
	return more, nil
}

func selfSigned(c *x509.Certificate) bool { return issued(c, c) }

func issued(ca, c *x509.Certificate) bool {
	return bytes.Equal(ca.RawSubject, c.RawIssuer) &&
		ca.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil
}
