package agent

import (
	"context"
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"certagent/agent/hook"
	"certagent/agent/status"
)

// fakeHooks are the consumers: processes and D-Bus do not count as blocked in a bubble. The outputs are real files.
type fakeHooks struct {
	mu    sync.Mutex // guards what follows
	told  []told
	fails map[string]error         // by name of the hook
	holds map[string]chan struct{} // a hook goes on until its channel is closed
	panic string
}

func (f *fakeHooks) Run(ctx context.Context, h hook.Hook, e hook.Event) hook.Result {
	f.mu.Lock()
	f.told = append(f.told, told{time.Now(), h.String(), e})
	err, hold, crash := f.fails[h.String()], f.holds[h.String()], f.panic
	f.mu.Unlock()
	if crash == h.String() {
		panic("a mistake")
	}
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return hook.Result{Err: &hook.Error{Hook: h, Class: hook.ErrStopped}}
		}
	}
	if err != nil {
		return hook.Result{Output: "said this\n", Err: &hook.Error{Hook: h, Class: hook.ErrFailed, Err: err, Hint: "try"}}
	}
	return hook.Result{Output: "well\n"}
}

func (f *fakeHooks) fail(name string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fails = map[string]error{name: err}
}

func (f *fakeHooks) hold(name string) (release func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := make(chan struct{})
	f.holds = map[string]chan struct{}{name: c}
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		close(c)
		f.holds = nil
	}
}

// seen are the hooks that were run, in short: "name/generation/reason".
func (f *fakeHooks) seen() (all []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, t := range f.told {
		all = append(all, fmt.Sprintf("%s/%d/%s", t.hook, t.event.Generation, t.event.Reason))
	}
	return all
}

// event is what the n-th hook that was run was told.
func (f *fakeHooks) event(n int) hook.Event {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.told[n].event
}

func (f *fakeHooks) times(name string) (at []time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, t := range f.told {
		if t.hook == name {
			at = append(at, t.at)
		}
	}
	return at
}

type told struct {
	at    time.Time
	hook  string
	event hook.Event
}

const (
	hookA = `exec "/bin/a"`
	hookB = `exec "/bin/b" "two words"`
)

const delivering = oneCertificate + `
[[provisioning.attestation.identity_cert.outputs]]
format = "combined"
path = "DIR/out/combined.pem"
[[provisioning.attestation.identity_cert.outputs]]
format = "ca"
path = "DIR/out/ca.pem"
[provisioning.attestation.identity_cert.on_renew]
exec = [["/bin/a"], ["/bin/b", "two words"]]
`

// served is a device with consumers.
func newServed(t *testing.T, lifetime time.Duration, text string) (*device, *fakeHooks) {
	d, hooks := newDevice(t, lifetime, text), &fakeHooks{}
	d.change = func(o *Options) { o.Hooks = hooks }
	if err := os.Mkdir(filepath.Join(d.dir, "out"), 0o755); err != nil {
		t.Fatal(err)
	}
	return d, hooks
}

func (d *device) mustServe(path string) {
	d.t.Helper()
	pair, err := tls.LoadX509KeyPair(filepath.Join(d.dir, path), filepath.Join(d.dir, path))
	if err != nil {
		d.t.Fatal(err)
	}
	if live := d.live("device-id"); !pair.Leaf.Equal(live.Leaf) {
		d.t.Errorf("%s holds another certificate than the live one", path)
	}
}

func mustTell(t *testing.T, hooks *fakeHooks, want ...string) {
	t.Helper()
	if got := hooks.seen(); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Fatalf("hooks were run:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func device0(a *Agent) status.Certificate { return a.Snapshot().Certificates[0] }

// codes are the problems of the first certificate, notices left out.
func codes(c status.Certificate) string {
	var all []string
	for _, p := range c.Problems {
		if !p.Notice {
			all = append(all, p.Code)
		}
	}
	return strings.Join(all, " ")
}
