package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"certagent/agent/status"
	"certagent/est/esttest"
)

// told is what a command said and how it ended.
type told struct {
	stdout, stderr string
	code           int
}

// tell runs a command of the program to its end.
func (g *gateway) tell(args ...string) told {
	g.t.Helper()
	return finish(g.t, g.command(args...))
}

func finish(t *testing.T, cmd *exec.Cmd) told {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		if cmd.Process != nil {
			_ = cmd.Process.Kill() // it hangs
		}
	})()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || !exit.Exited()) {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, &stderr)
	}
	return told{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// want fails the test unless the command ended so; the patterns are those of package regexp, "" being nothing at all.
func (r told) want(t *testing.T, code int, stdout, stderr string) {
	t.Helper()
	matches := func(pattern, text string) bool {
		if pattern == "" {
			return text == ""
		}
		return regexp.MustCompile(pattern).MatchString(text)
	}
	if r.code != code || !matches(stdout, r.stdout) || !matches(stderr, r.stderr) {
		t.Errorf("exit code %d, want %d\nstdout, want %q:\n%s\nstderr, want %q:\n%s", r.code, code, stdout, r.stdout, stderr, r.stderr)
	}
}

// TestRenew: a person has one certificate issued anew, and sees what came of it.
func TestRenew(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{})
	g := newGateway(t)
	g.configure(served(s) + "[cert_issuance.certs.other]\ncommon_name = \"other\"\n")
	g.tell("renew").want(t, 1, "", `no agent answers at .*/run/control\.sock\ncertagent: hint: start it .*run --once`)
	g.start()
	mqtt, other := g.next("mqtt", nil), g.next("other", nil)

	g.tell("renew", "mqt").want(t, 2, "", `^certagent: there is no certificate "mqt"\ncertagent: hint: did you mean mqtt\?\n$`)
	g.tell("renew", "--wait", "mqtt").want(t, 0, `^mqtt: issued, valid until .*: .*/certs/mqtt/gen-000002\n$`, `.*`)
	after := g.mustRead("mqtt")
	if after.leaf.SerialNumber.Cmp(mqtt.leaf.SerialNumber) == 0 || g.mustRead("other").dir != other.dir {
		t.Error("not this certificate, or not this one alone, was issued anew")
	}
	g.tell("renew").want(t, 0, `^mqtt: asked for\nother: asked for\n$`, "")
	g.next("other", &other)
	g.next("mqtt", &after)

	// The reason of a failure is the reason that is said; the wish stands.
	s.Stop()
	both := g.tell("renew", "--wait") // they end in any order
	both.want(t, 1, "", `(?s)mqtt: not renewed: est .*refused\n.*hint: check host and port`)
	both.want(t, 1, "", `other: not renewed: est .*refused\n`)
	if c := g.certificate("mqtt"); c.Ordered || c.Failures != 1 || c.LastClass != "unavailable" {
		t.Errorf("after the failure: %+v", c)
	}
	g.tell("renew", "--wait", "--timeout", "0s", "mqtt").want(t, 1, "", `mqtt: not renewed: not done within 0s`)
	g.until("the failure that nobody waited for", func() bool { return g.certificate("mqtt").Failures == 2 })
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	g.tell("renew", "--wait", "mqtt").want(t, 0, `^mqtt: issued`, `.*`)
	g.stop()
}

// TestRenewWithANewKey: rotate_key = false keeps the key over renewals, but not over this.
func TestRenewWithANewKey(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{})
	g := newGateway(t)
	g.configure(strings.Replace(served(s), `"0%"`, `"0%", rotate_key = false`, 1))
	g.start()
	first := g.next("mqtt", nil)
	g.tell("renew", "--wait").want(t, 0, "issued", `.*`)
	kept := g.mustRead("mqtt")
	g.tell("renew", "--wait", "--new-key").want(t, 0, "issued", `.*`)
	changed := g.mustRead("mqtt")
	g.tell("renew", "--wait").want(t, 0, "issued", `.*`)
	again := g.mustRead("mqtt")
	if !bytes.Equal(first.key, kept.key) || bytes.Equal(kept.key, changed.key) || !bytes.Equal(changed.key, again.key) {
		t.Error("the key changed at another renewal than the one that asked for it")
	}
	g.stop()
}

