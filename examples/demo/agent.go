package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// agent is a running certagent.
type agent struct {
	path, config, live string
	cmd                *exec.Cmd
	log                *os.File
	ended              chan error
}

func (a *agent) start(dir string, environment ...string) error {
	log, err := os.Create(filepath.Join(dir, "agent.log"))
	if err != nil {
		return err
	}
	a.log = log
	a.cmd = exec.Command(a.path, "run", "--config", a.config)
	a.cmd.Env = append(os.Environ(), environment...)
	a.cmd.Stderr = log
	if err := a.cmd.Start(); err != nil {
		return fmt.Errorf("start the agent: %w", err)
	}
	a.ended = make(chan error, 1)
	go func() { a.ended <- a.cmd.Wait() }() // ends with the agent
	return nil
}

// explain adds to an error what the agent said, which is worth reading when a step did not happen.
func (a *agent) explain(err *error) {
	if *err == nil {
		return
	}
	data, readErr := os.ReadFile(a.log.Name())
	if readErr != nil {
		data = []byte(readErr.Error())
	}
	*err = fmt.Errorf("%w\n\nthe agent's log:\n%s", *err, data)
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

// enrols waits until the bootstrap certificate has logged in, and what was issued is live.
func (a *agent) enrols(ctx context.Context, ca *server) (*x509.Certificate, error) {
	return a.obtains(ctx, ca, "simpleenroll", func(l login) bool { return l["login_cn"] == "bootstrap" })
}

// renews waits until that certificate has logged in, and what was issued is live.
func (a *agent) renews(ctx context.Context, ca *server, c *x509.Certificate) (*x509.Certificate, error) {
	serial := fmt.Sprintf("%X", c.SerialNumber.Bytes())
	return a.obtains(ctx, ca, "simplereenroll", func(l login) bool { return l["login_serial"] == serial })
}

// obtains waits until the server has issued a certificate, and that is live, and checks it and its key as a consumer would.
func (a *agent) obtains(ctx context.Context, ca *server, op string, which func(login) bool) (leaf *x509.Certificate, err error) {
	issued, err := ca.issued(ctx, op, which)
	if err != nil {
		return nil, err
	}
	err = until(ctx, func() error {
		leaf, err = a.check(issued["issued_serial"])
		return err
	})
	return leaf, err
}

// until tries until there is no error, or patience has run out: then it returns the last one.
func until(ctx context.Context, try func() error) error {
	deadline := time.Now().Add(patience)
	for {
		err := try()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
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
	ID         string `json:"id"`
	State      string `json:"state"`
	Class      string `json:"last_error_class"`
	Failures   int    `json:"failures"`
	Onboarding struct {
		State string `json:"state"`
	} `json:"onboarding"`
	Problems []struct {
		Code string `json:"code"`
	} `json:"problems"`
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

// result is the file of what a cloud has answered.
func (a *agent) result(cloud string) string {
	return filepath.Join(filepath.Dir(a.config), "state", "onboard", cloud+".json")
}

// pair is the live certificate, with those that came with it, and its key.
func (a *agent) pair() (tls.Certificate, error) {
	return tls.LoadX509KeyPair(filepath.Join(a.live, "fullchain.pem"), filepath.Join(a.live, "key.pem"))
}

// thumbprint is the SHA-256 of a certificate, as clouds have it.
func thumbprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}
