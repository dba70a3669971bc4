package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"software.sslmate.com/src/go-pkcs12"

	"certagent/agent/status"
	"certagent/est/esttest"
)

// consumers is a configuration with every format of output, and a hook for each command, which is a line of shell.
func consumers(t *testing.T, s *esttest.Server, g *gateway, commands ...string) string {
	t.Helper()
	if err := os.MkdirAll(g.path("out"), 0o755); err != nil {
		t.Fatal(err)
	}
	g.write("p12.password", "geheim\n")
	return served(s) + outputsFor(g, everyFormat...) + hooksFor(commands...)
}

var everyFormat = []string{"cert", "chain", "fullchain", "fullchain+root", "ca", "key", "combined", "pkcs12"}

func served(s *esttest.Server) string {
	return fmt.Sprintf("[cert_issuance.est]\ntrusted_certs = [\"file://%s\"]\n[cert_issuance.est.auth]\nusername = \"estuser\"\n"+
		"password = \"estpwd\"\n[cert_issuance.est.urls]\ndefault = %q\n[cert_issuance.certs.mqtt]\ncommon_name = \"mqtt\"\n"+
		"auto_renew = { jitter = \"0%%\" }\n", s.CAFile(), s.URL())
}

// running is a gateway whose agent runs and has had its certificate mqtt issued by s, which is first.
func running(t *testing.T) (s *esttest.Server, g *gateway, first held) {
	t.Helper()
	s, g = esttest.New(t, esttest.Options{}), newGateway(t)
	g.configure(served(s))
	g.start()
	return s, g, g.next("mqtt", nil)
}

func outputsFor(g *gateway, formats ...string) string {
	var b strings.Builder
	for _, f := range formats {
		fmt.Fprintf(&b, "[[cert_issuance.certs.mqtt.outputs]]\nformat = %q\npath = %q\n", f, g.path("out", f))
		if f == "pkcs12" {
			fmt.Fprintf(&b, "password_file = %q\n", g.path("p12.password"))
		}
	}
	return b.String()
}

func hooksFor(commands ...string) string {
	var lists []string
	for _, c := range commands {
		lists = append(lists, fmt.Sprintf("[\"/bin/sh\", \"-c\", %q]", c))
	}
	if len(lists) == 0 {
		return ""
	}
	return "[cert_issuance.certs.mqtt.on_renew]\nexec = [" + strings.Join(lists, ", ") + "]\n"
}

// serves checks that every output is of the live generation, as its consumer would read it; the error says which is not.
func (g *gateway) serves(h held) error {
	read := func(format string) ([]byte, error) { return os.ReadFile(g.path("out", format)) }
	for _, files := range [][2]string{{"cert", "key"}, {"fullchain", "key"}, {"fullchain+root", "key"}, {"combined", "combined"}} {
		cert, err := tls.LoadX509KeyPair(g.path("out", files[0]), g.path("out", files[1]))
		if err != nil {
			return fmt.Errorf("%v: %w", files, err)
		}
		if !cert.Leaf.Equal(h.leaf) {
			return fmt.Errorf("%v hold another certificate", files)
		}
	}
	store, err := read("pkcs12")
	if err != nil {
		return err
	}
	if _, leaf, _, err := pkcs12.DecodeChain(store, "geheim"); err != nil || !leaf.Equal(h.leaf) {
		return fmt.Errorf("pkcs12 holds another certificate, or: %w", err)
	}
	cas, err := read("ca")
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(cas)
	by := x509.VerifyOptions{Roots: pool, CurrentTime: h.leaf.NotAfter, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	if _, err := h.leaf.Verify(by); err != nil {
		return fmt.Errorf("ca: %w", err)
	}
	full, err := read("fullchain+root")
	if err != nil {
		return err
	}
	var last []byte
	for block, rest := pem.Decode(full); block != nil; block, rest = pem.Decode(rest) {
		last = block.Bytes
	}
	if root, err := x509.ParseCertificate(last); err != nil || root.CheckSignatureFrom(root) != nil {
		return fmt.Errorf("fullchain+root does not end at a root: %w", err)
	}
	for _, f := range []string{"key", "combined", "pkcs12"} {
		if info, err := os.Lstat(g.path("out", f)); err != nil || info.Mode() != 0o600 {
			return fmt.Errorf("%s has mode %v, or: %w", f, info.Mode(), err)
		}
	}
	return nil
}

func (g *gateway) untilServed(h held) {
	g.t.Helper()
	var err error
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if err = g.serves(h); err == nil {
			return
		}
		if time.Now().After(deadline) {
			g.t.Fatalf("the outputs are not those of %s: %v", h.dir, err)
		}
	}
}

