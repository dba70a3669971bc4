//go:build external

package main

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"certagent/agent/status"
)

// The files of a client's own, as the examples have them.
const (
	clientCert = "/etc/telemetry/client.pem"
	clientKey  = "/etc/telemetry/client.key"
	clientCA   = "/etc/telemetry/ca.pem"
)

const (
	brokerAddress = "gateway.example:8883"
	webAddress    = "gateway.example:8443"
)

// TestMosquitto: the example, as it stands, with systemd played by the test. The agent is an unprivileged user. Clients
// of the broker outlive a renewal, new ones see the new certificate, and their own certificates come and go as well.
func TestMosquitto(t *testing.T) {
	onMachine(t, "mosquitto", func(t *testing.T, m *machine) {
		m.dropIn()
		broker := m.service("mosquitto.service", brokerAddress)
		m.systemd(broker)
		m.start()
		first, client := m.served("broker", ""), m.served("telemetry", "")
		if says := first.Hooks[0].Skipped; says != "mosquitto.service is inactive" {
			t.Errorf("before the broker runs: %q", says)
		}
		broker.start()
		pid := broker.main()
		m.shows(brokerAddress, first.Serial)

		user, group := m.id("passwd", "mosquitto"), m.id("group", "mosquitto")
		m.mayRead(user, group, "/etc/mosquitto/certs/broker.key", true)
		m.mayRead(user, group, clientKey, false)
		m.mayRead(clientID, clientID, clientKey, true)
		m.mayRead(clientID, clientID, "/etc/mosquitto/certs/broker.key", false)
		m.mayRead(nobodyID, nobodyID, clientKey, false)
		m.mayRead(nobodyID, nobodyID, "/etc/mosquitto/certs/broker.pem", true)

		sub := m.subscribe()
		m.publish("one")
		sub.hears("one")
		if log := readText(t, "/var/log/mosquitto/mosquitto.log"); !strings.Contains(log, "u'telemetry'") {
			t.Errorf("the broker does not call the client by its certificate's name:\n%s", log)
		}
		m.refuses(m.pub("nobody", "--cafile", clientCA), "peer did not return a certificate")
		m.refuses(m.pub("stranger", m.stranger()...), "certificate verify failed")

		now := m.renew(map[string]string{"broker": first.Serial, "telemetry": client.Serial})
		if h := m.certificate("broker").Hooks[0]; h.Skipped != "" || broker.reloaded() != 1 {
			t.Errorf("%+v, reloaded %d times", h, broker.reloaded())
		}
		m.shows(brokerAddress, now["broker"])
		if got := serialIn(t, clientCert); got != now["telemetry"] {
			t.Errorf("the client's file holds %s, not %s", got, now["telemetry"])
		}
		m.publish("two") // a new connection, with the new certificate
		sub.hears("two") // an old one
		m.subscribe()
		m.refuses(m.pub("nobody", "--cafile", clientCA), "peer did not return a certificate")
		m.refuses(m.pub("stranger", m.stranger()...), "certificate verify failed")
		if broker.main() != pid {
			t.Error("the broker was started anew")
		}
		m.stop()
	})
}

// TestMosquittoWithoutSystemd: the agent is root and sends the signal itself. The broker was down when its certificate
// was renewed: that is a problem with a name and what the hook wrote, the renewal stands, and the broker is told when
// it is there again.
func TestMosquittoWithoutSystemd(t *testing.T) {
	onMachine(t, "mosquitto", func(t *testing.T, m *machine) {
		m.container()
		m.start()
		m.served("telemetry", "")
		c := m.untold("broker", "")
		user, group := m.id("passwd", "mosquitto"), m.id("group", "mosquitto")
		m.mayRead(user, group, "/etc/mosquitto/certs/broker.key", true)
		m.mayRead(nobodyID, nobodyID, "/etc/mosquitto/certs/broker.key", false)

		broker := m.service("mosquitto.service", brokerAddress)
		ends := []func(){broker.stop, broker.kill} // the second leaves its number behind
		for i := 0; ; i++ {
			broker.start()
			m.signal(syscall.SIGHUP) // what failed is tried at once; otherwise within minutes
			told := m.served("broker", "")
			if told.Serial != c.Serial || told.Hooks[0].Tries != 2 {
				t.Errorf("certificate %s, not %s, or %+v", told.Serial, c.Serial, told.Hooks[0])
			}
			m.shows(brokerAddress, told.Serial)
			if i == len(ends) {
				break
			}
			ends[i]()
			m.renew(map[string]string{"telemetry": m.certificate("telemetry").Serial})
			c = m.untold("broker", told.Serial)
			const wrote = "the last that it wrote: No /usr/sbin/mosquitto found running"
			if p := c.Problems[0]; p.Code != "hook-failed" || !strings.Contains(p.Text, wrote) ||
				c.State != status.Valid || c.Failures != 0 || !c.Hooks[0].NextTry.After(c.Hooks[0].LastTry) {
				t.Errorf("%+v", c)
			}
			out, err := m.command("status", "broker").Output()
			if exitCode(err) != status.ExitDegraded || !bytes.Contains(out, []byte("hook-failed")) {
				t.Errorf("%v\n%s", err, out)
			}
		}
		now := m.renew(map[string]string{"broker": c.Serial, "telemetry": m.certificate("telemetry").Serial})
		m.shows(brokerAddress, now["broker"])
		m.stop()
	})
}

