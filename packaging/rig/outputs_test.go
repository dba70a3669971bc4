//go:build system

package rig

import (
	"strings"
	"testing"
)

// everyOutput is one of each format, with the mode that it has by itself.
var everyOutput = []struct{ format, mode, more string }{
	{"cert", "644", ""}, {"chain", "644", ""}, {"fullchain", "644", ""}, {"fullchain+root", "644", ""}, {"ca", "644", ""},
	{"key", "640", ""}, {"combined", "640", ""}, {"pkcs12", "640", `password_file = "credential:p12-password"`},
}

// consume is what a consumer in its own user does with the outputs; it ends with the serial number of the certificate.
const consume = `runuser -u telemetry -- sh -euc '
key=$(openssl pkey -in key -pubout)
openssl verify -CAfile ca -untrusted fullchain cert >/dev/null
for f in cert fullchain fullchain+root combined; do test "$(openssl x509 -in $f -pubkey -noout)" = "$key"; done
test "$(openssl pkey -in combined -pubout)" = "$key"
store() { openssl pkcs12 -in pkcs12 -passin pass:"$@" 2>/dev/null; }
test "$(store kept-for-java -nodes -nocerts | openssl pkey -pubout)" = "$key"
test "$(store kept-for-java -nokeys -clcerts | openssl x509 -pubkey -noout)" = "$key"
! store another -nodes >/dev/null
test "$(cat cert chain)" = "$(cat fullchain)"
sed -n "/BEGIN CERT/,\$p" combined | cmp - fullchain
openssl storeutl -noout -certs fullchain+root | grep -q "Total found: [2-9]"
openssl x509 -in cert -noout -serial'`

// everyOutputIsWritten inside the sandbox, and again after a renewal, for a group that can use each.
func everyOutputIsWritten(t *testing.T, m *machine) {
	m.enrolled(t)
	m.places(t, "mosquitto")
	m.write(t, "/root/p12-password", "0600", "root:root", "kept-for-java\n")
	m.override(t, "[Service]\nSupplementaryGroups=telemetry\nReadWritePaths=/etc/telemetry\n"+
		"LoadCredential=p12-password:/root/p12-password\n")
	config := "[cert_issuance.certs.every]\ncommon_name = \"every\"\n"
	names, want := "", ""
	for _, o := range everyOutput {
		config += "[[cert_issuance.certs.every.outputs]]\nformat = \"" + o.format + "\"\ngroup = \"telemetry\"\n" +
			"path = \"/etc/telemetry/every/" + o.format + "\"\n" + o.more + "\n"
		names += " " + o.format
		want += "certagent:telemetry " + o.mode + " " + o.format + "\n"
	}
	t.Cleanup(func() { m.run(t, "rm -r /etc/telemetry/every") })
	m.run(t, "install -d -o certagent /etc/telemetry/every")
	m.configured(t, "every", config)
	consumed := func() bool {
		said, code := m.try("certagent status every >/dev/null && cd /etc/telemetry/every && " + consume)
		return code == 0 && strings.ToLower(said) == "serial="+m.serial(t, "every")
	}
	m.until(t, "the outputs are there, of one key", consumed)
	if got := m.run(t, "cd /etc/telemetry/every && stat -c '%U:%G %a %n'"+names); got != strings.TrimSuffix(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	m.run(t, "certagent renew --wait every")
	m.until(t, "the outputs are those of the next generation", consumed)
}

// outputsOfAnotherOwner need CAP_CHOWN, which owner.conf gives, and without it say so.
func outputsOfAnotherOwner(t *testing.T, m *machine) {
	m.enrolled(t)
	m.places(t, "mosquitto")
	m.dropIn(t, "consumer-group.conf")
	m.configured(t, "owned", `[cert_issuance.certs.owned]
common_name = "owned"
[[cert_issuance.certs.owned.outputs]]
format = "combined"
path = "/etc/mosquitto/certs/owned.pem"
owner = "mosquitto"
group = "mosquitto"
mode = "0400"
`)
	m.until(t, "the problem", func() bool {
		said, code := m.try("certagent status owned")
		return code == 8 && strings.Contains(said, "owned.pem")
	})
	if said, code := m.try("certagent wait --timeout 0s owned"); code != 1 {
		t.Errorf("a consumer that waits for what cannot be written: exit code %d:\n%s", code, said)
	}
	m.dropIn(t, "owner.conf")
	m.run(t, "certagent wait --timeout 1m owned && certagent status owned")
	if said := m.run(t, "stat -c '%U:%G %a' /etc/mosquitto/certs/owned.pem"); said != "mosquitto:mosquitto 400" {
		t.Errorf("the output: %s", said)
	}
}
