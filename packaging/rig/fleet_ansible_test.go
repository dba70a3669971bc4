//go:build system

package rig

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fleetPassword is the login of a gateway in the examples that roll out; certagent-testca knows no other.
const fleetPassword = "estpwd"

// buildFleet makes what the machines of these tests see at /mnt: the packages, certagent-testca, and the examples.
func buildFleet(t *testing.T, formats string) (share string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("must be root")
	}
	share, tree := t.TempDir(), copyOfTree(t)
	must(t, os.Chmod(share, 0o755))
	commit(t, tree, older)
	command(t, "git", "-C", tree, "tag", "v"+older)
	must(t, pack(t.Context(), tree, filepath.Join(share, older), "amd64", formats))
	testca(t, share)
	shim(t, tree, share)
	command(t, "cp", "-r", filepath.Join(tree, "examples"), share)
	return share
}

// TestAnsible: the playbook of examples/ansible rolls certagent out, as a deb and as an rpm, on a booted gateway.
func TestAnsible(t *testing.T) {
	share := buildFleet(t, "deb rpm")
	for _, kind := range []struct{ name, file string }{
		{"deb", "/mnt/" + older + "/certagent_" + older + "-1_amd64.deb"},
		{"rpm", "/mnt/" + older + "/certagent-" + older + "-1.x86_64.rpm"},
	} {
		t.Run(kind.name, func(t *testing.T) {
			m := boot(t, fleet, share)
			m.est = connect(t, m.leader, filepath.Join(share, "certagent-testca"))
			m.hosts(t, estIPv4, estIPv6)
			if kind.name == "rpm" {
				m.run(t, "rpm -i /mnt/debian-*.rpm")
			}
			m.run(t, "cp -r /mnt/examples/ansible /root/playbook && echo secret >/root/vault-password")
			m.write(t, "/root/playbook/files/est.pem", "0644", "root:root", m.est.file(t, "ca.pem"))
			m.run(t, "cd /root/playbook && ansible-vault encrypt --vault-password-file /root/vault-password host_vars/gateway-42.example/vault.yml")
			rollOut(t, m, kind.file)
		})
	}
}

// plays runs the playbook, on the machine itself, and returns what it says and how it ends.
func (m *machine) plays(file, more string) (said string, code int) {
	return m.try("cd /root/playbook && ansible-playbook --inventory inventory.ini --connection local --vault-password-file /root/vault-password" +
		" --diff -vvv --extra-vars certagent_package=" + file + " site.yml " + more)
}

// rollOut is the life of a gateway that Ansible looks after.
func rollOut(t *testing.T, m *machine, file string) {
	changed := func(want, more string) {
		t.Helper()
		said, code := m.plays(file, more)
		if code != 0 || !strings.Contains(said, "changed="+want) {
			t.Fatalf("ansible-playbook ends with %d, want 0 and changed=%s:\n%s\n%s", code, want, said, m.journal())
		}
		if strings.Contains(said, fleetPassword) {
			t.Errorf("it shows the password:\n%s", said)
		}
	}
	changed("", "") // first: whatever it takes
	if cn := m.leaf(t, "device-id").Subject.CommonName; cn != "gateway-42" {
		t.Errorf("the certificate is for %s", cn)
	}
	if got, want := m.run(t, "stat -c '%U:%G %a' /etc/certagent/config.toml /etc/certagent/bootstrap/est-password /etc/certagent/trust/est.pem"),
		"root:certagent 640\nroot:certagent 640\nroot:root 644"; got != want {
		t.Errorf("owners and modes:\n%s\nwant\n%s", got, want)
	}
	if enabled := m.run(t, "systemctl is-enabled certagent"); enabled != "enabled" {
		t.Errorf("the service is %s", enabled)
	}

	process := m.property(t, "MainPID")
	state := m.state(t)
	changed("0 ", "")
	if now := m.state(t); now != state {
		t.Errorf("the state was\n%s\nand is\n%s", state, now)
	}

	// A changed configuration is reloaded, not more.
	m.run(t, "cp /root/playbook/templates/config.toml.j2 /root/good")
	m.run(t, "printf '[cert_issuance.certs.mqtt]\ncommon_name = \"another\"\n' >>/root/playbook/templates/config.toml.j2")
	changed("2 ", `--extra-vars '{"certagent_wait_for": ["device-id", "mqtt"]}'`)
	if cn := m.leaf(t, "mqtt").Subject.CommonName; cn != "another" {
		t.Errorf("the other certificate is for %s", cn)
	}

	// One that does not load never arrives.
	before := m.run(t, "sha256sum /etc/certagent/config.toml")
	m.run(t, "echo 'nonsense = 1' >>/root/good && cp /root/good /root/playbook/templates/config.toml.j2")
	said, code := m.plays(file, "")
	if code == 0 || !strings.Contains(said, "nonsense: unknown key") {
		t.Errorf("a bad configuration ends it with %d:\n%s", code, said)
	}
	if after := m.run(t, "sha256sum /etc/certagent/config.toml"); after != before {
		t.Error("a bad configuration came to its place")
	}
	if now := m.property(t, "MainPID"); now != process {
		t.Errorf("the process was %s and is %s", process, now)
	}
	m.run(t, "certagent check --offline")
	if journal := m.run(t, "journalctl --sync && journalctl --no-pager"); strings.Contains(journal, fleetPassword) {
		t.Error("the password is in the journal")
	}
}
