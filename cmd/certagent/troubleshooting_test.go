package main

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"certagent/est/esttest"
	"certagent/store"
)

// trouble is a heading of docs/troubleshooting.md: how the trouble comes about, and how it goes.
type trouble struct {
	title   string
	options esttest.Options
	// provoke brings the trouble about and gives all that the program says of it.
	provoke func(p *patient) string
	// mend does what the page tells a person to do, after which `certagent run --once` must go well, or `certagent config
	// check` where no server is asked. Nil where there is nothing to be done, or another test does it.
	mend func(p *patient)
}

// patient is a gateway in trouble, with its EST server. It has the certificate mqtt in its configuration.
type patient struct {
	*gateway
	s *esttest.Server
}

// base is a configuration without fault; in pairs each follows what it takes the place of.
func (p *patient) base(pairs ...string) string {
	text := fmt.Sprintf(`[cert_issuance.est]
trusted_certs = ["file://%s"]

[cert_issuance.est.auth]
username = "estuser"
password = "estpwd"

[cert_issuance.est.urls]
default = "%s"

[cert_issuance.certs.mqtt]
common_name = "mqtt"
`, p.s.CAFile(), p.s.URL())
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			p.t.Fatalf("the configuration has no %s", pairs[i])
		}
		text = strings.Replace(text, pairs[i], pairs[i+1], 1)
	}
	return text
}

// with is a configuration with more in the table of the certificate.
func (p *patient) with(lines string) { p.configure(p.base() + lines + "\n") }

// says is what a command says, whatever comes of it.
func (p *patient) says(args ...string) string {
	_, out := p.runs(p.t, args...)
	return out
}

// once is what `run --once` and then `status` say of a configuration.
func (p *patient) once(pairs ...string) string {
	p.configure(p.base(pairs...))
	return p.tried()
}

// tried is what `run --once` says, then `status`, and each problem once more as "code: text", however the table breaks its lines.
// The first gets more into its environment.
func (p *patient) tried(env ...string) string {
	cmd := p.command("run", "--once")
	cmd.Env = append(cmd.Env, env...)
	out, _ := cmd.CombinedOutput() // it fails, mostly
	said := string(out) + p.says("status")
	snapshot := p.status()
	problems := snapshot.Problems
	for _, c := range snapshot.Certificates {
		problems = append(problems, c.Problems...)
	}
	for _, problem := range problems {
		said += "\n" + problem.Code + ": " + problem.Text + "\nhint: " + problem.Hint
	}
	return said
}

// enrolled has the certificate already.
func (p *patient) enrolled() *patient {
	p.t.Helper()
	p.configure(p.base())
	if code, out := p.runs(p.t, "run", "--once"); code != exitOK {
		p.t.Fatalf("certagent run --once: %d\n%s", code, out)
	}
	return p
}

// forced asks for a renewal that fails, and gives what is said.
func (p *patient) forced() string {
	p.force(p.t)
	return p.tried()
}

func (p *patient) file(name, text string) string {
	p.t.Helper()
	p.write(name, text)
	return p.path(name)
}

// bootstrap writes a bootstrap pair of the server's CA and gives the lines of a login by it.
func (p *patient) bootstrap(lifetime time.Duration) (instead, lines string) {
	p.t.Helper()
	cert, key := p.s.IssueBootstrap("gateway-7", lifetime)
	return "username = \"estuser\"\npassword = \"estpwd\"", fmt.Sprintf("bootstrap_identity_cert = \"file://%s\"\nbootstrap_identity_pk = \"file://%s\"",
		p.file("bootstrap.pem", string(cert)), p.file("bootstrap.key.pem", string(key)))
}

// expired tries with what is about to expire, each time as a device without a certificate, until the program says that it has.
func (p *patient) expired(says string, try func() string) (said string) {
	p.t.Helper()
	p.until(says, func() bool {
		p.must(os.RemoveAll(p.path("state")))
		said = try()
		return strings.Contains(said, says)
	})
	return said
}

func (p *patient) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

