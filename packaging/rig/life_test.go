//go:build system

package rig

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"
)

// install installs a release as a person does, who keeps the configuration when asked.
func (m *machine) install(t *testing.T, version string) {
	t.Helper()
	if m.root.rpm {
		// What this system has from Debian, dnf does not know.
		m.run(t, "rpm -q debian >/dev/null || rpm -i /mnt/debian-*.rpm")
		verb := "install"
		if installed, code := m.try("rpm -q --qf '%{VERSION}' certagent"); code == 0 && installed > version {
			verb = "downgrade"
		}
		m.run(t, fmt.Sprintf("dnf -q -y --disablerepo='*' %s /mnt/%s/certagent-%s-*.rpm </dev/null", verb, version, version))
		return
	}
	m.run(t, fmt.Sprintf("printf 'N\n' | apt-get -q -y --no-install-recommends --allow-downgrades install"+
		" /mnt/%s/certagent_%s-*_amd64.deb", version, version))
}

// remove removes it.
func (m *machine) remove(t *testing.T) {
	t.Helper()
	if m.root.rpm {
		m.run(t, "dnf -q -y --disablerepo='*' remove certagent </dev/null")
		return
	}
	m.run(t, "apt-get -q -y remove certagent </dev/null")
}

// version is the release that is installed, "" for none.
func (m *machine) version(t *testing.T) string {
	t.Helper()
	script := "dpkg-query -W -f '${db:Status-Status} ${Version}\n' certagent 2>/dev/null | sed -n 's/^installed //p'"
	if m.root.rpm {
		script = "rpm -q --quiet certagent && rpm -q --qf '%{VERSION}' certagent || true"
	}
	version, _, _ := strings.Cut(m.run(t, script), "-")
	return version
}

// installed has the older release installed.
func (m *machine) installed(t *testing.T) {
	t.Helper()
	if m.version(t) == "" {
		m.install(t, older)
	}
}

// configuration is what a person writes, with the bootstrap pair as login.
const configuration = `[cert_issuance.est]
trusted_certs = ["/etc/certagent/trust/est.pem"]

[cert_issuance.est.auth]
bootstrap_identity_cert = "/etc/certagent/bootstrap/device.pem"
bootstrap_identity_pk = "/etc/certagent/bootstrap/device.key.pem"

[cert_issuance.est.urls]
default = "` + estURL + `"

[provisioning.attestation.identity_cert]
method = "est"
common_name = "gateway-42"
`

// configure does what docs/installation.md says.
func (m *machine) configure(t *testing.T) {
	t.Helper()
	m.write(t, "/etc/certagent/trust/est.pem", "0644", "root:root", m.est.file(t, "ca.pem"))
	m.write(t, "/etc/certagent/bootstrap/device.pem", "0640", "root:certagent", m.est.file(t, "bootstrap.pem"))
	m.write(t, "/etc/certagent/bootstrap/device.key.pem", "0640", "root:certagent", m.est.file(t, "bootstrap.key.pem"))
	// As an editor does: the file keeps its owner and mode.
	m.run(t, "cat >/etc/certagent/config.toml <<'END'\n"+configuration+"END")
}

// enrolled has a gateway that has its certificate.
func (m *machine) enrolled(t *testing.T) {
	t.Helper()
	m.installed(t)
	if _, code := m.try("certagent config check"); code != 0 {
		m.configure(t)
	}
	m.run(t, "systemctl enable --now certagent && certagent wait --timeout 1m device-id")
}

// leaf is the live certificate of an id, verified under the EST server's CA, with the key beside it.
func (m *machine) leaf(t *testing.T, id string) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode([]byte(m.run(t, "cat /var/lib/certagent/certs/"+id+"/live/cert.pem")))
	if block == nil {
		t.Fatalf("%s has no certificate", id)
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	must(t, err)
	usages := []x509.ExtKeyUsage{x509.ExtKeyUsageAny}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: m.est.roots(t), KeyUsages: usages}); err != nil {
		t.Fatal(err)
	}
	return leaf
}

// state is what must outlive everything that a package manager does short of a purge: each file with its bytes, owner
// and mode. What the agent notes of its tries is not in it.
func (m *machine) state(t *testing.T) string {
	t.Helper()
	const kept = "find certs trust ! -name retry.json ! -name delivery.json"
	return m.run(t, "export LC_ALL=C; cd /var/lib/certagent && "+kept+" ! -type d -printf '%p %u:%g %m %l\n' | sort && "+
		kept+" -type f -exec sha256sum {} + | sort -k 2")
}

