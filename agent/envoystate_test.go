package agent

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"certagent/agent/control"
	"certagent/agent/onboard/dps"
	"certagent/agent/onboard/dps/dpstest"
	"certagent/agent/status"
	"certagent/store"
)

// TestTryIsStoredBeforeItIsMade: an agent that dies while it tells the cloud does not tell it at each start.
func TestTryIsStoredBeforeItIsMade(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newClouded(t, day, dpstest.Options{})
		defer c.end()
		c.cloud.Always("", dpstest.Hang(t.Context()))
		_, stop := c.boot()
		defer stop()
		time.Sleep(time.Second)
		settle()
		c.mustAsk("register")
		file, err := os.ReadFile(filepath.Join(c.state(), "onboard", "dps-state.json"))
		if err != nil {
			t.Fatal(err)
		}
		if s := dps.ParseState(file); s.Failures != 1 || !s.NextTry.After(time.Now()) {
			t.Errorf("while the cloud is asked the disk says %s", file)
		}
	})
}

// TestOrderOutlastsTheAgent: what a person asked for is done, and said to be open until then, also by an agent that was started since.
func TestOrderOutlastsTheAgent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newClouded(t, day, dpstest.Options{})
		defer c.end()
		a, stop := c.boot()
		time.Sleep(10 * time.Second)
		settle()
		c.mustBeKnown(a)
		c.cloud.Always("", dpstest.Status(429, "", "Retry-After", "600"))
		if _, err := a.Onboard(t.Context(), control.Onboarding{Again: true}); err != nil {
			t.Fatal(err)
		}
		settle()
		stop()
		c.cloud.Clear()
		a, stop = c.boot()
		defer stop()
		settle()
		if o := device0(a).Onboarding; !o.Ordered || o.Why != "asked" {
			t.Errorf("after a restart status says %+v", o)
		}
		time.Sleep(time.Hour)
		settle()
		c.mustAsk("register", "poll", "register", "register", "poll")
		c.mustBeKnown(a)
	})
}

// TestKnownBeforeTheFirstLook: what the cloud said last time is shown from the start of an agent on, well or badly; with a problem
// for as long as it was there.
func TestKnownBeforeTheFirstLook(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newClouded(t, day, dpstest.Options{})
		defer c.end()
		_, stop := c.boot()
		time.Sleep(10 * time.Second)
		stop()
		c.mustBeKnown(c.unstarted())

		c.cloud.Always("", dpstest.Error(401002, "Unauthorized"))
		remove(t, c.resultFile())
		a, stop := c.boot()
		time.Sleep(time.Hour)
		settle()
		before := device0(a)
		stop()
		after := device0(c.unstarted())
		if o, b := after.Onboarding, before.Onboarding; o == nil || o.State != status.Failed || o.Failures != b.Failures || !o.NextTry.Equal(b.NextTry) {
			t.Errorf("status says %+v, and said %+v before", o, b)
		}
		if p, b := after.CloudProblem(), before.CloudProblem(); p == nil || p.Code != dps.CodeUnauthorized || !p.Since.Equal(b.Since) {
			t.Errorf("the problem is %+v, and was %+v before", p, b)
		}
	})
}

// unstarted is an agent that has read what is kept, and has not looked at anything yet.
func (d *device) unstarted() *Agent {
	d.t.Helper()
	cfg, err := d.load()
	if err != nil {
		d.t.Fatal(err)
	}
	s, err := store.Open(d.state(), store.Options{MachineID: "test"})
	if err != nil {
		d.t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			d.t.Error(err)
		}
	}()
	a, err := New(d.options(cfg, s))
	if err != nil {
		d.t.Fatal(err)
	}
	a.readAll()
	close(a.read)
	return a
}