// TestRenewWhatWaitsForApproval: a request that the server took and has not decided is not forced over; --discard drops it.
func TestRenewWhatWaitsForApproval(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{})
	s.Always("simpleenroll", esttest.Pending202(time.Hour))
	g := newGateway(t)
	g.configure(served(s))
	g.start()
	g.until("the server's 202", func() bool { return g.certificate("mqtt").Pending })
	pending := func() []byte {
		data, err := os.ReadFile(g.path("state", "certs", "mqtt", "pending", "key.pem"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		return data
	}
	before := pending()
	for _, args := range [][]string{{"renew"}, {"renew", "--wait", "mqtt"}} {
		g.tell(args...).want(t, 1, "", `^certagent: mqtt: not renewed: the request waits for approval at the server until .*\ncertagent: hint: .*--discard`)
	}
	g.tell("renew", "--wait", "--discard").want(t, 1, "", `mqtt: not renewed: the request waits for approval at the server\n.*hint: approve it`)
	if after := pending(); before == nil || after == nil || bytes.Equal(before, after) {
		t.Error("the request that waited is still the one that waits")
	}
	s.Clear()
	g.tell("renew", "--wait", "--discard").want(t, 0, "mqtt: issued", `.*`)
	g.stop()
}

// TestReload is what ExecReload= makes of a good file and of a bad one.
func TestReload(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{})
	g := newGateway(t)
	g.configure(served(s))
	g.tell("reload").want(t, 1, "", `no agent answers.*\ncertagent: hint: start it`)
	g.start()
	g.next("mqtt", nil)
	g.configure(served(s) + "frob = 1\n[cert_issuance.certs.mqtt2]\nkay = 1\n")
	g.tell("reload").want(t, 2, "", `(?s)^certagent: \S*config.toml:\d+:\d+: cert_issuance.certs.mqtt.frob: .*certagent: .*kay: .*certagent: hint: nothing was changed`)
	if p := g.status().Problems; len(p) != 1 || p[0].Code != "config-invalid" {
		t.Errorf("problems after a bad file: %+v", p)
	}
	g.configure(served(s) + "[cert_issuance.certs.second]\ncommon_name = \"second\"\n")
	g.tell("reload").want(t, 0, "", "")
	g.tell("wait", "second").want(t, 0, "", "")
	g.mustRead("second")
	g.stop()
}

// TestWait: a consumer that starts before the agent, and has no right to its configuration, begins when its certificate and
// its output are there.
func TestWait(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{})
	g := newGateway(t)
	g.configure(consumers(t, s, g, "sleep 600"))
	for dir := g.dir; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	as := func(args ...string) *exec.Cmd {
		cmd := outsider(append(args, "--config", g.path("config.toml"))...)
		cmd.Env = []string{"STATE_DIRECTORY=" + g.path("state"), "RUNTIME_DIRECTORY=" + g.path("run")}
		return cmd
	}
	finish(t, as("wait", "--timeout", "0s", "mqtt")).want(t, 1, "", `nothing is known of mqtt after 0s`)
	waiting := make(chan told, 1)
	go func() { waiting <- finish(t, as("wait", "mqtt")) }()
	g.start()
	(<-waiting).want(t, 0, "", "")
	if _, err := os.Stat(g.path("out", "pkcs12")); err != nil {
		t.Error(err)
	}
	if c := g.certificate("mqtt"); c.Hooks[0].State != "pending" {
		t.Errorf("the hook has ended: %+v", c.Hooks)
	}
	finish(t, as("wait", "mqt")).want(t, 2, "", `there is no certificate "mqt"\n.*did you mean mqtt`)
	finish(t, as("renew", "mqtt")).want(t, 1, "", `only root, the agent's user and members of the socket's group may change something; this is user \d+`)
	finish(t, as("reload")).want(t, 1, "", `only root`)
	g.stop()
	finish(t, as("wait", "--timeout", "0s", "mqtt")).want(t, 0, "", "") // from disk
	g.tell("wait", "other", "--timeout", "0s").want(t, 2, "", `there is no certificate "other"`)
	if err := os.Remove(g.path("state", "certs", "mqtt", "live")); err != nil {
		t.Fatal(err)
	}
	g.tell("wait", "--timeout", "0s", "mqtt").want(t, status.ExitMissing, "", `(?s)^ID .*mqtt  missing .*certagent: mqtt cannot be used after 0s: missing\n$`)
}

