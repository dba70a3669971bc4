package config

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

const (
	globalBootstrap = `
[cert_issuance.est.auth]
bootstrap_identity_cert = "/boot.pem"
bootstrap_identity_pk = "/boot.key.pem"
`
	identityRenewal = `
[cert_issuance.est.identity_auto_renew]
threshold = "70%"
`
	urls = `
[cert_issuance.est.urls]
default = "https://est.example/.well-known/est"
`
	device = `
[provisioning.attestation.identity_cert]
common_name = "gateway-7"
`
	mqtt = `
[cert_issuance.certs.mqtt]
common_name = "mqtt.example"
`
	inline = `
bootstrap_identity_cert = "/other.pem"
bootstrap_identity_pk = "/other.key.pem"
`
	sameInline = `
bootstrap_identity_cert = "file:///boot.pem"
bootstrap_identity_pk = "file:///boot.key.pem"
`
)

func TestESTIdentities(t *testing.T) {
	const none = ""
	for _, c := range []struct {
		name, doc string
		ids       string // of all certificates, in order
		identity  string // of the last one
		subject   string // common name of the first identity
		url       string // of the first identity
	}{
		{"no renewal of identities", globalBootstrap + urls + mqtt, "mqtt", none, "", ""},
		{"a password only", identityRenewal + "[cert_issuance.est.auth]\nusername = \"\"\n" +
			"password = \"p\"\n" + urls + mqtt, "mqtt", none, "", ""},
		{"one for all", globalBootstrap + identityRenewal + urls + device + mqtt, "est-id device-id mqtt",
			"est-id", "gateway-7", "https://est.example/.well-known/est"},
		{"named after the first certificate", globalBootstrap + identityRenewal + urls + mqtt +
			"[cert_issuance.certs.http]\ncommon_name = \"http.example\"\n", "est-id http mqtt", "est-id",
			"http.example", "https://est.example/.well-known/est"},
		{"a login of its own", globalBootstrap + identityRenewal + urls + device + mqtt + inline,
			"est-id est-id-mqtt device-id mqtt", "est-id-mqtt", "gateway-7", "https://est.example/.well-known/est"},
		{"a login of its own alone", globalBootstrap + identityRenewal + urls + mqtt + inline, "est-id-mqtt mqtt",
			"est-id-mqtt", "mqtt.example", "https://est.example/.well-known/est"},
		{"the global login written again", globalBootstrap + identityRenewal + urls + mqtt + sameInline, "est-id mqtt",
			"est-id", "mqtt.example", "https://est.example/.well-known/est"},
		{"a person's identity", identityRenewal + globalBootstrap + "identity_cert = \"/i.pem\"\n" +
			"identity_pk = \"/i.key\"\n" + urls + mqtt, "mqtt", none, "", ""},
		{"a server of its own", globalBootstrap + identityRenewal + urls +
			"est-id = \"https://login.example/.well-known/est\"\n" + mqtt, "est-id mqtt", "est-id", "mqtt.example",
			"https://login.example/.well-known/est"},
		{"the server of the certificate", globalBootstrap + identityRenewal + mqtt +
			"url = \"https://mqtt.example/.well-known/est\"\n", "est-id mqtt", "est-id", "mqtt.example",
			"https://mqtt.example/.well-known/est"},
		{"an inline login at the server of the certificate", identityRenewal + urls + mqtt + inline +
			"url = \"https://mqtt.example/.well-known/est\"\n", "est-id-mqtt mqtt", "est-id-mqtt", "mqtt.example",
			"https://mqtt.example/.well-known/est"},
		{"a table of its own", globalBootstrap + identityRenewal + urls + mqtt +
			"[cert_issuance.certs.est-id]\nsubject = { CN = \"login\" }\nurl = \"https://own.example/est\"\n",
			"est-id mqtt", "est-id", "login", "https://own.example/est"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := parse(t, c.doc)
			var ids []string
			for _, cert := range cfg.Certificates {
				ids = append(ids, cert.ID)
			}
			if got := strings.Join(ids, " "); got != c.ids {
				t.Fatalf("certificates %s, want %s", got, c.ids)
			}
			last := cfg.Certificates[len(ids)-1]
			if last.ESTIdentity != c.identity {
				t.Errorf("%s logs in with %q, want %q", last.ID, last.ESTIdentity, c.identity)
			}
			first := cfg.Certificates[0]
			if c.identity == none {
				return
			}
			if first.Role != RoleESTIdentity || first.ESTIdentity != "" || first.Auth.Bootstrap == nil {
				t.Errorf("%s is a %s, logs in with %q and bootstrap %v", first.ID, first.Role, first.ESTIdentity,
					first.Auth.Bootstrap)
			}
			if got := commonNameOf(first.Subject); got != c.subject {
				t.Errorf("the identity is called %q, want %q", got, c.subject)
			}
			if got := first.URL.String(); got != c.url {
				t.Errorf("the identity comes from %s, want %s", got, c.url)
			}
			if first.Policy.Threshold.String() != "70%" || !slices.Equal(first.Usages, []string{"client"}) {
				t.Errorf("threshold %v, usages %v", first.Policy.Threshold, first.Usages)
			}
		})
	}
}