// lines are those of a file in the gateway's directory; none where it is not there.
func (g *gateway) lines(name string) []string {
	g.t.Helper()
	data, err := os.ReadFile(g.path(name))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		g.t.Fatal(err)
	}
	return strings.Fields(string(data))
}

// open lets everybody through who waits at a FIFO, and whoever comes until the test has ended.
func (g *gateway) open(fifo string) {
	g.t.Helper()
	gate, err := os.OpenFile(g.path(fifo), os.O_RDWR, 0) // does not wait (fifo(7)), and stays
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { gate.Close() })
	if _, err := gate.WriteString(strings.Repeat("go\n", 10)); err != nil {
		g.t.Fatal(err)
	}
}

// delivered waits until every output and hook is done.
func (g *gateway) delivered() status.Certificate {
	g.t.Helper()
	var c status.Certificate
	g.until("everything delivered", func() bool {
		c = g.certificate("mqtt")
		for _, o := range c.Outputs {
			if o.State != "ok" {
				return false
			}
		}
		for _, h := range c.Hooks {
			if h.State != "ok" {
				return false
			}
		}
		return len(c.Outputs)+len(c.Hooks) > 0
	})
	return c
}

// TestConsumers: outputs in every format and a hook with its environment, after the enrolment, after a renewal, and after
// somebody removed an output; the last without a hook and without a request.
func TestConsumers(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{})
	g := newGateway(t)
	// At the time of the hook every output must hold the certificate that the hook is told of.
	hook := fmt.Sprintf(`env >%[1]s/env.$CERTAGENT_GENERATION && cmp $CERTAGENT_FULLCHAIN %[1]s/out/fullchain && `+
		`cmp $CERTAGENT_KEY %[1]s/out/key && echo $CERTAGENT_GENERATION/$CERTAGENT_REASON >>%[1]s/told`, g.dir)
	g.configure(consumers(t, s, g, hook))
	g.start()
	first := g.next("mqtt", nil)
	g.untilServed(first)
	c := g.delivered()
	if got := g.lines("told"); strings.Join(got, " ") != "1/missing" {
		t.Errorf("told %q", got)
	}
	env := g.lines("env.1")
	for _, want := range []string{
		"CERTAGENT_ID=mqtt", "CERTAGENT_GENERATION=1", "CERTAGENT_DIRECTORY=" + first.dir, "CERTAGENT_CERT=" + first.dir + "/cert.pem",
		"CERTAGENT_CA=" + first.dir + "/ca.pem", "CERTAGENT_SERIAL=" + c.Serial, "CERTAGENT_FINGERPRINT=" + c.SHA256,
		"CERTAGENT_NOT_AFTER=" + first.leaf.NotAfter.UTC().Format(time.RFC3339), "CERTAGENT_REASON=missing",
	} {
		if !strings.Contains(strings.Join(env, "\n")+"\n", want+"\n") {
			t.Errorf("the environment lacks %s:\n%s", want, strings.Join(env, "\n"))
		}
	}
	if table, _ := g.command("status").Output(); !strings.Contains(string(table), "outputs: 8 ok; hooks: 1 ok\n") {
		t.Errorf("the table says:\n%s", table)
	}

	g.signal(syscall.SIGUSR1)
	second := g.next("mqtt", &first)
	g.untilServed(second)
	g.delivered()
	if got := g.lines("told"); strings.Join(got, " ") != "1/missing 2/forced" {
		t.Errorf("told %q", got)
	}

	requests := len(s.Logins())
	g.stop()
	for _, f := range everyFormat[:4] {
		if err := os.Remove(g.path("out", f)); err != nil {
			t.Fatal(err)
		}
	}
	g.start()
	g.untilServed(second)
	g.stop()
	if got := g.lines("told"); len(got) != 2 || len(s.Logins()) != requests {
		t.Errorf("for outputs that were removed: told %q, %d requests", got, len(s.Logins())-requests)
	}
}