// TestStuckAgent: an agent that does not answer is not waited for, and what is on disk is shown, as such.
func TestStuckAgent(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{})
	g := newGateway(t)
	g.configure(served(s))
	g.start()
	g.next("mqtt", nil)
	if snapshot := g.status(); snapshot.Started.IsZero() || len(snapshot.Problems) > 0 {
		t.Errorf("status is not the agent's: %+v", snapshot)
	}
	g.signal(syscall.SIGSTOP)
	r := g.tell("status")
	r.want(t, status.ExitDegraded, `(?s)mqtt  valid .*control-socket: the agent at .*/run/control.sock\s+does not answer in time`, "")
	if strings.Contains(r.stdout, "no agent is running") {
		t.Errorf("status says that there is no agent:\n%s", r.stdout)
	}
	g.tell("renew").want(t, 1, "", `does not answer in time.*\ncertagent: hint: its log`)
	g.tell("wait", "--timeout", "0s", "mqtt").want(t, 0, "", "")
	g.signal(syscall.SIGCONT)
	g.stop()
}

// TestControlSocket: one of an agent that was killed is taken over, one that a person removed comes back, and one that cannot
// be had keeps nobody from anything else.
func TestControlSocket(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{})
	g := newGateway(t)
	g.configure(served(s))
	socket := g.path("run", "control.sock")
	g.start()
	was := g.next("mqtt", nil)
	g.kill()
	if _, err := os.Lstat(socket); err != nil {
		t.Fatalf("a killed agent leaves its socket behind: %v", err)
	}
	g.start()
	g.until("the agent at its socket", func() bool { return !g.status().Started.IsZero() })
	if err := os.RemoveAll(g.path("run")); err != nil {
		t.Fatal(err)
	}
	if p := g.status().Problems; len(p) != 1 || p[0].Code != "control-socket" || !p[0].Notice {
		t.Errorf("without a socket status says: %+v", p)
	}
	g.tell("renew").want(t, 1, "", `an agent runs, and listens elsewhere`)
	g.signal(syscall.SIGHUP)
	g.until("the socket back", func() bool { return !g.status().Started.IsZero() })

	// A second agent with the same run_dir gets no socket, and is not mistaken for the first.
	second := newGateway(t)
	second.write("config.toml", fmt.Sprintf("state_dir = %q\nrun_dir = %q\n", second.path("state"), g.path("run"))+served(s))
	second.start()
	other := second.next("mqtt", nil)
	if !strings.Contains(second.log.String(), "another program answers there") {
		t.Error("the second agent does not say that it has no socket")
	}
	if c := second.certificate("mqtt"); c.Directory != other.dir {
		t.Errorf("status of the second agent is about %s", c.Directory)
	}
	second.tell("renew").want(t, 1, "", `no agent answers for .*: the agent at .* keeps `)
	second.signal(syscall.SIGUSR1)
	second.next("mqtt", &other)
	second.stop()
	g.tell("renew", "--wait").want(t, 0, "issued", `.*`)
	g.next("mqtt", &was)
	g.stop()
	if _, err := os.Lstat(socket); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an agent that was stopped leaves its socket behind: %v", err)
	}
}

// TestNoControlSocket: where its directory cannot be had the agent does everything else, and systemd shows why.
func TestNoControlSocket(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{})
	g := newGateway(t)
	g.configure(served(s))
	g.write("run", "in the way")
	variable, hear := g.manager()
	g.start(variable)
	if line := hear("READY=1"); !strings.Contains(line, "control-socket") {
		t.Errorf("systemd hears %q", line)
	}
	g.next("mqtt", nil)
	if log := g.log.String(); !strings.Contains(log, "run is a regular file, not a directory") || !strings.Contains(log, "control socket cannot be had") {
		t.Error("the log does not say why")
	}
	if err := os.Remove(g.path("run")); err != nil {
		t.Fatal(err)
	}
	g.signal(syscall.SIGHUP)
	g.until("the agent at its socket", func() bool { return !g.status().Started.IsZero() })
	g.tell("renew", "--wait").want(t, 0, "issued", `.*`)
	g.stop()
}

