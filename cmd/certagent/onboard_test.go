package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"certagent/agent/onboard"
	"certagent/agent/onboard/awsiot/awstest"
	"certagent/agent/onboard/dps/dpstest"
	"certagent/agent/status"
	"certagent/est/esttest"
)

// azure is a gateway with the tutorial's configuration, its EST server, and the cloud that it is for.
type azure struct {
	*gateway
	est   *esttest.Server
	cloud *dpstest.Server
}

func newAzure(t *testing.T, o dpstest.Options) *azure {
	t.Helper()
	g := &azure{newGateway(t), esttest.New(t, esttest.Options{AskPassword: true}), dpstest.New(t, o)}
	g.write("cloud.pem", string(g.cloud.RootPEM()))
	g.cloud.EnrolGroup(g.est.Root, dpstest.Enrolment{})
	g.configure(tutorial(t, g.est, "<DPS-ID-SCOPE>", g.cloud.IDScope(), "https://global.azure-devices-provisioning.net", g.cloud.URL(),
		`source = "dps"`, "source = \"dps\"\ntrusted_certs = [\""+g.path("cloud.pem")+"\"]"))
	return g
}

// registered waits until the agent says that the cloud knows the certificate that is live, and gives what it says.
func (g *azure) registered() (held, *status.Onboarding) {
	g.t.Helper()
	var h held
	var o *status.Onboarding
	g.until("the cloud knows the live certificate", func() bool {
		var err error
		c := g.certificate("device-id")
		h, err = g.read("device-id")
		o = c.Onboarding
		return err == nil && o != nil && o.State == status.Registered && o.SHA256 == onboard.Thumbprint(h.leaf) && c.State == status.Valid
	})
	return h, o
}

// send sends a message to the hub as an application does that shows the certificate in dir, and gives the status of the answer.
func (g *azure) send(dir string) int {
	g.t.Helper()
	file, err := os.ReadFile(g.path("state", "onboard", "dps.json"))
	if err != nil {
		g.t.Fatal(err)
	}
	var result struct {
		Hub      string
		DeviceID string `json:"device_id"`
	}
	if err := json.Unmarshal(file, &result); err != nil {
		g.t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "fullchain.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		g.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(g.cloud.Root)
	client := http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) { // no resolver knows the hub
			return (&net.Dialer{}).DialContext(ctx, network, g.cloud.Addr())
		},
		TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}},
	}}
	defer client.CloseIdleConnections()
	url := g.cloud.HubURL(result.Hub) + "/devices/" + result.DeviceID + "/messages/events?api-version=2020-03-13"
	answer, err := client.Post(url, "application/octet-stream", strings.NewReader("hello"))
	if err != nil {
		g.t.Fatal(err)
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		g.t.Fatal(err)
	}
	return answer.StatusCode
}

