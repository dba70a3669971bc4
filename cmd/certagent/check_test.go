package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"certagent/agent/check"
	"certagent/est/esttest"
	"certagent/store"
)

// doctor runs certagent check as a person would, and gives its report.
func (g *gateway) doctor(wantCode int, args ...string) check.Report {
	g.t.Helper()
	out, err := g.command(append([]string{"check", "--json"}, args...)...).Output()
	code := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	} else if err != nil {
		g.t.Fatal(err)
	}
	var r check.Report
	if err := json.Unmarshal(out, &r); err != nil {
		g.t.Fatalf("certagent check: %v\n%s", err, out)
	}
	if code != wantCode {
		g.t.Errorf("exit code %d, want %d\n%s", code, wantCode, out)
	}
	return r
}

// says fails the test unless a result of the check id has that verdict and text, and the hint.
func says(t *testing.T, r check.Report, id string, v check.Verdict, text, hint string) {
	t.Helper()
	var seen []check.Result
	for _, c := range r.Checks {
		if c.ID != id {
			continue
		}
		if c.Verdict == v && strings.Contains(c.Subject+" "+c.Text, text) && strings.Contains(c.Hint, hint) {
			return
		}
		seen = append(seen, *c)
	}
	t.Errorf("%s is %+v; want %s, %q, hint %q", id, seen, v, text, hint)
}

