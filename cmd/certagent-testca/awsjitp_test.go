package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"certagent/agent/config"
	"certagent/agent/onboard"
	"certagent/agent/onboard/awsiot"
	"certagent/agent/onboard/awsiot/awstest"
	"certagent/est"
)

// jitpDir is the example.
const jitpDir = "../../examples/aws-jitp"

// jitpBlocks are the commands of its page: those up to the device, those that look at what came of it, and
// mosquitto_pub.
func jitpBlocks(t *testing.T) (before, after, publish string) {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(jitpDir, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile("(?ms)^```sh\n(.*?)^```$").FindAllStringSubmatch(string(page), -1) {
		switch {
		case strings.HasPrefix(m[1], "mosquitto_pub"):
			publish += m[1]
		case strings.HasPrefix(m[1], "aws iot describe-thing"):
			after += m[1]
		default:
			before += m[1]
		}
	}
	if before == "" || after == "" || publish == "" {
		t.Fatal("the page lacks commands")
	}
	return before, after, publish
}

// sh runs commands in dir and returns what they print.
func sh(t *testing.T, dir, commands string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-eu", "-c", commands)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

// jitp is the page's walk up to the device: a directory in which its commands were run, the account, the device's
// configuration, and the EST server.
type jitp struct {
	*testing.T
	dir     string
	account *account
	config  *config.Config
	est     *process
}

func walkJITP(t *testing.T, o awstest.Options) *jitp {
	t.Helper()
	j := &jitp{T: t, dir: t.TempDir(), account: awsAccount(t, awstest.New(t, o))}
	if err := os.CopyFS(j.dir, os.DirFS(jitpDir)); err != nil {
		t.Fatal(err)
	}
	before, _, _ := jitpBlocks(t)
	sh(t, j.dir, before)
	var err error
	if j.config, err = config.Load(filepath.Join(j.dir, "device.toml"), config.Defaults{}); err != nil {
		t.Fatal(err)
	}
	j.est = start(t, j.dir, testca, "--listen", "127.0.0.1:0", "--dir", "testca", "--lifetime", "1h")
	return j
}

// enrol gets the device's certificate as the agent does: over EST, for the subject in the configuration.
func (j *jitp) enrol() awsiot.Options {
	j.Helper()
	c, ok := j.config.Certificate("device-id")
	if !ok {
		j.Fatal("the configuration has no device-id")
	}
	anchors, err := os.ReadFile(filepath.Join(j.dir, "testca", "ca.pem"))
	if err != nil {
		j.Fatal(err)
	}
	block, _ := pem.Decode(anchors)
	root, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		j.Fatal(err)
	}
	base, err := url.Parse(j.est.url)
	if err != nil {
		j.Fatal(err)
	}
	client, err := est.New(est.Options{URL: base, Anchors: []*x509.Certificate{root},
		Login: &est.Login{Username: c.Auth.Username, Password: c.Auth.Password.Reveal()}})
	if err != nil {
		j.Fatal(err)
	}
	defer client.Close()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		j.Fatal(err)
	}
	csr, err := est.CreateRequest(key, est.Template{Subject: c.Subject, Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil {
		j.Fatal(err)
	}
	issued, err := client.Enroll(j.Context(), csr, est.Want{})
	if err != nil {
		j.Fatal(err)
	}
	if p := awsiot.CheckSubject(issued.Leaf, awsiot.SubjectOf(slices.Concat(c.Subject...))); p != nil {
		j.Errorf("%+v", p)
	}
	shown := &tls.Certificate{PrivateKey: key, Leaf: issued.Leaf}
	for _, cert := range awsiot.AppendIssuer(append([]*x509.Certificate{issued.Leaf}, issued.Chain...), issued.CAs) {
		shown.Certificate = append(shown.Certificate, cert.Raw)
	}
	roots := x509.NewCertPool()
	roots.AddCert(j.account.s.Root)
	p := j.config.Provisioning
	return awsiot.Options{
		Registration: awsiot.Registration{Endpoint: p.Endpoint, Port: p.Port, ClientID: issued.Leaf.Subject.CommonName,
			SHA256: onboard.Thumbprint(issued.Leaf)},
		Certificate: shown, Roots: roots, Dialer: &est.Dialer{Proxy: http.ProxyURL(j.account.s.Proxy())},
	}
}

// The page of examples/aws-jitp, command by command, on a local account: the CA is taken for what certagent-testca signs,
// the template for what the script makes of it, and the device is provisioned, and again with each renewal.
func TestAWSJustInTimeProvisioning(t *testing.T) {
	j := walkJITP(t, awstest.Options{})
	for generation := range 3 {
		o := j.enrol()
		if err := awsiot.Connect(t.Context(), o); err == nil {
			t.Error("the first connection was not dropped")
		}
		if err := awsiot.Connect(t.Context(), o); err != nil {
			t.Error(err)
		}
		c := j.account.s.Certificate(o.Registration.SHA256)
		if c.Status != awstest.Active || c.Registered != 1 || c.Failure != "" {
			t.Errorf("%+v", c)
		}
		thing := j.account.s.Thing("gw-1")
		if len(thing.Principals) != generation+1 || thing.Attributes["serialNumber"] != "0001" ||
			thing.Attributes["country"] != "JP" || thing.Attributes["organization"] != "Example" {
			t.Errorf("%+v", thing)
		}
	}
	_, after, _ := jitpBlocks(t)
	if out := sh(t, j.dir, after); !strings.Contains(out, j.account.s.Thing("gw-1").Principals[2]) {
		t.Errorf("%s", out)
	}

	if arn := j.account.roles["certagent-jitp"]; arn != "arn:aws:iam::aws:policy/service-role/AWSIoTThingsRegistration" {
		t.Errorf("the role has %q", arn)
	}
	// The thing's name is known to a policy only where it is the client id; the agent's own goes by the certificate.
	for _, client := range []string{"${iot:Connection.Thing.ThingName}", "${iot:Certificate.Subject.CommonName}-certagent"} {
		if policy := j.account.policies["gateway"]; !strings.Contains(policy, `"arn:aws:iot:eu-central-1:123456789012:client/`+client+`"`) {
			t.Errorf("%s allows no %s", policy, client)
		}
	}
	want := []string{"get-registration-code", "get-caller-identity", "create-role", "attach-role-policy", "create-policy",
		"register-ca-certificate", "list-ca-certificates", "update-ca-certificate", "update-ca-certificate",
		"describe-ca-certificate", "describe-endpoint", "describe-thing", "list-thing-principals"}
	var done []string
	for _, operation := range j.account.done {
		_, name, _ := strings.Cut(operation, " ")
		done = append(done, name)
	}
	if !slices.Equal(done, want) {
		t.Errorf("the page did %q, want %q", done, want)
	}
}

// What the page has root do is what the configuration needs: the directory and the group of its outputs, and its anchor.
func TestAWSDevice(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(jitpDir, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(filepath.Join(jitpDir, "config.toml"), config.Defaults{})
	if err != nil {
		t.Fatal(err)
	}
	device, _ := c.Certificate("device-id")
	var want []string
	for _, o := range device.Outputs {
		dir := filepath.Dir(o.Path)
		want = append(want, "install -d -g certagent -m 0775 "+dir, "ReadWritePaths="+dir)
		if o.Group != "" {
			want = append(want, "useradd --system "+o.Group, "SupplementaryGroups="+o.Group)
		}
	}
	for _, file := range device.Trust.Files {
		want = append(want, "install -m 0644 testca/ca.pem "+file)
	}
	if len(want) < 6 {
		t.Fatalf("the configuration needs %q", want)
	}
	for _, line := range want {
		if !strings.Contains(string(page), "\n"+line+"\n") {
			t.Errorf("the page has no line %s", line)
		}
	}
}

// The template on the page is the one in the string, its parameters are in the subject of the configuration, and what is
// no role or no template is refused.
func TestAWSRegistrationConfig(t *testing.T) {
	made := sh(t, jitpDir, "./registration-config arn:aws:iam::123456789012:role/certagent-jitp < template.json")
	var c awstest.RegistrationConfig
	if err := json.Unmarshal([]byte(made), &c); err != nil || c.RoleARN != "arn:aws:iam::123456789012:role/certagent-jitp" {
		t.Fatalf("%v, %+v", err, c)
	}
	text, err := os.ReadFile(filepath.Join(jitpDir, "template.json"))
	if err != nil {
		t.Fatal(err)
	}
	var template struct {
		Parameters map[string]any
		Resources  map[string]struct{ OverrideSettings map[string]string }
	}
	var in, out any
	for _, err := range []error{json.Unmarshal(text, &in), json.Unmarshal([]byte(c.TemplateBody), &out),
		json.Unmarshal(text, &template)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	a, _ := json.Marshal(in)
	if b, _ := json.Marshal(out); string(a) != string(b) {
		t.Errorf("the string says %s", b)
	}
	if settings := template.Resources["thing"].OverrideSettings; len(settings) == 0 ||
		slices.Contains([]string{settings["AttributePayload"], settings["ThingTypeName"], settings["ThingGroups"]}, "FAIL") {
		t.Errorf("a renewal is a certificate of an existing thing, and OverrideSettings are %q", settings)
	}
	// What is hard to carry: quotes, backslashes, breaks of lines.
	const hard = `{"a": "say \"hi\" \\ \u00e9 é", ` + "\r\n\t" + `"b": "{\"Version\": \"2012-10-17\"}"}` + "\n"
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "hard.json"), []byte(hard), 0o600); err != nil {
		t.Fatal(err)
	}
	script, err := filepath.Abs(filepath.Join(jitpDir, "registration-config"))
	if err != nil {
		t.Fatal(err)
	}
	made = sh(t, dir, script+" arn:aws:iam::1:role/x < hard.json")
	if err := json.Unmarshal([]byte(made), &c); err != nil {
		t.Fatalf("%v: %s", err, made)
	}
	var before, after map[string]string
	if err := json.Unmarshal([]byte(hard), &before); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(c.TemplateBody), &after); err != nil || before["a"] != after["a"] || before["b"] != after["b"] {
		t.Errorf("%v, %q", err, after)
	}
	for _, wrong := range []string{" < hard.json", " certagent-jitp < hard.json", " arn:aws:iam::1:role/x < /dev/null"} {
		cmd := exec.CommandContext(t.Context(), "sh", "-c", script+wrong)
		cmd.Dir = dir
		if out, err := cmd.Output(); err == nil || len(out) > 0 {
			t.Errorf("%s: %v, %s", wrong, err, out)
		}
	}
}

// registration runs the generator of the example for a template.
func registration(t *testing.T, template string) (out, said string, err error) {
	t.Helper()
	var stderr strings.Builder
	cmd := exec.CommandContext(t.Context(), "sh", filepath.Join(jitpDir, "registration-config"), "arn:aws:iam::1:role/x")
	cmd.Stdin, cmd.Stderr = strings.NewReader(template), &stderr
	made, err := cmd.Output()
	return string(made), stderr.String(), err
}

// A template that is no JSON is refused at its place: AWS would tell nobody of it before a device connects.
func TestAWSTemplateThatIsNoJSON(t *testing.T) {
	for template, want := range map[string]string{
		"\n\n":                           "line 3, column 1: no template",
		"[]":                             "line 1, column 1: a template is an object",
		"{\n  \"a\": 1,\n}\n":            "line 3, column 1: nothing stands between , and }",
		"{\n  \"a\": 1\n  \"b\": 2\n}":   "line 3, column 3: , or } is missing",
		"{\r\n\t\"a\" 1}":                "line 2, column 6: : is missing",
		"{\"a\": {\"b\": [1, 2}}":        "line 1, column 18: , or ] is missing",
		"{\"é\": é}":                     "line 1, column 8: a value is missing",
		"{\"a\": \"b\n}":                 "line 1, column 9: a string does not go on",
		"{\"a\": \"\\d\"}":               "line 1, column 8: \\ does not stand",
		"{'a': 1}":                       "line 1, column 2: a name in quotes",
		"{\"a\": 1}\n{}\n":               "line 2, column 1: nothing may follow",
		"{\"a\": True}":                  "line 1, column 7: a value is missing",
		"{\"a\": 007}":                   "line 1, column 8: a number does not go on",
		"{\"a\": [1, 2],\n \"b\": \"c\"": "line 3, column 1: , or } is missing",
	} {
		out, said, err := registration(t, template)
		if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 1 || out != "" ||
			!strings.HasPrefix(said, "registration-config: "+want) {
			t.Errorf("%q: %v, %q, %q, want %s", template, err, out, said, want)
		}
	}
	// What it takes, and what not, is what encoding/json takes, whatever is left out of a template or slips into it.
	const whole = `{"a": [-1.5e+2, true, null], "b": {"c\u00e9": "x\"\\"}, "d": []}`
	for i := range whole {
		for _, template := range []string{whole[:i] + whole[i+1:], whole[:i] + `"` + whole[i:], whole[:i] + "," + whole[i:], whole[:i]} {
			_, _, err := registration(t, template)
			var object map[string]any
			if want := json.Unmarshal([]byte(template), &object) == nil; want != (err == nil) {
				t.Errorf("%s: taken: %v, want %v", template, err == nil, want)
			}
		}
	}
}