// TestHookFailsThenWorks: a hook that fails is a problem with what it wrote, and exit code 8; a renewal is none the worse; a reload
// tries it again at once, and only that one.
func TestHookFailsThenWorks(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{})
	g := newGateway(t)
	g.configure(served(s) + hooksFor(
		fmt.Sprintf(`echo try >>%[1]s/tries; test -e %[1]s/works || { echo "the broker is away" >&2; exit 7; }`, g.dir),
		fmt.Sprintf(`echo told >>%s/other`, g.dir)))
	g.start()
	first := g.next("mqtt", nil)
	g.until("the hook failed", func() bool {
		c := g.certificate("mqtt")
		return len(c.Hooks) == 2 && c.Hooks[0].State == "failed" && c.Hooks[1].State == "ok"
	})
	out, err := g.command("status").Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != status.ExitDegraded {
		t.Errorf("status exits with %v", err)
	}
	for _, want := range []string{"mqtt: hook-failed: ", "exit status 7", "broker is away"} {
		if !strings.Contains(strings.Join(strings.Fields(string(out)), " "), want) {
			t.Errorf("status lacks %q:\n%s", want, out)
		}
	}
	if c := g.certificate("mqtt"); c.State != status.Valid || c.Failures != 0 || !c.Hooks[0].NextTry.After(c.Hooks[0].LastTry) {
		t.Errorf("%+v", c)
	}
	g.signal(syscall.SIGUSR1)
	g.next("mqtt", &first)
	g.until("the second generation's hooks", func() bool { return len(g.lines("other")) == 2 && len(g.lines("tries")) == 2 })
	g.write("works", "")
	g.signal(syscall.SIGHUP)
	g.delivered()
	if tries, other := len(g.lines("tries")), len(g.lines("other")); tries != 3 || other != 2 {
		t.Errorf("%d tries, %d of the other", tries, other)
	}
	g.stop()
}

// TestKilledBeforeTheHookEnded: the agent is killed after a commit while the hook runs. The hook, and what it has not got to
// yet, is run again for that generation, with no new request.
func TestKilledBeforeTheHookEnded(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{})
	g := newGateway(t)
	if err := syscall.Mkfifo(g.path("gate"), 0o600); err != nil {
		t.Fatal(err)
	}
	g.configure(served(s) + hooksFor(
		fmt.Sprintf(`echo begun >>%[1]s/begun; read -r word <%[1]s/gate; echo $CERTAGENT_GENERATION >>%[1]s/ended`, g.dir),
		fmt.Sprintf(`echo $CERTAGENT_GENERATION >>%s/after`, g.dir)))
	g.start()
	g.until("the hook runs", func() bool { return len(g.lines("begun")) == 1 })
	requests := len(s.Logins())
	g.kill()
	if c := g.certificate("mqtt"); c.Hooks[0].State != "pending" || c.Hooks[1].State != "pending" || c.State != status.Valid {
		t.Errorf("while no agent runs: %+v", c)
	}
	g.start()
	g.until("the hook runs again", func() bool { return len(g.lines("begun")) == 2 })
	g.open("gate")
	g.delivered()
	if ended, after := g.lines("ended"), g.lines("after"); strings.Join(ended, "") != "1" || strings.Join(after, "") != "1" {
		t.Errorf("ended %q, after %q", ended, after)
	}
	if n := len(s.Logins()); n != requests {
		t.Errorf("%d more requests", n-requests)
	}
	g.stop()
}

