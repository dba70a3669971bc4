// Command demo plays the life of a certificate in front of your eyes: it starts a throw-away EST server and a real agent,
// and watches the agent enrol, renew, obey a signal, outlive an outage longer than its certificate, and come back through
// its bootstrap certificate. It tells what it observes at the server and on disk, and fails if a step does not happen.
//
// It needs no root and no network beyond loopback, and leaves nothing behind. `make demo` runs it.
package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	lifetime = 12 * time.Second
	patience = 20 * time.Second // for any single step
)

func main() {
	agent := flag.String("agent", "bin/certagent", "the certagent `program`")
	testca := flag.String("testca", "bin/certagent-testca", "the certagent-testca `program`")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := play(ctx, *agent, *testca); err != nil {
		fmt.Fprintf(os.Stderr, "\ndemo: FAILED: %v\n", err)
		os.Exit(1)
	}
}

func play(ctx context.Context, agentPath, testcaPath string) (err error) {
	began := time.Now()
	say := func(format string, args ...any) {
		fmt.Printf("%5.1fs  %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
	}
	dir, err := os.MkdirTemp("", "certagent-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)

	say("starting an EST server whose certificates live %v, with a bootstrap certificate \"from manufacturing\"", lifetime)
	ca, err := startServer(ctx, testcaPath, dir, "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer func() { ca.kill() }()
	say("it listens on %s", ca.url)

	config := filepath.Join(dir, "config.toml")
	if err := os.WriteFile(config, []byte(configuration(dir, ca.url)), 0o600); err != nil {
		return err
	}
	say("starting the agent with this configuration:\n\n%s", indent(configuration("DIR", ca.url)))
	a := &agent{path: agentPath, config: config, live: filepath.Join(dir, "state/certs/device-id/live")}
	if err := a.start(ctx, dir); err != nil {
		return err
	}
	defer a.kill()
	// What the agent said is worth reading when a step did not happen.
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w\n\nthe agent's log:\n%s", err, a.logged())
		}
	}()

	enrolled, err := ca.issued(ctx, "simpleenroll", func(l login) bool { return l["login_cn"] == "bootstrap" })
	if err != nil {
		return fmt.Errorf("enrol with the bootstrap certificate: %w", err)
	}
	leaf, err := a.holds(ctx, enrolled["issued_serial"])
	if err != nil {
		return err
	}
	say("ENROLLED: the bootstrap certificate logged in (simpleenroll); %s", words(leaf))
	say("          the private key is for its owner alone (0600) and matches the certificate")

	renewed, err := ca.issued(ctx, "simplereenroll", func(l login) bool { return l["login_serial"] == enrolled["issued_serial"] })
	if err != nil {
		return fmt.Errorf("renew by threshold: %w", err)
	}
	first := leaf
	if leaf, err = a.holds(ctx, renewed["issued_serial"]); err != nil {
		return err
	}
	say("RENEWED:  after %.0f %% of its life the certificate renewed itself (simplereenroll); %s",
		100*float64(leaf.NotBefore.Sub(first.NotBefore))/float64(lifetime), words(leaf))

	say("sending SIGUSR1 to the agent")
	if err := a.cmd.Process.Signal(syscall.SIGUSR1); err != nil {
		return err
	}
	forced, err := ca.issued(ctx, "simplereenroll", func(l login) bool { return l["login_serial"] == renewed["issued_serial"] })
	if err != nil {
		return fmt.Errorf("renew at the signal: %w", err)
	}
	old := leaf
	if leaf, err = a.holds(ctx, forced["issued_serial"]); err != nil {
		return err
	}
	if early := leaf.NotBefore.Sub(old.NotBefore); early >= lifetime/2 {
		return fmt.Errorf("renew at the signal: it took %v, the threshold would have done that", early)
	}
	say("FORCED:   renewed at once, long before its threshold; %s", words(leaf))

	say("stopping the EST server: an outage begins")
	ca.kill()
	say("waiting until the certificate has expired (%s)", leaf.NotAfter.Local().Format(time.TimeOnly))
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(time.Until(leaf.NotAfter) + time.Second):
	}
	state, err := a.status()
	if err != nil {
		return err
	}
	if state.State != "expired" || state.Class != "unavailable" || state.Failures == 0 {
		return fmt.Errorf("status during the outage says %+v, want an expired certificate and an unavailable server", state)
	}
	if !a.alive() {
		return errors.New("the agent did not outlive the outage")
	}
	say("EXPIRED:  the agent lives on, has failed %d times (%s), and says so:\n\n%s", state.Failures, state.Class, indent(a.table()))

	say("the EST server comes back")
	if ca, err = startServer(ctx, testcaPath, dir, ca.address); err != nil {
		return err
	}
	back, err := ca.issued(ctx, "simpleenroll", func(l login) bool { return l["login_cn"] == "bootstrap" })
	if err != nil {
		return fmt.Errorf("come back through the bootstrap certificate: %w", err)
	}
	if leaf, err = a.holds(ctx, back["issued_serial"]); err != nil {
		return err
	}
	say("BACK:     an expired certificate cannot log in, so the bootstrap certificate did; %s", words(leaf))
	again, err := ca.issued(ctx, "simplereenroll", func(l login) bool { return l["login_serial"] == back["issued_serial"] })
	if err != nil {
		return fmt.Errorf("renew after the outage: %w", err)
	}
	if leaf, err = a.holds(ctx, again["issued_serial"]); err != nil {
		return err
	}
	say("RENEWED:  and it renews itself as before; %s", words(leaf))

	if err := a.stop(); err != nil {
		return err
	}
	say("the agent stopped at SIGTERM. That was the whole story; nothing is left of it.")
	return nil
}

