package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"certagent/agent/config"
	"certagent/agent/hook"
	"certagent/agent/status"
	"certagent/store"
)

// fakeHooks are the consumers: processes and D-Bus do not count as blocked in a bubble. The outputs are real files.
type fakeHooks struct {
	mu    sync.Mutex // guards what follows
	told  []told
	fails map[string]error         // by name of the hook
	holds map[string]chan struct{} // a hook goes on until its channel is closed
	panic string
}

type told struct {
	at    time.Time
	hook  string
	event hook.Event
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

// TestDelivery is a certificate's life with consumers: each generation is written and told once, a restart tells nobody
// again, and an output that somebody removed comes back within a minute without a renewal and without a hook.
func TestDelivery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, hooks := newServed(t, day, delivering)
		a, stop := d.boot()
		settle()
		d.mustServe("out/combined.pem")
		mustTell(t, hooks, hookA+"/1/missing", hookB+"/1/missing")
		e := hooks.event(0)
		live := d.live("device-id")
		if e.ID != "device-id" || e.Directory != live.Dir || e.Cert != live.File("cert.pem") || e.Key != live.File("key.pem") ||
			e.Serial != live.Meta.Serial || e.Fingerprint != live.Meta.SHA256 || e.CA != live.File("ca.pem") || !e.NotAfter.Equal(live.Leaf.NotAfter) {
			t.Errorf("told %+v", e)
		}
		c := device0(a)
		if len(c.Outputs) != 2 || c.Outputs[0].State != "ok" || len(c.Hooks) != 2 || c.Hooks[1].State != "ok" || c.Hooks[1].Output != "well\n" ||
			c.Hooks[0].Tries != 1 || !c.Hooks[0].LastTry.Equal(time.Now()) || codes(c) != "" {
			t.Errorf("status: %+v", c)
		}
		if n := strings.Count(d.logs.String(), "certificate delivered"); n != 1 {
			t.Errorf("%d events for one delivery:\n%s", n, d.logs)
		}

		time.Sleep(20 * time.Hour)
		settle()
		d.mustServe("out/combined.pem")
		mustTell(t, hooks, hookA+"/1/missing", hookB+"/1/missing", hookA+"/2/threshold", hookB+"/2/threshold")

		stop()
		before := len(d.ca.seen())
		remove(t, filepath.Join(d.dir, "out/combined.pem")) // while nobody looks
		_, stop = d.boot()
		defer stop()
		settle()
		d.mustServe("out/combined.pem")

		remove(t, filepath.Join(d.dir, "out/combined.pem"))
		time.Sleep(time.Minute)
		settle()
		d.mustServe("out/combined.pem")
		if err := os.Chmod(filepath.Join(d.dir, "out/combined.pem"), 0o644); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		settle()
		if info, err := os.Stat(filepath.Join(d.dir, "out/combined.pem")); err != nil || info.Mode() != 0o600 {
			t.Errorf("mode %v, %v", info.Mode(), err)
		}
		if len(d.ca.seen()) != before || len(hooks.seen()) != 4 {
			t.Errorf("%d requests, %d hooks for an output that was removed", len(d.ca.seen())-before, len(hooks.seen())-4)
		}
	})
}

