package awstest_test

import (
	"strings"
	"testing"

	"certagent/agent/onboard/awsiot/awstest"
)

// A thing's name and attributes are made of few characters, and there are at most three of the latter; an attribute that exists
// is merged, replaced or left as OverrideSettings say. What a parameter lacks its default may have.
func TestThings(t *testing.T) {
	for _, test := range []struct{ cn, payload, override, want string }{
		{"gw-1", `{"a":{"Ref":"AWS::IoT::Certificate::CommonName"}}`, "MERGE", ""},
		{"gw-1.example.com", `{}`, "MERGE", `cannot be called "gw-1.example.com"`},
		{"gw-1", `{"a":"Example Ltd"}`, "MERGE", `the attribute "a" with the value "Example Ltd"`},
		{"gw-1", `{"a b":"x"}`, "MERGE", `the attribute "a b"`},
		{"gw-1", `{"a":"1","b":"2","c":"3","d":"4"}`, "MERGE", "at most 3 attributes, not 4"},
		{"gw-1", `{"a":{"Ref":"AWS::IoT::Certificate::Country"}}`, "REPLACE", ""},
		{"gw-1", `{"a":"1"}`, "DO_NOTHING", ""},
	} {
		s := awstest.New(t, awstest.Options{})
		ca := newCA(t)
		body := strings.Replace(template, "OVERRIDE", `,"OverrideSettings":{"AttributePayload":"`+test.override+`"}`, 1)
		body = strings.Replace(body, `"ThingName"`, `"AttributePayload":PAYLOAD,"ThingName"`, 1)
		body = strings.Replace(body, `"Parameters":{`, `"Parameters":{"AWS::IoT::Certificate::Country":{"Type":"String","Default":"JP"},`, 1)
		role := "arn:aws:iam::1:role/jitp"
		id, err := s.Provision(ca.pem(), &awstest.RegistrationConfig{TemplateBody: strings.Replace(body, "PAYLOAD", test.payload, 1), RoleARN: role})
		if err != nil {
			t.Fatal(err)
		}
		device := issue(t, named(test.cn), ca)
		dial(t, s, s.Endpoint(), device)
		c := s.Certificate(s.Connections()[0].Chain[0])
		if test.want != "" {
			if !strings.Contains(c.Failure, test.want) || c.Status != awstest.PendingActivation || dial(t, s, s.Endpoint(), device) != "dropped" {
				t.Errorf("%+v, want %s", c, test.want)
			}
			continue
		}
		first := s.Thing(test.cn).Attributes
		err = s.UpdateCA(id, "", nil, &awstest.RegistrationConfig{TemplateBody: strings.Replace(body, "PAYLOAD", `{"b":"2"}`, 1), RoleARN: role})
		if err != nil {
			t.Fatal(err)
		}
		dial(t, s, s.Endpoint(), issue(t, named(test.cn), ca))
		_, a := s.Thing(test.cn).Attributes["a"]
		_, b := s.Thing(test.cn).Attributes["b"]
		if len(first) != 1 || a != (test.override != "REPLACE") || b != (test.override != "DO_NOTHING") {
			t.Errorf("%s: %v, then %v", test.override, first, s.Thing(test.cn).Attributes)
		}
	}
}
