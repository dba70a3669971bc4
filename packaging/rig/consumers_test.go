//go:build system

package rig

import (
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

// aConsumerWaits: a consumer that is started before its certificate is there, under a user of its own, starts with it.
func aConsumerWaits(t *testing.T, m *machine) {
	m.enrolled(t)
	m.places(t, "mosquitto")
	const live = "/var/lib/certagent/certs/mqtt/live"
	m.write(t, "/etc/systemd/system/consumer.service", "0644", "root:root", "[Service]\nUser=telemetry\n"+
		"ExecStart=/bin/sh -ec 'cat "+live+"/key.pem "+live+"/fullchain.pem >/dev/null; exec sleep infinity'\n")
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
	if said := m.run(t, "stat -c '%U:%G %a' "+live+"/key.pem"); said != "certagent:telemetry 640" {
		t.Errorf("the key: %s", said)
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
