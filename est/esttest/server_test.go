package esttest_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"certagent/est/esttest"
)

func TestServerDefaults(t *testing.T) {
	s := esttest.New(t, esttest.Options{})
	c := newClient(t, s, withPassword("estuser", "estpwd"))
	chain := c.get("cacerts").want(t, 200).TLS.PeerCertificates
	if len(chain) != 2 || !chain[1].Equal(s.Root) {
		t.Errorf("%d certificates in the handshake, want leaf and root", len(chain))
	}
	server, root := chain[0], s.Root
	for _, host := range []string{"localhost", "ip6-localhost", "127.0.0.1", "::1"} {
		if err := server.VerifyHostname(host); err != nil {
			t.Error(err)
		}
	}
	year := 365 * 24 * time.Hour
	if life := root.NotAfter.Sub(root.NotBefore); life != 20*year {
		t.Errorf("root of %s", life)
	}
	if life := server.NotAfter.Sub(server.NotBefore); life != 10*year {
		t.Errorf("server certificate of %s", life)
	}
	if !root.IsCA || root.KeyUsage&x509.KeyUsageCertSign == 0 || len(root.SubjectKeyId) == 0 ||
		root.CheckSignatureFrom(root) != nil {
		t.Error("the root is no proper CA certificate")
	}
	leaf := c.post("simpleenroll", csrFor(t, "device")).certs(t)[0]
	if life := leaf.NotAfter.Sub(leaf.NotBefore); life != 24*time.Hour {
		t.Errorf("device certificate of %s", life)
	}
	data, err := os.ReadFile(s.CAFile())
	if err != nil || string(data) != string(s.RootPEM()) {
		t.Errorf("CAFile has %q (%v)", data, err)
	}
	s.Close()
	if _, err := os.Stat(s.CAFile()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("CAFile after Close: %v", err)
	}
}

// A certificate never outlives its issuer.
func TestServerLifetimesAreNested(t *testing.T) {
	s := esttest.New(t, esttest.Options{RootLifetime: time.Hour})
	csr := parseCSR(t, csrFor(t, "device"))
	leaf, err := s.Issue(csr)
	if err != nil {
		t.Fatal(err)
	}
	if !leaf.NotAfter.Equal(s.Root.NotAfter) {
		t.Errorf("leaf until %s, root until %s", leaf.NotAfter, s.Root.NotAfter)
	}
}

func TestServerHosts(t *testing.T) {
	s := esttest.New(t, esttest.Options{Hosts: []string{"est.test", "192.0.2.1"}})
	server := newClient(t, s).get("cacerts").want(t, 200).TLS.PeerCertificates[0]
	for _, host := range []string{"localhost", "est.test", "192.0.2.1"} {
		if err := server.VerifyHostname(host); err != nil {
			t.Error(err)
		}
	}
	newClient(t, esttest.New(t, esttest.Options{Listen: "127.0.0.5:0"})).get("cacerts").want(t, 200) // where it says that it listens
	s = esttest.New(t, esttest.Options{Hosts: []string{"elsewhere.test"}, OnlyHosts: true})
	if _, ok := errors.AsType[x509.HostnameError](newClient(t, s).get("cacerts").err); !ok {
		t.Error("the server certificate is good for its URL, though it should be for another host only")
	}
}

func TestServerOptions(t *testing.T) {
	_, err := esttest.Open(esttest.Options{
		Lifetime: time.Millisecond, Workers: 6, Digest: true, ProofOfPossession: true, SendChain: true,
		Bootstrap: "b", Label: "cacerts", User: "a:b", OnlyHosts: true, NoServerAuth: true,
	})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, part := range []string{
		"lifetime", "workers", "digest", "cmcRA", "chain", "directory", "label", "colon", "host",
	} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not mentioned in: %v", part, err)
		}
	}
	for _, listen := range []string{"localhost", "no-such-host.invalid:0", "127.0.0.1:x", "192.0.2.1:0"} {
		if s, err := esttest.Open(esttest.Options{Listen: listen}); err == nil {
			s.Close()
			t.Errorf("listens on %q", listen)
		}
	}
}

