package est

import (
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
)

// Bounds on what is read of an answer to /csrattrs, beside those on every answer. The largest example of RFC 9908 has
// 106 bytes.
const (
	attributesLimit = 64 << 10 // bytes of DER
	wishLimit       = 256      // elements of a list
)

var (
	oidChallengePassword    = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 7}         // RFC 2985 5.4.1
	oidExtensionRequest     = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 14}        // RFC 2985 5.4.2
	oidESTIdentityLinking   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 2, 58} // RFC 7894 3.3
	oidRequestInfoTemplate  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 2, 61} // RFC 9908 3.4
	oidExtensionReqTemplate = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 2, 62} // RFC 9908 3.4
	oidRSAEncryption        = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}         // RFC 3279 2.3.1
	oidSHA256WithRSA        = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}        // RFC 4055 5
	oidSHA384WithRSA        = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 12}
	oidSHA512WithRSA        = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 13}
	oidECPublicKey          = asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1} // RFC 5480 2.1.1
	oidSecp256r1            = asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7}
	oidSecp384r1            = asn1.ObjectIdentifier{1, 3, 132, 0, 34}
	oidSecp521r1            = asn1.ObjectIdentifier{1, 3, 132, 0, 35}
	oidECDSAWithSHA256      = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2} // RFC 5758 3.2
	oidECDSAWithSHA384      = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 3}
	oidECDSAWithSHA512      = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 4}
	oidEd25519              = asn1.ObjectIdentifier{1, 3, 101, 112}                 // RFC 8410 3
	oidSHA256               = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1} // RFC 5754 2
	oidSHA384               = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 2}
	oidSHA512               = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 3}
)

// parseAttributes reads a CsrAttrs (RFC 7030 4.5.2): a list of object identifiers and of attributes with values. Where
// one of them is a template (RFC 9908 3.4), that alone counts (RFC 9908 4). Without DER, and for a list that wants
// nothing we know of, it returns nil. What it does not know it passes over, and fails on what RFC 9908 forbids because
// it could be read in two ways.
func parseAttributes(der []byte) (*Attributes, error) {
	if len(der) == 0 {
		return nil, nil
	}
	if len(der) > attributesLimit {
		return nil, fmt.Errorf("CSR attributes of %d bytes, %d are the limit", len(der), attributesLimit)
	}
	if err := checkNesting(der); err != nil {
		return nil, err
	}
	a := &Attributes{}
	if err := a.parse(der); err != nil {
		return nil, fmt.Errorf("parse CSR attributes: %w", err)
	}
	if a.Algorithm == "" && a.Hash == 0 && !a.Link && len(a.subject) == 0 && len(a.extensions) == 0 &&
		len(a.otherKeys) == 0 {
		return nil, nil
	}
	return a, nil
}

func (a *Attributes) parse(der []byte) error {
	list, err := elements(der)
	if err != nil {
		return err
	}
	names, attributes, err := sortOut(list)
	if err != nil {
		return err
	}
	var template *asn1.RawValue
	for _, attribute := range attributes {
		if !attribute.Type.Equal(oidRequestInfoTemplate) {
			continue
		}
		if template != nil || len(attribute.Values) != 1 {
			return errors.New("not exactly one template")
		}
		template = &attribute.Values[0]
	}
	if template != nil {
		return a.parseTemplate(template.FullBytes)
	}
	return a.parseList(names, attributes)
}

// sortOut parts the elements of a CsrAttrs.
func sortOut(list []asn1.RawValue) (names []asn1.ObjectIdentifier, attributes []typedValues, err error) {
	for _, element := range list {
		if isOID(element) {
			oid, err := knowable(element)
			if err != nil {
				return nil, nil, err
			}
			names = append(names, oid)
			continue
		}
		attribute, err := parseAttribute(element)
		if err != nil {
			return nil, nil, err
		}
		attributes = append(attributes, attribute)
	}
	return names, attributes, nil
}

// parseAttribute reads an Attribute of RFC 2986 4.1.
func parseAttribute(der asn1.RawValue) (typedValues, error) {
	var attribute struct {
		Type   asn1.RawValue
		Values []asn1.RawValue `asn1:"set"`
	}
	if _, err := asn1.Unmarshal(der.FullBytes, &attribute); err != nil || !isOID(attribute.Type) {
		return typedValues{}, errors.New("neither an object identifier nor an attribute")
	}
	oid, err := knowable(attribute.Type)
	return typedValues{oid, attribute.Values}, err
}