// TestHookThatFails: it is tried again apart from the renewal and from the other hooks, ever more slowly, over a restart, and a
// new generation begins anew.
func TestHookThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, hooks := newServed(t, day, delivering)
		hooks.fail(hookA, errors.New("exit status 1"))
		a, stop := d.boot()
		settle()
		mustTell(t, hooks, hookA+"/1/missing", hookB+"/1/missing")
		c := device0(a)
		if h := c.Hooks[0]; h.State != "failed" || h.Output != "said this\n" || h.Class != "failed" || !h.NextTry.Equal(time.Now().Add(time.Minute)) {
			t.Errorf("status of the hook: %+v", h)
		}
		if codes(c) != "hook-failed" || c.State != status.Valid || a.Snapshot().ExitCode() != status.ExitDegraded || c.Failures != 0 {
			t.Errorf("%s, %s, exit code %d", codes(c), c.State, a.Snapshot().ExitCode())
		}
		if p := c.Problems[0]; !strings.Contains(p.Text, "exit status 1; the last that it wrote: said this") || p.Hint != "try" || p.Since.IsZero() {
			t.Errorf("problem: %+v", p)
		}
		born := time.Now()
		time.Sleep(2 * time.Minute)
		stop() // after the second try
		_, stop = d.boot()
		defer stop()
		time.Sleep(4 * time.Hour)
		settle()
		at := hooks.times(hookA)
		want := []time.Duration{0, 1, 5, 21, 81, 141, 201}
		if len(at) != len(want) {
			t.Fatalf("tries: %v", at)
		}
		for i, minutes := range want {
			if late := at[i].Sub(born) - minutes*time.Minute; late < 0 || late > time.Minute {
				t.Errorf("try %d came after %v, want %d minutes", i+1, at[i].Sub(born), minutes)
			}
		}
		if n := len(hooks.times(hookB)); n != 1 {
			t.Errorf("the other hook was run %d times", n)
		}
		time.Sleep(time.Until(born.Add(day*8/10 + 90*time.Second)))
		settle()
		if at := hooks.times(hookA); d.live("device-id").Number != 2 || at[len(at)-1].Sub(at[len(at)-2]) != time.Minute {
			t.Errorf("with the new generation: %v", at)
		}
		hooks.fail(hookA, nil)
		time.Sleep(2 * time.Hour)
		n := len(hooks.seen())
		time.Sleep(2 * time.Hour)
		settle()
		if len(hooks.seen()) != n {
			t.Error("a hook that worked was run again")
		}
	})
}

// TestOutputsAreLookedAtBeforeHooks: also when a hook is only tried again.
func TestOutputsAreLookedAtBeforeHooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, hooks := newServed(t, day, delivering)
		d.change = func(o *Options) { o.Hooks, o.Rand = hooks, func() float64 { return .7 } } // not when the minute's look comes
		hooks.fail(hookA, errors.New("no"))
		_, stop := d.boot()
		defer stop()
		time.Sleep(70 * time.Second)
		settle()
		remove(t, filepath.Join(d.dir, "out/combined.pem"))
		release := hooks.hold(hookA)
		time.Sleep(3 * time.Second)
		settle()
		mustTell(t, hooks, hookA+"/1/missing", hookB+"/1/missing", hookA+"/1/missing")
		d.mustServe("out/combined.pem")
		release()
	})
}

// TestNoHookBeforeTheOutputs: an output that cannot be written holds the hooks, is a problem and no failure of the renewal; when
// somebody mends it, it is written within a minute.
func TestNoHookBeforeTheOutputs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, hooks := newServed(t, day, delivering)
		if err := os.Remove(filepath.Join(d.dir, "out")); err != nil {
			t.Fatal(err)
		}
		a, stop := d.boot()
		defer stop()
		time.Sleep(5 * time.Hour)
		settle()
		mustTell(t, hooks)
		s := a.Snapshot()
		c := s.Certificates[0]
		if codes(c) != "output-refused output-refused hooks-waiting" || s.ExitCode() != status.ExitDegraded || c.Failures != 0 {
			t.Errorf("problems: %s, exit code %d", codes(c), s.ExitCode())
		}
		if next := c.OutputsNextTry.Sub(s.Time); next <= 0 || next > time.Hour {
			t.Errorf("next try %v", next)
		}
		if n := strings.Count(d.logs.String(), "certificate not delivered"); n < 6 || n > 9 {
			t.Errorf("%d tries in five hours", n)
		}
		time.Sleep(10 * time.Second)
		if err := os.Mkdir(filepath.Join(d.dir, "out"), 0o755); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		settle()
		d.mustServe("out/combined.pem")
		mustTell(t, hooks, hookA+"/1/missing", hookB+"/1/missing")
		if c := device0(a); codes(c) != "" || !c.OutputsNextTry.IsZero() {
			t.Errorf("afterwards: %+v", c)
		}
	})
}

// TestCABundleChanges: CA certificates that are fetched apart from any renewal reach the outputs and the hooks.
func TestCABundleChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, hooks := newServed(t, longLife, delivering)
		_, stop := d.boot()
		defer stop()
		settle()
		next := newFakeCA(t, day).cert
		d.ca.add(next)
		time.Sleep(8 * day)
		settle()
		mustTell(t, hooks, hookA+"/1/missing", hookB+"/1/missing", hookA+"/1/ca-bundle", hookB+"/1/ca-bundle")
		data, err := os.ReadFile(filepath.Join(d.dir, "out/ca.pem"))
		if err != nil || !strings.Contains(string(data), string(pemOf(next.Raw))) || !strings.Contains(string(data), string(pemOf(d.ca.cert.Raw))) {
			t.Errorf("%v, ca.pem:\n%s", err, data)
		}
		told, err := os.ReadFile(hooks.event(2).CA)
		if err != nil || !strings.Contains(string(told), string(pemOf(next.Raw))) {
			t.Errorf("told of %s: %v\n%s", hooks.event(2).CA, err, told)
		}
		if n := len(d.ca.seen()); n != 1 {
			t.Errorf("%d enrolments", n)
		}
	})
}

