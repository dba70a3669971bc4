//go:build system

package rig

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// The addresses are those of examples/systemd/network.conf, from the ranges for documentation (RFC 5737, RFC 3849).
const (
	gatewayIPv4, gatewayIPv6 = "192.0.2.2", "2001:db8::2"
	estIPv4, estIPv6         = "192.0.2.10", "2001:db8::10"
	otherIPv4                = "192.0.2.11" // the EST server, too
	estURL                   = "https://est.example:8085/.well-known/est"
)

// estServer is certagent-testca on a host of its own: another network namespace.
type estServer struct {
	dir  string // of its CA
	host int    // a process in its network

	mu       sync.Mutex // guards requests
	requests []string   // a line each, in the form of certagent-testca(1)
}

// host starts a host that has nothing but a network: a process that does nothing, in a namespace of its own. It ends
// with the test, or with this process.
func host(t *testing.T) (pid int) {
	t.Helper()
	cmd := exec.Command("cat")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	stdin, err := cmd.StdinPipe()
	must(t, err)
	ended := start(t, cmd)
	t.Cleanup(func() { stdin.Close(); <-ended })
	return cmd.Process.Pid
}

// connect puts an EST server on the other end of a cable to the gateway, which is a process in its network.
func connect(t *testing.T, gateway int, testca string) *estServer {
	t.Helper()
	e := &estServer{dir: filepath.Join(t.TempDir(), "testca"), host: host(t)}
	command(t, "ip", "link", "add", "host0", "netns", fmt.Sprint(gateway), "type", "veth",
		"peer", "name", "host0", "netns", fmt.Sprint(e.host))
	for pid, addresses := range map[int][]string{
		gateway: {gatewayIPv4 + "/24", gatewayIPv6 + "/64"},
		e.host:  {estIPv4 + "/24", otherIPv4 + "/24", estIPv6 + "/64"},
	} {
		for _, address := range addresses {
			ip(t, pid, "address", "add", address, "dev", "host0", "nodad")
		}
		ip(t, pid, "link", "set", "host0", "up")
		ip(t, pid, "link", "set", "lo", "up")
		ip(t, pid, "route", "add", "default", "dev", "host0")
	}
	server := exec.Command("nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", e.host), testca,
		"--listen", ":8085", "--host", "est.example", "--host", estIPv4, "--dir", e.dir, "--bootstrap")
	out, err := server.StdoutPipe()
	must(t, err)
	server.Stderr = os.Stderr
	gone := start(t, server)
	t.Cleanup(func() { server.Process.Kill(); <-gone })
	lines := bufio.NewScanner(out)
	for !strings.HasPrefix(lines.Text(), "ready on ") {
		if !lines.Scan() {
			t.Fatal("certagent-testca does not start")
		}
	}
	go func() { // ends with the server
		for lines.Scan() {
			e.mu.Lock()
			e.requests = append(e.requests, lines.Text())
			e.mu.Unlock()
		}
	}()
	return e
}

// hosts names the machine's hosts, with the addresses of the EST server.
func (m *machine) hosts(t *testing.T, est ...string) {
	t.Helper()
	text := "127.0.0.1 localhost gateway gateway.example\n::1 localhost\n" + estIPv4 + " proxy.example " + cloudName + "\n"
	for _, address := range est {
		text += address + " est.example\n"
	}
	m.write(t, "/etc/hosts", "0644", "root:root", text)
}

// cable puts the cable back in: addresses of IPv6 and routes went with it.
func (m *machine) cable(t *testing.T) {
	t.Helper()
	ip(t, m.leader, "link", "set", "host0", "up")
	ip(t, m.leader, "address", "replace", gatewayIPv6+"/64", "dev", "host0", "nodad")
	ip(t, m.leader, "route", "replace", "default", "dev", "host0")
}

// ip is ip(8) in the network of a process.
func ip(t *testing.T, pid int, args ...string) {
	t.Helper()
	enter := []string{fmt.Sprintf("--net=/proc/%d/ns/net", pid), "ip"}
	if said, err := exec.Command("nsenter", append(enter, args...)...).CombinedOutput(); err != nil { // also in a cleanup
		t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, said)
	}
}

// listen is a port on its host, for another service.
func (e *estServer) listen(t *testing.T, port int) (l net.Listener) {
	t.Helper()
	must(t, inNetwork(e.host, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		file := os.NewFile(uintptr(fd), "socket")
		defer file.Close()
		if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Port: port}), unix.Listen(fd, 16)); err != nil {
			return err
		}
		l, err = net.FileListener(file)
		return err
	}))
	return l
}

// asked are the requests for a certificate so far.
func (e *estServer) asked() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var all []string
	for _, line := range e.requests {
		if strings.Contains(line, "enroll") {
			all = append(all, line)
		}
	}
	return all
}

// file is one of its CA's.
func (e *estServer) file(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(e.dir, name))
	must(t, err)
	return string(data)
}

// roots are its CA.
func (e *estServer) roots(t *testing.T) *x509.CertPool {
	t.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(e.file(t, "ca.pem"))) {
		t.Fatal("ca.pem holds no certificate")
	}
	return pool
}

// inNetwork runs something in the network of a process.
func inNetwork(pid int, do func() error) error {
	done := make(chan error)
	go func() { // ends with what it runs
		// The thread moves to that network, and ends with this goroutine.
		runtime.LockOSThread()
		space, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
		if err == nil {
			err = errors.Join(unix.Setns(int(space.Fd()), unix.CLONE_NEWNET), space.Close())
		}
		if err == nil {
			err = do()
		}
		done <- err
	}()
	return <-done
}

// dial connects to an address by the network of the thread that it runs on; net.Dial would try addresses on other
// threads.
func dial(address [4]byte, port int) (net.Conn, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "socket")
	defer file.Close()
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: address}); err != nil {
		return nil, err
	}
	return net.FileConn(file)
}

var loopback = [4]byte{127, 0, 0, 1}

// served is the certificate that a server inside the machine shows, verified under the EST server's CA.
func (m *machine) served(t *testing.T, port int, name string) (leaf *x509.Certificate, err error) {
	t.Helper()
	config := &tls.Config{RootCAs: m.est.roots(t), ServerName: name, VerifyConnection: func(s tls.ConnectionState) error {
		leaf = s.PeerCertificates[0]
		return nil
	}}
	err = inNetwork(m.leader, func() error {
		conn, err := dial(loopback, port)
		if err != nil {
			return err
		}
		defer conn.Close()
		// A server that demands a certificate ends the handshake, but has shown its own by then.
		err = tls.Client(conn, config).HandshakeContext(t.Context())
		if leaf != nil {
			return nil
		}
		return err
	})
	return leaf, err
}

// command runs a program of the host that must succeed.
func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}
