package control_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"certagent/agent/control"
	"certagent/agent/status"
)

// patience is how long a test waits for what must happen, on a machine that does something else besides. It is no measure of
// speed: a thousand connections at once took a minute where each of many had a share of one processor.
const patience = 2 * time.Minute

// agent is what a server speaks for in these tests. It publishes, and remembers what it was told.
type agent struct {
	mu        sync.Mutex // guards what follows
	snapshot  status.Snapshot
	revision  int
	changed   chan struct{}
	renewals  []control.Renewal
	imports   []control.Import
	reloadErr error
	hang      chan struct{} // a reload takes until this is closed; nil: no time
}

func (a *agent) publish(change func(*status.Snapshot)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change(&a.snapshot)
	a.revision++
	close(a.changed)
	a.changed = make(chan struct{})
}

func (a *agent) Snapshot() status.Snapshot {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.snapshot
}

func (a *agent) Metrics() []byte { return []byte("certagent_clock_credible 1\n") }

func (a *agent) CatchUp(context.Context) {}

func (a *agent) News() (string, <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return fmt.Sprint(a.revision), a.changed
}

func (a *agent) Renew(_ context.Context, r control.Renewal) ([]control.Renewed, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.renewals = append(a.renewals, r)
	if len(r.IDs) == 1 && r.IDs[0] == "other" {
		return nil, &control.Error{Status: http.StatusNotFound, Text: "the agent keeps no certificate \"other\"", Hint: "look"}
	}
	return []control.Renewed{{ID: "mqtt", Generation: 7, Waits: "later"}}, nil
}

func (a *agent) ReloadNow(ctx context.Context) error {
	a.mu.Lock()
	err, hang := a.reloadErr, a.hang
	a.mu.Unlock()
	if hang != nil {
		select {
		case <-hang:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return err
}

func (a *agent) Onboard(_ context.Context, o control.Onboarding) (control.Onboarded, error) {
	return control.Onboarded{ID: "device-id", Known: !o.Again, Waits: "for its turn"}, nil
}

func (a *agent) Import(_ context.Context, i control.Import) (control.Imported, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.imports = append(a.imports, i)
	return control.Imported{Generation: 1, Directory: "/state/certs/mqtt/gen-000001"}, nil
}

func newAgent() *agent {
	return &agent{changed: make(chan struct{}), snapshot: status.Snapshot{Schema: status.Schema, StateDir: "/state", Running: true}}
}

// serve is a server for a at a socket of its own.
func serve(t *testing.T, a control.Agent) (s *control.Server, socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "control.sock")
	s = control.NewServer(a, zerolog.Nop())
	if err := s.Keep(socket, -1, -1); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s, socket
}

func client(t *testing.T, socket string) *control.Client {
	t.Helper()
	c := control.NewClient(socket, uint32(os.Geteuid()))
	t.Cleanup(c.Close)
	return c
}

func dial(t *testing.T, socket string) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return c
}

// say sends a request as it is typed, and gives the answer.
func say(t *testing.T, socket, request string) (*http.Response, string) {
	t.Helper()
	c := dial(t, socket)
	_, _ = io.WriteString(c, request) // what is too long is not read to its end
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatalf("%q: %v", request, err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r, string(body)
}

func within(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("did not happen within %v: %s", patience, what)
		}
	}
}
