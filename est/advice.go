package est

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Apply returns t with what the server asks for and t leaves open, and a sentence about each thing that the server fixes
// and does not get. What it only names, for us to fill in, and we have nothing for is passed over without a word (RFC
// 8951 4): servers name it to every device, at every renewal, and issue all the same. Apply is bounded by what a server,
// which may be hostile, must not decide:
//
//   - The hash of the signature is filled in, also for a renewal.
//   - Key usage is filled in; to sign certificates and revocation lists only where t.CA.
//   - Client and server usage are filled in where t has no extended key usage at all. Other usages are not.
//   - Of the subject, what says to whom a device belongs and where it stands (C, ST, L, street, postalCode, O, OU) is
//     filled in where a template gives a value and t has no attribute of that type; in the template's order, without
//     changing the order of what t has. What says who the device is (CN, serialNumber, UID, DC, e-mail and all others)
//     is never taken.
//   - Subject alternative names, CA:TRUE and all other extensions are never taken.
//   - A renewal (t.RawSubject, t.RawSAN) keeps its names byte for byte (RFC 7030 4.2.2).
//
// The kind of key is not in a Template: compare Algorithm and Bits with the key. Apply changes nothing that t refers
// to.
func (a *Attributes) Apply(t Template) (Template, []string) {
	if a == nil {
		return t, nil
	}
	var unmet []string
	sayIf := func(list []string, format string) {
		if len(list) > 0 {
			unmet = append(unmet, fmt.Sprintf(format, quoteList(list)))
		}
	}
	if t.Hash == 0 {
		t.Hash = a.Hash
	} else if a.Hash != 0 && a.Hash != t.Hash {
		unmet = append(unmet,
			fmt.Sprintf("the server asks for a signature with %v, the configuration for %v", a.Hash, t.Hash))
	}
	if len(t.RawSubject) == 0 {
		t.Subject = a.fillSubject(t.Subject)
	}
	sayIf(a.missingSubject(t), "the server asks for %s in the subject, which the configuration does not give")
	var unknown []string
	for _, e := range a.extensions {
		switch {
		case e.ID.Equal(oidKeyUsage):
			sayIf(fillKeyUsage(&t, e.Value), "the server asks for the key usage %s, which is not for this certificate")
		case len(e.Value) == 0: // left to us
		case e.ID.Equal(oidExtKeyUsage):
			sayIf(fillUsages(&t, e.Value),
				"the server asks for the extended key usage %s, which the configuration does not give")
		case e.ID.Equal(oidSubjectAltName):
			sayIf(missingNames(t, e.Value),
				"the server asks for the subject alternative names %s, which the configuration does not give")
		case e.ID.Equal(oidBasicConstraints):
			if wantsCA(e.Value) && !t.CA {
				unmet = append(unmet, "the server asks for a CA certificate, the configuration does not")
			}
		default:
			unknown = append(unknown, e.ID.String())
		}
	}
	sayIf(unknown, "the server asks for the extensions %s, which are never taken from it")
	sayIf(a.otherKeys, "the server asks for %s, which certagent does not make")
	return t, unmet
}

// organisational reports whether an attribute of a subject says to whom a device belongs, or where it stands, rather
// than which it is.
func organisational(oid asn1.ObjectIdentifier) bool {
	switch attributeName(oid) {
	case "C", "ST", "L", "street", "postalCode", "O", "OU":
		return true
	}
	return false
}

// fillSubject returns own with the organisational values of the template.
func (a *Attributes) fillSubject(own pkix.RDNSequence) pkix.RDNSequence {
	var filled pkix.RDNSequence
	placed := 0 // of own
	for _, set := range a.subject {
		var given pkix.RelativeDistinguishedNameSET
		for _, wish := range set {
			at := slices.IndexFunc(own, func(s pkix.RelativeDistinguishedNameSET) bool {
				return slices.ContainsFunc(s, func(x pkix.AttributeTypeAndValue) bool { return x.Type.Equal(wish.Type) })
			})
			switch {
			case at >= placed:
				filled = append(filled, own[placed:at+1]...)
				placed = at + 1
			case at < 0 && organisational(wish.Type):
				if value, ok := usableValue(wish); ok {
					given = append(given, pkix.AttributeTypeAndValue{Type: wish.Type, Value: value})
				}
			}
		}
		if len(given) > 0 {
			filled = append(filled, given)
		}
	}
	return append(filled, own[placed:]...)
}