func isOID(v asn1.RawValue) bool {
	return v.Class == asn1.ClassUniversal && v.Tag == asn1.TagOID && !v.IsCompound
}

// knowable returns an object identifier; none, which equals nothing that we know, for one with a number of more than 31
// bits, such as a UUID's (2.25): encoding/asn1 would fail on the whole answer, and we shall pass over what we do not
// know (RFC 8951 4).
func knowable(v asn1.RawValue) (asn1.ObjectIdentifier, error) {
	var oid asn1.ObjectIdentifier
	_, err := asn1.Unmarshal(v.FullBytes, &oid)
	if err != nil && new(x509.OID).UnmarshalBinary(v.Bytes) == nil {
		return nil, nil
	}
	return oid, err
}

// parseList takes the attributes with their values first, as they say more than a bare name does.
func (a *Attributes) parseList(names []asn1.ObjectIdentifier, attributes []typedValues) error {
	requests := 0 // for extensions
	for _, attribute := range attributes {
		switch {
		case attribute.Type.Equal(oidECPublicKey), attribute.Type.Equal(oidRSAEncryption):
			var parameter asn1.RawValue
			if len(attribute.Values) > 0 {
				parameter = attribute.Values[0]
			}
			a.wantKey(attribute.Type, parameter)
		case attribute.Type.Equal(oidExtensionRequest), attribute.Type.Equal(oidExtensionReqTemplate):
			if requests++; requests > 1 {
				return errors.New("more than one extension request")
			}
			if err := a.parseExtensionRequest(attribute.Values); err != nil {
				return err
			}
		default:
			names = append(names, attribute.Type)
		}
	}
	for _, name := range names {
		a.want(name)
	}
	return nil
}

// parseExtensionRequest reads the values of an id-ExtensionReq: one list of extensions (RFC 9908 3.2). The
// example of RFC 7030 4.5.2 and servers that followed it have object identifiers there.
func (a *Attributes) parseExtensionRequest(values []asn1.RawValue) error {
	if len(values) > wishLimit {
		return fmt.Errorf("extension request of more than %d values", wishLimit)
	}
	lists := 0
	for _, value := range values {
		if isOID(value) {
			oid, err := knowable(value)
			if err != nil {
				return err
			}
			a.want(oid)
			continue
		}
		if lists++; lists > 1 {
			return errors.New("extension request with more than one list of extensions")
		}
		if err := a.parseExtensions(value.FullBytes); err != nil {
			return fmt.Errorf("extension request: %w", err)
		}
	}
	return nil
}

func (a *Attributes) parseExtensions(der []byte) error {
	var extensions []struct {
		ID       asn1.RawValue
		Critical bool   `asn1:"optional"`
		Value    []byte `asn1:"optional"`
	}
	if _, err := asn1.Unmarshal(der, &extensions); err != nil {
		return err
	}
	if len(extensions) > wishLimit {
		return fmt.Errorf("more than %d extensions", wishLimit)
	}
	for _, e := range extensions {
		id, err := knowable(e.ID)
		switch {
		case err != nil:
			return err
		case id == nil:
			continue
		case a.wantsExtension(id):
			return fmt.Errorf("extension %v more than once", id)
		}
		a.extensions = append(a.extensions, advisedExtension{id, e.Value})
	}
	return nil
}

func (a *Attributes) wantsExtension(id asn1.ObjectIdentifier) bool {
	return slices.ContainsFunc(a.extensions, func(e advisedExtension) bool { return e.ID.Equal(id) })
}