// ward is a gateway with a bootstrap certificate, a password, an output and a hook.
func ward(t *testing.T, o esttest.Options) (*gateway, *esttest.Server) {
	t.Helper()
	g := newGateway(t)
	o.Dir, o.Bootstrap = g.path("ca"), "gateway"
	s := esttest.New(t, o)
	for _, dir := range []string{"out", "trust"} {
		if err := os.Mkdir(g.path(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	copyFile(t, s.CAFile(), g.path("trust", "ca.pem"))
	g.write("bootstrap.pem", readAll(t, g.path("ca", "bootstrap.pem")))
	g.write("bootstrap.key.pem", readAll(t, g.path("ca", "bootstrap.key.pem")))
	g.write("password", esttest.DefaultPassword)
	g.configure(fmt.Sprintf(`
[cert_issuance.est]
trusted_certs = ["%[1]s/trust/ca.pem"]
[cert_issuance.est.auth]
username = "estuser"
password_file = "%[1]s/password"
bootstrap_identity_cert = "%[1]s/bootstrap.pem"
bootstrap_identity_pk = "%[1]s/bootstrap.key.pem"
[cert_issuance.est.urls]
default = %[2]q
[cert_issuance.certs.mqtt]
common_name = "gateway-7"
[[cert_issuance.certs.mqtt.outputs]]
format = "combined"
path = "%[1]s/out/mqtt.pem"
[cert_issuance.certs.mqtt.on_renew]
exec = [["/bin/true"]]
`, g.dir, s.URL()))
	return g, s
}

func readAll(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestCheckHealthy: on a gateway that is well nothing is but ok, but for what depends on the machine (who keeps its clock) and what
// is never tried. The server is asked for nothing that it would act on.
func TestCheckHealthy(t *testing.T) {
	t.Parallel()
	g, s := ward(t, esttest.Options{})
	g.start()
	g.next("mqtt", nil)
	g.until("the delivery", func() bool {
		c := g.certificate("mqtt")
		return len(c.Hooks) == 1 && c.Hooks[0].State == "ok"
	})
	before := len(s.Logins())
	r := g.doctor(0)
	for _, c := range r.Checks {
		fine := c.Verdict == check.OK || c.ID == "clock-synchronised" || c.ID == "est-password" && c.Verdict == check.Skipped
		if !fine {
			t.Errorf("%+v", *c)
		}
	}
	for _, k := range check.Catalogue() {
		never := []string{"config-warning", "agent-problem", "certificate-problem", "hook-unit"} // those of a cloud are TestTutorialReachesItsCloud's
		if !slices.ContainsFunc(r.Checks, func(c *check.Result) bool { return c.ID == k.ID }) && !slices.Contains(never, k.ID) && k.Area != "onboarding" {
			t.Errorf("%s was not looked at", k.ID)
		}
	}
	asked := s.Logins()[before:]
	if len(asked) == 0 {
		t.Error("the server was not asked")
	}
	for _, l := range asked {
		if l.Operation != "cacerts" && l.Operation != "csrattrs" || l.Username != "" {
			t.Errorf("the server was asked: %v", l)
		}
	}
	before = len(s.Logins())
	says(t, g.doctor(0, "--offline", "mqtt"), "est-tcp", check.Skipped, "--offline", "")
	if n := len(s.Logins()) - before; n > 0 {
		t.Errorf("--offline asked %d times", n)
	}
	g.stop()
	says(t, g.doctor(0), "agent-running", check.Warning, "no agent runs", "systemctl start certagent")
}

// TestCheckTrouble: each sort of trouble shows in its check, with a remedy, and the exit code says that something failed.
func TestCheckTrouble(t *testing.T) {
	for _, tc := range []struct {
		name       string
		options    esttest.Options
		args       []string
		trouble    func(t *testing.T, g *gateway, s *esttest.Server)
		code       int
		id         string
		verdict    check.Verdict
		text, hint string
	}{
		{
			name: "expired bootstrap certificate", code: 1, trouble: func(t *testing.T, g *gateway, _ *esttest.Server) { g.bootstrap(-2, -1) },
			id: "credential-expiry", verdict: check.Failed, text: "expired", hint: "provide a new bootstrap certificate",
		},
		{
			name: "a key of another certificate", code: 1, trouble: func(t *testing.T, g *gateway, _ *esttest.Server) {
				key := readAll(t, g.path("bootstrap.key.pem"))
				g.bootstrap(-1, 1)
				g.write("bootstrap.key.pem", key)
			},
			id: "credential-key-match", verdict: check.Failed, text: "is not the key of", hint: "both in PEM",
		},
		{
			name: "wrong anchor", code: 1, trouble: func(t *testing.T, g *gateway, _ *esttest.Server) {
				copyFile(t, esttest.New(t, esttest.Options{}).CAFile(), g.path("trust", "ca.pem"))
			},
			id: "est-trust", verdict: check.Failed, text: "unknown CA", hint: "trusted_certs",
		},
		{
			name: "anchors that are none", code: 1, trouble: func(_ *testing.T, g *gateway, _ *esttest.Server) { g.write("trust/ca.pem", "nothing") },
			id: "anchor-readable", verdict: check.Failed, text: "no PEM certificate", hint: "certagent cacerts",
		},
		{
			name: "server down", code: 1, trouble: func(_ *testing.T, _ *gateway, s *esttest.Server) { s.Stop() },
			id: "est-tcp", verdict: check.Failed, text: "refused", hint: "that the server runs",
		},
		{
			name: "wrong name", code: 1, options: esttest.Options{Hosts: []string{"est.example"}, OnlyHosts: true},
			trouble: func(*testing.T, *gateway, *esttest.Server) {},
			id:      "est-trust", verdict: check.Failed, text: "is for est.example, asked was 127.0.0.1", hint: "use one of the names",
		},
		{
			name: "login refused by 403", code: 1, trouble: func(_ *testing.T, _ *gateway, s *esttest.Server) { s.Always("csrattrs", esttest.Status(403)) },
			id: "est-login", verdict: check.Failed, text: "(HTTP 403)", hint: "have the server accept",
		},
		{
			name: "wrong password", code: 1, trouble: func(_ *testing.T, g *gateway, s *esttest.Server) {
				s.Always("csrattrs", esttest.Status(401, "WWW-Authenticate", `Basic realm="est"`))
			},
			id: "est-password", verdict: check.Failed, text: "(HTTP 401)", hint: "check username and password",
		},
		{
			name: "server that hangs", code: 1, args: []string{"--timeout", "5s"}, trouble: func(t *testing.T, _ *gateway, s *esttest.Server) {
				s.Always("", esttest.Hang(t.Context()))
			},
			id: "est-cacerts", verdict: check.Failed, text: "nothing more came", hint: "",
		},
		{
			name: "a secret for everybody", code: 1, trouble: func(t *testing.T, g *gateway, _ *esttest.Server) { g.chmod("bootstrap.key.pem", 0o644) },
			id: "file-private", verdict: check.Failed, text: "everybody may read", hint: "chmod o=",
		},
		{
			name: "a directory for everybody", code: 1, trouble: func(t *testing.T, g *gateway, _ *esttest.Server) { g.chmod("trust", 0o777) },
			id: "file-protected", verdict: check.Failed, text: "everybody may write", hint: "chmod o-w",
		},
		{
			name: "no password", code: 0, trouble: func(t *testing.T, g *gateway, _ *esttest.Server) { g.write("password", "\n") },
			id: "password-readable", verdict: check.Warning, text: "first line is empty", hint: "write the password",
		},
		{
			name: "no directory for an output", code: 1, trouble: func(t *testing.T, g *gateway, _ *esttest.Server) {
				if err := os.Remove(g.path("out")); err != nil {
					t.Fatal(err)
				}
			},
			id: "output-place", verdict: check.Failed, text: "does not exist", hint: "install -d",
		},
		{
			name: "a directory in the place of an output", code: 1, trouble: func(t *testing.T, g *gateway, _ *esttest.Server) {
				if err := os.Mkdir(g.path("out", "mqtt.pem"), 0o755); err != nil {
					t.Fatal(err)
				}
			},
			id: "output-place", verdict: check.Failed, text: "is a directory, not a regular file", hint: "remove it",
		},
		{
			name: "a state directory for everybody", code: 1, trouble: func(t *testing.T, g *gateway, _ *esttest.Server) {
				if err := errors.Join(os.Mkdir(g.path("state"), 0o755), os.Chmod(g.path("state"), 0o777)); err != nil {
					t.Fatal(err)
				}
				told := 0
				for _, c := range g.doctor(1, "--offline").Checks {
					if strings.Contains(c.Text, "unsafe state directory") {
						told++
					}
				}
				if told != 1 {
					t.Errorf("it is told %d times", told)
				}
			},
			id: "state-permissions", verdict: check.Failed, text: "everybody may write", hint: "owner and mode",
		},
		{
			name: "no program for a hook", code: 1, trouble: func(t *testing.T, g *gateway, _ *esttest.Server) {
				g.write("config.toml", strings.Replace(readAll(t, g.path("config.toml")), "/bin/true", "/no/such/program", 1))
			},
			id: "hook-program", verdict: check.Failed, text: "/no/such/program does not exist", hint: "install it",
		},
		{
			name: "a time that has not come", code: 1, trouble: func(t *testing.T, g *gateway, _ *esttest.Server) {
				s, err := store.Open(g.path("state"), store.Options{})
				if err != nil {
					t.Fatal(err)
				}
				if err := errors.Join(s.SaveClock(store.Clock{Mark: time.Now().Add(1000 * time.Hour)}), s.Close()); err != nil {
					t.Fatal(err)
				}
			},
			id: "clock-credible", verdict: check.Failed, text: "a synchronised clock has already confirmed", hint: "set the clock",
		},
		{
			name: "bad configuration", code: 2, trouble: func(t *testing.T, g *gateway, _ *esttest.Server) {
				g.write("config.toml", "frob = 1\n"+readAll(t, g.path("config.toml")))
			},
			id: "config-valid", verdict: check.Failed, text: "config.toml:1:1 frob: unknown key",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			g, s := ward(t, tc.options)
			tc.trouble(t, g, s)
			r := g.doctor(tc.code, tc.args...)
			says(t, r, tc.id, tc.verdict, tc.text, tc.hint)
			for _, l := range s.Logins() {
				if strings.Contains(l.Operation, "enroll") {
					t.Errorf("the server was asked: %v", l)
				}
			}
		})
	}
}

// TestCheckAsTheAgentsUser: what root may read and the agent may not is found, and what an access control list allows as well.
// Whoever is not root judges what the owner of the state directory, himself, may read.
func TestCheckAsTheAgentsUser(t *testing.T) {
	t.Parallel()
	g, _ := ward(t, esttest.Options{})
	const nobody = 65534
	if err := os.Mkdir(g.path("state"), 0o755); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() != 0 {
		g.chmod("password", 0)
		says(t, g.doctor(1, "--offline"), "file-readable", check.Failed, "password user", "chmod 0640")
		return
	}
	if err := os.Lchown(g.path("state"), nobody, nobody); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(g.dir), 0o755); err != nil {
		t.Fatal(err)
	}
	r := g.doctor(1, "--offline")
	says(t, r, "agent-user", check.OK, "(uid 65534)", "")
	says(t, r, "file-readable", check.Failed, "bootstrap.key.pem user nobody may not read", "chmod 0640")
	says(t, r, "config-permissions", check.Failed, "user nobody may not read", "chmod 0640")
	// user::rw-, user:nobody:r--, group::---, mask::r--, other::---
	list := "\x02\x00\x00\x00" + "\x01\x00\x06\x00\xff\xff\xff\xff" + "\x02\x00\x04\x00\xfe\xff\x00\x00" +
		"\x04\x00\x00\x00\xff\xff\xff\xff" + "\x10\x00\x04\x00\xff\xff\xff\xff" + "\x20\x00\x00\x00\xff\xff\xff\xff"
	if err := unix.Setxattr(g.path("bootstrap.key.pem"), "system.posix_acl_access", []byte(list), 0); err != nil {
		t.Fatal(err)
	}
	says(t, g.doctor(1, "--offline"), "file-readable", check.OK, "bootstrap.key.pem user nobody can read it", "")
}

// TestCheckConfigLost: with a configuration that does not load any more, everything else is looked at by the one that did.
func TestCheckConfigLost(t *testing.T) {
	t.Parallel()
	g, _ := ward(t, esttest.Options{})
	g.start()
	g.next("mqtt", nil)
	g.stop()
	g.write("config.toml", fmt.Sprintf("state_dir = %q\nrun_dir = %q\nfrob = 1\n", g.path("state"), g.path("run")))
	r := g.doctor(2)
	says(t, r, "config-valid", check.Failed, "frob: unknown key", "")
	says(t, r, "est-trust", check.OK, "verifies", "")
	says(t, r, "certificate-expiry", check.OK, "mqtt it expires in", "")
}

// TestCheckOnTerminal: progress goes to stderr and leaves nothing behind; verdicts are coloured, unless NO_COLOR says no.
func TestCheckOnTerminal(t *testing.T) {
	t.Parallel()
	g, _ := ward(t, esttest.Options{})
	for _, tc := range []struct {
		env      string
		coloured bool
	}{{"NO_COLOR=", true}, {"NO_COLOR=1", false}, {"TERM=dumb", false}} {
		cmd := g.command("check", "--offline")
		cmd.Env = append(cmd.Env, "TERM=xterm", "NO_COLOR=", tc.env)
		seen := typescript(t, cmd)
		if !strings.Contains(seen, "\rcertagent: looking, ") || !strings.Contains(seen, "\r\x1b[K") {
			t.Errorf("%s: no progress:\n%q", tc.env, seen)
		}
		if got := strings.Contains(seen, "\x1b[32mok\x1b[0m       config-valid"); got != tc.coloured {
			t.Errorf("%s: colours: %v\n%q", tc.env, got, seen)
		}
	}
}

// typescript runs cmd with a terminal for stdout and stderr, and gives what that shows.
func typescript(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	master, slave := openTerminal(t)
	cmd.Stdout, cmd.Stderr = slave, slave
	err := cmd.Start()
	slave.Close()
	if err != nil {
		t.Fatal(err)
	}
	seen, _ := io.ReadAll(master) // EIO: nobody has the terminal open any more
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, seen)
	}
	return string(seen)
}

// bootstrap gives the gateway a bootstrap certificate of its own, valid from and until so many days from now.
func (g *gateway) bootstrap(from, until int) {
	g.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		g.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "idevid"},
		NotBefore: time.Now().AddDate(0, 0, from), NotAfter: time.Now().AddDate(0, 0, until),
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		g.t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		g.t.Fatal(err)
	}
	g.write("bootstrap.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})))
	g.write("bootstrap.key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
}

func (g *gateway) chmod(name string, mode os.FileMode) {
	g.t.Helper()
	if err := os.Chmod(g.path(name), mode); err != nil {
		g.t.Fatal(err)
	}
}
