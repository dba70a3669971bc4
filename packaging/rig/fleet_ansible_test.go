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

// TestAnsible: the playbook of examples/ansible rolls certagent out, as a deb and as an rpm, on a booted gateway.
func TestAnsible(t *testing.T) {
	share := build(t)
	for _, kind := range []struct {
		name, file string
		lives      func(*testing.T, *machine, string)
	}{
		{"deb", "/mnt/" + older + "/certagent_" + older + "-1_amd64.deb", rollOut},
		{"rpm", "/mnt/" + older + "/certagent-" + older + "-1.x86_64.rpm", install}, // after which all is as with the deb
		{"deb of a repository", "", install},
		{"rpm of a repository", "", install},
	} {
		t.Run(kind.name, func(t *testing.T) {
			m := boot(t, fleet, share)
			m.est = connect(t, m.leader, filepath.Join(share, "certagent-testca"))
			m.hosts(t, estIPv4, estIPv6)
			if strings.HasPrefix(kind.name, "rpm") {
				m.run(t, "rpm -i /mnt/debian-*.rpm")
			}
			if kind.file == "" {
				m.repository(t, share, strings.HasPrefix(kind.name, "rpm"))
			}
			m.run(t, "cp -r /mnt/examples/ansible /root/playbook && echo secret >/root/vault-password")
			m.write(t, "/root/playbook/files/est.pem", "0644", "root:root", m.est.file(t, "ca.pem"))
			m.run(t, "cd /root/playbook && ansible-vault encrypt --vault-password-file /root/vault-password host_vars/gateway-42.example/vault.yml")
			kind.lives(t, m, kind.file)
		})
	}
}

// repository gives the machine a repository with certagent in it, and nothing else, which it has not asked for anything yet: of
// rpms, on a machine that says it is a Fedora (Ansible takes apt on whatever is a Debian, as this is below), or of debs.
func (m *machine) repository(t *testing.T, share string, rpm bool) {
	t.Helper()
	dir := filepath.Join(share, "repository")
	must(t, os.MkdirAll(dir, 0o755))
	if rpm {
		command(t, "cp", filepath.Join(share, older, "certagent-"+older+"-1.x86_64.rpm"), dir)
		command(t, "createrepo_c", "--quiet", dir)
		m.write(t, "/etc/yum.repos.d/local.repo", "0644", "root:root", "[local]\nname=local\nbaseurl=file:///mnt/repository\ngpgcheck=0\n")
		m.run(t, "rm /usr/bin/apt-get /etc/debian_version /etc/os-release && printf 'ID=fedora\\nNAME=Fedora\\nVERSION_ID=42\\n' >/etc/os-release")
		return
	}
	command(t, "cp", filepath.Join(share, older, "certagent_"+older+"-1_amd64.deb"), dir)
	command(t, "sh", "-c", `cd "$0" && dpkg-scanpackages --multiversion . >Packages`, dir)
	m.run(t, "rm -rf /etc/apt/sources.list* /var/lib/apt/lists/* && echo 'deb [trusted=yes] file:/mnt/repository ./' >/etc/apt/sources.list")
}

// plays runs the playbook, on the machine itself, and returns what it says and how it ends. It starts Python some fifty times.
func (m *machine) plays(file, more string) (said string, code int) {
	return m.tryFor(5*patience, "cd /root/playbook && ansible-playbook --inventory inventory.ini --connection local --vault-password-file /root/vault-password"+
		" --diff -vvv --extra-vars certagent_package='"+file+"' site.yml "+more)
}

// changes runs the playbook, which must succeed with so many changes ("" is any number), and says nothing of the password.
func (m *machine) changes(t *testing.T, want, file, more string) {
	t.Helper()
	said, code := m.plays(file, more)
	if code != 0 || !strings.Contains(said, "changed="+want) {
		t.Fatalf("ansible-playbook ends with %d, want 0 and changed=%s:\n%s\n%s", code, want, said, m.journal())
	}
	if strings.Contains(said, fleetPassword) {
		t.Errorf("it shows the password:\n%s", said)
	}
}

// install: a first run, and a second that changes nothing.
func install(t *testing.T, m *machine, file string) {
	m.changes(t, "", file, "--check")
	m.fails(t, 1, "test -e /etc/certagent")
	m.changes(t, "", file, "")
	if cn := m.leaf(t, "device-id").Subject.CommonName; cn != "gateway-42" {
		t.Errorf("the certificate is for %s", cn)
	}
	m.ownersAsConfigured(t)
	state := m.state(t)
	m.changes(t, "0 ", file, "")
	if now := m.state(t); now != state {
		t.Errorf("the state was\n%s\nand is\n%s", state, now)
	}
}

// ownersAsConfigured: what the examples write belongs to whom it should, and the service comes back after a boot.
func (m *machine) ownersAsConfigured(t *testing.T) {
	t.Helper()
	if got, want := m.run(t, "stat -c '%U:%G %a' /etc/certagent/config.toml /etc/certagent/bootstrap/est-password /etc/certagent/trust/est.pem"),
		"root:certagent 640\nroot:certagent 640\nroot:root 644"; got != want {
		t.Errorf("owners and modes:\n%s\nwant\n%s", got, want)
	}
	if enabled := m.run(t, "systemctl is-enabled certagent"); enabled != "enabled" {
		t.Errorf("the service is %s", enabled)
	}
}

// rollOut is the life of a gateway that Ansible looks after.
func rollOut(t *testing.T, m *machine, file string) {
	install(t, m, file)
	process := m.property(t, "MainPID")

	// A changed configuration is reloaded, not more.
	m.run(t, "printf '[cert_issuance.certs.mqtt]\ncommon_name = \"another\"\n' >>/root/playbook/templates/config.toml.j2")
	m.changes(t, "2 ", file, `--extra-vars '{"certagent_wait_for": ["device-id", "mqtt"]}'`)
	if cn := m.leaf(t, "mqtt").Subject.CommonName; cn != "another" {
		t.Errorf("the other certificate is for %s", cn)
	}

	// One that does not load never arrives, nor what belongs to it.
	m.run(t, "cd /root/playbook && cp templates/config.toml.j2 /root/good && sed -i '1i nonsense = 1' templates/config.toml.j2 &&"+
		` printf '%s\n' 'certagent_drop_ins: {nice.conf: "[Service]\nNice=5\n"}' >>group_vars/gateways/certagent.yml`)
	before := m.run(t, "sha256sum /etc/certagent/config.toml")
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

	// When it is mended, what was not done for it is done.
	m.run(t, "cp /root/good /root/playbook/templates/config.toml.j2")
	m.changes(t, "3 ", file, "")
	if nice := m.run(t, "ps -o ni= -p $(systemctl show --value -p MainPID certagent)"); strings.TrimSpace(nice) != "5" {
		t.Errorf("the drop-in is not in force: nice is %s", nice)
	}

	// A part that the gateway has for itself counts: what stands there may be missing in the configuration that is brought.
	m.run(t, "cd /root/playbook/templates && sed -n '/urls/,/^default/p' config.toml.j2 >/etc/certagent/config.d/urls.toml &&"+
		" chgrp certagent /etc/certagent/config.d/urls.toml && chmod 0640 /etc/certagent/config.d/urls.toml &&"+
		" sed -i '/urls/,/^default/d' config.toml.j2 && grep -q default /etc/certagent/config.d/urls.toml")
	m.changes(t, "2 ", file, "")
	m.run(t, "certagent check --offline")
	if journal := m.run(t, "journalctl --sync && journalctl --no-pager"); strings.Contains(journal, fleetPassword) {
		t.Error("the password is in the journal")
	}
}
