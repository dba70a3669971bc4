package awstest

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Mosquitto is a real broker: the program of that name (mosquitto(8), of the Debian package), which speaks TLS on loopback
// and takes nobody but the Server.
type Mosquitto struct {
	Broker Broker
	cmd    *exec.Cmd
	ended  chan struct{} // closed when the program has ended
	log    bytes.Buffer  // of the program, to be read when it has ended
}

// brokerName is in the broker's certificate.
const brokerName = "broker.test"

// portTries is how often a free port is chosen: between that and the broker's start somebody else may take it.
const portTries = 5

// StartMosquitto starts it and returns when it answers. What it needs is written to dir, which the caller removes after
// Close; as root mosquitto becomes another user, who must be able to reach dir. ctx bounds the start.
func StartMosquitto(ctx context.Context, dir string) (*Mosquitto, error) {
	ca, err := newAuthority("mosquitto test root", time.Now())
	if err != nil {
		return nil, err
	}
	own, err := ca.issue(brokerName, time.Now())
	if err != nil {
		return nil, err
	}
	relay, err := ca.issue("relay.test", time.Now())
	if err != nil {
		return nil, err
	}
	key, err := x509.MarshalPKCS8PrivateKey(own.PrivateKey)
	if err != nil {
		return nil, err
	}
	for file, block := range map[string]*pem.Block{
		"ca.pem":     {Type: "CERTIFICATE", Bytes: ca.cert.Raw},
		"broker.pem": {Type: "CERTIFICATE", Bytes: own.Certificate[0]},
		"broker.key": {Type: "PRIVATE KEY", Bytes: key}, // of nobody, for a test: mosquitto's user must read it
	} {
		if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(block), 0o644); err != nil {
			return nil, err
		}
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	for range portTries {
		m := &Mosquitto{Broker: Broker{ServerName: brokerName, Roots: roots, Certificate: relay}}
		if err = m.start(ctx, dir); err == nil || ctx.Err() != nil || errors.Is(err, exec.ErrNotFound) {
			return m, err
		}
	}
	return nil, err
}

func (m *Mosquitto) start(ctx context.Context, dir string) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	m.Broker.Address = l.Addr().String()
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	file := filepath.Join(dir, "mosquitto.conf")
	text := strings.NewReplacer("PORT", fmt.Sprint(port), "DIR", dir).Replace(`listener PORT 127.0.0.1
certfile DIR/broker.pem
keyfile DIR/broker.key
cafile DIR/ca.pem
require_certificate true
allow_anonymous true
log_dest stderr
`)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		return err
	}
	m.cmd, m.ended = exec.Command("mosquitto", "-c", file), make(chan struct{})
	m.cmd.Stderr = &m.log
	if err := m.cmd.Start(); err != nil {
		return fmt.Errorf("start mosquitto: %w", err)
	}
	go func() { // until Close, or until the program ends
		m.cmd.Wait()
		close(m.ended)
	}()
	dialer := &tls.Dialer{Config: &tls.Config{RootCAs: m.Broker.Roots, ServerName: m.Broker.ServerName,
		Certificates: []tls.Certificate{*m.Broker.Certificate}}}
	for {
		c, err := dialer.DialContext(ctx, "tcp", m.Broker.Address)
		if err == nil {
			return c.Close()
		}
		select {
		case <-m.ended:
			return fmt.Errorf("mosquitto ended:\n%s", &m.log)
		case <-ctx.Done():
			return fmt.Errorf("mosquitto does not answer: %w\n%s", err, m.Close())
		case <-time.After(10 * time.Millisecond): // it has not come to that yet
		}
	}
}

// Close ends the broker and returns what it has logged.
func (m *Mosquitto) Close() string {
	m.cmd.Process.Kill()
	<-m.ended
	return m.log.String()
}