func answers(op string, f esttest.Fault) func(*patient) string {
	return func(p *patient) string {
		p.s.Always(op, f)
		return p.once()
	}
}

var never = func(p *patient) { p.configure(p.base()); p.s.Clear() }

var troubles = []trouble{
	// It does not start.
	{title: "A mistake in the configuration", provoke: func(p *patient) string {
		p.configure(p.base("common_name", "comon_name"))
		return p.says("run")
	}, mend: never},
	{title: "No configuration", provoke: func(p *patient) string { return p.says("run") }, mend: never},
	{title: "Half a login", provoke: func(p *patient) string {
		p.configure(p.base("password = \"estpwd\"\n", ""))
		return p.says("config", "check")
	}, mend: never},
	{title: "A URL with http", provoke: func(p *patient) string {
		p.configure(p.base("https://", "http://"))
		return p.says("config", "check")
	}, mend: never},
	{title: "No certificate is configured", provoke: func(p *patient) string {
		p.configure("")
		return p.says("run")
	}, mend: never},
	{title: "Others may write to the state directory", provoke: func(p *patient) string {
		p.configure(p.base())
		p.must(os.Mkdir(p.path("state"), 0o755))
		p.must(os.Chmod(p.path("state"), 0o777))
		return p.says("run")
	}, mend: func(p *patient) { p.must(os.Chmod(p.path("state"), 0o755)) }},
	{title: "Another agent runs", provoke: func(p *patient) string {
		p.configure(p.base())
		p.start()
		p.next("mqtt", nil)
		said := p.says("run", "--once")
		p.stop()
		return said
	}, mend: never},
	{title: "It runs with an old configuration", provoke: func(p *patient) string {
		p.enrolled().configure(p.base() + "frob = 1\n")
		return p.tried()
	}, mend: never},

	// It does not enrol.
	{title: "Nobody listens", provoke: func(p *patient) string {
		p.s.Stop()
		return p.once()
	}, mend: func(p *patient) { p.must(p.s.Start()) }},
	{title: "The server is down for maintenance", provoke: answers("", esttest.Status(503)), mend: never},
	{title: "An unknown CA", provoke: func(p *patient) string {
		return p.once(p.s.CAFile(), esttest.New(p.t, esttest.Options{}).CAFile())
	}, mend: never},
	{title: "Another host name", options: esttest.Options{Hosts: []string{"est.example.com"}, OnlyHosts: true},
		provoke: func(p *patient) string { return p.once() }},
	{title: "The server's own certificate has expired", options: esttest.Options{ServerLifetime: time.Second},
		provoke: func(p *patient) string {
			return p.expired(`" expired at `, func() string { return p.once() })
		}},
	{title: "The trust anchor is not there", provoke: func(p *patient) string {
		return p.once(p.s.CAFile(), p.path("est.pem"))
	}, mend: func(p *patient) { copyFile(p.t, p.s.CAFile(), p.path("est.pem")) }},
	{title: "Another fingerprint", provoke: func(p *patient) string {
		return p.once("trusted_certs = [\"file://"+p.s.CAFile()+"\"]", `bootstrap_fingerprint = "`+strings.Repeat("9f", 32)+`"`)
	}, mend: never},
	{title: "A wrong password", provoke: func(p *patient) string { return p.once("estpwd", "guess") }, mend: never},
	{title: "The password file cannot be read", provoke: func(p *patient) string {
		return p.once(`password = "estpwd"`, `password_file = "`+p.path("password")+`"`)
	}, mend: func(p *patient) { p.file("password", "estpwd\n") }},
	{title: "Nothing to log in with", provoke: func(p *patient) string {
		return p.once("username = \"estuser\"\npassword = \"estpwd\"", "")
	}, mend: never},
	{title: "The bootstrap certificate is not there", provoke: func(p *patient) string {
		instead, lines := p.bootstrap(time.Hour)
		p.must(os.Rename(p.path("bootstrap.pem"), p.path("elsewhere.pem")))
		return p.once(instead, lines)
	}, mend: func(p *patient) { p.must(os.Rename(p.path("elsewhere.pem"), p.path("bootstrap.pem"))) }},
	{title: "The bootstrap certificate has another key", provoke: func(p *patient) string {
		_, other := p.s.IssueBootstrap("another", time.Hour)
		instead, lines := p.bootstrap(time.Hour)
		p.file("bootstrap.key.pem", string(other))
		return p.once(instead, lines)
	}, mend: func(p *patient) { p.configure(p.base(p.bootstrap(time.Hour))) }},
	{title: "The bootstrap certificate has expired", provoke: func(p *patient) string {
		instead, lines := p.bootstrap(time.Second)
		return p.expired("\nbootstrap-expired: ", func() string { return p.once(instead, lines) })
	}, mend: func(p *patient) { p.configure(p.base(p.bootstrap(time.Hour))) }},
	{title: "The server does not accept the certificate", provoke: func(p *patient) string {
		p.s.RefuseCertificates(func(*x509.Certificate) bool { return true })
		return p.once(p.bootstrap(time.Hour))
	}, mend: func(p *patient) { p.s.RefuseCertificates(nil) }},
	{title: "Nothing of EST at that address", options: esttest.Options{Label: "devices"}, provoke: func(p *patient) string {
		return p.once("/devices\"", "\"")
	}, mend: never},
	{title: "Somebody has to approve it", provoke: answers("simpleenroll", esttest.Pending202(time.Minute))},
	{title: "The answer is a web page", provoke: answers("", esttest.Garbage("text/html", "<html>Please log in</html>")), mend: never},
	{title: "A certificate with another name", provoke: answers("simpleenroll", esttest.CertificateOfAnotherSubject), mend: never},
	{title: "A certificate for another key", provoke: answers("simpleenroll", esttest.CertificateForAnotherKey), mend: never},
	{title: "The server refuses the request", provoke: answers("simpleenroll", esttest.Status(400)), mend: never},
	{title: "The name cannot be found out", provoke: func(p *patient) string {
		return p.once(`common_name = "mqtt"`, `common_name_from = "file://`+p.path("serial")+`"`)
	}, mend: func(p *patient) { p.file("serial", "mqtt\n") }},

	// It does not renew.
	{title: "Tries fail, and the certificate still holds", provoke: func(p *patient) string {
		p.enrolled().s.Stop()
		return p.forced()
	}, mend: func(p *patient) { p.must(p.s.Start()) }},
	{title: "The server does not grant another name", provoke: func(p *patient) string {
		p.enrolled().s.Always("simpleenroll", esttest.Status(403))
		return p.once(`"mqtt"`+"\n", `"mqtt-2"`+"\n")
	}, mend: never},
	{title: "The CA issues for too short a time", options: esttest.Options{Lifetime: time.Minute}, provoke: func(p *patient) string {
		return p.once("[cert_issuance.est]", "[cert_issuance.certs.mqtt.auto_renew]\nthreshold = \"30m\"\n[cert_issuance.est]")
	}},
	{title: "Nobody to ask for a renewal", provoke: func(p *patient) string {
		return p.enrolled().says("renew", "--wait", "mqtt")
	}},

	// Consumers do not see it.
	{title: "The directory of an output is missing", provoke: func(p *patient) string {
		p.with("[[cert_issuance.certs.mqtt.outputs]]\nformat = \"cert\"\npath = \"" + p.path("certs", "mqtt.pem") + `"`)
		return p.tried()
	}, mend: func(p *patient) { p.must(os.Mkdir(p.path("certs"), 0o755)) }},
	{title: "An output would lie where others may write", provoke: func(p *patient) string {
		p.must(os.Mkdir(p.path("open"), 0o755))
		p.must(os.Chmod(p.path("open"), 0o777))
		p.with("[[cert_issuance.certs.mqtt.outputs]]\nformat = \"key\"\npath = \"" + p.path("open", "key.pem") + `"`)
		return p.tried()
	}, mend: func(p *patient) { p.must(os.Chmod(p.path("open"), 0o755)) }},
	{title: "A link lies in the place of an output", provoke: func(p *patient) string {
		p.must(os.Symlink(p.file("elsewhere.pem", ""), p.path("mqtt.pem")))
		p.with("[[cert_issuance.certs.mqtt.outputs]]\nformat = \"cert\"\npath = \"" + p.path("mqtt.pem") + `"`)
		return p.tried()
	}, mend: func(p *patient) { p.must(os.Remove(p.path("mqtt.pem"))) }},
	{title: "The group does not exist", provoke: func(p *patient) string {
		p.with("group = \"no-such-group\"")
		return p.tried()
	}},
	{title: "A hook fails", provoke: func(p *patient) string {
		script := p.file("tell", "#!/bin/sh\ntest -e "+p.path("there")+" || { echo the broker does not answer; exit 7; }\n")
		p.must(os.Chmod(script, 0o755))
		p.with("on_renew.exec = [[\"" + script + "\"]]")
		return p.tried()
	}, mend: func(p *patient) { p.file("there", "") }},
	{title: "A hook cannot be run", provoke: func(p *patient) string {
		p.with("on_renew.exec = [[\"" + p.path("no-such-program") + "\"]]")
		return p.tried()
	}, mend: func(p *patient) {
		p.must(os.Chmod(p.file("no-such-program", "#!/bin/sh\n"), 0o755))
	}},

	// The clock.
	{title: "The clock is not believed", provoke: func(p *patient) string {
		p.enrolled()
		s, err := store.Open(p.path("state"), store.Options{})
		p.must(err)
		p.must(s.SaveClock(store.Clock{Mark: time.Now().Add(1000 * 24 * time.Hour)}))
		p.must(s.Close())
		return p.forced()
	}, mend: func(p *patient) { p.must(os.Remove(p.path("state", "clock.json"))) }},
	{title: "The CA's clock is ahead", provoke: answers("simpleenroll", esttest.NotYetValid), mend: never},

	// After cloning, after a restore.
	{title: "The state is another machine's", provoke: func(p *patient) string {
		p.enrolled().s.Stop()
		meta := p.path("state", "certs", "mqtt", "gen-000001", "meta.json")
		data, err := os.ReadFile(meta)
		p.must(err)
		p.must(os.WriteFile(meta, regexp.MustCompile(`"machine_id": "[0-9a-f]+"`).ReplaceAll(data,
			[]byte(`"machine_id": "`+strings.Repeat("0f", 16)+`"`)), 0o644))
		return p.tried()
	}, mend: func(p *patient) { p.must(p.s.Start()) }},
	{title: "Modes were lost", provoke: func(p *patient) string {
		p.enrolled().s.Stop()
		p.must(os.Chmod(p.path("state", "certs", "mqtt", "gen-000001", "key.pem"), 0o644))
		return p.tried()
	}, mend: func(p *patient) { p.must(p.s.Start()) }},
	{title: "The link became a directory", provoke: func(p *patient) string {
		p.enrolled().s.Stop()
		live := p.path("state", "certs", "mqtt", "live")
		p.must(os.Remove(live))
		p.must(os.CopyFS(live, os.DirFS(filepath.Join(filepath.Dir(live), "gen-000001"))))
		return p.tried()
	}, mend: func(p *patient) { p.must(p.s.Start()) }},

	// Coming from aziot.
	{title: "A certificate that aziot issues itself", provoke: func(p *patient) string {
		p.configure(p.base() + "[edge_ca]\nmethod = \"self_signed\"\n")
		return p.says("config", "check")
	}, mend: never},
	{title: "Keys that are passed over", provoke: func(p *patient) string {
		p.configure("hostname = \"gateway-7\"\n" + p.base() + "[agent]\nname = \"edgeAgent\"\n")
		return p.says("config", "check")
	}, mend: never},
	{title: "The key does not match the certificate", provoke: func(p *patient) string {
		p.configure(p.base())
		cert, _ := p.s.IssueBootstrap("mqtt", time.Hour)
		_, key := p.s.IssueBootstrap("mqtt", time.Hour)
		return p.says("import", "mqtt", "--cert", p.file("c.pem", string(cert)), "--key", p.file("k.pem", string(key)))
	}},
	{title: "The key file holds no key", provoke: func(p *patient) string {
		p.configure(p.base())
		cert, _ := p.s.IssueBootstrap("mqtt", time.Hour)
		handle := pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte("x")})
		return p.says("import", "mqtt", "--cert", p.file("c.pem", string(cert)), "--key", p.file("k.pem", string(handle)))
	}},
	{title: "There is a certificate already", provoke: func(p *patient) string {
		p.enrolled()
		cert, key := p.s.IssueBootstrap("mqtt", time.Hour)
		return p.says("import", "mqtt", "--cert", p.file("c.pem", string(cert)), "--key", p.file("k.pem", string(key)))
	}},
}

