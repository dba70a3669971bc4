package agent

import (
	"bytes"
	"context"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"certagent/agent/config"
	"certagent/store"
	"certagent/store/durable"
)

// device is a gateway in a bubble of testing/synctest: a real store, a real agent, and a CA in place of the
// network (real sockets do not count as blocked in a bubble). The bubble's clock begins at midnight of 2000-01-01.
type device struct {
	t    *testing.T
	dir  string
	text string // the configuration
	ca   *fakeCA
	logs *syncBuffer
	// change, if set, changes the options of the next agent.
	change func(*Options)
}

// configure replaces DIR in text by the device's directory.
func (d *device) configure(text string) {
	d.text = strings.ReplaceAll(text, "DIR", d.dir)
}

func (d *device) load() (*config.Config, error) {
	return config.Parse("config.toml", []byte(d.text), config.Defaults{StateDir: filepath.Join(d.dir, "state"), RunDir: d.dir})
}

// boot starts an agent; the function it returns stops it.
func (d *device) boot() (*Agent, func()) {
	d.t.Helper()
	return d.bootOn(nil)
}

// bootOn starts an agent on a disk of the test's.
func (d *device) bootOn(disk durable.FS) (*Agent, func()) {
	d.t.Helper()
	a, s := d.made(disk)
	return a, d.start(a, s)
}

// made is an agent on a disk of the test's that is not started.
func (d *device) made(disk durable.FS) (*Agent, *store.Store) {
	d.t.Helper()
	cfg, err := d.load()
	if err != nil {
		d.t.Fatal(err)
	}
	s, err := store.Open(filepath.Join(d.dir, "state"), store.Options{MachineID: "test", FS: disk})
	if err != nil {
		d.t.Fatal(err)
	}
	a, err := New(d.options(cfg, s))
	if err != nil {
		d.t.Fatal(err)
	}
	return a, s
}

// start runs a over s until the function that it returns is called.
func (d *device) start(a *Agent, s *store.Store) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	return func() {
		d.t.Helper()
		cancel()
		if err := <-done; err != nil {
			d.t.Errorf("Run: %v", err)
		}
		if err := s.Close(); err != nil {
			d.t.Error(err)
		}
	}
}

func (d *device) options(cfg *config.Config, s *store.Store) Options {
	o := Options{
		Config: cfg, Load: d.load, Store: s, Log: zerolog.New(d.logs), Version: "test",
		Rand: func() float64 { return .5 }, Synced: func() bool { return false }, Suspended: func() time.Duration { return 0 },
		Host: Host{Hostname: func() (string, error) { return "gateway", nil }, MachineID: "test"},
		Dial: d.ca.dial,
	}
	if d.change != nil {
		d.change(&o)
	}
	return o
}

func (d *device) live(id string) *store.Generation {
	d.t.Helper()
	s, err := store.View(filepath.Join(d.dir, "state"))
	if err != nil {
		d.t.Fatal(err)
	}
	defer s.Close()
	c, err := s.Certificate(id)
	if err != nil {
		d.t.Fatal(err)
	}
	g, err := c.Live()
	if err != nil {
		d.t.Fatalf("live generation of %s: %v", id, err)
	}
	return g
}

func newDevice(t *testing.T, lifetime time.Duration, text string) *device {
	d := &device{t: t, dir: memoryDir(t), ca: newFakeCA(t, lifetime), logs: &syncBuffer{}}
	d.ca.writeBootstrap(t, d.dir, 100*365*24*time.Hour)
	writeFile(t, filepath.Join(d.dir, "ca.pem"), pemOf(d.ca.cert.Raw))
	d.configure(text)
	return d
}

// memoryDir is a directory on a memory file system where there is one: a device's years sync thousands of times. That
// what is to survive is synced is for package store to show.
func memoryDir(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "certagent-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

const oneCertificate = `
[provisioning.attestation.identity_cert]
method = "est"
common_name = "gateway"
[provisioning.attestation.identity_cert.auto_renew]
rotate_key = true
threshold = "80%"
retry = "4%"
jitter = "0%"
[cert_issuance.est]
trusted_certs = ["file://DIR/ca.pem"]
[cert_issuance.est.auth]
bootstrap_identity_cert = "file://DIR/bootstrap.pem"
bootstrap_identity_pk = "file://DIR/bootstrap.key.pem"
[cert_issuance.est.urls]
default = "https://est.example/.well-known/est"
`

const withESTIdentity = `
[provisioning.attestation.identity_cert]
method = "est"
common_name = "gateway"
[provisioning.attestation.identity_cert.auto_renew]
threshold = "80%"
retry = "4%"
jitter = "0%"
[cert_issuance.est]
trusted_certs = ["file://DIR/ca.pem"]
[cert_issuance.est.auth]
bootstrap_identity_cert = "file://DIR/bootstrap.pem"
bootstrap_identity_pk = "file://DIR/bootstrap.key.pem"
[cert_issuance.est.identity_auto_renew]
threshold = "70%"
retry = "4%"
jitter = "0%"
[cert_issuance.certs.est-id]
common_name = "est-id"
[cert_issuance.est.urls]
default = "https://est.example/.well-known/est"
`

const day = 24 * time.Hour

// settle lets everything happen that happens at once.
func settle() { synctest.Wait() }

// syncBuffer is a log that several goroutines write.
type syncBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func pemOf(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func writeFile(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}