// TestStopWhileAHookRuns: the agent stops in time although the hook does not want to, and the hook is run again.
func TestStopWhileAHookRuns(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{})
	g := newGateway(t)
	g.configure(served(s) + hooksFor(
		fmt.Sprintf(`echo begun >>%[1]s/begun; trap : TERM; while ! test -e %[1]s/go; do sleep 0.01; done`, g.dir)))
	g.start()
	g.until("the hook runs", func() bool { return len(g.lines("begun")) == 1 })
	g.stop()
	g.write("go", "")
	g.start()
	g.delivered()
	if n := len(g.lines("begun")); n != 2 {
		t.Errorf("begun %d times", n)
	}
	g.stop()
}

// TestReloadOfConsumers: outputs and hooks that the configuration gets and loses take effect without an enrolment.
func TestReloadOfConsumers(t *testing.T) {
	t.Parallel()
	s, g, first := running(t)
	requests := len(s.Logins())
	g.configure(consumers(t, s, g, fmt.Sprintf(`echo told >>%s/told`, g.dir)))
	g.signal(syscall.SIGHUP)
	g.untilServed(first)
	g.until("the hook", func() bool { return len(g.lines("told")) == 1 })

	// An output that cannot be: named, with the remedy, and no hook runs before it is mended.
	blocked := g.path("out", "second")
	if err := os.Mkdir(blocked, 0o755); err != nil {
		t.Fatal(err)
	}
	second := fmt.Sprintf("[[cert_issuance.certs.mqtt.outputs]]\nformat = \"cert\"\npath = %q\n", blocked)
	g.configure(served(s) + outputsFor(g, "combined") + second + hooksFor(fmt.Sprintf(`echo told >>%s/again`, g.dir)))
	g.signal(syscall.SIGHUP)
	g.until("a problem", func() bool { return len(g.certificate("mqtt").Problems) == 2 })
	if p := g.certificate("mqtt").Problems; p[0].Code != "output-refused" || !strings.Contains(p[0].Text, blocked) || p[0].Hint == "" ||
		p[1].Code != "hooks-waiting" || len(g.lines("again")) != 0 {
		t.Errorf("problems: %+v, told %q", p, g.lines("again"))
	}
	if err := os.Remove(blocked); err != nil {
		t.Fatal(err)
	}
	g.signal(syscall.SIGHUP)
	c := g.delivered()
	if len(g.lines("again")) != 1 || len(c.Problems) != 0 || len(s.Logins()) != requests {
		t.Errorf("told %q, problems %+v, %d requests", g.lines("again"), c.Problems, len(s.Logins())-requests)
	}
	g.stop()
}

// TestOnceDelivers: "run --once" waits for outputs and hooks; one that fails is exit code 1 and named.
func TestOnceDelivers(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{})
	g := newGateway(t)
	g.configure(consumers(t, s, g, fmt.Sprintf(`test -e %s/works`, g.dir)))
	out, err := g.command("run", "--once").CombinedOutput()
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok || exit.ExitCode() != exitFailed || !bytes.Contains(out, []byte("certagent: delivery of certificate mqtt: exec ")) {
		t.Errorf("with a hook that fails: %v\n%s", err, out)
	}
	if err := g.serves(g.mustRead("mqtt")); err != nil {
		t.Error(err)
	}
	g.write("works", "")
	if out, err := g.command("run", "--once").CombinedOutput(); err != nil {
		t.Errorf("with one that works: %v\n%s", err, out)
	}
	if c := g.certificate("mqtt"); c.Hooks[0].State != "ok" || c.Hooks[0].Tries != 2 {
		t.Errorf("%+v", c.Hooks)
	}
}