// untold waits until another certificate than that of serial stands in status, and its hook has failed.
func (m *machine) untold(id, serial string) (c status.Certificate) {
	m.t.Helper()
	m.until("a certificate "+id+" that nobody was told of", func() bool {
		c = m.certificate(id)
		return c.Serial != "" && c.Serial != serial && c.Hooks[0].State == "failed" && len(c.Problems) == 1
	})
	return c
}

// TestWithoutTheDropIn: the agent may not give its files to anybody. That is a problem of those files, with the line
// that is missing in its unit; the certificates are issued and renewed all the same.
func TestWithoutTheDropIn(t *testing.T) {
	onMachine(t, "mosquitto", func(t *testing.T, m *machine) {
		must(t, os.WriteFile("/etc/certagent/config.d/owner.toml", []byte(`[[cert_issuance.certs.broker.outputs]]
format = "combined"
path = "/etc/mosquitto/certs/both.pem"
owner = "mosquitto"
`), 0o644))
		m.start()
		var serial string
		for range 2 {
			var c status.Certificate
			m.until("a certificate that is not delivered", func() bool {
				c = m.certificate("broker")
				return c.Serial != "" && c.Serial != serial && len(c.Problems) >= 3
			})
			text := fmt.Sprintf("%+v", c.Problems)
			for _, says := range []string{
				"output-refused", "the agent is no member of group mosquitto", "SupplementaryGroups=mosquitto",
				"the agent may not give files to user mosquitto", "AmbientCapabilities=CAP_CHOWN", "hooks-waiting",
			} {
				if !strings.Contains(text, says) {
					t.Errorf("status does not say %q: %s", says, text)
				}
			}
			if c.State != status.Valid || c.Failures != 0 {
				t.Errorf("the renewal did not stand: %+v", c)
			}
			for _, file := range []string{"broker.key", "both.pem"} {
				if _, err := os.Lstat(filepath.Join("/etc/mosquitto/certs", file)); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("%s: %v", file, err)
				}
			}
			serial = c.Serial
			m.signal(syscall.SIGUSR1)
		}
		m.stop()
	})
}

// TestHooksOfRootAreTheOwners: whoever runs "sudo certagent run --once" where the state belongs to user certagent has
// the hooks run as the daemon would: with the groups that the user has.
func TestHooksOfRootAreTheOwners(t *testing.T) {
	onMachine(t, "mosquitto", func(t *testing.T, m *machine) {
		must(t, exec.Command("usermod", "--append", "--groups", "mosquitto", "certagent").Run(),
			os.Mkdir("/run/told", 0o755), os.Chown("/run/told", agentID, agentID),
			os.WriteFile("/etc/certagent/config.d/mosquitto2.toml", []byte(`[cert_issuance.certs.broker.on_renew]
reload = []
exec = [["/bin/sh", "-c", "echo $(id -u):$(id -g):$(id -G) >/run/told/who"]]
`), 0o644))
		m.as = nil
		if out, err := m.command("run", "--once").CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		want := fmt.Sprintf("%d:%[1]d:%[1]d %d\n", agentID, m.id("group", "mosquitto"))
		if got := readText(t, "/run/told/who"); got != want {
			t.Errorf("the hook is %q, want %q", got, want)
		}
		info, err := os.Stat("/run/told/who")
		must(t, err)
		if owner := info.Sys().(*syscall.Stat_t).Uid; owner != agentID {
			t.Errorf("what it makes belongs to user %d", owner)
		}
	})
}

