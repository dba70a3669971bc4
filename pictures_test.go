package certagent_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "write the pictures anew, in place of comparing them")

// picturesPatience is how long anything may take that a picture waits for.
const picturesPatience = time.Minute

// TestPictures are the pictures of the README: what the programs, as they are built, show on a terminal. `make docs` writes them.
func TestPictures(t *testing.T) {
	t.Parallel()
	g := newPictured(t)
	for _, p := range []struct {
		name    string
		command []string
		from    string // the first line that is drawn; what is above depends on the machine that draws
	}{
		{"status", []string{"status"}, ""},
		{"check", []string{"check", "web"}, "EST servers"},
	} {
		file := filepath.Join("docs/pictures", p.name+".svg")
		lines := onTerminal(t, g.command(p.command...))
		begin := slices.IndexFunc(lines, func(line string) bool { return strings.HasPrefix(plain([]string{line}), p.from) })
		if begin < 0 {
			t.Fatalf("%v shows no %q:\n%s", p.command, p.from, plain(lines))
		}
		shown := typed("certagent " + strings.Join(p.command, " "))
		if begin > 0 {
			shown = append(shown, "⋮")
			// So does the last line, with the numbers of all checks.
			lines = lines[begin : len(lines)-2]
		}
		picture := drawTerminal(append(shown, g.steady(t, lines)...))
		if *update {
			if err := os.WriteFile(file, picture, 0o644); err != nil {
				t.Error(err)
			}
			continue
		}
		if want, err := os.ReadFile(file); err != nil || !bytes.Equal(picture, want) {
			t.Errorf("%s is not what the program shows (%v); `make docs` draws it anew. It shows\n%s", file, err, plain(lines))
		}
	}
}

// pictured is a gateway to be seen in pictures: a certificate that it got itself, one that it took over in the middle of its
// life, and one whose EST server does not run. Its directories have as many letters as those of an installation.
type pictured struct {
	certagent         string // the program
	etc, state, run   string // in place of /etc/certagent, /var/lib/certagent, /run/certagent
	url, down, downIP string // of the EST server, and of one that does not run
}

// newPictured builds the programs, starts the EST server and the agent, and returns when there is something to be seen.
func newPictured(t *testing.T) *pictured {
	t.Helper()
	programs := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-tags", "nethttpomithttp2", "-ldflags", "-X main.version=1.0.0",
		"-o", programs, "./cmd/certagent", "./cmd/certagent-testca")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	g := &pictured{
		certagent: filepath.Join(programs, "certagent"),
		etc:       directory(t, "/etc/certagent"), state: directory(t, "/var/lib/certagent"), run: directory(t, "/run/certagent"),
		downIP: nobodyListens(t),
	}
	g.down = "https://" + g.downIP + "/.well-known/est"
	server := exec.Command(filepath.Join(programs, "certagent-testca"), "--dir", filepath.Join(g.etc, "trust"), "--listen", "127.0.0.1:0")
	announced := until(t, server, "ready on ")
	_, g.url, _ = strings.Cut(announced, "ready on ")
	g.url = strings.TrimSpace(g.url)

	cert, key := middleAged(t)
	certFile, keyFile := filepath.Join(g.etc, "mqtt.pem"), filepath.Join(g.etc, "mqtt.key.pem")
	config := fmt.Sprintf(`state_dir = %q
run_dir = %q

[provisioning.attestation.identity_cert]
common_name = "gateway-42"
auto_renew.threshold = "72%%"

[cert_issuance.certs.mqtt]
common_name = "gateway-42"
auto_renew.threshold = "72%%"

[cert_issuance.certs.web]
common_name = "gateway-42.example.com"
usage = ["server"]
url = %q

[cert_issuance.est]
trusted_certs = ["file://%s/trust/ca.pem"]

[cert_issuance.est.auth]
username = "estuser"
password = "estpwd"

[cert_issuance.est.urls]
default = %q
`, g.state, g.run, g.down, g.etc, g.url)
	for file, text := range map[string][]byte{filepath.Join(g.etc, "config.toml"): []byte(config), certFile: cert, keyFile: key} {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := g.command("import", "mqtt", "--cert", certFile, "--key", keyFile).CombinedOutput(); err != nil {
		t.Fatalf("certagent import: %v\n%s", err, out)
	}
	agent := g.command("run")
	log, err := os.Create(filepath.Join(programs, "log"))
	if err != nil {
		t.Fatal(err)
	}
	agent.Stderr = log
	start(t, agent)
	for deadline := time.Now().Add(picturesPatience); !g.settled(t); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			text, err := os.ReadFile(log.Name())
			t.Fatalf("there is nothing to be seen (%v):\n%s", err, text)
		}
	}
	return g
}