// TestAskedAtTheEnd: an order that comes while the last answer of a registration is on its way has the device register once more, and
// is open until then.
func TestAskedAtTheEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newClouded(t, day, dpstest.Options{})
		defer c.end()
		asked := make(chan struct{})
		c.cloud.Next(dpstest.OpPoll, func(w http.ResponseWriter, r *http.Request, real http.Handler) {
			real.ServeHTTP(w, r) // what the service knows by then does not count
			<-asked
		})
		a, stop := c.boot()
		defer stop()
		time.Sleep(10 * time.Second)
		c.mustAsk("register", "poll")
		answer, err := a.Onboard(t.Context(), control.Onboarding{Again: true})
		if err != nil || answer.Known || answer.Waits != "" {
			t.Errorf("onboard --again: %+v, %v", answer, err)
		}
		close(asked)
		time.Sleep(time.Second)
		settle()
		c.mustAsk("register", "poll", "register")
		if o := device0(a).Onboarding; !o.Ordered || o.Why != "asked" {
			t.Errorf("when what was under way has ended status says %+v", o)
		}
		time.Sleep(time.Minute)
		settle()
		c.mustAsk("register", "poll", "register", "poll")
		c.mustBeKnown(a)
		if device0(a).Onboarding.Ordered {
			t.Error("what was asked for is still said to be open")
		}
		c.logs.mustSay(t, 2, `"event":"registration"`)
		c.logs.mustSay(t, 2, `"result":"registered"`)
	})
}

// TestNothingToShow: a certificate that has expired, or is another device's of which this disk is a copy, is shown to no cloud.
func TestNothingToShow(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*clouded){
		"expired": func(*clouded) { time.Sleep(2 * day) },
		"cloned":  func(c *clouded) { c.on("another") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := newClouded(t, day, dpstest.Options{})
				defer c.end()
				_, stop := c.boot()
				time.Sleep(10 * time.Second)
				settle()
				stop()
				remove(t, c.resultFile())
				c.ca.fail(unavailable)
				spoil(c)
				a, stop := c.boot()
				defer stop()
				time.Sleep(time.Hour)
				settle()
				c.mustAsk("register", "poll")
				if o := device0(a).Onboarding; o.State != status.Pending || o.Why != "" || !o.NextTry.IsZero() {
					t.Errorf("status says %+v", o)
				}
				c.ca.fail(nil)
				a.RenewAll()
				time.Sleep(time.Minute)
				settle()
				c.mustBeKnown(a)
			})
		})
	}
}

// TestOnboardingThatAnybodyMayWrite: what others may have written is not believed and is a problem, but keeps no device from its cloud;
// once that is mended what the cloud said is kept, without asking it again.
func TestOnboardingThatAnybodyMayWrite(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newClouded(t, day, dpstest.Options{})
		defer c.end()
		dir := filepath.Dir(c.resultFile())
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		a, stop := c.boot()
		defer stop()
		time.Sleep(time.Hour)
		settle()
		c.mustAsk("register", "poll")
		if p := device0(a).Problems; len(p) != 1 || p[0].Code != "store" {
			t.Errorf("problems: %+v", p)
		}
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		settle()
		c.mustAsk("register", "poll")
		c.mustBeKnown(a)
	})
}

// TestErrandIsCalledOff: a renewal does not wait for an answer about the certificate before, nor does what registers the new one.
func TestErrandIsCalledOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newClouded(t, day, dpstest.Options{})
		defer c.end()
		c.cloud.Next("", dpstest.Hang(t.Context()))
		a, stop := c.boot()
		defer stop()
		time.Sleep(time.Second)
		a.RenewAll()
		time.Sleep(10 * time.Second)
		settle()
		c.mustAsk("register", "register", "poll")
		c.mustBeKnown(a)
	})
}

// TestClockThatWasSet: a cloud that could not be verified is tried at once when the clock was set, which may be why.
func TestClockThatWasSet(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newClouded(t, day, dpstest.Options{})
		defer c.end()
		roots := filepath.Join(c.dir, "cloud.pem")
		remove(t, roots)
		a, stop := c.boot()
		defer stop()
		time.Sleep(5 * time.Hour)
		settle()
		if p := device0(a).Problems; len(p) != 1 || p[0].Code != dps.CodeUntrusted {
			t.Fatalf("problems: %+v", p)
		}
		writeFile(t, roots, c.cloud.RootPEM()) // in place of a clock by which it was not valid yet
		a.clockSet(time.Now(), time.Hour)
		time.Sleep(10 * time.Second)
		settle()
		c.mustBeKnown(a)
	})
}
