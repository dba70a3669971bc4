//go:build external

package main

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"certagent/est/esttest"
)

// fleet is a device with many certificates, kept by the program as it is shipped, and the program that issues them.
type fleet struct {
	tb        testing.TB
	bin, dir  string
	count     int
	url, root string // of the server
	cmd       *exec.Cmd
	ended     chan error    // how it came to its end
	notify    *net.UnixConn // as the service manager listens
	ready     chan struct{} // closed when the agent said so
	log       string
}

// newFleet starts certagent-testca and configures so many certificates for a copy of the agent. Nothing of the test's own is
// written where the agent watches.
func newFleet(tb testing.TB, bin string, count int) *fleet {
	tb.Helper()
	f := &fleet{tb: tb, bin: bin, count: count, dir: tb.TempDir()}
	ca := exec.Command(filepath.Join(bin, "certagent-testca"), "--listen", "localhost:0", "--dir", filepath.Join(f.dir, "ca"), "--lifetime", "30d")
	stdout, err := ca.StdoutPipe()
	if err == nil {
		err = ca.Start()
	}
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = ca.Process.Kill(); _ = ca.Wait() })
	lines := bufio.NewScanner(stdout)
	for f.url == "" && lines.Scan() {
		if url, ready := strings.CutPrefix(lines.Text(), "ready on "); ready {
			f.url = url
		}
	}
	if f.url == "" {
		tb.Fatal("certagent-testca did not start")
	}
	go func() { // ends with certagent-testca
		for lines.Scan() {
		}
	}()
	f.root = filepath.Join(f.dir, "ca/ca.pem")
	for _, dir := range []string{"device/etc", "device/lib", "device/run", "log"} {
		if err := os.MkdirAll(f.path(dir), 0o755); err != nil {
			tb.Fatal(err)
		}
	}
	program, err := os.ReadFile(filepath.Join(bin, "certagent"))
	if err == nil {
		err = os.WriteFile(f.path("certagent"), program, 0o755)
	}
	if err != nil {
		tb.Fatal(err)
	}
	f.configure("", f.anchor())
	return f
}

// anchor has the agent trust the root of its server and no other.
func (f *fleet) anchor() string { return fmt.Sprintf("trusted_certs = [%q]\n", "file://"+f.root) }

// size says how many certificates there are.
func (f *fleet) size() string {
	if f.count == 1 {
		return "1 certificate"
	}
	return fmt.Sprintf("%d certificates", f.count)
}

// configure writes the configuration, with these tables before all others, and with these keys of cert_issuance.est.
func (f *fleet) configure(tables, trust string) {
	f.tb.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "state_dir = %q\nrun_dir = %q\n%s[cert_issuance.est]\n%s[cert_issuance.est.auth]\n"+
		"username = %q\npassword = %q\n[cert_issuance.est.urls]\ndefault = %q\n", f.path("device/lib/state"), f.path("device/run"), tables, trust,
		esttest.DefaultUser, esttest.DefaultPassword, f.url)
	for i := range f.count {
		fmt.Fprintf(&b, "[cert_issuance.certs.c%04d]\nmethod = \"est\"\ncommon_name = \"c%04[1]d\"\n", i)
	}
	if err := os.WriteFile(f.path("device/etc/config.toml"), []byte(b.String()), 0o600); err != nil {
		f.tb.Fatal(err)
	}
}

func (f *fleet) path(name string) string { return filepath.Join(f.dir, name) }

// start starts the agent and gives how long it took to be ready.
func (f *fleet) start(env ...string) time.Duration {
	f.tb.Helper()
	socket := f.path("log/notify")
	_ = os.Remove(socket) // of the last start
	var err error
	if f.notify, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"}); err != nil {
		f.tb.Fatal(err)
	}
	f.ready = make(chan struct{})
	go listen(f.notify, f.ready)
	f.log = f.path("log/agent")
	log, err := os.Create(f.log)
	if err != nil {
		f.tb.Fatal(err)
	}
	defer log.Close()
	f.cmd = exec.Command(f.path("certagent"), "run", "--config", f.path("device/etc/config.toml"))
	f.cmd.Env = append(append(os.Environ(), "NOTIFY_SOCKET="+socket, "STATE_DIRECTORY=", "RUNTIME_DIRECTORY="), env...)
	f.cmd.Stderr = log
	began := time.Now()
	if err := f.cmd.Start(); err != nil {
		f.tb.Fatal(err)
	}
	ended := make(chan error, 1)
	go func(cmd *exec.Cmd) { ended <- cmd.Wait() }(f.cmd) // ends with the agent
	f.ended = ended
	f.tb.Cleanup(f.stop)
	select {
	case <-f.ready:
	case err := <-f.ended:
		f.ended <- err
		log, _ := os.ReadFile(f.log)
		f.tb.Fatalf("the agent ended: %v\n%s", err, log)
	case <-time.After(10 * time.Minute):
		f.tb.Fatal("the agent did not say that it is ready")
	}
	return time.Since(began)
}

// listen hears all that the agent tells the service manager: it waits until it is heard. It ends with the socket.
func listen(notify *net.UnixConn, ready chan<- struct{}) {
	for said := make([]byte, 4096); ; {
		n, err := notify.Read(said)
		if err != nil {
			return
		}
		if bytes.HasPrefix(said[:n], []byte("READY=1")) {
			close(ready) // nothing is reloaded here, so that it is said once
		}
	}
}

// logged waits until something stands so often in the agent's log.
func (f *fleet) logged(what string, times int) {
	f.tb.Helper()
	for deadline := time.Now().Add(10 * time.Minute); ; time.Sleep(10 * time.Millisecond) { // a log tells nobody that it grew
		log, err := os.ReadFile(f.log)
		if err != nil {
			f.tb.Fatal(err)
		}
		if bytes.Count(log, []byte(what)) >= times {
			return
		}
		if time.Now().After(deadline) {
			f.tb.Fatalf("the agent did not log %q %d times", what, times)
		}
	}
}

func (f *fleet) stop() {
	if f.cmd == nil {
		return
	}
	_ = f.cmd.Process.Signal(syscall.SIGTERM)
	<-f.ended
	_ = f.notify.Close()
	f.cmd = nil
}

// issued is what the log says of each certificate.
const issued = `"message":"certificate issued"`

// enrol has all certificates issued, and ends the agent.
func (f *fleet) enrol() {
	f.tb.Helper()
	f.start()
	f.logged(issued, f.count)
	f.stop()
}