// mountTroubles take root to bring about: TestTroublesOfMounts has them.
var mountTroubles = []string{"The service may not write there", "An output is mounted by itself"}

// TestTroubleshooting brings about each trouble of docs/troubleshooting.md, finds in what the program says every line that the
// page quotes ("…" stands for anything), and then does what the page tells a person to do.
func TestTroubleshooting(t *testing.T) {
	t.Parallel()
	quoted := troublesOfPage(t)
	for _, tr := range slices.Concat(troubles, cloudTroubles) {
		lines := quoted[tr.title]
		delete(quoted, tr.title)
		t.Run(tr.title, func(t *testing.T) {
			t.Parallel()
			tr.goes(t, lines)
		})
	}
	for _, title := range mountTroubles {
		delete(quoted, title)
	}
	for title := range quoted {
		t.Errorf("docs/troubleshooting.md: nothing brings about %q", title)
	}
}

// goes brings the trouble about, expects the lines that the page quotes, and mends it.
func (tr trouble) goes(t *testing.T, lines []string) {
	if len(lines) == 0 {
		t.Error("docs/troubleshooting.md does not quote it")
	}
	p := &patient{newGateway(t), esttest.New(t, tr.options)}
	said := tr.provoke(p)
	for _, line := range lines {
		if !quotes(line, said) {
			t.Errorf("docs/troubleshooting.md quotes\n%s\nwhere the program says\n%s", line, said)
		}
	}
	if tr.mend == nil {
		return
	}
	tr.mend(p)
	for _, args := range [][]string{{"run", "--once"}, {"status"}} {
		if code, out := p.runs(t, args...); code != exitOK {
			t.Errorf("not mended: certagent %v: exit code %d\n%s", args, code, out)
		}
	}
}