func TestServerStopStart(t *testing.T) {
	faces(t, func(t *testing.T, libest bool) {
		s := esttest.New(t, esttest.Options{LikeLibest: libest})
		c := newClient(t, s)
		url, addr := s.URL(), s.Addr()
		for range 3 {
			c.get("cacerts").want(t, 200) // and leaves the connection open
			s.Stop()
			s.Stop()
			if r := c.get("cacerts"); !errors.Is(r.err, syscall.ECONNREFUSED) {
				t.Fatalf("during the outage: %v", r.err)
			}
			// The port is not given to anybody else.
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			if l.Addr().String() == addr {
				t.Errorf("%s was given away", addr)
			}
			l.Close()
			if err := s.Start(); err != nil {
				t.Fatal(err)
			}
			if err := s.Start(); err != nil {
				t.Fatal(err)
			}
		}
		c.get("cacerts").want(t, 200)
		if s.URL() != url {
			t.Errorf("URL %s became %s", url, s.URL())
		}
		s.Close()
		s.Close()
		if err := s.Start(); err == nil {
			t.Error("started after Close")
		}
	})
}

func TestServerListensOnBothLoopbacks(t *testing.T) {
	s := esttest.New(t, esttest.Options{Listen: "localhost:0"})
	c := newClient(t, s)
	c.get("cacerts").want(t, 200)
	if !strings.HasPrefix(s.URL(), "https://localhost:") {
		t.Errorf("URL %s", s.URL())
	}
	_, port, err := net.SplitHostPort(s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	// A machine without IPv6 has one loopback.
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Logf("this machine has no ::1: %v", err)
		return
	}
	l.Close()
	c.url = "https://[::1]:" + port + "/.well-known/est"
	c.get("cacerts").want(t, 200)
}

func TestServerListensOnEverything(t *testing.T) {
	s := esttest.New(t, esttest.Options{Listen: ":0"})
	newClient(t, s).get("cacerts").want(t, 200)
	if !strings.HasPrefix(s.URL(), "https://localhost:") {
		t.Errorf("URL %s", s.URL())
	}
}

func TestServerKeepsItsCA(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "testca")
	options := esttest.Options{Dir: dir, Bootstrap: "bootstrap", Intermediate: true, SeparateTLSRoot: true}
	open := func(o esttest.Options) (root, server, bootstrap string) {
		t.Helper()
		s := esttest.New(t, o)
		defer s.Close()
		newClient(t, s).get("cacerts").want(t, 200)
		return readFile(t, dir, "ca.pem"), readFile(t, dir, "server.pem"), readFile(t, dir, "bootstrap.pem")
	}
	root, server, bootstrap := open(options)
	names := map[string]fs.FileMode{
		"ca.pem": 0o644, "ca.key.pem": 0o600,
		"intermediate.pem": 0o644, "intermediate.key.pem": 0o600,
		"tls-ca.pem": 0o644, "tls-ca.key.pem": 0o600,
		"server.pem": 0o644, "server.key.pem": 0o600,
		"bootstrap.pem": 0o600, "bootstrap.key.pem": 0o600,
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		if want, known := names[e.Name()]; !known || info.Mode() != want {
			t.Errorf("%s has mode %v, want %v", e.Name(), info.Mode(), want)
		}
		delete(names, e.Name())
	}
	if len(names) > 0 {
		t.Errorf("not written: %v", names)
	}

	root2, server2, bootstrap2 := open(options)
	if root2 != root || server2 != server || bootstrap2 != bootstrap {
		t.Error("a restart changed a certificate")
	}
	options.Hosts = []string{"more.test"}
	root3, server3, bootstrap3 := open(options)
	if root3 != root || bootstrap3 != bootstrap || server3 == server {
		t.Error("another host must change the server certificate, and nothing else")
	}
	// A crash of the first start between key and certificate.
	if err := os.Remove(filepath.Join(dir, "bootstrap.pem")); err != nil {
		t.Fatal(err)
	}
	key := readFile(t, dir, "bootstrap.key.pem")
	if _, _, bootstrap4 := open(options); bootstrap4 == bootstrap || readFile(t, dir, "bootstrap.key.pem") != key {
		t.Error("a missing certificate is made anew from its key")
	}
}

func readFile(t *testing.T, path ...string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestServerBootstrap(t *testing.T) {
	dir := t.TempDir()
	s := esttest.New(t, esttest.Options{Dir: dir, Bootstrap: "bootstrap", Lifetime: time.Second})
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "bootstrap.pem"), filepath.Join(dir, "bootstrap.key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if life := pair.Leaf.NotAfter.Sub(pair.Leaf.NotBefore); life != 10*365*24*time.Hour {
		t.Errorf("valid for %s", life)
	}
	newClient(t, s, withCert(pair)).post("simpleenroll", csrFor(t, "device")).want(t, 200)
	if l := s.Logins()[0]; l.Certificate.Subject.CommonName != "bootstrap" {
		t.Errorf("recorded as %s", l)
	}
}

