//go:build system

package rig

import (
	"fmt"
	"strings"
	"testing"
)

// broker has mosquitto run with certificates of certagent's, told in one way or another.
func (m *machine) broker(t *testing.T, config string) {
	t.Helper()
	m.enrolled(t)
	m.places(t, "mosquitto")
	t.Cleanup(func() { m.restart(t, "mosquitto") })
	m.dropIn(t, "consumer-group.conf", "SupplementaryGroups=mosquitto", "SupplementaryGroups=mosquitto telemetry",
		"ReadWritePaths=/etc/mosquitto/certs", "ReadWritePaths=/etc/mosquitto/certs /etc/telemetry")
	m.configured(t, "mosquitto", config)
	m.run(t, "certagent wait --timeout 1m broker && certagent wait --timeout 1m telemetry")
	m.example(t, "mosquitto/mosquitto.conf", "/etc/mosquitto/conf.d/certagent.conf", "0644", "root:root")
	m.until(t, "the outputs", func() bool {
		_, code := m.try("test -s /etc/mosquitto/certs/ca.pem -a -s /etc/mosquitto/certs/broker.key")
		return code == 0
	})
	m.restart(t, "mosquitto")
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

// restart restarts a service, however often in these seconds: systemd has a limit (systemd.unit(5), StartLimitBurst=).
func (m *machine) restart(t *testing.T, unit string) {
	t.Helper()
	m.run(t, "systemctl reset-failed "+unit+" || true; systemctl restart "+unit)
}

// clientTalks: a client with the outputs of the certificate telemetry, under its own user, publishes something, and
// gets it; the broker knows it by the name in its certificate, and lets nobody in without one.
func (m *machine) clientTalks(t *testing.T) {
	t.Helper()
	const (
		broker = " -h gateway.example -p 8883 --cafile /etc/telemetry/ca.pem -t test/rig"
		as     = "runuser -u telemetry -- "
		login  = " --cert /etc/telemetry/client.pem --key /etc/telemetry/client.key"
	)
	word := m.serial(t, "telemetry")
	m.run(t, as+"mosquitto_pub"+broker+login+" -i rig-client -q 1 -r -m "+word)
	if said := m.run(t, as+"mosquitto_sub"+broker+login+" -C 1 -W 60"); said != word {
		t.Errorf("the client got %q, and sent %q", said, word)
	}
	if said, code := m.try(as + "mosquitto_pub" + broker + " -m nobody"); code == 0 {
		t.Errorf("without a certificate the broker takes a message: %s", said)
	}
	m.run(t, "grep 'as rig-client .*telemetry' /var/log/mosquitto/mosquitto.log")
}

// clientRenews: what the client reads after a renewal is a pair again, which the broker takes.
func (m *machine) clientRenews(t *testing.T) {
	t.Helper()
	m.run(t, "certagent renew --wait telemetry")
	m.until(t, "the client has its new certificate", func() bool {
		_, code := m.try("certagent status telemetry && cd /var/lib/certagent/certs/telemetry/live &&" +
			" cmp fullchain.pem /etc/telemetry/client.pem && cmp key.pem /etc/telemetry/client.key")
		return code == 0
	})
	m.clientTalks(t)
}

func theDeployPairReloadsMosquitto(t *testing.T, m *machine) {
	m.installed(t)
	m.deploys(t, "mosquitto")
	m.broker(t, leavingWord(m.run(t, "cat "+examples+"mosquitto/certagent.toml"), "mosquitto"))
	m.clientTalks(t)
	m.reloads(t, "broker", "mosquitto", 8883)
	m.clientRenews(t)
}

// deploys enables the pair of units for a service until the test ends.
func (m *machine) deploys(t *testing.T, name string) {
	t.Helper()
	m.run(t, "systemctl enable --now certagent-deploy@"+name+".path")
	t.Cleanup(func() { m.run(t, "systemctl disable --now certagent-deploy@"+name+".path") })
}

// leavingWord is an example in which the agent leaves word for the pair instead of speaking to systemd.
func leavingWord(config, name string) string {
	return strings.Replace(config, `reload = ["`+name+`.service"]`,
		`exec = [["/bin/touch", "/run/certagent-deploy/`+name+`"]]`, 1) + "\n"
}

// theDeployPairStartsWhatHasFailed, and nothing that was stopped.
func theDeployPairStartsWhatHasFailed(t *testing.T, m *machine) {
	m.installed(t)
	m.deploys(t, "nginx")
	m.webServer(t, leavingWord(m.run(t, "cat "+examples+"nginx/certagent.toml"), "nginx"))
	show := func(property string) string {
		return m.run(t, "systemctl show --value -p "+property+" certagent-deploy@nginx.service")
	}
	took := func() bool {
		return m.run(t, "test -e /run/certagent-deploy/nginx || echo no") == "no" && show("ActiveState") == "inactive"
	}
	m.until(t, "the pair has told it of the first certificate", took)
	m.startsWhatHasFailed(t)
	m.until(t, "the pair is done", took)
	m.run(t, "systemctl stop nginx")
	const ran = "ExecMainExitTimestampMonotonic"
	before := show(ran)
	m.run(t, "certagent renew --wait web")
	m.until(t, "the pair has looked at it", func() bool {
		return show(ran) != before && took()
	})
	if said, code := m.try("systemctl is-active nginx"); code != 3 || said != "inactive" {
		t.Errorf("nginx was stopped, and is %s", said)
	}
}

// startsWhatHasFailed: nginx has, and a renewal has it started.
func (m *machine) startsWhatHasFailed(t *testing.T) {
	t.Helper()
	m.write(t, "/etc/nginx/conf.d/broken.conf", "0644", "root:root", "broken;\n")
	t.Cleanup(func() { m.run(t, "rm -f /etc/nginx/conf.d/broken.conf") })
	m.fails(t, 1, "systemctl reset-failed nginx || true; systemctl restart nginx")
	if said, _ := m.try("systemctl is-failed nginx"); said != "failed" {
		t.Fatalf("nginx is %s", said)
	}
	m.run(t, "rm /etc/nginx/conf.d/broken.conf && certagent renew --wait web")
	m.until(t, "nginx is started", func() bool { _, code := m.try("systemctl is-active nginx"); return code == 0 })
}

// thePolkitRuleReloadsMosquitto, and without the rule the agent may not; with it, it may do nothing else.
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
	const asAgent = "runuser -u certagent -- systemctl --no-ask-password "
	m.run(t, asAgent+"reload mosquitto")
	for _, other := range []string{"stop mosquitto", "restart mosquitto", "reload dbus", "restart certagent"} {
		if _, code := m.try(asAgent + other); code == 0 {
			t.Errorf("the rule lets it %s", other)
		}
	}
}

