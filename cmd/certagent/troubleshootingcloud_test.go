package main

import (
	"os"
	"strings"
	"time"

	"certagent/agent/onboard"
	"certagent/agent/onboard/awsiot"
	"certagent/agent/onboard/awsiot/awstest"
	"certagent/agent/onboard/dps/dpstest"
)

// in has the device certificate in place of mqtt, for the cloud that provisioning describes.
func (p *patient) in(provisioning string, pairs ...string) string {
	return p.base(append([]string{"[cert_issuance.certs.mqtt]\ncommon_name = \"mqtt\"\n", provisioning +
		"[provisioning.attestation.identity_cert]\nmethod = \"est\"\ncommon_name = \"gw-1\"\n"}, pairs...)...)
}

// dps is an endpoint of DPS without any enrolment, and the [provisioning] for it.
func (p *patient) dps() (s *dpstest.Server, provisioning string) {
	s = dpstest.New(p.t, dpstest.Options{})
	return s, "[provisioning]\nsource = \"dps\"\nglobal_endpoint = \"" + s.URL() + "\"\nid_scope = \"" + s.IDScope() +
		"\"\ntrusted_certs = [\"" + p.file("cloud.pem", string(s.RootPEM())) + "\"]\n"
}

// aws is an endpoint of AWS IoT whose account provisions what the EST server issues, and the [provisioning] for it.
func (p *patient) aws() (s *awstest.Server, provisioning string) {
	p.t.Helper()
	s = awstest.New(p.t, awstest.Options{})
	_, err := s.Provision(p.s.RootPEM(), &awstest.RegistrationConfig{
		TemplateBody: string(fileOf(p.t, "../../examples/aws-jitp/template.json")), RoleARN: "arn:aws:iam::123456789012:role/jitp"})
	p.must(err)
	return s, "[provisioning]\nsource = \"aws\"\nendpoint = \"" + s.Endpoint() +
		"\"\ntrusted_certs = [\"" + p.file("cloud.pem", string(s.RootPEM())) + "\"]\n"
}

// cloudTroubles are those of a certificate that is issued and that its cloud does not know.
var cloudTroubles = []trouble{
	{title: "No enrolment takes the device", provoke: func(p *patient) string {
		_, provisioning := p.dps()
		p.configure(p.in(provisioning))
		return p.tried()
	}},
	{title: "The cloud's endpoint is not trusted", provoke: func(p *patient) string {
		_, provisioning := p.dps()
		p.configure(p.in(provisioning[:strings.Index(provisioning, "trusted_certs")]))
		return p.tried()
	}},
	{title: "The ID scope is a blank", provoke: func(p *patient) string {
		s, provisioning := p.dps()
		p.configure(p.in(strings.Replace(provisioning, s.IDScope(), "<DPS-ID-SCOPE>", 1)))
		return p.tried()
	}},
	{title: "AWS IoT drops every connection", provoke: func(p *patient) string {
		s, provisioning := p.aws() // whose template wants what the subject of gw-1 does not have
		p.configure(p.in(""))
		p.says("run", "--once")
		h, err := p.read("device-id")
		p.must(err)
		p.must(os.Mkdir(p.path("state", "onboard"), 0o755))
		nine := awsiot.State{Tries: 9, Dropped: 9, Began: time.Now(), // the first nine of ten take three minutes
			Of: awsiot.Registration{Endpoint: s.Endpoint(), Port: 8883, ClientID: "gw-1", SHA256: onboard.Thumbprint(h.leaf)}}
		p.file("state/onboard/aws-state.json", string(nine.Bytes()))
		p.configure(p.in(provisioning))
		return p.tried("HTTPS_PROXY=" + s.Proxy().String())
	}},
	{title: "AWS IoT does not take the kind of key", provoke: func(p *patient) string {
		_, provisioning := p.aws()
		p.configure(p.in(provisioning, "common_name = \"gw-1\"\n", "common_name = \"gw-1\"\nkey = \"ed25519\"\n"))
		return p.tried()
	}},
}