func configuration(dir, url string) string {
	return fmt.Sprintf(`state_dir = "%[1]s/state"
run_dir = "%[1]s/run"

[provisioning.attestation.identity_cert]
method = "est"
common_name = "gateway-42"

[provisioning.attestation.identity_cert.auto_renew]
threshold = "50%%"
retry = "4%%"
jitter = "0%%"

[cert_issuance.est]
trusted_certs = ["file://%[1]s/ca/ca.pem"]

[cert_issuance.est.auth]
bootstrap_identity_cert = "file://%[1]s/ca/bootstrap.pem"
bootstrap_identity_pk = "file://%[1]s/ca/bootstrap.key.pem"

[cert_issuance.est.urls]
default = "%[2]s"
`, dir, url)
}

func indent(s string) string {
	return "            " + strings.ReplaceAll(strings.TrimRight(s, "\n"), "\n", "\n            ") + "\n"
}

func words(c *x509.Certificate) string {
	return fmt.Sprintf("certificate %.8x…, %s to %s", c.SerialNumber.Bytes(),
		c.NotBefore.Local().Format(time.TimeOnly), c.NotAfter.Local().Format(time.TimeOnly))
}

// server is a running certagent-testca.
type server struct {
	cmd          *exec.Cmd
	url, address string
	logins       chan login // closed when the server has ended
}

// login is a line of the server's: one request, key=value.
type login map[string]string

func startServer(ctx context.Context, path, dir, listen string) (*server, error) {
	s := &server{
		cmd:    exec.Command(path, "--listen", listen, "--dir", filepath.Join(dir, "ca"), "--lifetime", lifetime.String(), "--bootstrap"),
		logins: make(chan login, 1000),
	}
	s.cmd.Stderr = os.Stderr
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the EST server: %w", err)
	}
	ready := make(chan string, 1)
	go func() { // ends with the server
		defer close(s.logins)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if url, ok := strings.CutPrefix(lines.Text(), "ready on "); ok {
				ready <- url
			} else if l := parseLogin(lines.Text()); l["op"] != "" {
				s.logins <- l
			}
		}
	}()
	select {
	case s.url = <-ready:
	case <-ctx.Done():
		err = ctx.Err()
	case <-time.After(patience):
		err = errors.New("the EST server did not say that it is ready")
	}
	if err != nil {
		s.kill()
		return nil, err
	}
	s.address = strings.TrimPrefix(s.url, "https://")
	s.address, _, _ = strings.Cut(s.address, "/")
	if _, _, err := net.SplitHostPort(s.address); err != nil {
		s.kill()
		return nil, fmt.Errorf("read the EST server's address %q: %w", s.url, err)
	}
	return s, nil
}

