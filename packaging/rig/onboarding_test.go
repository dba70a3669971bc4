//go:build system

package rig

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"
	"time"

	"certagent/agent/onboard/dps/dpstest"
)

// The endpoint of the cloud, which is its only hub as well.
const (
	cloudName = "cloud.example"
	cloudPort = 8443
)

// greeting is how an application on the gateway, in its own user, greets the hub that the agent found, with the agent's
// certificate: it reads what docs/onboarding.md says that it may, and nothing else. Its arguments are file and CA.
const greeting = `runuser -u telemetry -- sh -euc '
field() { sed -n "s/^ *\"$1\": \"\(.*\)\",*\$/\1/p" /var/lib/certagent/onboard/dps.json; }
hub=$(field hub) device=$(field device_id) live=/var/lib/certagent/certs/device-id/live
{
	printf "POST /devices/%s/messages/events?api-version=2020-03-13 HTTP/1.1\r\nHost: %s\r\n" "$device" "$hub"
	printf "Content-Length: 5\r\nConnection: close\r\n\r\nhello"
} | openssl s_client -quiet -verify_return_error -verify_hostname "$hub" -servername "$hub" -connect "$hub:8443" \
	-CAfile /etc/certagent/trust/cloud.pem -cert $live/cert.pem -cert_chain $live/fullchain.pem -key $live/key.pem'`

// anApplicationFindsItsHub: the device is registered from inside the sandbox, and what the cloud answered can be read,
// and the key used, by an application of another user; after a renewal too.
func anApplicationFindsItsHub(t *testing.T, m *machine) {
	m.enrolled(t)
	m.places(t, "mosquitto")
	cloud := dpstest.New(t, dpstest.Options{
		Listener: m.est.listen(t, cloudPort), Hubs: []string{cloudName}, RetryAfter: time.Second,
	})
	block, _ := pem.Decode([]byte(m.est.file(t, "ca.pem")))
	ca, err := x509.ParseCertificate(block.Bytes)
	must(t, err)
	cloud.EnrolGroup(ca, dpstest.Enrolment{})
	m.write(t, "/etc/certagent/trust/cloud.pem", "0644", "root:root", string(cloud.RootPEM()))
	m.override(t, "[Service]\nSupplementaryGroups=telemetry\n")
	m.configured(t, "cloud", fmt.Sprintf(`[provisioning]
source = "dps"
global_endpoint = "https://%s:%d"
id_scope = %q
trusted_certs = ["/etc/certagent/trust/cloud.pem"]
[provisioning.attestation.identity_cert]
group = "telemetry"
`, cloudName, cloudPort, cloud.IDScope()))
	t.Cleanup(func() { m.run(t, "rm -rf /etc/certagent/trust/cloud.pem /var/lib/certagent/onboard") })

	for range 2 {
		m.run(t, "certagent renew --wait device-id") // the group holds from the next generation on
		var result struct{ SHA256 string }
		m.until(t, "the device is registered", func() bool {
			said, code := m.try("runuser -u telemetry -- cat /var/lib/certagent/onboard/dps.json")
			return code == 0 && json.Unmarshal([]byte(said), &result) == nil && result.SHA256 == m.fingerprint(t, "device-id")
		})
		m.run(t, "certagent status")
		if answer := m.run(t, greeting); !strings.Contains(answer, "HTTP/1.1 204 ") {
			t.Errorf("the hub answers %q", answer)
		}
	}
	want := "drwxr-xr-x certagent:certagent /var/lib/certagent/onboard\n" +
		"-rw-r--r-- certagent:certagent /var/lib/certagent/onboard/dps-state.json\n" +
		"-rw-r--r-- certagent:certagent /var/lib/certagent/onboard/dps.json"
	if got := m.run(t, "find /var/lib/certagent/onboard -printf '%M %u:%g %p\n' | LC_ALL=C sort -k 3"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