// TestNewBundleComesWithARenewal: it is one delivery.
func TestNewBundleComesWithARenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, hooks := newServed(t, day, delivering[:len(oneCertificate)]+`
[provisioning.attestation.identity_cert.on_renew]
exec = [["/bin/a"], ["/bin/b", "two words"]]
`)
		_, stop := d.boot()
		defer stop()
		settle()
		d.ca.add(newFakeCA(t, day).cert)
		time.Sleep(20 * time.Hour)
		settle()
		mustTell(t, hooks, hookA+"/1/missing", hookB+"/1/missing", hookA+"/2/threshold", hookB+"/2/threshold")
	})
}

// TestHookThatHangs: it holds up neither the renewal nor the watchdog; the agent stops all the same, and the hook is run
// again afterwards.
func TestHookThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, hooks := newServed(t, day, delivering)
		var fed atomic.Int64
		d.change = func(o *Options) {
			o.Hooks, o.Watchdog = hooks, time.Minute
			o.Notify = func(s string) { fed.Add(int64(strings.Count(s, "WATCHDOG=1"))) }
		}
		release := hooks.hold(hookA)
		a, stop := d.boot()
		settle()
		if h := device0(a).Hooks; h[0].State != "pending" || h[0].Tries != 1 || h[1].State != "pending" {
			t.Errorf("status: %+v", h)
		}
		a.RenewAll()
		time.Sleep(30 * time.Minute)
		settle()
		if n := d.live("device-id").Number; n != 2 {
			t.Errorf("generation %d after the force", n)
		}
		if n := fed.Load(); n < 30 {
			t.Errorf("the watchdog was fed %d times in half an hour", n)
		}
		mustTell(t, hooks, hookA+"/1/missing")
		began := time.Now()
		stop()
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("stopping took %v", took)
		}
		release()
		_, stop = d.boot()
		defer stop()
		settle()
		mustTell(t, hooks, hookA+"/1/missing", hookA+"/2/forced", hookB+"/2/forced")
	})
}

// TestMuchHappensDuringAHook: two renewals, other CA certificates, and a reload that takes that very hook away. What comes after it is
// about the newest of all.
func TestMuchHappensDuringAHook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, hooks := newServed(t, day, delivering)
		release := hooks.hold(hookA)
		a, stop := d.boot()
		defer stop()
		settle()
		for range 2 {
			a.RenewAll()
			settle()
		}
		d.ca.add(newFakeCA(t, day).cert)
		time.Sleep(time.Second)
		a.RenewAll()
		settle()
		d.configure(strings.ReplaceAll(delivering, `[["/bin/a"], `, `[`))
		a.Reload()
		settle()
		mustTell(t, hooks, hookA+"/1/missing")
		release()
		settle()
		mustTell(t, hooks, hookA+"/1/missing", hookB+"/4/forced")
		d.mustServe("out/combined.pem")
		if data, err := os.ReadFile(filepath.Join(d.dir, "out/ca.pem")); err != nil || strings.Count(string(data), "BEGIN") != 2 {
			t.Errorf("%v, ca.pem:\n%s", err, data)
		}
		if c := device0(a); len(c.Hooks) != 1 || c.Hooks[0].State != "ok" || codes(c) != "" {
			t.Errorf("status: %+v", c)
		}

		release = hooks.hold(hookB)
		a.RenewAll()
		settle()
		// The certificate itself leaves in the middle, and comes back.
		d.configure(strings.ReplaceAll(oneCertificate, "[provisioning.attestation.identity_cert", "[cert_issuance.certs.other"))
		a.Reload()
		time.Sleep(10 * time.Second)
		settle()
		release()
		d.configure(delivering)
		a.Reload()
		settle()
		mustTell(t, hooks, hookA+"/1/missing", hookB+"/4/forced", hookB+"/5/forced", hookA+"/5/forced", hookB+"/5/forced")
	})
}

