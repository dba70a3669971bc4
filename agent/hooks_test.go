package agent

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"certagent/agent/status"
)

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
