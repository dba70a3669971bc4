package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"certagent/agent/status"
	"certagent/est/esttest"
	"certagent/store/keys"
)

// patience is how long a test waits for what must happen. It is no measure of speed: nothing waits that long unless it
// never happens.
const patience = 30 * time.Second

// gateway is a device of a test: a directory with a configuration and a state directory, and at times a running agent,
// which is the real program in a process of its own.
type gateway struct {
	t    *testing.T
	dir  string
	as   *syscall.Credential // whom its commands run as; nil is the test's own user
	caps []uintptr           // what such a user may do besides (capabilities(7))
	cmd  *exec.Cmd
	log  *logBuffer
	end  chan error
}

func newGateway(t *testing.T) *gateway {
	t.Helper()
	g := &gateway{t: t, dir: t.TempDir(), log: &logBuffer{}}
	t.Cleanup(func() {
		g.kill()
		if t.Failed() {
			t.Logf("the agent's log:\n%s", g.log)
		}
	})
	return g
}

func (g *gateway) path(elem ...string) string {
	return filepath.Join(append([]string{g.dir}, elem...)...)
}

func (g *gateway) write(name, text string) {
	g.t.Helper()
	if err := os.WriteFile(g.path(name), []byte(text), 0o600); err != nil {
		g.t.Fatal(err)
	}
}

// configure writes the configuration; state and run directory are added to text.
func (g *gateway) configure(text string) {
	g.t.Helper()
	g.write("config.toml", fmt.Sprintf("state_dir = %q\nrun_dir = %q\n", g.path("state"), g.path("run"))+text)
}

// command is a command of the program for this gateway.
func (g *gateway) command(args ...string) *exec.Cmd {
	cmd := exec.Command("certagent", append(args, "--config", g.path("config.toml"))...)
	cmd.Env = append(os.Environ(), "STATE_DIRECTORY=", "RUNTIME_DIRECTORY=", "NOTIFY_SOCKET=", "HTTPS_PROXY=", "https_proxy=")
	if g.as != nil {
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: g.as, AmbientCaps: g.caps}
	}
	return cmd
}

// start starts the agent; env is added to its environment.
func (g *gateway) start(env ...string) {
	g.t.Helper()
	g.startInto(g.log, env...)
}

// startInto is start with another stderr.
func (g *gateway) startInto(stderr io.Writer, env ...string) {
	g.t.Helper()
	g.cmd = g.command("run")
	g.cmd.Env = append(g.cmd.Env, env...)
	g.cmd.Stderr = stderr
	if err := g.cmd.Start(); err != nil {
		g.t.Fatal(err)
	}
	g.end = make(chan error, 1)
	cmd, end := g.cmd, g.end
	go func() { end <- cmd.Wait() }() // ends with the agent
}

// stop stops the agent as a service manager does; it must end well within 5 s.
func (g *gateway) stop() {
	g.t.Helper()
	g.signal(syscall.SIGTERM)
	select {
	case err := <-g.end:
		g.cmd = nil
		if err != nil {
			g.t.Fatalf("the agent ended badly: %v", err)
		}
	case <-time.After(5 * time.Second):
		g.t.Fatal("the agent did not stop within 5 s")
	}
}

func (g *gateway) kill() {
	if g.cmd == nil {
		return
	}
	_ = g.cmd.Process.Kill() // it may have ended
	<-g.end
	g.cmd = nil
}

func (g *gateway) signal(s os.Signal) {
	g.t.Helper()
	if err := g.cmd.Process.Signal(s); err != nil {
		g.t.Fatal(err)
	}
}

// mustRun fails the test when the agent has ended.
func (g *gateway) mustRun() {
	g.t.Helper()
	select {
	case err := <-g.end:
		g.end <- err
		g.t.Fatalf("the agent ended: %v", err)
	default:
	}
}

// status asks the program, as a person would.
func (g *gateway) status() status.Snapshot {
	g.t.Helper()
	out, err := g.command("status", "--json").Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || exit.ExitCode() < 3) {
		g.t.Fatalf("certagent status: %v", err)
	}
	var s status.Snapshot
	if err := json.Unmarshal(out, &s); err != nil {
		g.t.Fatalf("certagent status: %v\n%s", err, out)
	}
	return s
}

func (g *gateway) certificate(id string) status.Certificate {
	g.t.Helper()
	for _, c := range g.status().Certificates {
		if c.ID == id {
			return c
		}
	}
	g.t.Fatalf("status has no certificate %s", id)
	return status.Certificate{}
}

