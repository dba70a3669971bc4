package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/rogpeppe/go-internal/testscript"
	"go.mozilla.org/pkcs7"
)

// testca is the command under test, the real one in this test's own binary.
const testca = "certagent-testca"

// TestMain puts it on PATH, and a stand-in for the aws command.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){testca: main, "aws": awsCommand})
}

// TestScripts runs what needs no server: help, mistakes, a damaged directory.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/script", RequireExplicitExec: true})
}

// process is a certagent-testca that runs.
type process struct {
	cmd    *exec.Cmd
	block  string // what it printed before the ready line
	url    string
	config testConfig // the block, decoded
	lines  *bufio.Scanner
	stderr *strings.Builder
}

// testConfig is the part of a config.toml that the block has.
type testConfig struct {
	CertIssuance struct {
		EST struct {
			TrustedCerts []string `toml:"trusted_certs"`
			Auth         struct {
				Username              string `toml:"username"`
				Password              string `toml:"password"`
				BootstrapIdentityCert string `toml:"bootstrap_identity_cert"`
				BootstrapIdentityPK   string `toml:"bootstrap_identity_pk"`
			} `toml:"auth"`
			URLs struct {
				Default string `toml:"default"`
			} `toml:"urls"`
		} `toml:"est"`
	} `toml:"cert_issuance"`
}

// start runs a certagent-testca in dir until it is ready. It is killed with the test.
func start(t *testing.T, dir, command string, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.CommandContext(t.Context(), command, args...), stderr: new(strings.Builder)}
	p.cmd.Dir = dir
	p.cmd.Stderr = p.stderr
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			p.cmd.Process.Kill()
			p.cmd.Wait()
		}
	})
	p.lines = bufio.NewScanner(stdout)
	for p.lines.Scan() {
		if ready, ok := strings.CutPrefix(p.lines.Text(), "ready on "); ok {
			p.url = ready
			decoder := toml.NewDecoder(strings.NewReader(p.block)).DisallowUnknownFields()
			if err := decoder.Decode(&p.config); err != nil {
				t.Fatalf("the block is not TOML: %v\n%s", err, p.block)
			}
			return p
		}
		p.block += p.lines.Text() + "\n"
	}
	t.Fatalf("ended before it was ready: %v\n%s", p.cmd.Wait(), p.stderr)
	return nil
}

// line returns the next line of stdout.
func (p *process) line(t *testing.T) string {
	t.Helper()
	if !p.lines.Scan() {
		t.Fatalf("no more lines: %v", p.lines.Err())
	}
	return p.lines.Text()
}

// stop sends a signal, and fails the test unless the command ends well within a second and has nothing left to say.
func (p *process) stop(t *testing.T, signal os.Signal) {
	t.Helper()
	sent := time.Now()
	if err := p.cmd.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
	for p.lines.Scan() {
		t.Errorf("a line too many: %s", p.lines.Text())
	}
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("ended with %v\n%s", err, p.stderr)
	}
	if took := time.Since(sent); took > 5*time.Second {
		t.Errorf("took %s to end", took)
	}
}

// path is the file that a URI names.
func path(t *testing.T, uri string) string {
	t.Helper()
	u, err := url.Parse(uri)
	if err != nil || u.Scheme != "file" || !filepath.IsAbs(u.Path) {
		t.Fatalf("%q is not the URI of an absolute path (%v)", uri, err)
	}
	return u.Path
}