// TestHookIsRunAgain: what was not seen to end is run again after a restart, for the same generation.
func TestHookIsRunAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, hooks := newServed(t, day, delivering)
		release := hooks.hold(hookB)
		_, stop := d.boot()
		settle()
		stop()
		release()
		_, stop = d.boot()
		settle()
		stop()
		_, stop = d.boot()
		defer stop()
		settle()
		mustTell(t, hooks, hookA+"/1/missing", hookB+"/1/missing", hookB+"/1/missing")
	})
}

// TestPanicOfAHook is a failure of that hook.
func TestPanicOfAHook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, hooks := newServed(t, day, delivering)
		hooks.panic = hookA
		a, stop := d.boot()
		defer stop()
		settle()
		mustTell(t, hooks, hookA+"/1/missing", hookB+"/1/missing")
		if h := device0(a).Hooks; h[0].Class != "internal" || h[1].State != "ok" {
			t.Errorf("status: %+v", h)
		}
	})
}

// TestReloadOfConsumers: what the configuration adds or changes takes effect at once, without a request to the CA, and only
// hooks that never ran for this generation run. A reload also tries again what failed.
func TestReloadOfConsumers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, hooks := newServed(t, day, oneCertificate)
		a, stop := d.boot()
		defer stop()
		settle()
		if _, err := os.Stat(filepath.Join(d.dir, "state/certs/device-id/delivery.json")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("a state of delivery without a consumer: %v", err)
		}
		reload := func(text string) {
			d.configure(text)
			a.Reload()
			settle()
		}
		reload(delivering)
		d.mustServe("out/combined.pem")
		mustTell(t, hooks, hookA+"/1/missing", hookB+"/1/missing")

		const hookC = `exec "/bin/c"`
		hooks.fail(hookC, errors.New("no"))
		changed := strings.ReplaceAll(delivering, `[["/bin/a"], `, `[["/bin/c"], ["/bin/a"], `)
		changed = strings.ReplaceAll(changed, "out/combined.pem", "out/moved.pem")
		changed = strings.ReplaceAll(changed, `path = "DIR/out/ca.pem"`, "path = \"DIR/out/ca.pem\"\nmode = \"0600\"")
		reload(changed)
		d.mustServe("out/moved.pem")
		d.mustServe("out/combined.pem") // nothing is deleted
		mustTell(t, hooks, hookA+"/1/missing", hookB+"/1/missing", hookC+"/1/missing")
		if info, err := os.Stat(filepath.Join(d.dir, "out/ca.pem")); err != nil || info.Mode() != 0o600 {
			t.Errorf("mode %v, %v", info.Mode(), err)
		}
		hooks.fail(hookC, nil)
		reload(changed)
		mustTell(t, hooks, hookA+"/1/missing", hookB+"/1/missing", hookC+"/1/missing", hookC+"/1/missing")
		reload(oneCertificate)
		if c := device0(a); len(c.Outputs)+len(c.Hooks) != 0 {
			t.Errorf("status: %+v", c)
		}
		if n := len(d.ca.seen()); n != 1 {
			t.Errorf("%d requests", n)
		}
	})
}

// TestPasswordOfAnOutput: it is read each time; a missing one is a problem of that output, and one that changes has it
// written anew within a minute.
func TestPasswordOfAnOutput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _ := newServed(t, day, oneCertificate+`
[[provisioning.attestation.identity_cert.outputs]]
format = "pkcs12"
path = "DIR/out/gateway.p12"
password_file = "DIR/p12.password"
`)
		a, stop := d.boot()
		defer stop()
		settle()
		c := device0(a)
		if codes(c) != "output-refused" || !strings.Contains(c.Problems[0].Text, "its password cannot be had") {
			t.Errorf("without a password: %+v", c.Problems)
		}
		read := func() string {
			time.Sleep(time.Minute)
			settle()
			data, err := os.ReadFile(filepath.Join(d.dir, "out/gateway.p12"))
			if err != nil || codes(device0(a)) != "" {
				t.Fatalf("%v, problems %s", err, codes(device0(a)))
			}
			return string(data)
		}
		writeFile(t, filepath.Join(d.dir, "p12.password"), []byte("one\n"))
		one := read()
		writeFile(t, filepath.Join(d.dir, "p12.password"), []byte("another\n"))
		if read() == one {
			t.Error("the file is the same with another password")
		}
		state, err := os.ReadFile(filepath.Join(d.dir, "state/certs/device-id/delivery.json"))
		if err != nil || strings.Contains(string(state), "another") {
			t.Errorf("%v, the password is in the state:\n%s", err, state)
		}
	})
}

