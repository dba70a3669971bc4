//go:build system

package rig

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

const examples = "/usr/share/doc/certagent/examples/"

// example copies a packaged example to where it belongs, with some words replaced; it is gone when the test ends.
func (m *machine) example(t *testing.T, name, file, mode, owner string, oldnew ...string) {
	t.Helper()
	m.write(t, file, mode, owner, strings.NewReplacer(oldnew...).Replace(m.run(t, "cat "+examples+name)+"\n"))
	t.Cleanup(func() { m.run(t, "rm -f "+file) })
}

// dropIn puts a packaged drop-in into force, with some words replaced, until the test ends.
func (m *machine) dropIn(t *testing.T, name string, oldnew ...string) {
	t.Helper()
	t.Cleanup(func() { m.run(t, "systemctl daemon-reload && systemctl restart certagent") })
	m.example(t, "systemd/"+name, "/etc/systemd/system/certagent.service.d/"+name, "0644", "root:root", oldnew...)
	m.run(t, "systemctl daemon-reload && systemctl restart certagent")
}

// places makes the users and directories that the examples of mosquitto and nginx speak of.
func (m *machine) places(t *testing.T, broker string) {
	t.Helper()
	m.run(t, "getent passwd telemetry >/dev/null || useradd -r telemetry\n"+
		"install -d -g certagent -m 0775 /etc/"+broker+"/certs /etc/telemetry")
}

// credentials: the password is a credential of systemd's, in a file that root alone can read.
func credentials(t *testing.T, m *machine) {
	m.enrolled(t)
	m.write(t, "/etc/certagent/est-password", "0600", "root:root", "estpwd\n")
	m.dropIn(t, "credentials.conf")
	m.byPassword(t, "by-credential")
}

// encryptedCredentials: the same, in a file that only this device can read.
func encryptedCredentials(t *testing.T, m *machine) {
	m.enrolled(t)
	m.run(t, "rm -f /etc/certagent/est-password; echo estpwd | systemd-creds encrypt --name=est-password - /etc/certagent/est-password.cred")
	m.dropIn(t, "credentials-encrypted.conf")
	m.byPassword(t, "by-encrypted-credential")
}

// byPassword enrols a certificate with the password that is a credential.
func (m *machine) byPassword(t *testing.T, id string) {
	t.Helper()
	asked := len(m.est.asked())
	m.configured(t, id, fmt.Sprintf("[cert_issuance.certs.%s]\ncommon_name = %q\nusername = \"estuser\"\npassword_file = \"credential:est-password\"\n", id, id))
	m.run(t, "certagent wait --timeout 1m "+id)
	requests := m.est.asked()[asked:]
	if len(requests) == 0 || !strings.Contains(requests[len(requests)-1], "op=simpleenroll status=200 login=password") {
		t.Errorf("the server was asked %q", requests)
	}
}

// aConsumerWaits: a consumer that is started before its certificate is there, under a user of its own, starts with it.
func aConsumerWaits(t *testing.T, m *machine) {
	m.enrolled(t)
	m.places(t, "mosquitto")
	m.write(t, "/etc/systemd/system/consumer.service", "0644", "root:root", "[Service]\nUser=telemetry\n"+
		"ExecStart=/bin/sh -ec 'cat /var/lib/certagent/certs/mqtt/live/key.pem /var/lib/certagent/certs/mqtt/live/fullchain.pem >/dev/null; exec sleep infinity'\n")
	t.Cleanup(func() {
		m.run(t, "systemctl stop consumer; rm /etc/systemd/system/consumer.service; systemctl daemon-reload")
	})
	m.example(t, "systemd/consumer.conf", "/etc/systemd/system/consumer.service.d/certagent.conf", "0644", "root:root")
	m.dropIn(t, "consumer-group.conf", "SupplementaryGroups=mosquitto", "SupplementaryGroups=telemetry")

	ip(t, m.leader, "link", "set", "host0", "down") // the EST server cannot be reached
	t.Cleanup(func() { m.cable(t) })
	m.configured(t, "mqtt", "[cert_issuance.certs.mqtt]\ncommon_name = \"gateway-42\"\ngroup = \"telemetry\"\n")
	m.run(t, "systemctl start --no-block consumer")
	m.until(t, "the consumer waits", func() bool { _, code := m.try("pgrep -u telemetry -x certagent"); return code == 0 })
	if said, _ := m.try("systemctl is-active consumer"); said != "activating" {
		t.Errorf("the consumer is %s", said)
	}
	m.cable(t)
	m.run(t, "certagent renew --wait mqtt")
	m.until(t, "the consumer runs", func() bool { _, code := m.try("systemctl is-active consumer"); return code == 0 })
	m.until(t, "it has read its key", func() bool { _, code := m.try("pgrep -u telemetry -x sleep"); return code == 0 })
	if said := m.run(t, "stat -c '%U:%G %a' /var/lib/certagent/certs/mqtt/live/key.pem"); said != "certagent:telemetry 640" {
		t.Errorf("the key: %s", said)
	}
}

