//go:build system

package rig

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// serial of the live certificate of an id, as the agent says it.
func (m *machine) serial(t *testing.T, id string) string {
	t.Helper()
	return fmt.Sprintf("%x", m.leaf(t, id).SerialNumber.Bytes())
}

// fingerprint is the SHA-256 of the live certificate of an id, in lower-case hexadecimal.
func (m *machine) fingerprint(t *testing.T, id string) string {
	t.Helper()
	return fmt.Sprintf("%x", sha256.Sum256(m.leaf(t, id).Raw))
}

// problems of the agent as a whole, with the state of each certificate.
func (m *machine) problems(t *testing.T) (codes []string) {
	t.Helper()
	said, _ := m.try("certagent status --json 2>/dev/null")
	var status struct {
		Problems     []struct{ Code string }
		Certificates []struct{ ID, State string }
	}
	if err := json.Unmarshal([]byte(said), &status); err != nil {
		t.Fatalf("certagent status --json: %v\n%s", err, said)
	}
	for _, p := range status.Problems {
		codes = append(codes, p.Code)
	}
	return codes
}

// checkIsGreen: the doctor has nothing to say, as root and for the daemon's user.
func checkIsGreen(t *testing.T, m *machine) {
	m.enrolled(t)
	// The machine has no CAP_SYS_TIME: what adjtimex says is the host's affair. This is systemd-timesyncd's word.
	m.run(t, "mkdir -p /run/systemd/timesync && touch /run/systemd/timesync/synchronized")
	said, code := m.try("certagent check --json")
	var found struct {
		Checks []struct{ ID, Subject, Result, Text string }
	}
	if err := json.Unmarshal([]byte(said), &found); err != nil || code != 0 || len(found.Checks) < 15 {
		t.Fatalf("certagent check: exit code %d, %d checks, %v\n%s", code, len(found.Checks), err, said)
	}
	for _, c := range found.Checks {
		if c.Result != "ok" {
			t.Errorf("%s %s: %s: %s", c.Result, c.ID, c.Subject, c.Text)
		}
	}
}

// theJournalHasFields: each attempt is one entry, whose fields can be asked for.
func theJournalHasFields(t *testing.T, m *machine) {
	m.enrolled(t)
	said := m.run(t, "journalctl --sync && journalctl -o json CERTAGENT_EVENT=attempt CERTAGENT_CERTIFICATE=device-id"+
		" CERTAGENT_SERIAL="+m.serial(t, "device-id"))
	var entry map[string]any
	if err := json.Unmarshal([]byte(said), &entry); err != nil {
		t.Fatalf("not one entry: %v\n%s", err, said)
	}
	for name, want := range map[string]string{
		"_SYSTEMD_UNIT": "certagent.service", "SYSLOG_IDENTIFIER": "certagent", "PRIORITY": "6", "_TRANSPORT": "journal",
		"CERTAGENT_RESULT": "issued", "CERTAGENT_SERVER": estURL,
	} {
		if entry[name] != want {
			t.Errorf("%s is %v, want %s", name, entry[name], want)
		}
	}
	for _, name := range []string{
		"MESSAGE", "CERTAGENT_NOT_AFTER", "CERTAGENT_IDENTITY", "CERTAGENT_OPERATION", "CERTAGENT_TOOK_SECONDS",
	} {
		if text, _ := entry[name].(string); text == "" {
			t.Errorf("%s is missing", name)
		}
	}
	if all := m.run(t, "journalctl -o json -u certagent"); strings.Contains(all, "PRIVATE KEY") {
		t.Error("a private key is in the journal")
	}
}

// theNetworkIsNotNeeded to be started: the agent is ready without it, asks for none of what it is ordered after, and
// says what it lacks.
func theNetworkIsNotNeeded(t *testing.T, m *machine) {
	m.enrolled(t)
	ip(t, m.leader, "link", "set", "host0", "down")
	t.Cleanup(func() { m.cable(t) })
	m.configured(t, "offline", "[cert_issuance.certs.offline]\ncommon_name = \"offline\"\n")
	m.run(t, "systemctl restart certagent") // returns when it is ready
	m.until(t, "systemctl status says what is wrong", func() bool {
		return strings.Contains(m.property(t, "StatusText"), "offline")
	})
	after := m.property(t, "After")
	for _, unit := range []string{"network-online.target", "nss-lookup.target", "time-sync.target"} {
		if !strings.Contains(after, unit) {
			t.Errorf("it is not ordered after %s: %s", unit, after)
		}
		if wanted := m.property(t, "Wants") + m.property(t, "Requires"); strings.Contains(wanted, unit) {
			t.Errorf("it asks for %s", unit)
		}
	}
	m.cable(t)
	m.run(t, "certagent renew --wait offline")
}

// aSignalRenews without a restart, with the certificate itself.
func aSignalRenews(t *testing.T, m *machine) {
	m.enrolled(t)
	before, process, asked := m.serial(t, "device-id"), m.property(t, "MainPID"), len(m.est.asked())
	m.run(t, "systemctl kill -s USR1 certagent")
	m.until(t, "another certificate", func() bool { return m.serial(t, "device-id") != before })
	const renewal = "op=simplereenroll status=200 login=certificate"
	if requests := m.est.asked()[asked:]; len(requests) != 1 || !strings.Contains(requests[0], renewal) {
		t.Errorf("the server was asked %q", requests)
	}
	if now := m.property(t, "MainPID"); now != process {
		t.Errorf("the process was %s and is %s", process, now)
	}
}

