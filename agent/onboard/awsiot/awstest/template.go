package awstest

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// RegistrationConfig is what RegisterCACertificate and UpdateCACertificate take: a template, which is JSON in a string,
// and the role that provisions by it.
type RegistrationConfig struct {
	TemplateBody string `json:"templateBody"`
	RoleARN      string `json:"roleArn"`
}

// templateLimit is the length of a templateBody, as the API has it.
const templateLimit = 10240

// template is a provisioning template.
type template struct {
	Parameters map[string]struct {
		Type    string
		Default *string
	}
	Resources map[string]*resource
}

type resource struct {
	Type             string
	Properties       map[string]json.RawMessage
	OverrideSettings map[string]string
}

const (
	parameterPrefix = "AWS::IoT::Certificate::"
	parameterID     = parameterPrefix + "Id"
)

// parameters are those that come from a subject, by object identifier.
func parameters() map[string]string {
	return map[string]string{
		parameterPrefix + "Country": "2.5.4.6", parameterPrefix + "Organization": "2.5.4.10",
		parameterPrefix + "OrganizationalUnit":         "2.5.4.11",
		parameterPrefix + "DistinguishedNameQualifier": "2.5.4.46",
		parameterPrefix + "StateName":                  "2.5.4.8", parameterPrefix + "CommonName": "2.5.4.3",
		parameterPrefix + "SerialNumber": "2.5.4.5",
	}
}

// parseTemplate reads a registration configuration, and says what is wrong with it.
func parseTemplate(c RegistrationConfig) (*template, error) {
	if len(c.TemplateBody) > templateLimit {
		return nil, fmt.Errorf("the template has %d characters, at most %d are taken", len(c.TemplateBody), templateLimit)
	}
	if !strings.HasPrefix(c.RoleARN, "arn:aws:iam::") || !strings.Contains(c.RoleARN, ":role/") {
		return nil, fmt.Errorf("%q is no ARN of a role", c.RoleARN)
	}
	t := new(template)
	if err := json.Unmarshal([]byte(c.TemplateBody), t); err != nil {
		return nil, fmt.Errorf("the template is no JSON: %w", err)
	}
	for name, p := range t.Parameters {
		if _, ok := parameters()[name]; (!ok && name != parameterID) || p.Type != "String" {
			return nil, fmt.Errorf("parameter %q is none of just-in-time provisioning, or no String", name)
		}
	}
	for _, of := range []string{"Thing", "Certificate"} {
		if t.resource(of) == nil {
			return nil, fmt.Errorf("the template has no AWS::IoT::%s", of)
		}
	}
	for name, r := range t.Resources {
		known, ok := kinds()[r.Type]
		if !ok {
			return nil, fmt.Errorf("resource %q is a %q", name, r.Type)
		}
		for setting, action := range r.OverrideSettings {
			if !slices.Contains(strings.Fields(known.overrides[setting]), action) {
				return nil, fmt.Errorf("resource %q: %s cannot be %q", name, setting, action)
			}
		}
		for property, value := range r.Properties {
			if !slices.Contains(known.properties, property) {
				return nil, fmt.Errorf("resource %q has no %s", name, property)
			}
			if err := t.references(value); err != nil {
				return nil, fmt.Errorf("resource %q, %s: %w", name, property, err)
			}
		}
	}
	certificate := t.resource("Certificate").Properties
	if id := text(certificate["CertificateId"], map[string]string{parameterID: "it"}); id != "it" {
		return nil, errors.New("the certificate is not the one with the id that just-in-time provisioning gives")
	}
	if status := text(certificate["Status"], nil); status != "" && status != string(Active) && status != string(Inactive) {
		return nil, fmt.Errorf("a certificate cannot become %q", status)
	}
	return t, t.checkPolicy()
}

// kinds are the resources that there are for just-in-time provisioning, each with its properties, and with what can be said of
// those of one that exists.
func kinds() map[string]struct {
	properties []string
	overrides  map[string]string
} {
	const plain, merge = "DO_NOTHING REPLACE FAIL", "DO_NOTHING REPLACE FAIL MERGE"
	return map[string]struct {
		properties []string
		overrides  map[string]string
	}{
		"AWS::IoT::Thing": {[]string{"ThingName", "AttributePayload", "ThingTypeName", "ThingGroups", "BillingGroup"},
			map[string]string{"AttributePayload": merge, "ThingGroups": merge, "ThingTypeName": plain}},
		"AWS::IoT::Certificate": {[]string{"CertificateId", "Status"}, map[string]string{"Status": plain}},
		"AWS::IoT::Policy":      {[]string{"PolicyName", "PolicyDocument"}, nil},
	}
}

