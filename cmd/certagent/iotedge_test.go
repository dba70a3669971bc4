package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"certagent/agent/onboard"
	"certagent/agent/onboard/dps/dpstest"
)

// edgeDir is the example.
const edgeDir = "../../examples/azure-iot-edge"

// edgeFile is a file of the example.
func edgeFile(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(edgeDir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// edgeBlock is a block of the example's page: commands, and what the page says that one sees then.
type edgeBlock struct {
	commands string
	sees     []string
}

// edgeBlocks are those of the page, in their order.
func edgeBlocks(t *testing.T) (blocks []edgeBlock) {
	t.Helper()
	for _, m := range regexp.MustCompile("(?ms)^```([a-z]*)\n(.*?)^```$").FindAllStringSubmatch(edgeFile(t, "README.md"), -1) {
		switch m[1] {
		case "sh":
			blocks = append(blocks, edgeBlock{commands: m[2]})
		case "text":
			blocks[len(blocks)-1].sees = strings.Split(strings.TrimSpace(m[2]), "\n")
		case "": // IoT Edge's own
			if m[2] != "iotedge config apply\niotedge check\n" {
				t.Errorf("these commands nobody runs: %s", m[2])
			}
		default:
			t.Errorf("the page has a block of %q", m[1])
		}
	}
	if len(blocks) < 15 {
		t.Fatalf("the page has %d blocks of commands", len(blocks))
	}
	return blocks
}

// azOptions are the flags of each command of the page, as the reference of the Azure CLI has them, some with the one value that
// does what the page says; all of them take one but --yes.
func azOptions() map[string][]string {
	return map[string][]string{
		"group create":                 {"name", "location=westeurope"},
		"group delete":                 {"name", "yes"},
		"iot hub create":               {"name", "resource-group", "sku=S1"},
		"iot hub device-identity show": {"hub-name", "device-id", "query=authentication.x509Thumbprint.primaryThumbprint", "output=tsv"},

		"iot hub device-identity delete":  {"hub-name", "device-id"},
		"iot dps create":                  {"name", "resource-group"},
		"iot dps show":                    {"name", "resource-group", "query=properties.idScope", "output=tsv"},
		"iot dps linked-hub create":       {"dps-name", "resource-group", "hub-name"},
		"iot dps certificate create":      {"dps-name", "resource-group", "certificate-name", "path", "verified=true"},
		"iot dps certificate show":        {"dps-name", "resource-group", "certificate-name", "query=etag", "output=tsv"},
		"iot dps certificate delete":      {"dps-name", "resource-group", "certificate-name", "etag"},
		"iot dps enrollment-group create": {"dps-name", "resource-group", "enrollment-id", "ca-name", "edge-enabled=true"},
		"iot dps enrollment-group delete": {"dps-name", "resource-group", "enrollment-id"},
	}
}

// azCall takes a call of az apart: the command, and the values of its flags, all of which must be given.
func azCall(args []string) (command string, flags map[string]string, err error) {
	first := slices.IndexFunc(args, func(a string) bool { return strings.HasPrefix(a, "-") })
	if first < 0 {
		first = len(args)
	}
	command, flags = strings.Join(args[:first], " "), map[string]string{}
	options, ok := azOptions()[command]
	if !ok {
		return command, nil, fmt.Errorf("%q is misspelled or not recognized by the system", command)
	}
	known := map[string]string{}
	for _, o := range options {
		name, value, _ := strings.Cut(o, "=")
		known[name] = value
	}
	for rest := args[first:]; len(rest) > 0; {
		name, is := strings.CutPrefix(rest[0], "--")
		value, ok := known[name]
		if !is || !ok {
			return command, nil, fmt.Errorf("%s: unrecognized arguments: %s", command, rest[0])
		}
		if rest = rest[1:]; name == "yes" {
			flags[name] = "true"
			continue
		}
		if len(rest) == 0 {
			return command, nil, fmt.Errorf("%s: argument --%s: expected one argument", command, name)
		}
		if value != "" && rest[0] != value {
			return command, nil, fmt.Errorf("%s: --%s %s, want %s", command, name, rest[0], value)
		}
		flags[name], rest = rest[0], rest[1:]
	}
	if len(flags) != len(known) {
		return command, nil, fmt.Errorf("%s: %d of the arguments %q", command, len(flags), options)
	}
	return command, flags, nil
}

// TestIoTEdgeExample: the table of the page has every file of the example, the configuration loads, with and without what
// is beside IoT Edge, and config aziot prints the fragment that is shipped.
func TestIoTEdgeExample(t *testing.T) {
	t.Parallel()
	page := edgeFile(t, "README.md")
	entries, err := os.ReadDir(edgeDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if name := e.Name(); name != "README.md" && !strings.Contains(page, "\n| ["+name+"]("+name+") | ") {
			t.Errorf("the page does not say where %s goes", name)
		}
	}
	g := newGateway(t)
	const scope = "0ne00A1B2C3" // the one in aziot.toml
	g.write("config.toml", strings.Replace(edgeFile(t, "config.toml"), "<DPS-ID-SCOPE>", scope, 1))
	g.tell("config", "check").want(t, 0, "well, 1 certificate: device-id", `.*`)
	g.tell("config", "aziot").want(t, 2, "", `no output of format "fullchain"(?s).*hint: `)
	if err := os.Mkdir(g.path("config.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	g.write("config.d/iotedge.toml", edgeFile(t, "iotedge.toml"))
	g.tell("config", "check").want(t, 0, "well, 2 certificates: aziot-edged-ca device-id", `.*`)
	out, err := g.command("config", "aziot").Output()
	if want := edgeFile(t, "aziot.toml"); err != nil || string(out) != want {
		t.Errorf("certagent config aziot: %v\n%swant\n%s", err, out, want)
	}
	if said := g.tell("config", "aziot").stderr; strings.Contains(said, "may not read") {
		t.Errorf("IoT Edge may not read what the example writes: %s", said)
	}
}

// TestIoTEdgeCommands: the commands for Azure that are on the page exist, with these flags.
func TestIoTEdgeCommands(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, b := range edgeBlocks(t) {
		for line := range strings.Lines(strings.ReplaceAll(b.commands, "\\\n", "")) {
			_, call, ok := strings.Cut(" "+strings.Replace(line, `"$(`, " ", 1), " az ")
			if !ok {
				continue
			}
			command, _, err := azCall(strings.Fields(strings.TrimSuffix(strings.TrimSpace(call), `)"`)))
			if err != nil {
				t.Errorf("%s: %v", strings.TrimSpace(line), err)
			}
			seen[command] = true
		}
	}
	for command := range azOptions() {
		if !seen[command] {
			t.Errorf("az %s is not on the page", command)
		}
	}
}

// TestIoTEdgeIsServed: with the example's configuration a device becomes known to its hub, and IoT Edge finds both pairs in
// the files that its own configuration names: at first and after each renewal, with word for who is to restart it.
// Other than in the example are the places, and the owners, whom only root may give files to: TestIoTEdgeWalk has those.
func TestIoTEdgeIsServed(t *testing.T) {
	t.Parallel()
	g := newAzure(t, dpstest.Options{})
	for _, dir := range []string{"config.d", "aziot", "deploy"} {
		if err := os.Mkdir(g.path(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	places := strings.NewReplacer("/var/aziot/certagent/", g.path("aziot")+"/", "/run/certagent-deploy/", g.path("deploy")+"/")
	owners := regexp.MustCompile(`(?m)^(owner|group) = .*\n`)
	g.write("config.d/iotedge.toml", places.Replace(owners.ReplaceAllString(edgeFile(t, "iotedge.toml"), "")))
	g.configure(strings.NewReplacer("<DPS-ID-SCOPE>", g.cloud.IDScope(), "https://global.azure-devices-provisioning.net", g.cloud.URL(),
		`source = "dps"`, "source = \"dps\"\ntrusted_certs = [\""+g.path("cloud.pem")+"\"]",
		"/etc/certagent/trust/est-ca.pem", g.est.CAFile(), "https://localhost:8085/.well-known/est", g.est.URL(),
	).Replace(edgeFile(t, "config.toml")))
	fragment, err := g.command("config", "aziot").Output()
	if err != nil {
		t.Fatal(err)
	}
	named := func(key string) string { // the file that IoT Edge's configuration names
		t.Helper()
		m := regexp.MustCompile(`(?m)^` + key + ` = "file://(.*)"$`).FindSubmatch(fragment)
		if m == nil {
			t.Fatalf("no %s in\n%s", key, fragment)
		}
		return string(m[1])
	}
	pair := func(cert, key string) (*x509.Certificate, error) {
		p, err := tls.LoadX509KeyPair(named(cert), named(key))
		return p.Leaf, err
	}
	g.start()
	served := func() (device, ca *x509.Certificate) {
		t.Helper()
		g.until("IoT Edge has what is live, and word was left", func() bool {
			g.mustRun()
			var wrong, caWrong error
			device, wrong = pair("identity_cert", "identity_pk")
			ca, caWrong = pair("cert", "pk")
			live, liveErr := g.read("device-id")
			liveCA, caErr := g.read("aziot-edged-ca")
			_, word := os.Stat(g.path("deploy", "iotedge"))
			return errors.Join(wrong, caWrong, liveErr, caErr, word) == nil && device.Equal(live.leaf) && ca.Equal(liveCA.leaf) &&
				g.tell("status").code == 0
		})
		return device, ca
	}
	device, ca := served()
	if !ca.IsCA || !ca.MaxPathLenZero || ca.KeyUsage != x509.KeyUsageDigitalSignature|x509.KeyUsageCertSign {
		t.Errorf("the Edge CA is one: %t, of path length 0: %t, for %b", ca.IsCA, ca.MaxPathLenZero, ca.KeyUsage)
	}
	bundle, err := os.ReadFile(named("trust_bundle_cert"))
	roots := x509.NewCertPool()
	if err != nil || !roots.AppendCertsFromPEM(bundle) {
		t.Fatalf("the trust bundle: %v\n%s", err, bundle)
	}
	if _, err := ca.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		t.Errorf("who has the trust bundle does not trust the Edge CA: %v", err)
	}

	if err := os.Remove(g.path("deploy", "iotedge")); err != nil { // whoever restarts IoT Edge does that first
		t.Fatal(err)
	}
	g.tell("renew", "--wait").want(t, 0, "issued", `.*`)
	g.registered()
	renewed, renewedCA := served()
	if renewed.Equal(device) || renewedCA.Equal(ca) {
		t.Error("not renewed")
	}
	if known := g.cloud.Thumbprint(dpstest.DefaultHub, "myiotedgedevice"); known != onboard.Thumbprint(renewed) {
		t.Errorf("the hub knows %s, and IoT Edge comes back with %s", known, onboard.Thumbprint(renewed))
	}
	if code := g.send(g.mustRead("device-id").dir); code != http.StatusNoContent {
		t.Errorf("the hub answers %d to the device", code)
	}
	g.stop()
}

// TestIoTEdgeDeploy: what systemd is to do is written so that systemd takes it all, and begins by taking away the word.
func TestIoTEdgeDeploy(t *testing.T) {
	t.Parallel()
	var lines []string
	for line := range strings.SplitSeq(strings.ReplaceAll(edgeFile(t, "certagent-deploy.conf"), "\\\n", ""), "\n") {
		if value, ok := strings.CutPrefix(line, "ExecStart="); ok {
			lines = append(lines, value)
		}
	}
	if len(lines) != 4 || lines[0] != "" || lines[1] != "/bin/rm -f /run/certagent-deploy/%i" {
		t.Fatalf("ExecStart is %q", lines)
	}
	packaged, err := os.ReadFile("../../packaging/systemd/certagent-deploy@.service")
	if err != nil || !bytes.Contains(packaged, []byte("\nExecStart="+lines[1]+"\n")) {
		t.Errorf("the packaged unit does not remove the word so: %v", err)
	}
	if out, err := exec.CommandContext(t.Context(), "sh", "-n", "-c", strings.Trim(strings.TrimPrefix(lines[3], "/bin/sh -c "), "'")).
		CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