// until looks again and again until ok is true. There is nothing to be notified by: the tests look from outside.
func (g *gateway) until(what string, ok func() bool) {
	g.t.Helper()
	g.within(patience, what, ok)
}

// within is until for what may take longer, such as what the agent looks at once a minute.
func (g *gateway) within(patience time.Duration, what string, ok func() bool) {
	g.t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			g.t.Fatalf("did not happen within %v: %s", patience, what)
		}
	}
}

// manager is a service manager (sd_notify(3)): the variable by which an agent finds it, and a function that waits until it
// hears something and gives the whole message.
func (g *gateway) manager() (variable string, hear func(what string) string) {
	g.t.Helper()
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: g.path("notify"), Net: "unixgram"})
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { socket.Close() })
	heard := make(chan string, 1000)
	go func() { // ends when the socket is closed
		defer close(heard)
		buf := make([]byte, 4096)
		for {
			n, err := socket.Read(buf)
			if err != nil {
				return
			}
			heard <- string(buf[:n])
		}
	}()
	return "NOTIFY_SOCKET=" + g.path("notify"), func(what string) string {
		g.t.Helper()
		for timeout := time.After(patience); ; {
			select {
			case m := <-heard:
				if strings.Contains(m, what) {
					return m
				}
			case <-timeout:
				g.t.Fatalf("systemd never heard %q", what)
			}
		}
	}
}

// held is what a consumer finds on disk.
type held struct {
	leaf  *x509.Certificate
	chain []*x509.Certificate
	key   []byte // SubjectPublicKeyInfo of the private key
	dir   string
}

// keyFile is what stands in the generation's key.pem.
func (h held) keyFile(t *testing.T) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(h.dir, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// read reads the live generation as a consumer does, resolving the link once, and checks modes, formats and that the key
// matches.
func (g *gateway) read(id string) (held, error) {
	dir, err := filepath.EvalSymlinks(g.path("state", "certs", id, "live"))
	if err != nil {
		return held{}, err
	}
	h := held{dir: dir}
	data, err := os.ReadFile(filepath.Join(dir, "fullchain.pem"))
	if err != nil {
		return h, err
	}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return h, err
		}
		h.chain = append(h.chain, c)
	}
	if len(h.chain) == 0 {
		return h, errors.New("fullchain.pem is empty")
	}
	h.leaf = h.chain[0]
	info, err := os.Lstat(filepath.Join(dir, "key.pem"))
	if err != nil {
		return h, err
	}
	if info.Mode() != 0o600 {
		return h, fmt.Errorf("key.pem has mode %v, want -rw-------", info.Mode())
	}
	data, err = os.ReadFile(filepath.Join(dir, "key.pem"))
	if err != nil {
		return h, err
	}
	if block, _ := pem.Decode(data); block == nil || block.Type != "PRIVATE KEY" {
		return h, errors.New("key.pem is not PKCS#8")
	}
	key, err := keys.ParsePEM(data)
	if err != nil {
		return h, err
	}
	if h.key, err = x509.MarshalPKIXPublicKey(key.Public()); err != nil {
		return h, err
	}
	if !bytes.Equal(h.key, h.leaf.RawSubjectPublicKeyInfo) {
		return h, errors.New("the key does not match the certificate")
	}
	return h, nil
}

func (g *gateway) mustRead(id string) held {
	g.t.Helper()
	h, err := g.read(id)
	if err != nil {
		g.t.Fatalf("live generation of %s: %v", id, err)
	}
	return h
}

// next waits until another certificate than the one before is live and the agent has said so; nil waits for the first. A
// force that comes before the agent is done with an attempt is one with that attempt.
func (g *gateway) next(id string, before *held) held {
	g.t.Helper()
	var h held
	g.until("a new certificate "+id, func() bool {
		var err error
		h, err = g.read(id)
		return err == nil && (before == nil || h.leaf.SerialNumber.Cmp(before.leaf.SerialNumber) != 0) &&
			strings.Contains(g.log.String(), fmt.Sprintf(`"serial":"%x"`, h.leaf.SerialNumber.Bytes()))
	})
	return h
}

// logins waits until so many requests to op were answered with a certificate.
func logins(t *testing.T, s *esttest.Server, what string, ok func([]esttest.Login) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.Wait(ctx, ok); err != nil {
		t.Fatalf("did not happen at the server within %v: %s\nit saw:\n%s", patience, what, describe(s.Logins()))
	}
}

func describe(all []esttest.Login) string {
	var b strings.Builder
	for _, l := range all {
		fmt.Fprintf(&b, "  %s\n", l)
	}
	return b.String()
}

// logBuffer keeps what the agent says; it is written and read at the same time.
type logBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