// polkitRule has the packaged rule in force until the test ends. polkit sees a new file by itself, some seconds later.
func (m *machine) polkitRule(t *testing.T) {
	t.Helper()
	t.Cleanup(func() { m.run(t, "systemctl restart polkit") })
	m.example(t, "systemd/50-certagent.rules", "/etc/polkit-1/rules.d/50-certagent.rules", "0644", "root:root")
	m.run(t, "systemctl restart polkit")
}

// webServer has nginx run with a certificate of certagent's, told in one way or another.
func (m *machine) webServer(t *testing.T, config string) {
	t.Helper()
	m.enrolled(t)
	m.places(t, "nginx")
	m.dropIn(t, "consumer-group.conf", "SupplementaryGroups=mosquitto", "SupplementaryGroups=telemetry",
		"ReadWritePaths=/etc/mosquitto/certs", "ReadWritePaths=/etc/nginx/certs /etc/telemetry")
	m.configured(t, "nginx", config)
	m.run(t, "certagent wait --timeout 1m web && certagent wait --timeout 1m device")
	t.Cleanup(func() { m.restart(t, "nginx") })
	m.example(t, "nginx/nginx.conf", "/etc/nginx/conf.d/certagent.conf", "0644", "root:root")
	m.until(t, "the outputs", func() bool {
		_, code := m.try("test -s /etc/nginx/certs/ca.pem -a -s /etc/nginx/certs/web.key")
		return code == 0
	})
	m.restart(t, "nginx")
}

func thePolkitRuleReloadsNginx(t *testing.T, m *machine) {
	m.installed(t)
	m.polkitRule(t)
	m.webServer(t, m.run(t, "cat "+examples+"nginx/certagent.toml")+"\n")
	m.reloads(t, "web", "nginx", 8443)
	m.startsWhatHasFailed(t)
}