func installedAndNotStarted(t *testing.T, m *machine) {
	m.installed(t)
	// status says disabled with 1, inactive with 3.
	if said := m.fails(t, 1, "systemctl is-enabled certagent"); said != "disabled" {
		t.Errorf("is-enabled: %s", said)
	}
	if said := m.fails(t, 3, "systemctl is-active certagent"); said != "inactive" {
		t.Errorf("is-active: %s", said)
	}
	if user := m.run(t, "getent passwd certagent"); !strings.HasSuffix(user, ":/var/lib/certagent:/usr/sbin/nologin") {
		t.Errorf("the user: %s", user)
	}
	if said := m.run(t, "certagent version"); !strings.Contains(said, older) {
		t.Errorf("certagent version: %s", said)
	}
	if failed := m.run(t, "systemctl --failed --plain --no-legend"); failed != "" {
		t.Errorf("failed: %s", failed)
	}
}

func startedUnconfigured(t *testing.T, m *machine) {
	m.installed(t)
	m.fails(t, 1, "systemctl start certagent")
	// It has ended for good: what waits for another try is "activating".
	for name, want := range map[string]string{
		"ActiveState": "failed", "Result": "exit-code", "ExecMainStatus": "2", "NRestarts": "0",
	} {
		if got := m.property(t, name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	// What a person reads: what is wrong, and where.
	said := m.fails(t, 3, "systemctl status --no-pager -l certagent")
	if !strings.Contains(said, "/etc/certagent/config.toml") {
		t.Errorf("systemctl status does not name the file:\n%s", said)
	}
	m.run(t, "systemctl reset-failed certagent")
}

func enrols(t *testing.T, m *machine) {
	m.enrolled(t)
	if cn := m.leaf(t, "device-id").Subject.CommonName; cn != "gateway-42" {
		t.Errorf("the certificate is for %s", cn)
	}
	if asked := m.est.asked(); len(asked) == 0 || !strings.Contains(asked[0], "simpleenroll") {
		t.Errorf("the server was asked %q", asked)
	}
	m.until(t, "systemctl status says that it is valid", func() bool {
		return strings.Contains(m.property(t, "StatusText"), "valid")
	})
}

// ownersAndModes: every path that the package, a person and the agent made, as docs/installation.md and
// docs/operations.md have it.
func ownersAndModes(t *testing.T, m *machine) {
	m.enrolled(t)
	live := m.run(t, "readlink /var/lib/certagent/certs/device-id/live")
	want := strings.ReplaceAll(`drwxr-xr-x root:root /etc/certagent
drwxr-x--- root:certagent /etc/certagent/bootstrap
-rw-r----- root:certagent /etc/certagent/bootstrap/device.key.pem
-rw-r----- root:certagent /etc/certagent/bootstrap/device.pem
drwxr-x--- root:certagent /etc/certagent/config.d
-rw-r----- root:certagent /etc/certagent/config.toml
drwxr-xr-x root:root /etc/certagent/trust
-rw-r--r-- root:root /etc/certagent/trust/est.pem
drwxr-xr-x certagent:certagent /run/certagent
drwxr-xr-x certagent:certagent /run/certagent-deploy
srw-rw-rw- certagent:certagent /run/certagent/control.sock
drwxr-xr-x certagent:certagent /var/lib/certagent
drwxr-xr-x certagent:certagent /var/lib/certagent/certs
drwxr-xr-x certagent:certagent /var/lib/certagent/certs/device-id
drwxr-xr-x certagent:certagent /var/lib/certagent/certs/device-id/LIVE
-rw-r--r-- certagent:certagent /var/lib/certagent/certs/device-id/LIVE/ca.pem
-rw-r--r-- certagent:certagent /var/lib/certagent/certs/device-id/LIVE/cert.pem
-rw-r--r-- certagent:certagent /var/lib/certagent/certs/device-id/LIVE/chain.pem
-rw-r--r-- certagent:certagent /var/lib/certagent/certs/device-id/LIVE/fullchain.pem
-rw------- certagent:certagent /var/lib/certagent/certs/device-id/LIVE/key.pem
-rw-r--r-- certagent:certagent /var/lib/certagent/certs/device-id/LIVE/meta.json
lrwxrwxrwx certagent:certagent /var/lib/certagent/certs/device-id/live
-rw-r--r-- certagent:certagent /var/lib/certagent/certs/device-id/retry.json
-rw------- certagent:certagent /var/lib/certagent/last-good.toml
-rw------- certagent:certagent /var/lib/certagent/lock
drwxr-xr-x certagent:certagent /var/lib/certagent/trust
-rw-r--r-- certagent:certagent /var/lib/certagent/trust/est.example_8085.json
-rw-r--r-- certagent:certagent /var/lib/certagent/trust/est.example_8085.pem`, "LIVE", live)
	got := m.run(t, "find /etc/certagent /run/certagent /run/certagent-deploy /var/lib/certagent"+
		" -printf '%M %u:%g %p\n' | LC_ALL=C sort -k 3")
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// configured adds a part to the configuration, which a reload takes; it is gone when the test ends.
func (m *machine) configured(t *testing.T, name, content string) {
	t.Helper()
	file := "/etc/certagent/config.d/" + name + ".toml"
	m.write(t, file, "0640", "root:certagent", content)
	t.Cleanup(func() { m.run(t, "rm -f "+file+"; systemctl reload certagent") })
	m.run(t, "systemctl reload certagent")
}