// usableValue returns a value of the template's as it goes into a request: in the server's encoding where that is one
// of the two that RFC 5280 4.1.2.4 has for new names. ok is false for what no CA could put into a certificate.
func usableValue(wish attributeTemplate) (value any, ok bool) {
	limit := 128 // ub-locality-name and others of RFC 5280, appendix A.1
	switch attributeName(wish.Type) {
	case "O", "OU":
		limit = 64
	case "postalCode":
		limit = 40
	}
	text, isText := stringOf(wish.Value)
	if !isText || text == "" || utf8.RuneCountInString(text) > limit || !utf8.ValidString(text) ||
		strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return nil, false
	}
	tag := wish.Value.Tag
	if !wish.Type.Equal(oidCountryName) && (tag == asn1.TagUTF8String || tag == asn1.TagPrintableString) {
		return asn1.RawValue{FullBytes: wish.Value.FullBytes}, true
	}
	_, err := encodeAttribute(pkix.AttributeTypeAndValue{Type: wish.Type, Value: text})
	return text, err == nil
}

// missingSubject lists the values that are wanted in the subject and do not stand in t's.
func (a *Attributes) missingSubject(t Template) []string {
	var own []attribute
	if der, err := t.subject(); err == nil { // else CreateRequest says what is wrong
		own, _ = parseName(der)
	}
	var missing []string
	for _, set := range a.subject {
		for _, wish := range set {
			if len(wish.Value.FullBytes) == 0 { // left to us
				continue
			}
			wanted := attribute{wish.Type.String(), attributeName(wish.Type), stringValue(wish.Value)}
			if !slices.ContainsFunc(own, wanted.same) && !slices.Contains(missing, wanted.String()) {
				missing = append(missing, wanted.String())
			}
		}
	}
	return missing
}

// unreadable stands in place of a value that cannot be read.
const unreadable = "that cannot be read"

// keyUsages are the names of RFC 5280 4.2.1.3, in the order of x509.KeyUsage's bits.
var keyUsages = [...]string{"digitalSignature", "nonRepudiation", "keyEncipherment", "dataEncipherment", "keyAgreement",
	"keyCertSign", "cRLSign", "encipherOnly", "decipherOnly"}

// fillKeyUsage gives t the key usage that is wanted, if it has none, and lists what of it t does not get. Where the
// choice is ours it is digitalSignature, which every login takes.
func fillKeyUsage(t *Template, value []byte) []string {
	wanted := x509.KeyUsageDigitalSignature
	if len(value) > 0 {
		var set asn1.BitString
		if rest, err := asn1.Unmarshal(value, &set); err != nil || len(rest) > 0 {
			return []string{unreadable}
		}
		wanted = 0
		for i := range keyUsages {
			wanted |= x509.KeyUsage(set.At(i) << i)
		}
	}
	if t.KeyUsage == 0 && t.CA {
		t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature | wanted&caKeyUsage
	} else if t.KeyUsage == 0 {
		t.KeyUsage = wanted &^ caKeyUsage
	}
	if len(value) == 0 {
		return nil
	}
	var missing []string
	for i, name := range keyUsages {
		if (wanted&^t.KeyUsage)>>i&1 != 0 {
			missing = append(missing, name)
		}
	}
	return missing
}

// fillUsages gives t the wanted ones of client and server usage, if it has no extended key usage, and lists what of it
// t does not get.
func fillUsages(t *Template, value []byte) []string {
	var oids []asn1.ObjectIdentifier
	if _, err := asn1.Unmarshal(value, &oids); err != nil {
		return []string{unreadable}
	}
	wanted, _ := parseUsages(value) // which reads the same
	if len(t.Usages) == 0 && !t.CA {
		t.Usages = slices.DeleteFunc(slices.Clone(wanted), func(u x509.ExtKeyUsage) bool {
			return u != x509.ExtKeyUsageClientAuth && u != x509.ExtKeyUsageServerAuth
		})
	}
	var missing []string
	for _, oid := range oids {
		if slices.ContainsFunc(t.Usages, func(u x509.ExtKeyUsage) bool { return u.OID().EqualASN1OID(oid) }) {
			continue
		}
		name := oid.String()
		for _, u := range wanted {
			if u.OID().EqualASN1OID(oid) {
				name = u.String()
			}
		}
		missing = append(missing, name)
	}
	return missing
}

// missingNames lists the wanted subject alternative names that t does not have. An empty iPAddress and an empty
// directoryName are left to us (RFC 9908 3.4).
func missingNames(t Template, value []byte) []string {
	var own []string
	if der, err := t.subjectAltName(); err == nil && der != nil { // else CreateRequest says what is wrong
		own, _ = parseGeneralNames(der)
	}
	var names []asn1.RawValue
	if _, err := asn1.Unmarshal(value, &names); err != nil {
		return []string{unreadable}
	}
	var missing []string
	for _, n := range names {
		left := n.Tag == tagIPAddress && len(n.Bytes) == 0 ||
			n.Tag == tagDirectoryName && len(n.Bytes) == 2 // SEQUENCE {}
		if text := generalName(n); !left && !slices.Contains(own, text) {
			missing = append(missing, text)
		}
	}
	return missing
}

func wantsCA(value []byte) bool {
	ca, err := parseBasicConstraints(value)
	return err == nil && ca
}
