//go:build system

package rig

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// repository makes a repository for apt out of the debs in a directory.
func repository(t *testing.T, dir string) {
	t.Helper()
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	must(t, err)
	var list strings.Builder
	for _, deb := range debs {
		data, err := os.ReadFile(deb)
		must(t, err)
		fmt.Fprintf(&list, "%sFilename: ./%s\nSize: %d\nSHA256: %x\n\n", command(t, "dpkg-deb", "-f", deb), filepath.Base(deb), len(data), sha256.Sum256(data))
	}
	must(t, os.WriteFile(filepath.Join(dir, "Packages"), []byte(list.String()), 0o644))
}

// TestCloudInit: with examples/cloud-init a gateway has its certificate when its first boot is over.
func TestCloudInit(t *testing.T) {
	share := build(t)
	repository(t, filepath.Join(share, older))
	network := host(t)
	est := connect(t, network, filepath.Join(share, "certagent-testca"))

	page, err := os.ReadFile("../../examples/cloud-init/user-data")
	must(t, err)
	userData := string(page)
	for _, fill := range [][2]string{
		{"The CA certificate behind the EST server, in PEM, in place of this line.", strings.ReplaceAll(est.file(t, "ca.pem"), "\n", "\n      ")},
		{"deb [signed-by=/etc/apt/keyrings/certagent.asc] https://packages.example/debian bookworm main", "deb [trusted=yes] file:/mnt/" + older + " ./"},
	} {
		if !strings.Contains(userData, fill[0]) {
			t.Fatalf("user-data has no %q", fill[0])
		}
		userData = strings.ReplaceAll(userData, fill[0], fill[1])
	}
	metaData, err := os.ReadFile("../../examples/cloud-init/meta-data")
	must(t, err)
	files, seed := t.TempDir(), "/var/lib/cloud/seed/nocloud/"
	for name, text := range map[string]string{
		seed + "user-data": userData, seed + "meta-data": string(metaData),
		// The network is that of the rig, which has no package locales; apt has that one repository.
		"/etc/cloud/cloud.cfg.d/99-rig.cfg": "network: {config: disabled}\nlocale: false\n", "/etc/apt/sources.list": "",
		"/etc/hosts": "127.0.0.1 localhost gateway-42\n" + estIPv4 + " est.example\n",
	} {
		must(t, os.MkdirAll(filepath.Join(files, filepath.Dir(name)), 0o755))
		mode := os.FileMode(0o644)
		if strings.HasPrefix(name, seed) {
			mode = 0o600 // README.md says so
		}
		must(t, os.WriteFile(filepath.Join(files, name), []byte(text), mode))
	}
	m := bootWith(t, fleet, share, files, network)
	m.est = est

	m.run(t, "cloud-init schema --config-file "+seed+"user-data")
	if said, code := m.try("cloud-init status --wait --long"); code != 0 || !strings.Contains(said, "status: done") || !strings.Contains(said, "DataSourceNoCloud") {
		log, _ := m.try("cat /var/log/cloud-init-output.log; grep -E 'WARNING|ERROR' /var/log/cloud-init.log")
		t.Fatalf("cloud-init ends with %d: %s\n%s", code, said, log)
	}
	if cn := m.leaf(t, "device-id").Subject.CommonName; cn != "gateway-42" {
		t.Errorf("the certificate is for %s", cn)
	}
	m.ownersAsConfigured(t)
	if said := m.run(t, "certagent check --offline"); strings.Contains(said, "failed") {
		t.Errorf("certagent check:\n%s", said)
	}
	if said, code := m.try("journalctl --sync; journalctl --no-pager | grep -F " + fleetPassword + "; cat /var/log/cloud-init*.log | grep -F " + fleetPassword); code != 1 {
		t.Errorf("the password is in a log:\n%s", said)
	}
	if said := m.run(t, "find /var/lib/cloud -type f -perm /077 -exec grep -lF "+fleetPassword+" {} + || true"); said != "" {
		t.Errorf("others can read the password: %s", said)
	}

	t.Run("AClone", func(t *testing.T) { m.cloned(t) })
	t.Run("TheBuilderOfAnImage", func(t *testing.T) { m.emptied(t) })
}

// cloned: the disk runs in another device, which takes no key along.
func (m *machine) cloned(t *testing.T) {
	key := func() string { return m.run(t, "sha256sum </var/lib/certagent/certs/device-id/live/key.pem") }
	before := key()
	m.run(t, "systemctl stop certagent && echo "+strings.Repeat("c1", 16)+" >/etc/machine-id && systemctl start certagent")
	m.until(t, "a certificate of its own", func() bool {
		_, code := m.try("grep -q " + strings.Repeat("c1", 16) + " /var/lib/certagent/certs/device-id/live/meta.json")
		return code == 0
	})
	if key() == before {
		t.Error("two devices have one key")
	}
}

// emptied: after what README.md has for builders of images nothing is left of a device.
func (m *machine) emptied(t *testing.T) {
	page, err := os.ReadFile("../../examples/cloud-init/README.md")
	must(t, err)
	_, script, _ := strings.Cut(string(page), "```sh\n")
	script, _, found := strings.Cut(script, "```")
	if !found {
		t.Fatal("README.md has no commands")
	}
	m.run(t, script)
	// Keys of sshd are cloud-init's to renew (ssh_deletekeys); a journal is the rig's.
	if said := m.run(t, "grep -rlE 'PRIVATE KEY-----|"+fleetPassword+"' /etc /var /root /run /tmp 2>/dev/null |"+
		" grep -vE '^/var/(cache|lib/(apt|dpkg))/|^/etc/ssh/|^/var/log/journal/' || true"); said != "" {
		t.Errorf("a secret is left: %s", said)
	}
	// some versions of cloud-init remove the file.
	if id := m.run(t, "cat /etc/machine-id 2>/dev/null || echo uninitialized"); id != "uninitialized" {
		t.Errorf("the machine-id is %q", id)
	}
}