// broker has mosquitto run with certificates of certagent's, told in one way or another.
func (m *machine) broker(t *testing.T, config string) {
	t.Helper()
	m.enrolled(t)
	m.places(t, "mosquitto")
	t.Cleanup(func() { m.run(t, "systemctl restart mosquitto") })
	m.dropIn(t, "consumer-group.conf", "SupplementaryGroups=mosquitto", "SupplementaryGroups=mosquitto telemetry",
		"ReadWritePaths=/etc/mosquitto/certs", "ReadWritePaths=/etc/mosquitto/certs /etc/telemetry")
	m.configured(t, "mosquitto", config)
	m.run(t, "certagent wait --timeout 1m broker && certagent wait --timeout 1m telemetry")
	m.example(t, "mosquitto/mosquitto.conf", "/etc/mosquitto/conf.d/certagent.conf", "0644", "root:root")
	m.until(t, "the outputs", func() bool {
		_, code := m.try("test -s /etc/mosquitto/certs/ca.pem -a -s /etc/mosquitto/certs/broker.key")
		return code == 0
	})
	m.run(t, "systemctl restart mosquitto")
	if said := m.run(t, "stat -c '%U:%G %a' /etc/mosquitto/certs/broker.key /etc/telemetry/client.key"); said !=
		"certagent:mosquitto 640\ncertagent:telemetry 640" {
		t.Errorf("the keys: %s", said)
	}
}

// reloads: after a renewal a server inside shows the new certificate, and is the process that it was.
func (m *machine) reloads(t *testing.T, id, unit string, port int) {
	t.Helper()
	shows := func() string {
		leaf, err := m.served(t, port, "gateway.example")
		if err != nil {
			return err.Error()
		}
		return fmt.Sprintf("%x", leaf.SerialNumber.Bytes())
	}
	m.until(t, unit+" shows its certificate", func() bool { return shows() == m.serial(t, id) })
	process := m.run(t, "systemctl show --value -p MainPID "+unit)
	before := m.serial(t, id)
	m.run(t, "certagent renew --wait "+id)
	if m.serial(t, id) == before {
		t.Fatal("not renewed")
	}
	m.until(t, unit+" shows the new certificate", func() bool { return shows() == m.serial(t, id) })
	if now := m.run(t, "systemctl show --value -p MainPID "+unit); now != process {
		t.Errorf("the process of %s was %s and is %s", unit, process, now)
	}
	m.run(t, "certagent status")
}

func theDeployPairReloadsMosquitto(t *testing.T, m *machine) {
	m.installed(t)
	config := strings.Replace(m.run(t, "cat "+examples+"mosquitto/certagent.toml"), `reload = ["mosquitto.service"]`,
		`exec = [["/bin/touch", "/run/certagent-deploy/mosquitto"]]`, 1)
	m.run(t, "systemctl enable --now certagent-deploy@mosquitto.path")
	t.Cleanup(func() { m.run(t, "systemctl disable --now certagent-deploy@mosquitto.path") })
	m.broker(t, config+"\n")
	m.reloads(t, "broker", "mosquitto", 8883)
}

// thePolkitRuleReloadsMosquitto, and without the rule the agent may not.
func thePolkitRuleReloadsMosquitto(t *testing.T, m *machine) {
	m.installed(t)
	m.broker(t, m.run(t, "cat "+examples+"mosquitto/certagent.toml")+"\n")
	m.until(t, "the hook is refused", func() bool {
		said, code := m.try("certagent status broker")
		return code == 8 && strings.Contains(said, "reload mosquitto.service: not allowed")
	})
	m.polkitRule(t)
	m.run(t, "certagent reload") // tries it at once
	m.until(t, "the hook is allowed", func() bool { _, code := m.try("certagent status broker"); return code == 0 })
	m.reloads(t, "broker", "mosquitto", 8883)
}

// polkitRule has the packaged rule in force until the test ends. polkit sees a new file by itself, some seconds later.
func (m *machine) polkitRule(t *testing.T) {
	t.Helper()
	t.Cleanup(func() { m.run(t, "systemctl restart polkit") })
	m.example(t, "systemd/50-certagent.rules", "/etc/polkit-1/rules.d/50-certagent.rules", "0644", "root:root")
	m.run(t, "systemctl restart polkit")
}

