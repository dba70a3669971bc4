//go:build external

package dps_test

import (
	"bufio"
	"crypto/x509"
	"encoding/pem"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"certagent/agent/onboard/dps"
	"certagent/agent/onboard/dps/dpstest"
)

// A service that asks for the client certificate only once it has seen the request, by a second handshake, gets it.
// Go's own server cannot do that; openssl s_server can, told by a letter on its input (s_server(1), "CONNECTED
// COMMANDS").
func TestCertificateIsShownInASecondHandshake(t *testing.T) {
	r := newRig(t, dpstest.Options{})
	dir := t.TempDir()
	key := newKey(t)
	leaf := r.ca.sign(&x509.Certificate{
		DNSNames: []string{"localhost"}, NotBefore: r.clock.Now().AddDate(-20, 0, 0), NotAfter: r.clock.Now().AddDate(1, 0, 0),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, &key.PublicKey)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "server.pem")
	text := append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw})...)
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "openssl", "s_server", "-accept", "127.0.0.1:0", "-cert", file, "-key", file, "-tls1_2",
		"-naccept", "1", "-no_ticket")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	lines := bufio.NewReader(io.TeeReader(out, &log))
	// until reads on to a text, wherever in a line.
	until := func(part string) string {
		seen := ""
		for !strings.Contains(seen, part) {
			b, err := lines.ReadByte()
			if err != nil {
				t.Errorf("openssl ended before it said %q: %v\n%s", part, err, log.String())
				return ""
			}
			seen += string(b)
		}
		return seen
	}
	until("ACCEPT 127.0.0.1:")
	port := strings.TrimSpace(until("\n"))
	r.o.Registration.Endpoint, r.o.Roots = "https://localhost:"+port, pool(r.ca.cert)
	r.restart()
	done := make(chan struct{})
	go func() { // ends with openssl, or with the device's request served
		defer close(done)
		until(`{"registrationId":"gw-17"}`)
		io.WriteString(in, "R\n")
		until("CN = gw-17")
		io.WriteString(in, "HTTP/1.1 202 Accepted\r\nContent-Length: 44\r\n\r\n"+`{"operationId":"4.x","status":"assigning"}`+"\r\n")
	}()
	if did, err := r.step(); did != dps.Register || err != nil {
		t.Errorf("%s: %v", did, err)
	}
	in.Close()
	cmd.Process.Kill()
	<-done
	cmd.Wait()
	if o := dps.ParseState(r.state).Operation; o == nil || o.ID != "4.x" {
		t.Errorf("state %s\n%s", r.state, log.String())
	}
}
