//go:build external

package awsiot_test

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/pem"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"certagent/agent/onboard/awsiot/awstest"
)

// mosquitto starts a real broker, and returns how to reach it.
func mosquitto(t *testing.T) awstest.Broker {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} { // it becomes user mosquitto
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	m, err := awstest.StartMosquitto(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if log := m.Close(); t.Failed() {
			t.Logf("mosquitto:\n%s", log)
		}
	})
	return m.Broker
}

// A real broker behind the endpoint: it takes our CONNECT, an application works with the certificate that was made known,
// and what waits for the application under the same client id outlives our visits at renewals.
func TestRealBroker(t *testing.T) {
	r := newRig(t, awstest.Options{Broker: mosquitto(t)}, jitp())
	if tries := r.until(2); tries != 2 {
		t.Fatalf("%d tries", tries)
	}
	app := &application{rig: r, dir: t.TempDir()}
	neighbour := app.another("gw-2")
	app.run("mosquitto_sub", "-c", "-x", "600", "-E") // subscribes, and leaves its session
	neighbour.run("mosquitto_pub", "-m", "while you were away")
	r.renew(gateway())
	if tries := r.until(2); tries != 2 {
		t.Fatalf("%d tries", tries)
	}
	if got := app.run("mosquitto_sub", "-c", "-x", "600", "-C", "1"); got != "while you were away\n" {
		t.Errorf("the application got %q", got)
	}
}

// A program that is connected under the agent's client id is hung up on by a visit, and its last will is published; one whose
// agent has a client id of its own stays.
func TestTheProgramsConnection(t *testing.T) {
	r := newRig(t, awstest.Options{Broker: mosquitto(t), Suffix: "-certagent"}, jitp())
	r.until(2)
	app := &application{rig: r, dir: t.TempDir()}
	watcher, neighbour := app.another("gw-2"), app.another("gw-3")
	watch := watcher.start("-t", "wills")
	program := app.start("-t", "jobs", "--will-topic", "wills", "--will-payload", "gw-1 is gone")

	r.o.Registration.ClientID = "gw-1-certagent"
	r.renew(gateway())
	r.until(2)
	neighbour.run("mosquitto_pub", "-m", "are you there")
	app.says(program, "are you there")

	r.o.Registration.ClientID = "gw-1"
	r.renew(gateway())
	r.until(2)
	watcher.says(watch, "gw-1 is gone")
}

// application is a program of a device's that has its certificate.
type application struct {
	*rig
	dir string
}

// another is a program of another device's, which is provisioned.
func (a *application) another(cn string) *application {
	a.Helper()
	n := &application{rig: &rig{T: a.T, server: a.server, ca: a.ca, o: a.o, draw: .5, now: a.now}, dir: a.TempDir()}
	n.o.Registration.ClientID = cn
	n.renew(name("CN", cn, "C", "JP", "serialNumber", "0002"))
	n.until(2)
	return n
}

// run runs a client of mosquitto's, over a connection of its own to the endpoint, and returns what it says.
func (a *application) run(argv ...string) string {
	a.Helper()
	argv = append(argv, "-t", "jobs")
	out, err := a.command(argv...).CombinedOutput()
	if err != nil {
		a.Fatalf("%q: %v\n%s", argv, err, out)
	}
	return string(out)
}

// start starts one that stays until the test ends, and returns its lines as it says them, from its subscription on.
func (a *application) start(argv ...string) *bufio.Scanner {
	a.Helper()
	cmd := a.command(append([]string{"stdbuf", "-oL", "mosquitto_sub", "-d"}, argv...)...)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		a.Fatal(err)
	}
	a.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	lines := bufio.NewScanner(out)
	a.says(lines, "received SUBACK")
	return lines
}

// says reads lines until one has text.
func (a *application) says(lines *bufio.Scanner, text string) {
	a.Helper()
	for lines.Scan() {
		if strings.Contains(lines.Text(), text) {
			return
		}
	}
	a.Fatalf("it ended without a word of %q: %v", text, lines.Err())
}

// command is a client of mosquitto's with the certificate. It ends after a minute.
func (a *application) command(argv ...string) *exec.Cmd {
	a.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(a.o.Certificate.PrivateKey)
	if err != nil {
		a.Fatal(err)
	}
	var chain []byte
	for _, c := range a.o.Certificate.Certificate {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c})...)
	}
	for file, data := range map[string][]byte{
		"root.pem": a.server.RootPEM(), "cert.pem": chain,
		"key.pem": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
		"hosts":   []byte("127.0.0.1 " + a.server.Endpoint() + "\n"),
	} {
		if err := os.WriteFile(filepath.Join(a.dir, file), data, 0o600); err != nil {
			a.Fatal(err)
		}
	}
	_, port, err := net.SplitHostPort(a.server.Addr())
	if err != nil {
		a.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(a.Context(), time.Minute)
	a.Cleanup(cancel)
	argv = append(argv, "-i", a.o.Certificate.Leaf.Subject.CommonName, "-h", a.server.Endpoint(), "-p", port, "--cafile",
		a.dir+"/root.pem", "--cert", a.dir+"/cert.pem", "--key", a.dir+"/key.pem", "-V", "mqttv5", "-q", "1")
	// No resolver knows the endpoint: a mount name space of its own has a hosts file that does.
	inside := []string{"--mount", "sh", "-c", `mount --bind "$0" /etc/hosts && exec "$@"`, a.dir + "/hosts"}
	return exec.CommandContext(ctx, "unshare", append(inside, argv...)...)
}