// shows dials anew until the server has this certificate, and checks that all of its chain came along.
func (m *machine) shows(address, serial string) {
	m.t.Helper()
	var last string
	m.until(address+" shows "+serial, func() bool {
		c, err := tls.Dial("tcp", address, m.login())
		if err != nil {
			m.t.Fatalf("connect to %s: %v", address, err)
		}
		defer c.Close()
		last = fmt.Sprintf("%x", c.ConnectionState().PeerCertificates[0].SerialNumber.Bytes())
		return last == serial
	})
}

// login is how a client of the example logs in: with what its files hold now.
func (m *machine) login() *tls.Config {
	m.t.Helper()
	cert, err := tls.LoadX509KeyPair(clientCert, clientKey)
	must(m.t, err)
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(readText(m.t, clientCA))) {
		m.t.Fatalf("%s holds no certificate", clientCA)
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: pool}
}

// subscriber is a mosquitto_sub.
type subscriber struct {
	m         *machine
	lines     chan string
	connected bool
}

// subscribe runs the client's command in the README, as the client's user, and returns when the broker serves it.
func (m *machine) subscribe() *subscriber {
	m.t.Helper()
	command := strings.Replace(m.block("sh", 2), "mosquitto_sub", "exec stdbuf -oL mosquitto_sub --debug", 1)
	cmd := as(clientID, clientID, "sh", "-c", command)
	out, err := cmd.StdoutPipe()
	must(m.t, err)
	cmd.Stderr = cmd.Stdout
	must(m.t, cmd.Start()) // it ends with the machine
	s := &subscriber{m: m, lines: make(chan string, 1000)}
	go func() { // ends with the subscriber
		defer close(s.lines)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			s.lines <- lines.Text()
		}
	}()
	s.hears("Subscribed (mid: 1): 0")
	return s
}

// hears waits for a line.
func (s *subscriber) hears(line string) {
	s.m.t.Helper()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		select {
		case got, ok := <-s.lines:
			switch {
			case !ok:
				s.m.t.Fatalf("the subscriber ended before it heard %q", line)
			case strings.Contains(got, "sending CONNECT"):
				if s.connected {
					s.m.t.Fatal("the subscriber lost its connection and came back")
				}
				s.connected = true
			case got == line:
				return
			}
		case <-timeout.C:
			s.m.t.Fatalf("the subscriber did not hear %q", line)
		}
	}
}

// pub is a mosquitto_pub by the client's user.
func (m *machine) pub(message string, args ...string) *exec.Cmd {
	return as(clientID, clientID, append([]string{"/usr/bin/mosquitto_pub", "-h", "gateway.example", "-p", "8883",
		"-q", "1", "-t", "test/it", "-m", message}, args...)...)
}

func (m *machine) publish(message string) {
	m.t.Helper()
	cmd := m.pub(message, "--cafile", clientCA, "--cert", clientCert, "--key", clientKey)
	if out, err := cmd.CombinedOutput(); err != nil {
		m.t.Fatalf("publish: %v\n%s", err, out)
	}
}

// refuses checks that the broker does not admit a client, and says why in its log.
func (m *machine) refuses(client *exec.Cmd, why string) {
	m.t.Helper()
	const log = "/var/log/mosquitto/mosquitto.log"
	before := len(readText(m.t, log))
	out, err := client.CombinedOutput()
	if code := exitCode(err); code <= 0 {
		m.t.Errorf("%q: exit code %d\n%s", client.Args, code, out)
	}
	m.until("the broker says "+why, func() bool { return strings.Contains(readText(m.t, log)[before:], why) })
}

// stranger is the login of a client whose certificate has the right name and another CA.
func (m *machine) stranger() []string {
	m.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(m.t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "telemetry"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(m.t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(m.t, err)
	for file, block := range map[string]*pem.Block{
		"/run/stranger.pem": {Type: "CERTIFICATE", Bytes: cert}, "/run/stranger.key": {Type: "PRIVATE KEY", Bytes: der},
	} {
		must(m.t, os.WriteFile(file, pem.EncodeToMemory(block), 0o644))
	}
	return []string{"--cafile", clientCA, "--cert", "/run/stranger.pem", "--key", "/run/stranger.key"}
}

func readText(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	return string(data)
}

// serialIn is that of the first certificate in a file.
func serialIn(t *testing.T, path string) string {
	t.Helper()
	block, _ := pem.Decode([]byte(readText(t, path)))
	if block == nil {
		t.Fatalf("%s is not PEM", path)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	must(t, err)
	return fmt.Sprintf("%x", cert.SerialNumber.Bytes())
}

// exitCode is how a command ended: 0 well, -1 by a signal or not at all.
func exitCode(err error) int {
	if err == nil {
		return 0
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	return -1
}