// Trust: the system's roots only where no anchors are configured, unless said otherwise.
func TestTrust(t *testing.T) {
	for _, c := range []struct {
		doc   string
		files int
		roots bool
	}{
		{"", 0, true},
		{"trusted_certs = []", 0, true},
		{"trusted_certs = [\"/ca.pem\"]", 1, false},
		{"bootstrap_fingerprint = \"" + strings.Repeat("0a", 32) + "\"", 0, false},
		{"bootstrap_fingerprint = \"" + strings.Repeat("0a", 64) + "\"", 0, false},
		{"bootstrap_fingerprint = \"" + strings.Repeat("0A:", 31) + "0a\"\nsystem_roots = true", 0, true},
		{"trusted_certs = [\"/ca.pem\", \"/cb.pem\"]\nsystem_roots = true", 2, true},
	} {
		cfg := parse(t, "[cert_issuance.est]\n"+c.doc+urls+mqtt)
		got := cfg.Certificates[0].Trust
		if len(got.Files) != c.files || got.SystemRoots != c.roots {
			t.Errorf("%q: %+v", c.doc, got)
		}
	}
}

// The server: the certificate's own, the one for its id, the default.
func TestURLChoice(t *testing.T) {
	doc := urls + "mqtt = \"https://id.example/prefix/.well-known/est/\"\n" + device + mqtt
	cfg := parse(t, doc)
	m, _ := cfg.Certificate("mqtt")
	d, _ := cfg.Certificate("device-id")
	if m.URL.String() != "https://id.example/prefix/.well-known/est" ||
		d.URL.String() != "https://est.example/.well-known/est" {
		t.Errorf("mqtt %s, device-id %s", m.URL, d.URL)
	}
	cfg = parse(t, doc+"url = \"https://own.example/.well-known/est/label/\"\n")
	if m, _ := cfg.Certificate("mqtt"); m.URL.String() != "https://own.example/.well-known/est/label" {
		t.Errorf("mqtt %s", m.URL)
	}
}

// registration_id names the device certificate, whatever else does, and nothing but it.
func TestRegistrationID(t *testing.T) {
	for _, name := range []string{
		`common_name = "gateway-7"`, `subject = { O = "Example" }`, `subject = [["O", "Example"], ["CN", "other"]]`,
		`common_name_from = "hostname"`, ``,
	} {
		cfg := parse(t, "[provisioning.attestation]\nregistration_id = \"gateway-7\"\n"+
			"[provisioning.attestation.identity_cert]\n"+name+urls+mqtt)
		d, _ := cfg.Certificate("device-id")
		if commonNameOf(d.Subject) != "gateway-7" || d.SubjectFrom != "" {
			t.Errorf("%s: %v from %q", name, d.Subject, d.SubjectFrom)
		}
		if m, _ := cfg.Certificate("mqtt"); commonNameOf(m.Subject) != "mqtt.example" {
			t.Errorf("%s: mqtt is called %v", name, m.Subject)
		}
		differs := strings.Contains(name, "other") || strings.Contains(name, "hostname")
		if warned := len(cfg.Warnings) > 0; warned != differs {
			t.Errorf("%s: warnings %v", name, cfg.Warnings)
		}
	}
}

// Whose cloud does not take the kind of key is told before there is a certificate; another certificate is another matter.
func TestKeyForTheCloud(t *testing.T) {
	for source, where := range map[string]string{
		"dps": "id_scope = \"0ne00000000\"\n", "aws": "endpoint = \"x-ats.iot.example\"\n", "none": "",
	} {
		for _, key := range []string{"ec-p256", "ed25519"} {
			cfg := parse(t, "[provisioning]\nsource = \""+source+"\"\n"+where+"[provisioning.attestation.identity_cert]\ncommon_name = \"gw\"\nkey = \""+
				key+"\""+urls+mqtt+"key = \"ed25519\"\n")
			if got, want := fmt.Sprint(cfg.Warnings), source != "none" && key == "ed25519"; want != (len(cfg.Warnings) == 1) ||
				want && !strings.Contains(got, "device-id") && !strings.Contains(got, "identity_cert") {
				t.Errorf("%s, %s: warnings %v", source, key, got)
			}
		}
	}
}

// An inline login takes the place of the global one as a whole.
func TestInlineAuth(t *testing.T) {
	cfg := parse(t, "[cert_issuance.est.auth]\nusername = \"u\"\npassword = \"p\"\n"+urls+mqtt+inline)
	a := cfg.Certificates[0].Auth
	if a.HasPassword || a.Username != "" || a.Password.Reveal() != "" ||
		a.Bootstrap == nil || a.Bootstrap.Cert != "/other.pem" {
		t.Errorf("login %+v", a)
	}
}
