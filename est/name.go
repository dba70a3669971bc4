package est

import (
	"encoding/asn1"
	"encoding/hex"
	"fmt"
	"net"
	"slices"
	"strings"
)

// attribute is one attribute of a distinguished name, as text.
type attribute struct {
	oid   string // dotted
	name  string // "CN", "O", or dotted where we have no name for it
	value string
}

func (a attribute) String() string {
	return fmt.Sprintf("%s=%q", a.name, shorten(printable(a.value), 100))
}

// same reports whether two values of one attribute match: RFC 5280 7.1 compares without regard to case, to the
// string type, and to white space at the ends or repeated inside.
func (a attribute) same(b attribute) bool {
	return a.oid == b.oid && strings.EqualFold(strings.Join(strings.Fields(a.value), " "),
		strings.Join(strings.Fields(b.value), " "))
}

// parseName returns the attributes of a DER distinguished name in their order.
func parseName(der []byte) ([]attribute, error) {
	type typeAndValue struct {
		Type  asn1.ObjectIdentifier
		Value asn1.RawValue
	}
	type relativeNameSET []typeAndValue // encoding/asn1 takes a SET OF by the type's name
	var sequence []relativeNameSET
	if rest, err := asn1.Unmarshal(der, &sequence); err != nil {
		return nil, fmt.Errorf("parse distinguished name: %w", err)
	} else if len(rest) > 0 {
		return nil, fmt.Errorf("parse distinguished name: %d bytes too many", len(rest))
	}
	var attributes []attribute
	for _, set := range sequence {
		for _, a := range set {
			attributes = append(attributes, attribute{
				oid:   a.Type.String(),
				name:  attributeName(a.Type),
				value: stringValue(a.Value),
			})
		}
	}
	return attributes, nil
}

// stringValue returns the text of a string of whatever type, or "#" and the hexadecimal DER of anything else, as
// RFC 4514 2.4 writes it.
func stringValue(v asn1.RawValue) string {
	if text, ok := stringOf(v); ok {
		return text
	}
	return "#" + hex.EncodeToString(v.FullBytes)
}

// stringOf returns the text of a string of whatever type.
func stringOf(v asn1.RawValue) (text string, ok bool) {
	var s any
	if _, err := asn1.Unmarshal(v.FullBytes, &s); err != nil {
		return "", false
	}
	text, ok = s.(string)
	return text, ok
}

// attributeName returns the short name that RFC 4514 and OpenSSL use for an attribute, or its dotted OID.
func attributeName(oid asn1.ObjectIdentifier) string {
	switch dotted := oid.String(); dotted {
	case "2.5.4.3":
		return "CN"
	case "2.5.4.4":
		return "SN"
	case "2.5.4.5":
		return "serialNumber"
	case "2.5.4.6":
		return "C"
	case "2.5.4.7":
		return "L"
	case "2.5.4.8":
		return "ST"
	case "2.5.4.9":
		return "street"
	case "2.5.4.10":
		return "O"
	case "2.5.4.11":
		return "OU"
	case "2.5.4.12":
		return "title"
	case "2.5.4.17":
		return "postalCode"
	case "2.5.4.42":
		return "GN"
	case "2.5.4.43":
		return "initials"
	case "2.5.4.44":
		return "generationQualifier"
	case "2.5.4.46":
		return "dnQualifier"
	case "2.5.4.65":
		return "pseudonym"
	case "1.2.840.113549.1.9.1":
		return "emailAddress"
	case "0.9.2342.19200300.100.1.1":
		return "UID"
	case "0.9.2342.19200300.100.1.25":
		return "DC"
	default:
		return dotted
	}
}

// Tags of GeneralName (RFC 5280 4.2.1.6).
const (
	tagEmail         = 1
	tagDNSName       = 2
	tagDirectoryName = 4
	tagURI           = 6
	tagIPAddress     = 7
)

// parseGeneralNames returns the names of a subjectAltName extension as comparable text, sorted: "dns:gw.example",
// "ip:192.0.2.1". Host names are folded to lower case; kinds of name that we have no text for show their bytes.
func parseGeneralNames(der []byte) ([]string, error) {
	var names []asn1.RawValue
	if rest, err := asn1.Unmarshal(der, &names); err != nil {
		return nil, fmt.Errorf("parse subject alternative names: %w", err)
	} else if len(rest) > 0 {
		return nil, fmt.Errorf("parse subject alternative names: %d bytes too many", len(rest))
	}
	texts := make([]string, len(names))
	for i, n := range names {
		texts[i] = generalName(n)
	}
	slices.Sort(texts)
	return slices.Compact(texts), nil
}

func generalName(n asn1.RawValue) string {
	switch {
	case n.Tag == tagDNSName:
		return "dns:" + strings.ToLower(string(n.Bytes))
	case n.Tag == tagIPAddress && (len(n.Bytes) == net.IPv4len || len(n.Bytes) == net.IPv6len):
		return "ip:" + net.IP(n.Bytes).String()
	case n.Tag == tagURI:
		return "uri:" + string(n.Bytes)
	case n.Tag == tagEmail:
		return "email:" + string(n.Bytes)
	}
	return "other:" + hex.EncodeToString(n.FullBytes)
}
