//go:build system

package rig

import (
	"strings"
	"testing"
)

// upgradeKeepsKeysAndConfiguration: a new release brings another config.toml, which does not take the place of the one
// that was changed; the agent is restarted and does not renew over it.
func upgradeKeepsKeysAndConfiguration(t *testing.T, m *machine) {
	m.enrolled(t)
	m.changesVersion(t, newer)
	brought := "/etc/certagent/config.toml.dpkg-dist"
	if m.root.rpm {
		brought = "/etc/certagent/config.toml.rpmnew"
	}
	if said := m.run(t, "cat "+brought); !strings.Contains(said, newLine) {
		t.Errorf("%s is not the new release's", brought)
	}
}

func downgradeKeepsKeys(t *testing.T, m *machine) {
	m.enrolled(t)
	if m.version(t) != newer {
		m.install(t, newer)
	}
	m.changesVersion(t, older)
}

// changesVersion installs another release: the agent is restarted, and nothing else changes.
func (m *machine) changesVersion(t *testing.T, version string) {
	t.Helper()
	before, process, asked := m.state(t), m.property(t, "MainPID"), len(m.est.asked())
	const look = "cd /etc/certagent && stat -c '%U:%G %a' config.toml && sha256sum config.toml"
	config := m.run(t, look)
	m.install(t, version)
	m.until(t, "the agent runs", func() bool { return m.property(t, "ActiveState") == "active" })
	if now := m.property(t, "MainPID"); now == process {
		t.Error("it was not restarted")
	}
	m.run(t, "certagent wait --timeout 1m device-id && certagent status")
	if said := m.run(t, "certagent status --json"); !strings.Contains(said, version) {
		t.Errorf("another release runs: %s", said)
	}
	if after := m.state(t); after != before {
		t.Errorf("the state was\n%s\nand is\n%s", before, after)
	}
	if now := m.run(t, look); now != config {
		t.Errorf("config.toml was\n%s\nand is\n%s", config, now)
	}
	if requests := m.est.asked()[asked:]; len(requests) != 0 {
		t.Errorf("the server was asked %q", requests)
	}
}

func removeKeepsKeys(t *testing.T, m *machine) {
	m.enrolled(t)
	before := m.state(t)
	m.remove(t)
	if _, code := m.try("pgrep -u certagent"); code != 1 {
		t.Error("something of it runs")
	}
	m.fails(t, 1, "test -e /usr/bin/certagent -o -e /run/certagent")
	if after := m.state(t); after != before {
		t.Errorf("the state was\n%s\nand is\n%s", before, after)
	}
	saved := "/etc/certagent/config.toml"
	if m.root.rpm {
		saved += ".rpmsave"
	}
	if said := m.run(t, "cat "+saved); !strings.Contains(said, estURL) {
		t.Errorf("%s is not the configuration", saved)
	}
}

// reinstalledItIsAsItWas: on Debian it runs again; elsewhere presets and a person decide, and then it does.
func reinstalledItIsAsItWas(t *testing.T, m *machine) {
	m.enrolled(t)
	before, asked := m.state(t), len(m.est.asked())
	m.remove(t)
	m.install(t, older)
	if m.root.rpm {
		if said := m.fails(t, 1, "systemctl is-enabled certagent"); said != "disabled" {
			t.Errorf("is-enabled: %s", said)
		}
		m.run(t, "mv /etc/certagent/config.toml.rpmsave /etc/certagent/config.toml && systemctl enable --now certagent")
	}
	m.run(t, "systemctl is-enabled certagent && systemctl is-active certagent && certagent wait --timeout 1m device-id")
	if after := m.state(t); after != before {
		t.Errorf("the state was\n%s\nand is\n%s", before, after)
	}
	if requests := m.est.asked()[asked:]; len(requests) != 0 {
		t.Errorf("the server was asked %q", requests)
	}
}