// TestStuckControlClients: the agent renews, answers and stops as if they were not there.
func TestStuckControlClients(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{})
	g := newGateway(t)
	g.configure(served(s))
	g.start()
	was := g.next("mqtt", nil)
	for n := range 30 {
		c, err := net.Dial("unix", g.path("run", "control.sock"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if n%2 == 0 {
			_, _ = io.WriteString(c, "GET /v1/status HTTP/1.1\r\nHost: x\r\nIf-None-Match: \"x\"\r\nPrefer: wait=30\r\n\r\nGET /v1") // never read
		}
	}
	g.tell("renew", "--wait").want(t, 0, "issued", `.*`)
	g.next("mqtt", &was)
	g.stop()
}

// socketClient speaks HTTP at the control socket.
func (g *gateway) socketClient() *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", g.path("run", "control.sock"))
	}}}
}

// TestTheAPIByHand follows docs/control-api.md with nothing but HTTP.
func TestTheAPIByHand(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/control-api.md")
	if err != nil {
		t.Fatal(err)
	}
	s := esttest.New(t, esttest.Options{})
	g := newGateway(t)
	g.configure(served(s))
	g.start()
	g.next("mqtt", nil)
	client := g.socketClient()
	examples := regexp.MustCompile("(?ms)^    (GET|POST) (/\\S+)$(?:\n    ([{].*?)$)?").FindAllStringSubmatch(string(page), -1)
	if len(examples) < 5 {
		t.Fatalf("docs/control-api.md has %d examples", len(examples))
	}
	for _, e := range examples {
		if e[2] == "/v1/import" {
			continue // its file is TestImport's
		}
		mediaType := "application/json"
		if e[2] == "/metrics" {
			mediaType = status.MetricsType
		}
		r, err := http.NewRequestWithContext(t.Context(), e[1], "http://localhost"+e[2], strings.NewReader(e[3]))
		if err != nil {
			t.Fatal(err)
		}
		answer, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err != nil || answer.StatusCode != http.StatusOK || answer.Header.Get("Content-Type") != mediaType {
			t.Errorf("%s %s %s: %s, %v\n%s", e[1], e[2], e[3], answer.Status, err, body)
		}
	}
	g.stop()
}

// brought writes a pair as a person brings it, and gives the paths of certificate and key.
func (g *gateway) brought(s *esttest.Server, cn string, alter ...func(*x509.Certificate)) (cert, key string) {
	g.t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		g.t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: cn}}, private)
	if err != nil {
		g.t.Fatal(err)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		g.t.Fatal(err)
	}
	leaf, err := s.Issue(csr, alter...)
	if err != nil {
		g.t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		g.t.Fatal(err)
	}
	g.write(cn+".key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})))
	// The root first: the certificate is the one that belongs to the key, wherever it stands.
	g.write(cn+".pem", string(s.RootPEM())+string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw})))
	return g.path(cn + ".pem"), g.path(cn + ".key")
}