// parseTemplate reads a CertificationRequestInfoTemplate (RFC 9908 3.4).
func (a *Attributes) parseTemplate(der []byte) error {
	fields, err := elements(der)
	if err != nil {
		return err
	}
	var version int
	if len(fields) == 0 {
		return errors.New("empty template")
	}
	if _, err := asn1.Unmarshal(fields[0].FullBytes, &version); err != nil || version != 0 {
		return errors.New("template of an unknown version")
	}
	for _, field := range fields[1:] {
		switch {
		case field.Class == asn1.ClassUniversal && field.Tag == asn1.TagSequence:
			_, err = asn1.Unmarshal(field.FullBytes, &a.subject)
			wishes := len(a.subject)
			for _, set := range a.subject {
				wishes += len(set)
			}
			if err == nil && wishes > wishLimit {
				err = fmt.Errorf("subject of more than %d names and attributes", wishLimit)
			}
		case field.Class == asn1.ClassContextSpecific && field.Tag == 0:
			err = a.parseTemplateKey(field)
		case field.Class == asn1.ClassContextSpecific && field.Tag == 1:
			err = a.parseTemplateAttributes(field)
		}
		if err != nil {
			return fmt.Errorf("template: %w", err)
		}
	}
	return nil
}

func (a *Attributes) parseTemplateAttributes(field asn1.RawValue) error {
	var list []asn1.RawValue
	if _, err := asn1.UnmarshalWithParams(field.FullBytes, &list, "set,tag:1"); err != nil {
		return err
	}
	if len(list) > wishLimit {
		return fmt.Errorf("more than %d attributes", wishLimit)
	}
	attributes := make([]typedValues, len(list))
	for i, der := range list {
		var err error
		if attributes[i], err = parseAttribute(der); err != nil {
			return err
		}
	}
	return a.parseList(nil, attributes)
}

// want notes what stands there by its name alone. What we know nothing of is passed over (RFC 8951 4): so are
// otpChallenge and revocationChallenge (RFC 7894 3.1, 3.2), for which there is never a value.
func (a *Attributes) want(oid asn1.ObjectIdentifier) {
	hash := func(h crypto.Hash) {
		if a.Hash == 0 { // of several, the first is what the server likes best
			a.Hash = h
		}
	}
	is := oid.Equal
	switch {
	case is(oidESTIdentityLinking), is(oidChallengePassword) && !a.Link:
		// RFC 7894 4: of the two, estIdentityLinking is used.
		a.Link, a.binding = true, oid
	case is(oidChallengePassword):
	case is(oidSHA256), is(oidECDSAWithSHA256), is(oidSHA256WithRSA):
		hash(crypto.SHA256)
	case is(oidSHA384), is(oidECDSAWithSHA384), is(oidSHA384WithRSA):
		hash(crypto.SHA384)
	case is(oidSHA512), is(oidECDSAWithSHA512), is(oidSHA512WithRSA):
		hash(crypto.SHA512)
	case is(oidECPublicKey), is(oidRSAEncryption), is(oidEd25519):
		a.wantKey(oid, asn1.RawValue{})
	case curveBits(oid) != 0:
		if a.Bits == 0 && (a.Algorithm == "" || a.Algorithm == "ec") {
			a.Algorithm, a.Bits = "ec", curveBits(oid)
		}
	case len(oid) == 4 && oid[0] == 2 && oid[1] == 5 && oid[2] == 29: // id-ce, RFC 5280 4.2.1
		if !a.wantsExtension(oid) {
			a.extensions = append(a.extensions, advisedExtension{ID: oid})
		}
	case attributeName(oid) != oid.String():
		a.subject = append(a.subject, relativeNameSET{{Type: oid}})
	}
}

// elements returns what stands in a SEQUENCE that is all of der, at most wishLimit.
func elements(der []byte) ([]asn1.RawValue, error) {
	var outer asn1.RawValue
	rest, err := asn1.Unmarshal(der, &outer)
	switch {
	case err != nil:
		return nil, err
	case len(rest) > 0:
		return nil, fmt.Errorf("%d bytes too many", len(rest))
	case outer.Class != asn1.ClassUniversal || outer.Tag != asn1.TagSequence || !outer.IsCompound:
		return nil, errors.New("not a list")
	}
	var list []asn1.RawValue
	for rest = outer.Bytes; len(rest) > 0; {
		if len(list) == wishLimit {
			return nil, fmt.Errorf("more than %d elements", wishLimit)
		}
		var element asn1.RawValue
		if rest, err = asn1.Unmarshal(rest, &element); err != nil {
			return nil, err
		}
		list = append(list, element)
	}
	return list, nil
}
