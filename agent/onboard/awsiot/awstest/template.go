package awstest

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
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
		if !slices.Contains([]string{"AWS::IoT::Thing", "AWS::IoT::Certificate", "AWS::IoT::Policy"}, r.Type) {
			return nil, fmt.Errorf("resource %q is a %q", name, r.Type)
		}
		for setting, action := range r.OverrideSettings {
			actions := []string{"DO_NOTHING", "REPLACE", "FAIL"}
			if setting == "AttributePayload" || setting == "ThingGroups" {
				actions = append(actions, "MERGE")
			}
			if !slices.Contains(actions, action) {
				return nil, fmt.Errorf("resource %q: %s cannot be %q", name, setting, action)
			}
		}
		for property, value := range r.Properties {
			if err := t.references(value); err != nil {
				return nil, fmt.Errorf("resource %q, %s: %w", name, property, err)
			}
		}
	}
	return t, t.checkPolicy()
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
