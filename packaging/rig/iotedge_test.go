//go:build system

package rig

import (
	"strings"
	"testing"
)

// iotEdgeServices stand in for those of IoT Edge, in the order of the drop-in that restarts them.
var iotEdgeServices = []string{"aziot-keyd", "aziot-certd", "aziot-identityd", "aziot-edged"}

// iotEdge has IoT Edge on the machine: its users, in each other's groups as its packages put them, and services, of which
// keyd reads the keys, as its user and when it starts.
func (m *machine) iotEdge(t *testing.T) {
	t.Helper()
	m.run(t, "for u in aziotks aziotcs aziotid iotedge; do getent passwd $u >/dev/null || useradd -r $u; done\n"+
		"usermod -a -G aziotks aziotcs; usermod -a -G aziotcs,aziotks aziotid")
	for _, service := range iotEdgeServices {
		user, start := "aziotid", ""
		if service == "aziot-keyd" {
			user, start = "aziotks", "sha256sum /var/aziot/certagent/*.key >/run/aziot-keyd/read; "
		}
		m.write(t, "/etc/systemd/system/"+service+".service", "0644", "root:root", "[Service]\nUser="+user+"\nRuntimeDirectory="+service+
			"\nExecStart=/bin/sh -ec '"+start+"exec sleep infinity'\n")
	}
	t.Cleanup(func() {
		services := strings.Join(iotEdgeServices, " ")
		m.run(t, "systemctl stop "+services+"; systemctl reset-failed "+services+" 2>/dev/null || true\n"+
			"cd /etc/systemd/system; for s in "+services+"; do rm $s.service; done; rm -r /var/aziot; systemctl daemon-reload")
	})
}

// processes are the main processes of IoT Edge's services, 0 for one that does not run.
func (m *machine) processes(t *testing.T) map[string]string {
	t.Helper()
	pids := map[string]string{}
	for _, service := range iotEdgeServices {
		pids[service] = m.run(t, "systemctl show --value -p MainPID "+service)
	}
	return pids
}

// restarted has both certificates renewed and waits until each of the services that are named is another process, and keyd has
// read the keys that are live.
func (m *machine) restarted(t *testing.T, services ...string) {
	t.Helper()
	before := m.processes(t)
	m.run(t, "certagent renew --wait device-id aziot-edged-ca")
	m.until(t, "IoT Edge restarted", func() bool {
		now := m.processes(t)
		for _, service := range services {
			if now[service] == "0" || now[service] == before[service] {
				return false
			}
		}
		_, code := m.try("cd /var/lib/certagent/certs; test ! -e /run/certagent-deploy/iotedge\n" +
			"for id in device-id aziot-edged-ca; do grep -q $(sha256sum $id/live/key.pem | cut -d' ' -f1) /run/aziot-keyd/read; done\n" +
			"certagent status && test $(systemctl show --value -p ActiveState certagent-deploy@iotedge) = inactive")
		return code == 0
	})
}

// iotEdgeIsRestarted: examples/azure-iot-edge on a systemd. The agent gives keys to aziotks from inside its sandbox, and root
// restarts what runs of IoT Edge's services, after each renewal.
func iotEdgeIsRestarted(t *testing.T, m *machine) {
	m.enrolled(t)
	m.iotEdge(t)
	m.run(t, "install -d -o certagent -g certagent -m 0755 /var/aziot/certagent")
	t.Cleanup(func() { m.run(t, "systemctl daemon-reload && systemctl restart certagent") })
	m.example(t, "azure-iot-edge/certagent.conf", "/etc/systemd/system/certagent.service.d/iotedge.conf", "0644", "root:root")
	m.example(t, "azure-iot-edge/certagent-deploy.conf", "/etc/systemd/system/certagent-deploy@iotedge.service.d/restart.conf", "0644", "root:root")
	m.run(t, "systemctl daemon-reload && systemctl enable --now certagent-deploy@iotedge.path && systemctl restart certagent")
	t.Cleanup(func() { m.run(t, "systemctl disable --now certagent-deploy@iotedge.path") })
	m.configured(t, "iotedge", m.run(t, "cat "+examples+"azure-iot-edge/iotedge.toml")+"\n")
	m.until(t, "the outputs", func() bool {
		_, code := m.try("cd /var/aziot/certagent && test -s device-id.key -a -s edge-ca.key -a -s trust-bundle.pem && certagent status")
		return code == 0
	})
	const want = "aziotks:aziotks 600 device-id.key\naziotcs:aziotcs 644 device-id.pem\naziotks:aziotks 600 edge-ca.key\n" +
		"aziotcs:aziotcs 644 edge-ca.pem\naziotcs:aziotcs 644 trust-bundle.pem"
	if said := m.run(t, "cd /var/aziot/certagent && stat -c '%U:%G %a %n' *"); said != want {
		t.Errorf("there is\n%s\nwant\n%s", said, want)
	}
	m.until(t, "nothing is started that does not run", func() bool {
		_, code := m.try("test ! -e /run/certagent-deploy/iotedge && test $(systemctl show --value -p ActiveState certagent-deploy@iotedge) = inactive")
		return code == 0
	})
	for service, pid := range m.processes(t) {
		if pid != "0" {
			t.Errorf("%s was started", service)
		}
	}
	m.run(t, "systemctl start "+strings.Join(iotEdgeServices, " "))
	m.restarted(t, iotEdgeServices...)

	// One that a person stopped is left alone; the daemon that has failed is started.
	m.run(t, "systemctl stop aziot-certd; systemctl kill -s KILL aziot-edged")
	m.until(t, "it has failed", func() bool { _, code := m.try("systemctl is-failed aziot-edged"); return code == 0 })
	m.restarted(t, "aziot-keyd", "aziot-identityd", "aziot-edged")
	if said, _ := m.try("systemctl is-active aziot-certd"); said != "inactive" {
		t.Errorf("aziot-certd is %s", said)
	}
}