// TestOnceDelivers: "run --once" waits for the delivery, and fails with it; it tries at once what failed before.
func TestOnceDelivers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, hooks := newServed(t, day, delivering)
		once := func() error {
			cfg, err := d.load()
			if err != nil {
				t.Fatal(err)
			}
			s, err := store.Open(filepath.Join(d.dir, "state"), store.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			a, err := New(Options{
				Config: cfg, Load: d.load, Store: s, Dial: d.ca.dial, Synced: func() bool { return false }, Hooks: hooks,
			})
			if err != nil {
				t.Fatal(err)
			}
			return a.Once(t.Context())
		}
		hooks.fail(hookA, errors.New("exit status 3"))
		if err := once(); err == nil || !strings.Contains(err.Error(), "delivery of certificate device-id: "+hookA+": failed: exit status 3") {
			t.Errorf("with a hook that fails: %v", err)
		}
		d.mustServe("out/combined.pem")
		mustTell(t, hooks, hookA+"/1/missing", hookB+"/1/missing")
		hooks.fail(hookA, nil)
		if err := once(); err != nil {
			t.Errorf("with one that works: %v", err)
		}
		if err := once(); err != nil {
			t.Errorf("with nothing due: %v", err)
		}
		mustTell(t, hooks, hookA+"/1/missing", hookB+"/1/missing", hookA+"/1/missing")
		if n := len(d.ca.seen()); n != 1 {
			t.Errorf("%d requests", n)
		}
		remove(t, filepath.Join(d.dir, "out/ca.pem"))
		if err := os.Mkdir(filepath.Join(d.dir, "out/ca.pem"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := once(); err == nil || !strings.Contains(err.Error(), "out/ca.pem") {
			t.Errorf("with a directory in an output's place: %v", err)
		}
	})
}

// TestSurveyOfADelivery: from disk the same is told as by the agent, and what a killed agent did not get to is pending.
func TestSurveyOfADelivery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, hooks := newServed(t, day, delivering)
		hooks.fail(hookA, errors.New("no"))
		_, stop := d.boot()
		settle()
		stop()
		survey := func(cfg *config.Config) status.Certificate {
			s, err := store.View(filepath.Join(d.dir, "state"))
			if err != nil {
				t.Fatal(err)
			}
			snapshot, err := Survey(SurveyOptions{Config: cfg, Store: s, Now: time.Now()})
			if err != nil {
				t.Fatal(err)
			}
			return snapshot.Certificates[0]
		}
		cfg, err := d.load()
		if err != nil {
			t.Fatal(err)
		}
		for name, cfg := range map[string]*config.Config{"with": cfg, "without": nil} {
			if c := survey(cfg); c.Hooks[0].State != "failed" || c.Hooks[1].State != "ok" || c.Outputs[0].State != "ok" || codes(c) != "hook-failed" {
				t.Errorf("%s configuration: %+v", name, c)
			}
		}
		state := filepath.Join(d.dir, "state/certs/device-id/delivery.json")
		data, err := os.ReadFile(state)
		if err != nil {
			t.Fatal(err)
		}
		live := d.live("device-id").Meta.SHA256
		writeFile(t, state, []byte(strings.Replace(string(data), live, strings.Repeat("0", len(live)), 1)))
		for name, cfg := range map[string]*config.Config{"with": cfg, "without": nil} {
			if c := survey(cfg); c.Hooks[1].State != "pending" || c.Outputs[0].State != "pending" || codes(c) != "" {
				t.Errorf("%s configuration, after the delivery of another generation: %+v", name, c)
			}
		}
		remove(t, state)
		if c := survey(cfg); c.Hooks[0].State != "pending" || c.Outputs[1].State != "pending" || codes(c) != "" {
			t.Errorf("before the delivery: %+v", c)
		}
		cfg.Certificates = nil
		if c := survey(cfg); c.State != status.Unmanaged || len(c.Hooks)+len(c.Outputs) != 0 {
			t.Errorf("out of the configuration: %+v", c)
		}
	})
}