// enrol asks for a certificate over HTTP as a stranger to our own client would.
func (p *process) enrol(
	t *testing.T, cn, user, password string, certs ...tls.Certificate,
) (*http.Response, *x509.Certificate) {
	t.Helper()
	anchors, err := os.ReadFile(path(t, p.config.CertIssuance.EST.TrustedCerts[0]))
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{RootCAs: x509.NewCertPool(), Certificates: certs}
	if !config.RootCAs.AppendCertsFromPEM(anchors) {
		t.Fatal("no certificate in trusted_certs")
	}
	transport := &http.Transport{TLSClientConfig: config}
	defer transport.CloseIdleConnections()

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader,
		&x509.CertificateRequest{Subject: pkix.Name{CommonName: cn}}, key)
	if err != nil {
		t.Fatal(err)
	}
	var body strings.Builder
	for line := range slices.Chunk([]byte(base64.StdEncoding.EncodeToString(csr)), 64) {
		fmt.Fprintf(&body, "%s\n", line)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, p.config.CertIssuance.EST.URLs.Default+"/simpleenroll",
		strings.NewReader(body.String()))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/pkcs10")
	r.Header.Set("Content-Transfer-Encoding", "base64")
	if user != "" {
		r.SetBasicAuth(user, password)
	}
	resp, err := transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		return resp, nil
	}
	der, err := base64.StdEncoding.DecodeString(string(answer))
	if err != nil {
		t.Fatal(err)
	}
	message, err := pkcs7.Parse(der)
	if err != nil || len(message.Certificates) != 1 {
		t.Fatalf("%v, or not one certificate", err)
	}
	leaf := message.Certificates[0]
	if !key.PublicKey.Equal(leaf.PublicKey) {
		t.Error("the certificate is for another key")
	}
	if _, err := leaf.Verify(x509.VerifyOptions{
		Roots: config.RootCAs, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}); err != nil {
		t.Error(err)
	}
	return resp, leaf
}

// The story of a first day: start with the defaults, follow the block, enrol, end.
func TestRun(t *testing.T) {
	for _, face := range []string{"", "--like-libest"} {
		t.Run("face"+face, func(t *testing.T) {
			dir := t.TempDir()
			args := []string{"--listen", "127.0.0.1:0", "--lifetime", "90s", "--bootstrap"}
			if face != "" {
				args = append(args, face)
			}
			p := start(t, dir, testca, args...)
			est := p.config.CertIssuance.EST
			wantURL := regexp.MustCompile(`^https://127\.0\.0\.1:[1-9]\d*/\.well-known/est$`)
			if est.URLs.Default != p.url || !wantURL.MatchString(p.url) {
				t.Errorf("ready on %s, configuration says %s", p.url, est.URLs.Default)
			}
			if !strings.Contains(p.block, "FOR TESTS ONLY") {
				t.Errorf("no warning in:\n%s", p.block)
			}
			ca, err := os.Stat(path(t, est.TrustedCerts[0]))
			if want, err2 := os.Stat(filepath.Join(dir, "testca", "ca.pem")); !os.SameFile(ca, want) {
				t.Errorf("trusted_certs is %s, want testca/ca.pem (%v, %v)", est.TrustedCerts[0], err, err2)
			}

			// The password.
			_, leaf := p.enrol(t, "first", "estuser", "estpwd")
			want := fmt.Sprintf(`op=simpleenroll status=200 login=password login_cn="" login_serial= `+
				`issued_cn="first" issued_serial=%X not_after=%s`,
				leaf.SerialNumber.Bytes(), leaf.NotAfter.Format(time.RFC3339))
			if line := p.line(t); !regexp.MustCompile(`^time=\S+Z `).MatchString(line) || !strings.HasSuffix(line, want) {
				t.Errorf("got  %s\nwant … %s", line, want)
			}
			if life := leaf.NotAfter.Sub(leaf.NotBefore); life != 90*time.Second {
				t.Errorf("valid for %s", life)
			}

			// The bootstrap certificate.
			born, err := tls.LoadX509KeyPair(path(t, est.Auth.BootstrapIdentityCert), path(t, est.Auth.BootstrapIdentityPK))
			if err != nil {
				t.Fatal(err)
			}
			if life := born.Leaf.NotAfter.Sub(born.Leaf.NotBefore); life != 10*365*24*time.Hour {
				t.Errorf("bootstrap certificate is valid for %s", life)
			}
			p.enrol(t, "second", "", "", born)
			want = fmt.Sprintf(`login=certificate login_cn="bootstrap" login_serial=%X`, born.Leaf.SerialNumber.Bytes())
			if line := p.line(t); !strings.Contains(line, want) {
				t.Errorf("got  %s\nwant … %s …", line, want)
			}

			// Neither. A wrong password is nowhere to be seen.
			if resp, _ := p.enrol(t, "third", "estuser", "not-this-one"); resp.StatusCode != http.StatusUnauthorized {
				t.Errorf("status %d", resp.StatusCode)
			}
			if line := p.line(t); !strings.Contains(line, "status=401 login=none") || strings.Contains(line, "not-this-one") {
				t.Errorf("got %s", line)
			}
			p.stop(t, syscall.SIGTERM)
		})
	}
}

