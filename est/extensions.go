package est

import (
	"cmp"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/bits"
)

// caKeyUsage is what a CA alone may do with its key.
const caKeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign

// extensions lists what a request asks for by X.509 extensions (RFC 2985 5.4.2).
func (t Template) extensions() ([]pkix.Extension, error) {
	var extensions []pkix.Extension
	san, err := t.subjectAltName()
	if err != nil {
		return nil, fmt.Errorf("encode subject alternative names: %w", err)
	}
	if san != nil {
		extensions = append(extensions, pkix.Extension{Id: oidSubjectAltName, Critical: t.SANCritical, Value: san})
	}
	if len(t.Usages) > 0 {
		value, err := marshalUsages(t.Usages)
		if err != nil {
			return nil, fmt.Errorf("encode extended key usage: %w", err)
		}
		extensions = append(extensions, pkix.Extension{Id: oidExtKeyUsage, Value: value})
	}
	usage := t.KeyUsage
	if t.CA {
		extensions = append(extensions,
			// SEQUENCE { cA TRUE, pathLenConstraint 0 }
			pkix.Extension{Id: oidBasicConstraints, Critical: true, Value: []byte{0x30, 6, 1, 1, 0xff, 2, 1, 0}})
		usage = cmp.Or(usage, x509.KeyUsageCertSign|x509.KeyUsageDigitalSignature)
	}
	switch {
	case t.CA && usage&x509.KeyUsageCertSign == 0:
		return nil, errors.New("encode key usage: that of a CA is to sign certificates")
	case !t.CA && usage&caKeyUsage != 0:
		return nil, errors.New("encode key usage: only a CA signs certificates and revocation lists")
	}
	if usage != 0 {
		value, err := marshalKeyUsage(usage)
		if err != nil {
			return nil, fmt.Errorf("encode key usage: %w", err)
		}
		extensions = append(extensions, pkix.Extension{Id: oidKeyUsage, Critical: true, Value: value})
	}
	return extensions, nil
}

// marshalKeyUsage returns the BIT STRING, in which bit i of x509.KeyUsage is the i-th from the left.
func marshalKeyUsage(usage x509.KeyUsage) ([]byte, error) {
	if usage < 0 || usage >= x509.KeyUsageDecipherOnly<<1 {
		return nil, fmt.Errorf("unknown usage %d", int(usage))
	}
	var b asn1.BitString
	b.BitLength = bits.Len(uint(usage)) // DER leaves out zeros at the end
	b.Bytes = make([]byte, (b.BitLength+7)/8)
	for i := range b.BitLength {
		if usage&(1<<i) != 0 {
			b.Bytes[i/8] |= 0x80 >> (i % 8)
		}
	}
	return asn1.Marshal(b)
}

// subjectAltName returns the value of the extension (RFC 5280 4.2.1.6), nil if no name is asked for.
func (t Template) subjectAltName() ([]byte, error) {
	if len(t.RawSAN) > 0 {
		return t.RawSAN, nil
	}
	var names []asn1.RawValue
	add := func(tag int, name string) error {
		if name == "" || !isASCII(name) {
			return fmt.Errorf("%q is empty or has characters outside ASCII", name)
		}
		names = append(names, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tag, Bytes: []byte(name)})
		return nil
	}
	var errs []error
	for _, name := range t.DNSNames {
		errs = append(errs, add(tagDNSName, name))
	}
	for _, ip := range t.IPs {
		b := ip.To16()
		if v4 := ip.To4(); v4 != nil {
			b = v4
		}
		if b == nil {
			errs = append(errs, fmt.Errorf("%d bytes are no IP address", len(ip)))
			continue
		}
		names = append(names, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tagIPAddress, Bytes: b})
	}
	for _, u := range t.URIs {
		errs = append(errs, add(tagURI, u.String()))
	}
	for _, address := range t.Emails {
		errs = append(errs, add(tagEmail, address))
	}
	if err := errors.Join(errs...); err != nil || len(names) == 0 {
		return nil, err
	}
	return asn1.Marshal(names)
}

func marshalUsages(usages []x509.ExtKeyUsage) ([]byte, error) {
	oids := make([]asn1.RawValue, len(usages))
	for i, u := range usages {
		if u < x509.ExtKeyUsageAny || u > x509.ExtKeyUsageMicrosoftKernelCodeSigning {
			return nil, fmt.Errorf("unknown usage %d", int(u))
		}
		der, err := u.OID().MarshalBinary()
		if err != nil {
			return nil, err
		}
		oids[i] = asn1.RawValue{Tag: asn1.TagOID, Bytes: der}
	}
	return asn1.Marshal(oids)
}