// TestImport: a certificate that was got in another way is taken over, with an agent and without, and is renewed from then on.
func TestImport(t *testing.T) {
	t.Parallel()
	for _, running := range []bool{false, true} {
		t.Run(fmt.Sprintf("running=%v", running), func(t *testing.T) {
			t.Parallel()
			s := esttest.New(t, esttest.Options{})
			s.Always("simpleenroll", esttest.Status(http.StatusServiceUnavailable)) // there is no other way to a certificate
			g := newGateway(t)
			// What is asked for is not what is brought, which is no drift.
			g.configure(strings.Replace(served(s), `common_name = "mqtt"`, "common_name = \"gateway-7\"\nkey = \"ec-p384\"", 1))
			cert, key := g.brought(s, "old-name")
			other, _ := g.brought(s, "another")
			expired, expiredKey := g.brought(s, "expired", func(c *x509.Certificate) {
				c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
			})
			if running {
				g.start()
				g.until("the first failure", func() bool { return g.certificate("mqtt").Failures > 0 })
			}
			take := func(args ...string) told { return g.tell(append([]string{"import"}, args...)...) }
			take("mqt", "--cert", cert, "--key", key).want(t, 2, "", `there is no certificate "mqt"\n.*did you mean mqtt`)
			take("mqtt", "--cert", cert).want(t, 2, "", `import needs --cert and --key`)
			take("mqtt", "--cert", other, "--key", key).want(t, 1, "", `old-name.key is not the key of .*another.pem`)
			take("mqtt", "--cert", key, "--key", key).want(t, 1, "", `no PEM certificate`)
			take("mqtt", "--cert", cert, "--key", cert).want(t, 1, "", `holds no private key`)
			take("mqtt", "--cert", expired, "--key", expiredKey).want(t, 1, "", `the certificate expired .* ago .*\ncertagent: hint: it cannot log in`)
			if _, err := g.read("mqtt"); !errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("what was refused is there: %v", err)
			}

			take("mqtt", "--cert", cert, "--key", key).want(t, 0, `^mqtt: imported: .*/gen-000001\n$`,
				`(?s)kind ec-p256, and the configuration asks for ec-p384.*warning: its subject is "CN=old-name", and the configuration asks for "CN=gateway-7"`)
			first := g.mustRead("mqtt")
			take("mqtt", "--cert", cert, "--key", key).want(t, 1, "", `mqtt has a certificate already: .*gen-000001.*\ncertagent: hint: .*--replace`)
			take("mqtt", "--cert", cert, "--key", key, "--replace").want(t, 0, `gen-000002`, `.*`)
			if left, _ := filepath.Glob(g.path("run", "import-*")); len(left) > 0 {
				t.Errorf("keys are left behind: %q", left)
			}
			if !running {
				g.start()
				g.until("the agent at its socket", func() bool { return !g.status().Started.IsZero() })
			}
			g.tell("wait", "mqtt").want(t, 0, "", "")
			c := g.certificate("mqtt")
			if c.State != status.Valid || c.Failures > 0 || len(c.Problems) > 0 || c.Subject != "CN=old-name" {
				t.Errorf("imported: %+v", c)
			}
			g.tell("renew", "--wait").want(t, 0, "issued", `.*`)
			h := g.mustRead("mqtt")
			if h.leaf.Subject.String() != "CN=old-name" || bytes.Equal(h.key, first.key) {
				t.Errorf("renewed as %s", h.leaf.Subject)
			}
			g.stop()
		})
	}
}

// TestImportLeavesNothingToOthers: a file that is not root's or the agent's alone is no pair to take over, and what was left
// beside the socket goes at the next start.
func TestImportLeavesNothingToOthers(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{})
	g := newGateway(t)
	g.configure(served(s))
	cert, key := g.brought(s, "mqtt")
	var pair []byte
	for _, file := range []string{key, cert} {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		pair = append(pair, data...)
	}
	if err := os.Mkdir(g.path("run"), 0o755); err != nil {
		t.Fatal(err)
	}
	leave := func(name string, mode fs.FileMode) {
		t.Helper()
		if err := os.WriteFile(g.path("run", name), pair, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(g.path("run", name), mode); err != nil {
			t.Fatal(err)
		}
	}
	leave("import-left.pem", 0o600)
	g.start()
	g.next("mqtt", nil)
	if _, err := os.Lstat(g.path("run", "import-left.pem")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a key was left beside the socket: %v", err)
	}
	leave("import-open.pem", 0o644)
	if err := os.Symlink(key, g.path("run", "import-link.pem")); err != nil {
		t.Fatal(err)
	}
	for file, says := range map[string]string{
		"import-open.pem":          "is not for the agent's user alone",
		"import-link.pem":          "symbolic link",
		"../" + filepath.Base(key): "is no name of a file in",
		"import-/../../x":          "is no name of a file in",
		"import-none.pem":          "no such file",
	} {
		body := fmt.Sprintf(`{"id":"mqtt","file":%q,"replace":true}`, file)
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://x/v1/import", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", g.path("run", "control.sock"))
		}}
		defer transport.CloseIdleConnections()
		answer, err := transport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(answer.Body)
		answer.Body.Close()
		if answer.StatusCode != http.StatusUnprocessableEntity || !strings.Contains(string(text), says) {
			t.Errorf("%s: %s %s, want %q", file, answer.Status, text, says)
		}
	}
	g.stop()
}