// issued waits for a successful request of that kind.
func (s *server) issued(ctx context.Context, op string, which func(login) bool) (login, error) {
	timeout := time.After(patience)
	for {
		select {
		case l, ok := <-s.logins:
			if !ok {
				return nil, errors.New("the EST server ended")
			}
			if l["op"] == op && l["status"] == "200" && which(l) {
				return l, nil
			}
		case <-timeout:
			return nil, fmt.Errorf("no such %s within %v", op, patience)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (s *server) kill() {
	if s.cmd.Process != nil && s.cmd.ProcessState == nil {
		// It may have ended by itself; Wait tells the rest.
		_ = s.cmd.Process.Signal(syscall.SIGTERM)
		_ = s.cmd.Wait()
	}
}

// parseLogin reads key=value pairs, values quoted where they need to be.
func parseLogin(line string) login {
	l := login{}
	for line = strings.TrimSpace(line); line != ""; line = strings.TrimSpace(line) {
		key, rest, ok := strings.Cut(line, "=")
		if !ok {
			return l
		}
		value := rest
		if quoted, err := strconv.QuotedPrefix(rest); err == nil {
			value, line = quoted, rest[len(quoted):]
			if value, err = strconv.Unquote(quoted); err != nil {
				return l
			}
		} else {
			value, line, _ = strings.Cut(rest, " ")
		}
		l[key] = value
	}
	return l
}

// agent is a running certagent.
type agent struct {
	path, config, live string
	cmd                *exec.Cmd
	log                *os.File
	ended              chan error
}

func (a *agent) start(ctx context.Context, dir string) error {
	log, err := os.Create(filepath.Join(dir, "agent.log"))
	if err != nil {
		return err
	}
	a.log = log
	a.cmd = exec.Command(a.path, "run", "--config", a.config)
	a.cmd.Stderr = log
	if err := a.cmd.Start(); err != nil {
		return fmt.Errorf("start the agent: %w", err)
	}
	a.ended = make(chan error, 1)
	go func() { a.ended <- a.cmd.Wait() }() // ends with the agent
	return nil
}

func (a *agent) logged() string {
	data, err := os.ReadFile(a.log.Name())
	if err != nil {
		return err.Error()
	}
	return string(data)
}

func (a *agent) alive() bool {
	select {
	case err := <-a.ended:
		a.ended <- err
		return false
	default:
		return true
	}
}

func (a *agent) stop() error {
	if err := a.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop the agent: %w", err)
	}
	select {
	case err := <-a.ended:
		a.ended <- err
		if err != nil {
			return fmt.Errorf("the agent ended badly: %w", err)
		}
		return nil
	case <-time.After(5 * time.Second):
		return errors.New("the agent did not stop within 5 s")
	}
}

func (a *agent) kill() {
	if a.alive() {
		_ = a.cmd.Process.Kill() // it ended meanwhile, then
		<-a.ended
	}
	a.log.Close()
}

// holds waits until the certificate with that serial number is live and checks it and its key as a consumer would.
func (a *agent) holds(ctx context.Context, serial string) (*x509.Certificate, error) {
	deadline := time.Now().Add(patience)
	for {
		leaf, err := a.check(serial)
		if err == nil || time.Now().After(deadline) {
			return leaf, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (a *agent) check(serial string) (*x509.Certificate, error) {
	// Resolve the link once: a renewal between two reads would show the certificate of one generation and the key of another.
	dir, err := filepath.EvalSymlinks(a.live)
	if err != nil {
		return nil, err
	}
	leaf, err := readPEM(filepath.Join(dir, "cert.pem"), x509.ParseCertificate)
	if err != nil {
		return nil, err
	}
	if got := leaf.SerialNumber.Text(16); !strings.EqualFold(strings.TrimLeft(serial, "0"), got) {
		return nil, fmt.Errorf("the certificate on disk has serial %s, the one just issued %s", got, serial)
	}
	info, err := os.Stat(filepath.Join(dir, "key.pem"))
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm() != 0o600 {
		return nil, fmt.Errorf("key.pem has mode %v, want 0600", info.Mode().Perm())
	}
	key, err := readPEM(filepath.Join(dir, "key.pem"), x509.ParsePKCS8PrivateKey)
	if err != nil {
		return nil, err
	}
	private, ok := key.(*ecdsa.PrivateKey)
	if !ok || !private.PublicKey.Equal(leaf.PublicKey) {
		return nil, errors.New("the key on disk does not match the certificate")
	}
	return leaf, nil
}

func readPEM[T any](path string, parse func([]byte) (T, error)) (T, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		var none T
		return none, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		var none T
		return none, fmt.Errorf("%s is not PEM", path)
	}
	return parse(block.Bytes)
}

// certificateStatus is the part of the agent's own account that the demo looks at.
type certificateStatus struct {
	ID       string `json:"id"`
	State    string `json:"state"`
	Class    string `json:"last_error_class"`
	Failures int    `json:"failures"`
}

func (a *agent) status() (certificateStatus, error) {
	out, err := exec.Command(a.path, "status", "--json", "--config", a.config).Output()
	// The exit code tells the state too; what counts here is what was printed.
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		return certificateStatus{}, err
	}
	var all struct {
		Certificates []certificateStatus `json:"certificates"`
	}
	if err := json.Unmarshal(out, &all); err != nil {
		return certificateStatus{}, fmt.Errorf("read the agent's status: %w\n%s", err, out)
	}
	if len(all.Certificates) != 1 {
		return certificateStatus{}, fmt.Errorf("status knows %d certificates, want 1", len(all.Certificates))
	}
	return all.Certificates[0], nil
}

func (a *agent) table() string {
	cmd := exec.Command(a.path, "status", "--config", a.config)
	out, err := cmd.Output()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		return err.Error()
	}
	return string(out)
}