// settled tells that the agent has done what it can.
func (g *pictured) settled(t *testing.T) bool {
	t.Helper()
	out, _ := g.command("status", "--json").Output() // its exit code is about the certificates
	var s struct {
		Started      string
		Certificates []struct {
			State    string
			NextWhy  string `json:"next_why"`
			Failures int
		}
	}
	if err := json.Unmarshal(out, &s); err != nil || s.Started == "" {
		return false
	}
	valid, failing := 0, 0
	for _, c := range s.Certificates {
		if c.State == "valid" && strings.Contains(c.NextWhy, "due") {
			valid++
		} else if c.Failures > 0 {
			failing++
		}
	}
	return valid == 2 && failing == 1
}

func (g *pictured) command(args ...string) *exec.Cmd {
	cmd := exec.Command(g.certagent, append(args, "--config", filepath.Join(g.etc, "config.toml"))...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "TERM=xterm-256color", "LANG=C.UTF-8", "TZ=UTC"}
	return cmd
}

// directory makes a directory whose name has as many letters as like.
func directory(t *testing.T, like string) string {
	t.Helper()
	dir := "/tmp/" + rand.Text()[:len(like)-len("/tmp/")]
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// nobodyListens holds a port of 127.0.0.1 of five digits at which nobody listens, as host:port.
func nobodyListens(t *testing.T) string {
	t.Helper()
	for {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			err = unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
		}
		var at unix.Sockaddr
		if err == nil {
			at, err = unix.Getsockname(fd)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Close(fd) })
		if port := at.(*unix.SockaddrInet4).Port; port >= 10000 {
			return fmt.Sprintf("127.0.0.1:%d", port)
		}
	}
}

// middleAged is a certificate that a third of its life is behind of, with its key, as somebody else issued it.
func middleAged(t *testing.T) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	const day = 24 * time.Hour
	template := &x509.Certificate{
		SerialNumber: big.NewInt(42), Subject: pkix.Name{CommonName: "gateway-42"},
		NotBefore: time.Now().Add(-10*day - day/2), NotAfter: time.Now().Add(19*day + day/2),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	issuer := &x509.Certificate{Subject: pkix.Name{CommonName: "plant CA"}}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, private.Public(), private)
	var secret []byte
	if err == nil {
		secret, err = x509.MarshalPKCS8PrivateKey(private)
	}
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})
}

// start starts a program, which ends with the test at the latest.
func start(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()         // it was killed, or was waited for
	})
}

// until starts a program and gives what it has said up to the line with what in it.
func until(t *testing.T, cmd *exec.Cmd, what string) string {
	t.Helper()
	said, err := os.Create(filepath.Join(t.TempDir(), "said"))
	if err != nil {
		t.Fatal(err)
	}
	defer said.Close()
	cmd.Stdout, cmd.Stderr = said, said
	start(t, cmd)
	ctx, cancel := context.WithTimeout(t.Context(), picturesPatience)
	defer cancel()
	for ; ctx.Err() == nil; time.Sleep(10 * time.Millisecond) {
		text, err := os.ReadFile(said.Name())
		if err != nil {
			t.Fatal(err)
		}
		if _, after, found := bytes.Cut(text, []byte(what)); found {
			if line, _, whole := bytes.Cut(after, []byte("\n")); whole {
				return what + string(line)
			}
		}
	}
	t.Fatalf("%s never said %q", cmd.Path, what)
	return ""
}

// onTerminal runs a command on a terminal of 80 columns and gives the lines that it shows there, with its colours.
func onTerminal(t *testing.T, cmd *exec.Cmd) []string {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	// pts(4), ioctl_tty(2)
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 60, Col: 80})
	}
	var slave *os.File
	if err == nil {
		slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, &stderr
	start(t, cmd)
	if err := slave.Close(); err != nil {
		t.Fatal(err)
	}
	var shown bytes.Buffer
	for buf := make([]byte, 4096); ; {
		n, err := master.Read(buf)
		shown.Write(buf[:n])
		if errors.Is(err, syscall.EIO) { // nobody has the other end any more
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	_ = cmd.Wait() // its exit code is about the certificates
	if text := stderr.String(); text != "" {
		t.Fatalf("%v: %s", cmd.Args, text)
	}
	return strings.Split(strings.TrimRight(strings.ReplaceAll(shown.String(), "\r\n", "\n"), "\n"), "\n")
}
