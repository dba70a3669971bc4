package awsiot

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"slices"
	"strings"

	"certagent/agent/onboard"
)

// Attribute is an attribute of a subject that a provisioning template can use, by its short name.
type Attribute string

// The attributes, as AWS IoT lists them (developer guide, "Just-in-time provisioning"). AWS::IoT::Certificate::Id is none
// of them: AWS makes that itself.
const (
	Country                    Attribute = "C"
	Organization               Attribute = "O"
	OrganizationalUnit         Attribute = "OU"
	DistinguishedNameQualifier Attribute = "dnQualifier"
	StateName                  Attribute = "ST"
	CommonName                 Attribute = "CN"
	SubjectSerialNumber        Attribute = "serialNumber" // RFC 4519 2.31; not the certificate's own serial number
)

// attributes are all of them, in the order of the guide, with their object identifiers (RFC 4519 2).
func attributes() []struct {
	Attribute
	oid, parameter string
} {
	const prefix = "AWS::IoT::Certificate::"
	return []struct {
		Attribute
		oid, parameter string
	}{
		{Country, "2.5.4.6", prefix + "Country"},
		{Organization, "2.5.4.10", prefix + "Organization"},
		{OrganizationalUnit, "2.5.4.11", prefix + "OrganizationalUnit"},
		{DistinguishedNameQualifier, "2.5.4.46", prefix + "DistinguishedNameQualifier"},
		{StateName, "2.5.4.8", prefix + "StateName"},
		{CommonName, "2.5.4.3", prefix + "CommonName"},
		{SubjectSerialNumber, "2.5.4.5", prefix + "SerialNumber"},
	}
}

// Subject is what of a subject a provisioning template can use: the values of each attribute, in their order.
type Subject map[Attribute][]string

// SubjectOf returns the usable part of names: of slices.Concat over the [pkix.RDNSequence] that a CA is asked for, or of
// the Names of a [pkix.Name] that was parsed. Values that are blank are no values.
func SubjectOf(names []pkix.AttributeTypeAndValue) Subject {
	s := Subject{}
	for _, a := range attributes() {
		for _, n := range names {
			if value, ok := n.Value.(string); ok && n.Type.String() == a.oid && strings.TrimSpace(value) != "" {
				s[a.Attribute] = append(s[a.Attribute], value)
			}
		}
	}
	return s
}

// CheckSubject compares the subject that was asked for with what the CA issued. AWS provisions no certificate that lacks
// an attribute of its template, leaves it pending, and nothing on the wire says why; CAs that drop all but the common
// name are not rare. It returns nil if all that was asked for is there. What a CA added is its own affair. A device
// connects all the same: its template may use fewer attributes.
func CheckSubject(leaf *x509.Certificate, asked Subject) *onboard.Problem {
	issued := SubjectOf(leaf.Subject.Names)
	var wrong []string
	for _, a := range attributes() {
		for _, value := range asked[a.Attribute] {
			switch is := issued[a.Attribute]; {
			case len(is) == 0:
				wrong = append(wrong, string(a.Attribute)+" is missing ("+a.parameter+")")
			case !slices.Contains(is, value):
				wrong = append(wrong, string(a.Attribute)+" is "+onboard.Quote(is[0])+" in place of "+onboard.Quote(value)+" ("+
					a.parameter+")")
			}
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	return &onboard.Problem{
		Code: CodeSubject,
		Text: "the CA issued another subject than was asked for: " + strings.Join(wrong, "; "),
		Hint: "have the CA keep these attributes, or take them out of the provisioning template and of the " +
			"configuration: AWS IoT does not provision a certificate that lacks a parameter of its template",
	}
}
