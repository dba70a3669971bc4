package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"certagent/agent/onboard/dps/dpstest"
)

// playAzure plays how a device comes to be known to its hub, and stays so when its certificate is renewed.
func playAzure(ctx context.Context, s *stage) (err error) {
	// A registration takes some seconds, so that there is something to see meanwhile.
	cloud, err := dpstest.Open(dpstest.Options{Takes: 3 * time.Second, RetryAfter: time.Second})
	if err != nil {
		return err
	}
	defer cloud.Close()
	s.say("starting a Device Provisioning Service with a hub, both of them local; it listens on %s", cloud.URL())
	ca, err := s.startServer(ctx, "127.0.0.1:0", 40*time.Second)
	if err != nil {
		return err
	}
	defer ca.kill()
	s.say("starting an EST server; it listens on %s", ca.url)
	if err := enrolGroup(cloud, filepath.Join(s.dir, "ca", "ca.pem")); err != nil {
		return err
	}
	s.say("its CA certificate gets a group enrolment at DPS: whoever has a certificate of that CA may register")
	if err := os.WriteFile(filepath.Join(s.dir, "cloud.pem"), cloud.RootPEM(), 0o644); err != nil {
		return err
	}
	a, err := s.start(configuration(ca.url, commonName, fmt.Sprintf(`
[provisioning]
source = "dps"
global_endpoint = "%s"
id_scope = "%s"
trusted_certs = ["file://DIR/cloud.pem"]
`, cloud.URL(), cloud.IDScope())))
	if err != nil {
		return err
	}
	defer a.kill()
	defer a.explain(&err)

	first, err := a.enrols(ctx, ca)
	if err != nil {
		return fmt.Errorf("enrol with the bootstrap certificate: %w", err)
	}
	s.say("ENROLLED:   %s", words(first))
	device := &device{cloud: cloud, file: a.result("dps")}
	if err := device.registered(ctx, first); err != nil {
		return err
	}
	s.say("REGISTERED: DPS assigned it to the hub %s as %q; applications read that in onboard/dps.json", device.Hub, device.DeviceID)
	old, err := a.pair()
	if err != nil {
		return err
	}
	if err := device.answers(ctx, old, http.StatusNoContent); err != nil {
		return err
	}
	s.say("            the hub takes a message from the device with that certificate (204)")

	s.say("waiting for the renewal, at half of the certificate's life")
	// The device registers when the audience has seen what it is without.
	seen, see := context.WithCancel(ctx)
	defer see()
	cloud.Next(dpstest.OpRegister, dpstest.Hang(seen))
	second, err := a.renews(ctx, ca, first)
	if err != nil {
		return fmt.Errorf("renew by threshold: %w", err)
	}
	pair, err := a.pair()
	if err != nil {
		return err
	}
	s.say("RENEWED:    %s", words(second))
	if err := device.answers(ctx, pair, http.StatusUnauthorized); err != nil {
		return err
	}
	s.say("            the hub does not know it, and refuses it (401), until the device has registered with it")
	see()
	if err := device.registered(ctx, second); err != nil {
		return err
	}
	if err := device.answers(ctx, old, http.StatusUnauthorized); err != nil {
		return err
	}
	if err := device.answers(ctx, pair, http.StatusNoContent); err != nil {
		return err
	}
	s.say("REGISTERED: the hub takes the new certificate (204), and refuses the old one (401):\n\n%s", a.table())

	if err := a.stop(); err != nil {
		return err
	}
	s.say("the agent stopped at SIGTERM. Nothing of this was Azure itself: the endpoint was made after its REST reference.")
	return nil
}

// enrolGroup makes a group enrolment for each CA certificate in a file.
func enrolGroup(cloud *dpstest.Server, file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return err
		}
		cloud.EnrolGroup(c, dpstest.Enrolment{})
	}
	return nil
}

// device is an application on the device, which knows what the agent has written for it.
type device struct {
	cloud *dpstest.Server
	file  string

	Hub      string `json:"hub"`
	DeviceID string `json:"device_id"`
}

// registered waits until the file names a hub, and that hub knows the certificate.
func (d *device) registered(ctx context.Context, c *x509.Certificate) error {
	return until(ctx, func() error {
		data, err := os.ReadFile(d.file)
		if err == nil {
			err = json.Unmarshal(data, d)
		}
		if err == nil && strings.Contains(string(data), thumbprint(c)) && d.cloud.Thumbprint(d.Hub, d.DeviceID) == thumbprint(c) {
			return nil
		}
		return fmt.Errorf("the device has not registered; what the agent has written (%v):\n%s", err, data)
	})
}

// answers sends a message to the hub and checks the status of its answer.
func (d *device) answers(ctx context.Context, pair tls.Certificate, want int) error {
	roots := x509.NewCertPool()
	roots.AddCert(d.cloud.Root)
	client := http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) { // no resolver knows the hub
			return (&net.Dialer{}).DialContext(ctx, network, d.cloud.Addr())
		},
		TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}},
	}}
	defer client.CloseIdleConnections()
	url := d.cloud.HubURL(d.Hub) + "/devices/" + d.DeviceID + "/messages/events?api-version=2020-03-13"
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader("hello"))
	if err != nil {
		return err
	}
	answer, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("send a message to the hub: %w", err)
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		return fmt.Errorf("send a message to the hub: %w", err)
	}
	if answer.StatusCode != want {
		return fmt.Errorf("the hub answered %s to a message, want %d", answer.Status, want)
	}
	return nil
}
