package config

import (
	"slices"
	"testing"
)

// What the program cannot do yet is a problem of the certificate concerned and a warning, and the rest loads.
func TestProblems(t *testing.T) {
	dps := "[provisioning]\nsource = \"dps\"\nid_scope = \"0ne00000000\"\n"
	for _, c := range []struct {
		name, doc string
		codes     []string // of mqtt, or of device-id
	}{
		{"nothing", urls + mqtt, nil},
		{"onboarding is of the device certificate", dps + urls + mqtt, nil},
		{"onboarding", dps + urls + device, nil},
		{"placeholder", "[provisioning]\nsource = \"dps\"\nid_scope = \"<YOUR-SCOPE>\"\n" + urls + device,
			[]string{"placeholder"}},
		{"a key on a token", urls + mqtt + "key = \"pkcs11:token=t;object=o?pin-value=1\"\n",
			[]string{"not-built"}},
		{"a login on a token", urls + mqtt + "identity_cert = \"/i.pem\"\nidentity_pk = \"pkcs11:object=o\"\n",
			[]string{"not-built"}},
		{"outputs", urls + mqtt + "[[cert_issuance.certs.mqtt.outputs]]\nformat = \"ca\"\npath = \"/etc/ca.pem\"\n",
			nil},
		{"hooks", urls + mqtt + "[cert_issuance.certs.mqtt.on_renew]\nreload = [\"mosquitto\"]\n",
			nil},
		{"an empty hook", urls + mqtt + "[cert_issuance.certs.mqtt.on_renew]\ntimeout = \"5s\"\n", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := parse(t, c.doc)
			cert := cfg.Certificates[0]
			var codes []string
			for _, p := range cert.Problems {
				codes = append(codes, p.Code)
				if p.Text == "" || p.Hint == "" {
					t.Errorf("%+v says too little", p)
				}
				if !slices.ContainsFunc(cfg.Warnings, func(w Warning) bool {
					return w.Certificate == cert.ID && w.Text == p.Text && w.Place.Line > 0
				}) {
					t.Errorf("%s is not among the warnings %v", p.Code, cfg.Warnings)
				}
			}
			if !slices.Equal(codes, c.codes) {
				t.Errorf("problems %q, want %q", codes, c.codes)
			}
		})
	}
}