// troublesOfPage gives the lines of the first ```text block below each heading of the third level that has one.
func troublesOfPage(t *testing.T) map[string][]string {
	t.Helper()
	page, err := os.ReadFile("../../docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	quoted := map[string][]string{}
	for _, part := range strings.Split(string(page), "\n### ")[1:] {
		title, body, _ := strings.Cut(part, "\n")
		_, block, found := strings.Cut(body, "\n```text\n")
		block, _, closed := strings.Cut(block, "\n```\n")
		if !found || !closed || quoted[title] != nil {
			t.Errorf("docs/troubleshooting.md: %q has no quotation, or stands there twice", title)
		}
		quoted[title] = strings.Split(block, "\n")
	}
	return quoted
}

// quotes tells whether line is in what was said, whose lines may be broken elsewhere. "…" in it stands for anything; what is
// left must be enough to be found by.
func quotes(line, said string) bool {
	var pattern []string
	for word := range strings.FieldsSeq(line) {
		pattern = append(pattern, strings.ReplaceAll(regexp.QuoteMeta(word), "…", ".*?"))
	}
	return len(strings.ReplaceAll(line, "…", "")) >= 12 &&
		regexp.MustCompile(strings.Join(pattern, " ")).MatchString(strings.Join(strings.Fields(said), " "))
}