func TestRunKeepsItsCA(t *testing.T) {
	dir := t.TempDir()
	first := start(t, dir, testca, "--listen", "127.0.0.1:0", "--dir", "here")
	root, err := os.ReadFile(filepath.Join(dir, "here", "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	first.stop(t, os.Interrupt)

	second := start(t, dir, testca, "--listen", "127.0.0.1:0", "--dir", "here",
		"--host", "est.test", "--host", "192.0.2.7")
	again, err := os.ReadFile(filepath.Join(dir, "here", "ca.pem"))
	if err != nil || string(again) != string(root) {
		t.Errorf("the root changed (%v)", err)
	}
	here := filepath.Join(dir, "here")
	server, err := tls.LoadX509KeyPair(filepath.Join(here, "server.pem"), filepath.Join(here, "server.key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"est.test", "192.0.2.7", "localhost", "ip6-localhost", "127.0.0.1", "::1"} {
		if err := server.Leaf.VerifyHostname(host); err != nil {
			t.Error(err)
		}
	}
	second.stop(t, syscall.SIGTERM)
}

func TestRunFlags(t *testing.T) {
	dir := t.TempDir()
	p := start(t, dir, testca, "--listen=127.0.0.1:0", "--user=alice", "--password=open sesame", "--label=plant-7",
		"--ask-password", "--root-lifetime=2y", "--server-lifetime=7d", "--dir=with space")
	if !strings.HasSuffix(p.url, "/.well-known/est/plant-7") {
		t.Errorf("ready on %s", p.url)
	}
	if auth := p.config.CertIssuance.EST.Auth; auth.Username != "alice" || strings.Contains(p.block, "sesame") {
		t.Errorf("user name %q, or the password is in the block:\n%s", auth.Username, p.block)
	}
	p.enrol(t, "device", "alice", "open sesame")
	if line := p.line(t); !strings.Contains(line, "status=200") || strings.Contains(line, "sesame") {
		t.Errorf("got %s", line)
	}
	for name, want := range map[string]time.Duration{"ca": 2 * 365 * 24 * time.Hour, "server": 7 * 24 * time.Hour} {
		pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "with space", name+".pem"),
			filepath.Join(dir, "with space", name+".key.pem"))
		if err != nil {
			t.Fatal(err)
		}
		if life := pair.Leaf.NotAfter.Sub(pair.Leaf.NotBefore); life != want {
			t.Errorf("%s is valid for %s, want %s", name, life, want)
		}
	}
	p.stop(t, syscall.SIGTERM)
}

// A client that does nothing with its connection does not hold the end up.
func TestRunEndsWithOpenConnections(t *testing.T) {
	p := start(t, t.TempDir(), testca, "--listen", "127.0.0.1:0", "--like-libest")
	u, err := url.Parse(p.url)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := tls.Dial("tcp", u.Host, &tls.Config{InsecureSkipVerify: true}) // whose it is does not matter here
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	p.stop(t, syscall.SIGTERM)
}