func reloadTakesAGoodFile(t *testing.T, m *machine) {
	m.enrolled(t)
	process := m.property(t, "MainPID")
	m.configured(t, "another", "[cert_issuance.certs.another]\ncommon_name = \"another\"\n")
	// The reload has waited: the agent knows it by now.
	m.run(t, "certagent wait --timeout 1m another")
	if now := m.property(t, "MainPID"); now != process {
		t.Errorf("the process was %s and is %s", process, now)
	}
}

func reloadRefusesABadFile(t *testing.T, m *machine) {
	m.enrolled(t)
	process := m.property(t, "MainPID")
	m.write(t, "/etc/certagent/config.d/bad.toml", "0640", "root:certagent",
		"[cert_issuance.certs.another]\ncomon_name = \"another\"\n")
	t.Cleanup(func() { m.run(t, "rm -f /etc/certagent/config.d/bad.toml") })
	m.fails(t, 1, "systemctl reload certagent")
	m.run(t, "systemctl is-active certagent")
	if now := m.property(t, "MainPID"); now != process {
		t.Errorf("the process was %s and is %s", process, now)
	}
	said := m.run(t, "journalctl --sync && journalctl -o cat -u certagent -n 20")
	if !strings.Contains(said, "bad.toml:2:1") {
		t.Errorf("the journal does not say where:\n%s", said)
	}
	if codes := m.problems(t); len(codes) != 1 || codes[0] != "config-invalid" {
		t.Errorf("problems: %q", codes)
	}
	m.run(t, "rm /etc/certagent/config.d/bad.toml && systemctl reload certagent")
	if codes := m.problems(t); len(codes) != 0 {
		t.Errorf("problems after it was mended: %q", codes)
	}
}

// aBadFileAtTheStart: it runs on what loaded last.
func aBadFileAtTheStart(t *testing.T, m *machine) {
	m.enrolled(t)
	before := m.serial(t, "device-id")
	m.write(t, "/etc/certagent/config.d/bad.toml", "0640", "root:certagent", "nonsense\n")
	t.Cleanup(func() { m.run(t, "rm -f /etc/certagent/config.d/bad.toml") })
	m.run(t, "systemctl restart certagent")
	if codes := m.problems(t); len(codes) != 1 || codes[0] != "config-invalid" {
		t.Errorf("problems: %q", codes)
	}
	m.run(t, "certagent renew --wait device-id")
	if m.serial(t, "device-id") == before {
		t.Error("it does not renew")
	}
	m.run(t, "rm /etc/certagent/config.d/bad.toml && systemctl reload certagent")
	if codes := m.problems(t); len(codes) != 0 {
		t.Errorf("problems after it was mended: %q", codes)
	}
}

// override is a drop-in of the rig's own.
func (m *machine) override(t *testing.T, text string) {
	t.Helper()
	m.write(t, overrideFile, "0644", "root:root", text)
	t.Cleanup(func() { m.undoOverride(t) })
	m.run(t, "systemctl daemon-reload && systemctl restart certagent")
}

const overrideFile = "/etc/systemd/system/certagent.service.d/rig.conf"

func (m *machine) undoOverride(t *testing.T) {
	t.Helper()
	m.run(t, "rm "+overrideFile+" && systemctl daemon-reload && systemctl restart certagent")
}

// soon has systemd wait for nothing before it starts the agent again.
const soon = "RestartSec=100ms\nRestartSteps=0\n"

func theWatchdogRestartsAStuckAgent(t *testing.T, m *machine) {
	m.enrolled(t)
	m.override(t, "[Service]\nWatchdogSec=2s\n"+soon)
	before, process := m.serial(t, "device-id"), m.property(t, "MainPID")
	m.run(t, "kill -STOP "+process)
	m.until(t, "another process", func() bool {
		now := m.property(t, "MainPID")
		return now != process && now != "0"
	})
	m.run(t, "certagent wait --timeout 1m device-id")
	if restarts := m.property(t, "NRestarts"); restarts != "1" {
		t.Errorf("it was restarted %s times", restarts)
	}
	// In between are the stacks of the aborted agent.
	m.run(t, "journalctl --sync && journalctl -o cat -u certagent _PID=1 | grep -q 'Watchdog timeout'")
	if m.serial(t, "device-id") != before {
		t.Error("it renewed over that")
	}
}

func killedItComesBack(t *testing.T, m *machine) {
	m.enrolled(t)
	m.override(t, "[Service]\n"+soon)
	before, process, asked := m.state(t), m.property(t, "MainPID"), len(m.est.asked())
	m.run(t, "systemctl kill -s KILL certagent")
	m.until(t, "another process", func() bool {
		now := m.property(t, "MainPID")
		return now != process && now != "0" && m.property(t, "ActiveState") == "active"
	})
	m.run(t, "certagent wait --timeout 1m device-id")
	if after := m.state(t); after != before {
		t.Errorf("the state was\n%s\nand is\n%s", before, after)
	}
	if requests := m.est.asked()[asked:]; len(requests) != 0 {
		t.Errorf("the server was asked %q", requests)
	}
}