// purge removes it with its keys. What rpm has no word for is done by hand, as docs/installation.md says.
func (m *machine) purge(t *testing.T) (said string) {
	t.Helper()
	if !m.root.rpm {
		return m.run(t, "apt-get -q -y purge certagent </dev/null")
	}
	m.remove(t)
	return m.run(t, "rm -rf /var/lib/certagent")
}

// purgeDeletesKeys, and leaves what a person put there.
func purgeDeletesKeys(t *testing.T, m *machine) {
	m.enrolled(t)
	said := m.purge(t)
	if !m.root.rpm && !strings.Contains(said, "/etc/certagent is what was put there by hand") {
		t.Errorf("purge does not say what it left:\n%s", said)
	}
	m.fails(t, 1, "test -e /var/lib/certagent -o -e /etc/certagent/config.toml -o -e /run/certagent")
	m.run(t, "cd /etc/certagent && test -s bootstrap/device.key.pem -a -s trust/est.pem && getent passwd certagent")
	if left := m.run(t, "find /etc/systemd -name '*certagent*' ! -type d"); left != "" {
		t.Errorf("left behind: %s", left)
	}
	said, _ = m.try("systemctl is-enabled certagent 2>&1")
	if strings.HasPrefix(said, "enabled") || strings.HasPrefix(said, "masked") {
		t.Errorf("is-enabled: %s", said)
	}
}

// aStoppedAgentStaysStopped over a change of the release, when an administrator has disabled it.
func aStoppedAgentStaysStopped(t *testing.T, m *machine) {
	m.enrolled(t)
	m.run(t, "systemctl disable --now certagent")
	if m.version(t) == newer {
		m.install(t, older)
	} else {
		m.install(t, newer)
	}
	if said, code := m.try("systemctl is-active certagent"); code != 3 || said != "inactive" {
		t.Errorf("it is %s", said)
	}
	if said := m.fails(t, 1, "systemctl is-enabled certagent"); said != "disabled" {
		t.Errorf("it is %s", said)
	}
}

// aPreparedGateway, whose configuration was there before the package, as in an image: a deb enrols at once; with an rpm
// presets say so. The configuration is kept.
func aPreparedGateway(t *testing.T, m *machine) {
	m.installed(t)
	m.purge(t)
	m.run(t, "rm -rf /etc/certagent")
	m.write(t, "/etc/certagent/trust/est.pem", "0644", "root:root", m.est.file(t, "ca.pem"))
	m.write(t, "/etc/certagent/bootstrap/device.pem", "0640", "root:certagent", m.est.file(t, "bootstrap.pem"))
	m.write(t, "/etc/certagent/bootstrap/device.key.pem", "0640", "root:certagent", m.est.file(t, "bootstrap.key.pem"))
	m.write(t, "/etc/certagent/config.toml", "0640", "root:root", configuration)
	m.write(t, "/etc/systemd/system-preset/10-gateway.preset", "0644", "root:root", "enable certagent.service\n")
	t.Cleanup(func() { m.run(t, "rm /etc/systemd/system-preset/10-gateway.preset") })
	m.install(t, older)
	if m.root.rpm {
		m.run(t, "chgrp certagent /etc/certagent/config.toml") // rpm leaves the owner of what was there
		if said := m.fails(t, 3, "systemctl is-active certagent"); said != "inactive" {
			t.Errorf("is-active: %s", said)
		}
		m.run(t, "systemctl is-enabled certagent && systemctl start certagent")
	}
	m.run(t, "systemctl is-enabled certagent && systemctl is-active certagent && certagent wait --timeout 1m device-id")
	if got := m.run(t, "cat /etc/certagent/config.toml"); got+"\n" != configuration {
		t.Errorf("the configuration is\n%s", got)
	}
	if got := m.run(t, "stat -c '%U:%G %a' /etc/certagent/config.toml"); got != "root:certagent 640" {
		t.Errorf("the configuration is %s", got)
	}
}
