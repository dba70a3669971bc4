//go:build external

package awsiot_test

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"net"
	"os"
	"os/exec"
	"path/filepath"
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
	neighbour := &application{rig: &rig{T: t, server: r.server, ca: r.ca, o: r.o, draw: .5, now: r.now}, dir: t.TempDir()}
	neighbour.o.Registration.ClientID = "gw-2"
	neighbour.renew(name("CN", "gw-2", "C", "JP", "serialNumber", "0002"))
	neighbour.until(2)

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

// application is a program of a device's that has its certificate.
type application struct {
	*rig
	dir string
}

// run runs a client of mosquitto's, over a connection of its own to the endpoint.
func (a *application) run(argv ...string) string {
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
	defer cancel()
	argv = append(argv, "-i", a.o.Registration.ClientID, "-h", a.server.Endpoint(), "-p", port, "--cafile",
		a.dir+"/root.pem", "--cert", a.dir+"/cert.pem", "--key", a.dir+"/key.pem", "-V", "mqttv5", "-q", "1", "-t", "jobs")
	// No resolver knows the endpoint: a mount name space of its own has a hosts file that does.
	inside := []string{"--mount", "sh", "-c", `mount --bind "$0" /etc/hosts && exec "$@"`, a.dir + "/hosts"}
	out, err := exec.CommandContext(ctx, "unshare", append(inside, argv...)...).CombinedOutput()
	if err != nil {
		a.Fatalf("%q: %v\n%s", argv, err, out)
	}
	return string(out)
}