// TestTutorialReachesItsCloud: the tutorial's configuration, with the ID scope filled in, from an empty disk to "known to its
// cloud", and through a renewal; what commands say on the way, and what happens when the cloud does not want the device.
func TestTutorialReachesItsCloud(t *testing.T) {
	t.Parallel()
	g := newAzure(t, dpstest.Options{})
	g.start()
	first, o := g.registered()
	if o.Hub != dpstest.DefaultHub || o.DeviceID != "myiotedgedevice" || o.File != g.path("state", "onboard", "dps.json") {
		t.Errorf("status says %+v", o)
	}
	if info, err := os.Stat(o.File); err != nil || info.Mode() != 0o644 {
		t.Errorf("the result: %v, %v", info, err)
	}
	if code := g.send(first.dir); code != http.StatusNoContent {
		t.Errorf("the hub answers %d to the device", code)
	}
	g.tell("status").want(t, 0, "cloud: registered as myiotedgedevice at "+dpstest.DefaultHub, "")
	line := g.says(0, map[string]any{"event": "registration", "result": "registered", "level": "info"})
	for name, want := range map[string]any{
		"certificate": "device-id", "reason": "unknown", "cloud": "dps", "endpoint": g.cloud.URL(), "generation": 1, "exchanges": 2,
		"statuses": "[202 200]", "hub": dpstest.DefaultHub, "device_id": "myiotedgedevice",
	} {
		if fmt.Sprint(line[name]) != fmt.Sprint(want) {
			t.Errorf("the log: %s is %v, want %v", name, line[name], want)
		}
	}

	asked := len(g.cloud.Requests())
	checked := g.tell("check")
	for _, id := range []string{"onboard-resolve", "onboard-tcp", "onboard-tls", "onboard-trust", "onboard-state"} {
		if !strings.Contains(checked.stdout, id) {
			t.Errorf("check does not say %s:\n%s", id, checked.stdout)
		}
	}
	var report struct {
		Checks []struct{ ID, Result, Text string }
	}
	if err := json.Unmarshal([]byte(g.tell("check", "--json").stdout), &report); err != nil {
		t.Fatal(err)
	}
	for _, r := range report.Checks {
		if strings.HasPrefix(r.ID, "onboard-") && r.Result != "ok" {
			t.Errorf("check: %+v", r)
		}
	}
	g.tell("onboard").want(t, 0, "device-id: known already as myiotedgedevice at "+dpstest.DefaultHub, "")
	g.send(first.dir)
	if now := len(g.cloud.Requests()); now != asked+1 {
		t.Errorf("check, or onboard without --again, asked DPS for something")
	}
	g.tell("onboard", "--again").want(t, 0, "device-id: registered as myiotedgedevice at "+dpstest.DefaultHub, "")
	g.says(0, map[string]any{"event": "order", "path": "/v1/onboard"})
	g.says(0, map[string]any{"event": "registration", "reason": "asked"})

	// The same by hand, as docs/control-api.md has it.
	client := g.socketClient()
	answer, err := client.Post("http://localhost/v1/onboard", "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(answer.Body)
	answer.Body.Close()
	if err != nil || answer.StatusCode != http.StatusOK || strings.TrimSpace(string(body)) != `{"id":"device-id","known":true}` {
		t.Errorf("POST /v1/onboard: %s, %v, %s", answer.Status, err, body)
	}

	// The hub knows a device by one certificate: the one before a renewal counts no more.
	before := g.path("before")
	if err := os.CopyFS(before, os.DirFS(first.dir)); err != nil {
		t.Fatal(err)
	}
	g.tell("renew", "--wait").want(t, 0, "issued", `.*`)
	second, _ := g.registered()
	if bytes.Equal(first.leaf.Raw, second.leaf.Raw) {
		t.Fatal("not renewed")
	}
	if old, now := g.send(before), g.send(second.dir); old != http.StatusUnauthorized || now != http.StatusNoContent {
		t.Errorf("after the renewal the hub answers %d to the old certificate and %d to the new one", old, now)
	}
	g.stop()
	asked = len(g.cloud.Requests())
	g.start()
	g.until("the agent answers", func() bool { return !g.status().Started.IsZero() })
	g.tell("onboard").want(t, 0, "device-id: known already", "") // its keeper has looked by then
	if now := len(g.cloud.Requests()); now != asked {
		t.Error("a boot asked DPS for something")
	}

	// A cloud that refuses it is a problem, with what to do, and stops no renewal.
	g.cloud.EnrolGroup(g.est.Root, dpstest.Enrolment{Disabled: true})
	g.tell("renew", "--wait").want(t, 0, "issued", `.*`)
	g.says(0, map[string]any{"event": "registration", "result": "failed", "class": "unauthorized", "level": "error", "problems": "[dps-unauthorized]"})
	g.tell("status").want(t, 8, `(?s)dps-unauthorized: .*error 401002`, "")
	g.tell("onboard").want(t, 1, "", `device-id: not registered: .*401002.*\ncertagent: hint: .*enrolment`)
	g.tell("check").want(t, 1, `dps-unauthorized`, `.*`)
	g.cloud.EnrolGroup(g.est.Root, dpstest.Enrolment{})
	g.tell("onboard").want(t, 0, "device-id: registered as", "")
	third, _ := g.registered()
	if code := g.send(third.dir); code != http.StatusNoContent {
		t.Errorf("the hub answers %d in the end", code)
	}
	g.stop()
	g.tell("status").want(t, 0, "cloud: registered as myiotedgedevice at "+dpstest.DefaultHub, "")
	g.tell("onboard").want(t, 1, "", `hint: start it`)
}

// TestKilledWhileRegistering: an agent that is killed while DPS decides goes on with that registration when it is back.
func TestKilledWhileRegistering(t *testing.T) {
	t.Parallel()
	g := newAzure(t, dpstest.Options{Takes: 4 * time.Second, RetryAfter: time.Second})
	registers := func() (n int) {
		for _, r := range g.cloud.Requests() {
			if r.Op == dpstest.OpRegister {
				n++
			}
		}
		return n
	}
	g.start()
	g.until("it is stored that DPS is at it", func() bool {
		state, err := os.ReadFile(g.path("state", "onboard", "dps-state.json"))
		return err == nil && bytes.Contains(state, []byte(`"operation"`))
	})
	g.kill()
	g.start()
	g.registered()
	if n := registers(); n != 1 {
		t.Errorf("%d registrations were begun, want that of before the kill to go on", n)
	}
	g.stop()
}

// TestOnboardWithoutCloud: who has no cloud to be told is told so.
func TestOnboardWithoutCloud(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	s := esttest.New(t, esttest.Options{AskPassword: true})
	g.configure(tutorial(t, s)) // whose ID scope is a blank
	g.start()
	g.next("device-id", nil)
	g.tell("onboard", "--again").want(t, 1, "", `id_scope is still the blank of the tutorial.*\ncertagent: hint: copy the ID scope`)
	g.configure(consumers(t, s, g, "true"))
	g.tell("reload").want(t, 0, "", "")
	g.tell("onboard").want(t, 1, "", `names no cloud`)
	g.stop()
}

// TestAWSKnowsTheDevice: just-in-time provisioning drops the first connection of each certificate, a renewed one too, and takes
// the next; over the proxy that is set.
func TestAWSKnowsTheDevice(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{AskPassword: true})
	cloud := awstest.New(t, awstest.Options{})
	template, err := os.ReadFile("../../examples/aws-jitp/template.json")
	if err != nil {
		t.Fatal(err)
	}
	jitp := awstest.RegistrationConfig{TemplateBody: string(template), RoleARN: "arn:aws:iam::123456789012:role/jitp"}
	if _, err := cloud.Provision(s.RootPEM(), &jitp); err != nil {
		t.Fatal(err)
	}
	g := newGateway(t)
	g.write("cloud.pem", string(cloud.RootPEM()))
	example, err := os.ReadFile("../../examples/aws-jitp/config.toml")
	if err != nil {
		t.Fatal(err)
	}
	text, _, _ := strings.Cut(string(example), "# For the program") // the outputs need root
	_, est, _ := strings.Cut(string(example), "[cert_issuance.est]")
	text = strings.NewReplacer(
		"a1b2c3d4e5f6g7-ats.iot.eu-central-1.amazonaws.com", cloud.Endpoint(),
		`source = "aws"`, "source = \"aws\"\ntrusted_certs = [\""+g.path("cloud.pem")+"\"]",
		"file:///etc/certagent/trust/est-ca.pem", "file://"+s.CAFile(), "https://localhost:8085/.well-known/est", s.URL(),
	).Replace(text + "[cert_issuance.est]" + est)
	g.configure(text)
	g.start("HTTPS_PROXY=" + cloud.Proxy().String())
	known := func() held {
		t.Helper()
		var h held
		g.until("AWS knows the live certificate", func() bool {
			var err error
			h, err = g.read("device-id")
			o := g.certificate("device-id").Onboarding
			return err == nil && o != nil && o.State == status.Registered && o.SHA256 == onboard.Thumbprint(h.leaf)
		})
		return h
	}
	first := known()
	g.tell("renew", "--wait").want(t, 0, "issued", `.*`)
	second := known()
	for i, h := range []held{first, second} {
		c := cloud.Certificate(onboard.Thumbprint(h.leaf))
		if c.Status != awstest.Active || c.Registered != 1 || c.Dropped != 1 || c.Thing == "" {
			t.Errorf("certificate %d is %+v", i+1, c)
		}
	}
	var outcomes []string
	for _, c := range cloud.Connections() {
		outcomes = append(outcomes, c.Outcome)
		if len(c.Chain) != 2 || c.Chain[1] != cloud.CAs()[0].ID {
			t.Errorf("the device showed %q, not its certificate and that of its CA", c.Chain)
		}
	}
	if want := []string{"dropped", "admitted", "dropped", "admitted"}; !slices.Equal(outcomes, want) {
		t.Errorf("connections: %q, want %q", outcomes, want)
	}
	g.tell("status").want(t, 0, `(?s)cloud: registered as gw-1 at\s+`+cloud.Endpoint(), "")
	g.says(0, map[string]any{"event": "registration", "result": "registered", "cloud": "aws", "reason": "renewed", "exchanges": 2})
	if err := cloud.SetStatus(onboard.Thumbprint(second.leaf), awstest.Inactive); err != nil {
		t.Fatal(err)
	}
	g.tell("onboard", "--again").want(t, 1, "", `(?s)device-id: not registered: .*deactivated`)
	g.tell("status").want(t, 8, "aws-", "")
	if err := cloud.SetStatus(onboard.Thumbprint(second.leaf), awstest.Active); err != nil {
		t.Fatal(err)
	}
	g.tell("onboard").want(t, 0, "device-id: (registered|known already) as gw-1 at", "") // the agent's own try may come first
	g.stop()
}