func thePolkitRuleReloadsNginx(t *testing.T, m *machine) {
	m.enrolled(t)
	m.places(t, "nginx")
	m.polkitRule(t)
	m.dropIn(t, "consumer-group.conf", "SupplementaryGroups=mosquitto", "SupplementaryGroups=telemetry",
		"ReadWritePaths=/etc/mosquitto/certs", "ReadWritePaths=/etc/nginx/certs /etc/telemetry")
	m.configured(t, "nginx", m.run(t, "cat "+examples+"nginx/certagent.toml")+"\n")
	m.run(t, "certagent wait --timeout 1m web && certagent wait --timeout 1m device")
	t.Cleanup(func() { m.run(t, "systemctl restart nginx") })
	m.example(t, "nginx/nginx.conf", "/etc/nginx/conf.d/certagent.conf", "0644", "root:root")
	m.until(t, "the outputs", func() bool {
		_, code := m.try("test -s /etc/nginx/certs/ca.pem -a -s /etc/nginx/certs/web.key")
		return code == 0
	})
	m.run(t, "systemctl restart nginx")
	m.reloads(t, "web", "nginx", 8443)
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
	m.run(t, "certagent wait --timeout 1m owned")
	m.until(t, "the problem", func() bool {
		said, code := m.try("certagent status owned")
		return code == 8 && strings.Contains(said, "owned.pem")
	})
	m.dropIn(t, "owner.conf")
	m.until(t, "the output", func() bool {
		_, code := m.try("test -e /etc/mosquitto/certs/owned.pem && certagent status owned")
		return code == 0
	})
	if said := m.run(t, "stat -c '%U:%G %a' /etc/mosquitto/certs/owned.pem"); said != "mosquitto:mosquitto 400" {
		t.Errorf("the output: %s", said)
	}
}

// aNarrowNetwork: with network.conf the EST server is reached, and at another address it is not.
func aNarrowNetwork(t *testing.T, m *machine) {
	m.enrolled(t)
	m.configured(t, "impatient", "[cert_issuance.est]\ntimeout = \"2s\"\n")
	m.hosts(t, otherIPv4)
	t.Cleanup(func() { m.hosts(t, estIPv4, estIPv6) })
	m.run(t, "certagent renew --wait device-id") // without it, it does
	m.dropIn(t, "network.conf")
	m.fails(t, 1, "certagent renew --wait device-id")
	for _, address := range []string{estIPv4, estIPv6} {
		m.hosts(t, address)
		m.run(t, "systemctl restart certagent && certagent renew --wait device-id") // Go looks at /etc/hosts every 5 s only
	}
}

// aProxy: with proxy.conf, or by /etc/default/certagent, the EST server is reached through the proxy alone.
func aProxy(t *testing.T, m *machine) {
	m.enrolled(t)
	var passed counter
	m.proxy(t, 3128, &passed)
	renews := func(through int) {
		t.Helper()
		before := passed.value()
		m.run(t, "certagent renew --wait device-id")
		if n := passed.value() - before; n < through || through == 0 && n != 0 {
			t.Errorf("%d connections through the proxy, want %d", n, through)
		}
	}
	renews(0)
	t.Run("proxy.conf", func(t *testing.T) {
		m.dropIn(t, "proxy.conf")
		renews(1)
	})
	t.Run("environment file", func(t *testing.T) {
		m.write(t, "/etc/default/certagent", "0600", "root:root", "HTTPS_PROXY=http://proxy.example:3128\n")
		t.Cleanup(func() { m.run(t, "rm /etc/default/certagent && systemctl restart certagent") })
		m.run(t, "systemctl restart certagent")
		renews(1)
	})
}

// metrics as examples/prometheus/metrics.toml has them, in the sandbox.
func metrics(t *testing.T, m *machine) {
	m.enrolled(t)
	m.run(t, "install -d -g certagent -m 0775 /var/lib/prometheus/node-exporter")
	m.dropIn(t, "consumer-group.conf", "/etc/mosquitto/certs", "/var/lib/prometheus/node-exporter")
	m.configured(t, "metrics", m.run(t, "cat "+examples+"prometheus/metrics.toml")+"\n")
	m.until(t, "the text file", func() bool {
		_, code := m.try("grep -q device-id /var/lib/prometheus/node-exporter/certagent.prom")
		return code == 0
	})
	must(t, inNetwork(m.leader, func() error {
		conn, err := dial(loopback, 9470)
		if err != nil {
			return err
		}
		defer conn.Close()
		request, _ := http.NewRequest("GET", "http://localhost:9470/metrics", nil)
		return scrape(conn, request)
	}))
}