func TestServerDamagedDirectory(t *testing.T) {
	other := filepath.Join(t.TempDir(), "other")
	esttest.New(t, esttest.Options{Dir: other}).Close()
	now := time.Now()
	for _, tt := range []struct {
		name   string
		damage func(t *testing.T, dir string)
		want   string
	}{
		{"no PEM", func(t *testing.T, dir string) { writeFile(t, dir, "ca.pem", "hello") }, "ca.pem is damaged"},
		{"cut", func(t *testing.T, dir string) {
			writeFile(t, dir, "ca.key.pem", readFile(t, dir, "ca.key.pem")[:100])
		}, "ca.key.pem is damaged"},
		{"empty server certificate", func(t *testing.T, dir string) { writeFile(t, dir, "server.pem", "") },
			"server.pem is damaged"},
		{"key gone", func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, "ca.key.pem")); err != nil {
				t.Fatal(err)
			}
		}, "ca.key.pem is damaged: the file is missing"},
		{"another's root", func(t *testing.T, dir string) {
			writeFile(t, dir, "ca.pem", readFile(t, other, "ca.pem"))
		}, "is not the certificate of"},
		{"not a CA", func(t *testing.T, dir string) {
			writeFile(t, dir, "ca.pem", readFile(t, dir, "server.pem"))
			writeFile(t, dir, "ca.key.pem", readFile(t, dir, "server.key.pem"))
		}, "is not a CA certificate"},
		{"intermediate of another", func(t *testing.T, dir string) {
			writeFile(t, dir, "intermediate.pem", readFile(t, other, "ca.pem"))
			writeFile(t, dir, "intermediate.key.pem", readFile(t, other, "ca.key.pem"))
		}, "was not issued by"},
		{"expired", func(*testing.T, string) { now = now.Add(21 * 365 * 24 * time.Hour) }, "expired on"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			options := esttest.Options{Dir: dir, Intermediate: true, Now: func() time.Time { return now }}
			esttest.New(t, options).Close()
			tt.damage(t, dir)
			s, err := esttest.Open(options)
			if err == nil {
				s.Close()
				t.Fatal("opened")
			}
			if !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "to begin a new CA") {
				t.Errorf("error %v", err)
			}
		})
	}
}

// What the directory holds is durable before the first connection can be made.
func TestServerWritesBeforeItListens(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dir := t.TempDir()
	if s, err := esttest.Open(esttest.Options{Dir: dir, Bootstrap: "b", Listen: l.Addr().String()}); err == nil {
		s.Close()
		t.Fatal("listens where another does")
	}
	for _, name := range []string{"ca.pem", "server.pem", "bootstrap.pem"} {
		readFile(t, dir, name)
	}
}

func TestServerClock(t *testing.T) {
	now := time.Date(2031, 5, 1, 12, 0, 0, 999, time.UTC)
	s := esttest.New(t, esttest.Options{Now: func() time.Time { return now }})
	leaf, err := s.Issue(parseCSR(t, csrFor(t, "device")), func(c *x509.Certificate) { c.NotAfter = now.Add(time.Minute) })
	if err != nil {
		t.Fatal(err)
	}
	second := now.Truncate(time.Second)
	if !leaf.NotBefore.Equal(second) || !leaf.NotAfter.Equal(second.Add(time.Minute)) {
		t.Errorf("valid from %s to %s", leaf.NotBefore, leaf.NotAfter)
	}
}

func writeFile(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// No goroutine of the server outlives Close, whatever clients do.
func TestServerCloseEndsEverything(t *testing.T) {
	faces(t, func(t *testing.T, libest bool) {
		s := esttest.New(t, esttest.Options{LikeLibest: libest, Workers: 1, Listen: "localhost:0"})
		newClient(t, s).get("cacerts").want(t, 200) // stays open, and in the libest face keeps the others waiting
		for range 3 {
			conn, err := net.Dial("tcp", s.Addr())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
		}
		began := time.Now()
		s.Close()
		if took := time.Since(began); took > 8*time.Second { // less than an idle connection may last
			t.Errorf("Close took %s", took)
		}
		for end := time.Now().Add(30 * time.Second); ; runtime.Gosched() {
			stacks := make([]byte, 1<<20)
			stacks = stacks[:runtime.Stack(stacks, true)]
			if !bytes.Contains(stacks, []byte("certagent/est/esttest.(*")) {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("still there:\n%s", stacks)
			}
		}
	})
}
