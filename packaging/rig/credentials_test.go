//go:build system

package rig

import (
	"fmt"
	"strings"
	"testing"
)

// passwordCredential logs in by the password that is a credential.
const passwordCredential = "username = \"estuser\"\npassword_file = \"credential:est-password\"\n"

// credentials: the password is a credential of systemd's, in a file that root alone can read.
func credentials(t *testing.T, m *machine) {
	m.enrolled(t)
	m.write(t, "/etc/certagent/est-password", "0600", "root:root", "estpwd\n")
	m.dropIn(t, "credentials.conf")
	m.byCredential(t, "by-credential", passwordCredential, "login=password")
}

// encryptedCredentials: the same, in a file that only this device can read.
func encryptedCredentials(t *testing.T, m *machine) {
	m.enrolled(t)
	m.run(t, "rm -f /etc/certagent/est-password\n"+
		"echo estpwd | systemd-creds encrypt --name=est-password - /etc/certagent/est-password.cred")
	m.dropIn(t, "credentials-encrypted.conf")
	m.byCredential(t, "by-encrypted-credential", passwordCredential, "login=password")
}

// bootstrapCredentials: what the device was born with lies where root alone can read it.
func bootstrapCredentials(t *testing.T, m *machine) {
	m.enrolled(t)
	m.write(t, "/root/born.pem", "0600", "root:root", m.est.file(t, "bootstrap.pem"))
	m.write(t, "/root/born.key.pem", "0600", "root:root", m.est.file(t, "bootstrap.key.pem"))
	m.override(t, "[Service]\nLoadCredential=bootstrap.pem:/root/born.pem\n"+
		"LoadCredential=bootstrap.key.pem:/root/born.key.pem\n")
	m.byCredential(t, "by-bootstrap-credential", "bootstrap_identity_cert = \"credential:bootstrap.pem\"\n"+
		"bootstrap_identity_pk = \"credential:bootstrap.key.pem\"\n", `login=certificate login_cn="bootstrap"`)
}

// byCredential enrols a certificate with what is a credential, of which nothing is in the journal.
func (m *machine) byCredential(t *testing.T, id, auth, login string) {
	t.Helper()
	asked := len(m.est.asked())
	m.configured(t, id, fmt.Sprintf("[cert_issuance.certs.%s]\nmethod = \"est\"\ncommon_name = %[1]q\n%s", id, auth))
	m.run(t, "certagent wait --timeout 1m "+id)
	requests := m.est.asked()[asked:]
	if len(requests) == 0 || !strings.Contains(requests[len(requests)-1], "op=simpleenroll status=200 "+login) {
		t.Errorf("the server was asked %q", requests)
	}
	said := m.run(t, "journalctl --sync && journalctl -o json")
	if strings.Contains(said, "estpwd") || strings.Contains(said, "PRIVATE KEY") {
		t.Error("a secret is in the journal")
	}
}

// whatADropInLacks keeps the service from starting, which is tried until it is there.
func whatADropInLacks(t *testing.T, m *machine) {
	m.enrolled(t)
	for _, missing := range []struct{ name, setting, file, status, mend string }{
		{"credential", "LoadCredential=late:/etc/late", "/etc/late", "243", "touch /etc/late"},
		{"directory", "ReadWritePaths=/etc/late", "/etc/late", "226", "mkdir /etc/late"},
	} {
		t.Run(missing.name, func(t *testing.T) {
			t.Cleanup(func() { m.run(t, "rm -rf /etc/late") })
			m.write(t, overrideFile, "0644", "root:root", "[Service]\n"+missing.setting+"\n"+soon)
			t.Cleanup(func() { m.undoOverride(t) })
			m.run(t, "systemctl daemon-reload")
			m.fails(t, 1, "systemctl restart certagent")
			if status := m.property(t, "ExecMainStatus"); status != missing.status {
				t.Errorf("it ended with %s, want %s", status, missing.status)
			}
			m.run(t, missing.mend)
			m.until(t, "it runs", func() bool { return m.property(t, "ActiveState") == "active" })
		})
	}
}