// attributesAtMost is how many attributes a thing without a type can have.
const attributesAtMost = 3

// What the registry takes (API reference, ThingAttribute).
var (
	thingName      = regexp.MustCompile(`^[a-zA-Z0-9:_-]{1,128}$`)
	attributeName  = regexp.MustCompile(`^[a-zA-Z0-9_.,@/:#-]{1,128}$`)
	attributeValue = regexp.MustCompile(`^[a-zA-Z0-9_.,@/:#=\[\]-]{0,800}$`)
)

// attributes are those of a thing, filled in.
func (r *resource) attributes(values map[string]string) (map[string]string, error) {
	var payload map[string]json.RawMessage
	json.Unmarshal(r.Properties["AttributePayload"], &payload)
	if r.Properties["ThingTypeName"] == nil && len(payload) > attributesAtMost {
		return nil, fmt.Errorf("a thing without a type has at most %d attributes, not %d", attributesAtMost, len(payload))
	}
	attributes := map[string]string{}
	for name, value := range payload {
		attributes[name] = text(value, values)
		if !attributeName.MatchString(name) || !attributeValue.MatchString(attributes[name]) {
			return nil, fmt.Errorf("a thing cannot have the attribute %q with the value %q", name, attributes[name])
		}
	}
	return attributes, nil
}

func (t *template) checkPolicy() error {
	p := t.resource("Policy")
	if p == nil {
		return nil
	}
	document, inline := p.Properties["PolicyDocument"]
	if _, named := p.Properties["PolicyName"]; named == inline {
		return errors.New("a policy has either PolicyName or PolicyDocument")
	}
	var text string
	if inline && (json.Unmarshal(document, &text) != nil || !json.Valid([]byte(text))) {
		return errors.New("PolicyDocument is no JSON in a string")
	}
	return nil
}

// references checks that everything that value refers to is a declared parameter.
func (t *template) references(value json.RawMessage) error {
	var v any
	if err := json.Unmarshal(value, &v); err != nil {
		return err
	}
	var walk func(any) error
	walk = func(v any) error {
		switch v := v.(type) {
		case []any:
			for _, e := range v {
				if err := walk(e); err != nil {
					return err
				}
			}
		case map[string]any:
			if name, ok := v["Ref"].(string); ok {
				if _, ok := t.Parameters[name]; !ok {
					return fmt.Errorf("it refers to %q, which is not declared", name)
				}
			}
			for _, key := range slices.Sorted(maps.Keys(v)) {
				if err := walk(v[key]); err != nil {
					return err
				}
			}
		}
		return nil
	}
	return walk(v)
}

// resource is the first of a kind, or nil.
func (t *template) resource(kind string) *resource {
	for _, name := range slices.Sorted(maps.Keys(t.Resources)) {
		if t.Resources[name].Type == "AWS::IoT::"+kind {
			return t.Resources[name]
		}
	}
	return nil
}

// values fills in the parameters from a certificate's subject.
func (t *template) values(leaf *x509.Certificate, id string) (map[string]string, error) {
	values := map[string]string{}
	for name, p := range t.Parameters {
		if name == parameterID {
			values[name] = id
			continue
		}
		for _, a := range leaf.Subject.Names {
			if value, ok := a.Value.(string); ok && value != "" && a.Type.String() == parameters()[name] {
				values[name] = value
			}
		}
		if values[name] == "" && p.Default != nil {
			values[name] = *p.Default
		}
		if values[name] == "" {
			return nil, fmt.Errorf("the certificate has no value for %s", name)
		}
	}
	return values, nil
}

// text is a property that is a string, or refers to a parameter.
func text(value json.RawMessage, values map[string]string) string {
	var s string
	if json.Unmarshal(value, &s) == nil {
		return s
	}
	var r struct{ Ref string }
	json.Unmarshal(value, &r)
	return values[r.Ref]
}
