//go:build external

package main

import (
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

	"certagent/agent/onboard/awsiot"
	"certagent/agent/onboard/awsiot/awstest"
)

// The last command of examples/aws-jitp, with the files that the configuration's outputs name: mosquitto_pub speaks with a
// real broker behind the endpoint. Other than on the page are the port, the folder, and the endpoint's root.
func TestAWSPublish(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} { // mosquitto becomes a user of its own
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	broker, err := awstest.StartMosquitto(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if log := broker.Close(); t.Failed() {
			t.Logf("mosquitto:\n%s", log)
		}
	}()
	j := walkJITP(t, awstest.Options{Broker: broker.Broker})
	o := j.enrol()
	if err := awsiot.Connect(ctx, o); err == nil {
		t.Error("the first connection was not dropped")
	}
	if err := awsiot.Connect(ctx, o); err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(o.Certificate.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	var chain []byte
	for _, c := range o.Certificate.Certificate {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c})...)
	}
	const folder, roots = "/etc/telemetry", "/etc/ssl/certs/ca-certificates.crt"
	c, _ := j.config.Certificate("device-id")
	contents := map[string][]byte{
		"fullchain+root": chain, "key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
	}
	for _, output := range c.Outputs {
		file, ok := strings.CutPrefix(output.Path, folder)
		if !ok || contents[string(output.Format)] == nil {
			t.Fatalf("%+v", output)
		}
		if err := os.WriteFile(dir+file, contents[string(output.Format)], 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for file, data := range map[string]string{
		"root.pem": string(j.account.s.RootPEM()), "hosts": "127.0.0.1 " + o.Registration.Endpoint + "\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, port, err := net.SplitHostPort(j.account.s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	_, _, publish := jitpBlocks(t)
	for _, part := range []string{folder, roots, "-p 8883"} {
		if !strings.Contains(publish, part) {
			t.Fatalf("the command lacks %s: %s", part, publish)
		}
	}
	publish = strings.NewReplacer(folder, dir, roots, dir+"/root.pem", "-p 8883", "-p "+port).Replace(publish)
	// No resolver knows the endpoint: a mount name space of its own has a hosts file that does.
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "sh", "-eu", "-c", `mount --bind "$HOSTS" /etc/hosts
`+publish)
	cmd.Env = append(os.Environ(), "HOSTS="+dir+"/hosts", "ENDPOINT="+o.Registration.Endpoint)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%s: %v\n%s", publish, err, out)
	}
}