// TestConsumersOfARollover: the CA changes its key; what consumers should trust follows without a renewal of theirs, and they are told.
func TestConsumersOfARollover(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{})
	g := newGateway(t)
	other := "[cert_issuance.certs.other]\ncommon_name = \"other\"\n"
	hook := fmt.Sprintf(`echo $CERTAGENT_GENERATION/$CERTAGENT_REASON/$(grep -c BEGIN $CERTAGENT_CA) >>%s/told`, g.dir)
	g.configure(consumers(t, s, g, hook) + other)
	g.start()
	first := g.next("mqtt", nil)
	g.untilServed(first)
	g.delivered()
	s.Rollover()
	// Both roots, and the two certificates by which each vouches for the other, are in $CERTAGENT_CA; the roots in ca.
	// Another certificate of the same server is what learns of it.
	if err := os.Remove(g.path("state", "certs", "other", "live")); err != nil {
		t.Fatal(err)
	}
	g.until("the news", func() bool { return len(g.lines("told")) == 2 })
	g.delivered()
	if got := strings.Join(g.lines("told"), " "); got != "1/missing/1 1/ca-bundle/4" {
		t.Errorf("told %q", got)
	}
	data, err := os.ReadFile(g.path("out", "ca"))
	if n := bytes.Count(data, []byte("BEGIN")); err != nil || n != 2 {
		t.Errorf("ca holds %d certificates, %v", n, err)
	}
	if err := g.serves(g.mustRead("mqtt")); err != nil || g.mustRead("mqtt").dir != first.dir {
		t.Errorf("after the change: %v", err)
	}
	g.stop()
}

// TestClonedDisk: meta.json of another machine. The certificate is not used to log in, and a new key comes at once.
func TestClonedDisk(t *testing.T) {
	t.Parallel()
	if host().LastingID() == "" {
		// Nothing can be told on such a machine, and that is what must hold: agent's tests have the rest.
		t.Log("this machine has no lasting machine-id")
		return
	}
	s := esttest.New(t, esttest.Options{})
	g := newGateway(t)
	g.configure(consumers(t, s, g, fmt.Sprintf(`echo $CERTAGENT_REASON >>%s/told`, g.dir)))
	g.start()
	first := g.next("mqtt", nil)
	g.untilServed(first)
	g.delivered()
	g.stop()
	meta := filepath.Join(first.dir, "meta.json")
	data, err := os.ReadFile(meta)
	if err != nil {
		t.Fatal(err)
	}
	var record map[string]any
	if err := json.Unmarshal(data, &record); err != nil || record["machine_id"] == "" {
		t.Fatalf("%v, %v", err, record["machine_id"])
	}
	record["machine_id"] = strings.Repeat("0", 32)
	if data, err = json.Marshal(record); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(meta, data, 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := g.command("status").Output()
	if !strings.Contains(string(out), "mqtt: cloned-state: ") {
		t.Errorf("%v\n%s", err, out)
	}
	before := len(s.Logins())
	g.start()
	second := g.next("mqtt", &first)
	g.untilServed(second)
	g.delivered()
	if bytes.Equal(first.key, second.key) {
		t.Error("the key is the other device's")
	}
	for _, l := range s.Logins()[before:] {
		if l.Certificate != nil && l.Certificate.Equal(first.leaf) {
			t.Errorf("the other device's certificate was shown:\n%s", describe(s.Logins()[before:]))
		}
	}
	if c := g.certificate("mqtt"); len(c.Problems) != 0 || strings.Join(g.lines("told"), " ") != "missing cloned" {
		t.Errorf("problems %+v, told %q", c.Problems, g.lines("told"))
	}
	g.stop()
}
