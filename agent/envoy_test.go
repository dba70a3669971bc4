package agent

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certagent/agent/control"
	"certagent/agent/onboard/dps"
	"certagent/agent/onboard/dps/dpstest"
	"certagent/agent/status"
	"certagent/est"
	"certagent/store/durable/durabletest"
)

// pipes is a network in memory, so that all that waits for it waits in fake time: a listener, and the dialer that reaches it.
type pipes struct {
	est.Dialer // its TLS settings
	accept     chan net.Conn
	closed     chan struct{}
}

func newPipes() *pipes {
	return &pipes{accept: make(chan net.Conn), closed: make(chan struct{}),
		Dialer: est.Dialer{Proxy: func(*http.Request) (*url.URL, error) { return nil, nil }}}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.accept:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	close(p.closed)
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 443} }

func (p *pipes) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case p.accept <- far:
		return near, nil
	case <-p.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// clouded is a device whose certificate is for a cloud, with consumers, in a bubble of fake time.
type clouded struct {
	*device
	hooks *fakeHooks
	cloud *dpstest.Server
	pipes *pipes
}

const registering = `
[provisioning]
source = "dps"
global_endpoint = "https://dps.example"
id_scope = "SCOPE"
trusted_certs = ["file://DIR/cloud.pem"]
` + delivering

func newClouded(t *testing.T, lifetime time.Duration, o dpstest.Options) *clouded {
	p := newPipes()
	o.Listener = p
	cloud := dpstest.New(t, o)
	text := strings.NewReplacer("SCOPE", cloud.IDScope(), "https://dps.example", cloud.URL()).Replace(registering)
	d, hooks := newServed(t, lifetime, text)
	change := d.change
	d.change = func(o *Options) {
		change(o)
		o.Clouds = p
	}
	writeFile(t, filepath.Join(d.dir, "cloud.pem"), cloud.RootPEM())
	cloud.EnrolGroup(d.ca.cert, dpstest.Enrolment{})
	return &clouded{d, hooks, cloud, p}
}

// end closes the service, before the bubble ends.
func (c *clouded) end() { c.cloud.Close() }

// known is the thumbprint by which the hub knows the device.
func (c *clouded) known() string { return c.cloud.Thumbprint(dpstest.DefaultHub, "gateway") }

// asked are the operations that the service was asked for, in short.
func (c *clouded) asked() (ops []string) {
	for _, r := range c.cloud.Requests() {
		ops = append(ops, r.Op)
	}
	return ops
}

func (c *clouded) mustAsk(want ...string) {
	c.t.Helper()
	if got := c.asked(); !slices.Equal(got, want) {
		c.t.Fatalf("the cloud was asked to %q, want %q", got, want)
	}
}

// mustBeKnown tells that the hub, the files and the status agree that the cloud knows the live certificate.
func (c *clouded) mustBeKnown(a *Agent) {
	c.t.Helper()
	live := thumbprint(c.live("device-id").Leaf)
	if got := c.known(); got != live {
		c.t.Errorf("the hub knows %q, and %q is live", got, live)
	}
	file, err := os.ReadFile(c.resultFile())
	if err != nil {
		c.t.Fatal(err)
	}
	if r := dps.ParseResult(file); r == nil || r.SHA256 != live || r.Hub != dpstest.DefaultHub || r.DeviceID != "gateway" {
		c.t.Errorf("the result on disk is %s", file)
	}
	o := device0(a).Onboarding
	if o == nil || o.State != status.Registered || o.SHA256 != live || o.File != c.resultFile() || o.Why != "" || !o.NextTry.IsZero() {
		c.t.Errorf("status says %+v", o)
	}
	if p := device0(a).Problems; len(p) != 0 {
		c.t.Errorf("problems: %+v", p)
	}
}

func (c *clouded) resultFile() string { return filepath.Join(c.state(), "onboard", "dps.json") }

// TestRegisters is the whole way: the device registers with its first certificate and again with each new one, before its
// consumers are told of it, and not at a boot.
func TestRegisters(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newClouded(t, day, dpstest.Options{})
		defer c.end()
		a, stop := c.boot()
		time.Sleep(2 * time.Second)
		settle()
		c.mustAsk("register") // and it has not decided
		mustTell(t, c.hooks)
		if o := device0(a).Onboarding; o.State != status.Pending || o.Why != "unknown" || a.Snapshot().ExitCode() != 0 {
			t.Errorf("while it goes on status says %+v", o)
		}
		time.Sleep(2 * time.Second)
		settle()
		c.mustAsk("register", "poll")
		c.mustBeKnown(a)
		mustTell(t, c.hooks, hookA+"/1/missing", hookB+"/1/missing")
		c.mustServe("out/combined.pem")

		first := c.known()
		time.Sleep(day * 8 / 10)
		settle()
		c.mustAsk("register", "poll", "register", "poll")
		c.mustBeKnown(a)
		if c.known() == first {
			t.Error("the hub still knows the first certificate")
		}
		mustTell(t, c.hooks, hookA+"/1/missing", hookB+"/1/missing", hookA+"/2/threshold", hookB+"/2/threshold")
		told, requests := c.hooks.times(hookA)[1], c.cloud.Requests()
		if answered := requests[3].When; told.Before(answered) {
			t.Errorf("hooks ran %v before the cloud knew the certificate", answered.Sub(told))
		}
		stop()

		a, stop = c.boot()
		defer stop()
		time.Sleep(time.Hour)
		settle()
		c.mustAsk("register", "poll", "register", "poll")
		c.mustBeKnown(a)
		c.logs.mustSay(t, 2, `"event":"registration"`)
		c.logs.mustSay(t, 1, `"reason":"renewed","cloud":"dps"`)
	})
}

// mustSay tells that so many lines have text.
func (b *syncBuffer) mustSay(t *testing.T, want int, text string) {
	t.Helper()
	if got := strings.Count(b.String(), text); got != want {
		t.Errorf("%d lines say %s, want %d:\n%s", got, text, want, b.String())
	}
}

// TestCloudAway: a cloud that does not answer, or refuses the device, is a problem of the certificate and stops neither its
// renewals nor, after a while, its consumers; and it is told as soon as it answers.
func TestCloudAway(t *testing.T) {
	t.Parallel()
	for _, trouble := range []struct {
		name, code string
		fault      dpstest.Fault
	}{
		{"unavailable", dps.CodeUnavailable, dpstest.Status(503, "")},
		{"no answer", dps.CodeUnavailable, dpstest.CloseBeforeAnswer},
		{"no enrolment", dps.CodeUnauthorized, dpstest.Error(401002, "Unauthorized")},
		{"not the service", dps.CodeBadResponse, dpstest.Status(200, "<html>Welcome to our WiFi</html>")},
	} {
		t.Run(trouble.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := newClouded(t, day, dpstest.Options{})
				defer c.end()
				c.cloud.Always("", trouble.fault)
				a, stop := c.boot()
				defer stop()
				time.Sleep(holdAtMost - time.Second)
				settle()
				mustTell(t, c.hooks)
				time.Sleep(2 * time.Second)
				settle()
				mustTell(t, c.hooks, hookA+"/1/missing", hookB+"/1/missing")
				s := a.Snapshot()
				d := s.Certificates[0]
				if d.State != status.Valid || s.ExitCode() != status.ExitDegraded || len(d.Problems) != 1 {
					t.Fatalf("%s, exit code %d, %+v", d.State, s.ExitCode(), d.Problems)
				}
				if p := d.Problems[0]; p.Code != trouble.code || p.Hint == "" || p.Since.IsZero() {
					t.Errorf("the problem is %+v", p)
				}
				if o := d.Onboarding; o.State != status.Failed || o.Failures == 0 || !o.NextTry.After(time.Now()) {
					t.Errorf("status says %+v", o)
				}

				began := len(c.asked())
				time.Sleep(3 * day)
				settle()
				if n := c.live("device-id").Number; n < 4 {
					t.Errorf("generation %d is live after three days: the cloud kept the certificate from being renewed", n)
				}
				if tries := len(c.asked()) - began; tries < 3 || tries > 120 {
					t.Errorf("%d tries in three days", tries)
				}

				c.cloud.Clear()
				if _, err := a.Onboard(t.Context(), control.Onboarding{}); err != nil {
					t.Fatal(err)
				}
				time.Sleep(10 * time.Second)
				settle()
				c.mustBeKnown(a)
			})
		})
	}
}

// TestRegistersAgain: what has a device register once more, although its certificate is the one that was registered.
func TestRegistersAgain(t *testing.T) {
	t.Parallel()
	for name, cause := range map[string]func(c *clouded, a *Agent){
		"the result is gone": func(c *clouded, _ *Agent) { remove(c.t, c.resultFile()) },
		"the result is damaged": func(c *clouded, _ *Agent) {
			writeFile(c.t, c.resultFile(), []byte("{"))
		},
		"a person asks": func(c *clouded, a *Agent) {
			if answer, err := a.Onboard(c.t.Context(), control.Onboarding{}); err != nil || !answer.Known {
				c.t.Errorf("onboard: %+v, %v", answer, err)
			}
			answer, err := a.Onboard(c.t.Context(), control.Onboarding{Again: true})
			if err != nil || answer.Known || answer.Waits != "" || !device0(a).Onboarding.Ordered {
				c.t.Errorf("onboard --again: %+v, %v, %+v", answer, err, device0(a).Onboarding)
			}
		},
		"another registration id": func(c *clouded, a *Agent) {
			c.text = strings.Replace(c.text, "[provisioning.attestation.identity_cert]",
				"[provisioning.attestation]\nregistration_id = \"GATEWAY\"\n[provisioning.attestation.identity_cert]", 1)
			c.text = strings.Replace(c.text, "common_name = \"gateway\"\n", "", 1)
			if err := a.ReloadNow(c.t.Context()); err != nil {
				c.t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := newClouded(t, day, dpstest.Options{})
				defer c.end()
				a, stop := c.boot()
				defer stop()
				time.Sleep(10 * time.Second)
				settle()
				c.mustBeKnown(a)
				n := len(c.asked())
				cause(c, a)
				time.Sleep(2 * time.Hour) // a changed name waits for its turn
				settle()
				if name == "another registration id" { // it is a new certificate as well
					if got := c.asked(); len(got) <= n || c.live("device-id").Number != 2 {
						t.Errorf("asked %q, generation %d", got, c.live("device-id").Number)
					}
					return
				}
				c.mustAsk("register", "poll", "register", "poll")
				c.mustBeKnown(a)
				if device0(a).Onboarding.Ordered {
					t.Error("what was asked for is still said to be open")
				}
			})
		})
	}
}

// TestReloadOfTheCloud: another cloud, or none, counts at once; what was wrong with the settings is tried at once when they
// are mended.
func TestReloadOfTheCloud(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newClouded(t, day, dpstest.Options{})
		defer c.end()
		good := c.text
		var a *Agent
		reload := func(text string) {
			t.Helper()
			c.text = text
			if err := a.ReloadNow(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Second)
			settle()
		}
		writeFile(t, filepath.Join(c.dir, "other.pem"), pemOf(c.ca.cert.Raw)) // EST's anchor is not the cloud's
		c.text = strings.Replace(good, "cloud.pem", "other.pem", 1)
		var stop func()
		a, stop = c.boot()
		defer stop()
		time.Sleep(time.Hour)
		settle()
		if p := device0(a).Problems; len(p) != 1 || p[0].Code != dps.CodeUntrusted {
			t.Errorf("of a cloud that EST's anchor does not verify: %+v", p)
		}
		c.mustAsk()
		reload(good)
		c.mustBeKnown(a)
		c.mustAsk("register", "poll")

		reload(strings.Replace(good, c.cloud.IDScope(), "<DPS-ID-SCOPE>", 1))
		if d := device0(a); d.Onboarding != nil || len(d.Problems) != 1 || d.Problems[0].Code != "placeholder" {
			t.Errorf("of a blank: %+v %+v", d.Onboarding, d.Problems)
		}
		_, err := a.Onboard(t.Context(), control.Onboarding{Again: true})
		if e, ok := errors.AsType[*control.Error](err); !ok || e.Status != http.StatusConflict || !strings.Contains(e.Text, "blank") {
			t.Errorf("onboard with a blank: %v", err)
		}
		reload(good)
		c.mustAsk("register", "poll")
		c.mustBeKnown(a)
		reload(strings.Replace(good, c.cloud.IDScope(), "0neDEADBEEF", 1))
		if o := device0(a).Onboarding; o.State != status.Failed || o.Why != "changed" || o.Hub != dpstest.DefaultHub {
			t.Errorf("of another scope, which the service does not know: %+v", o)
		}
	})
}

// TestRegistrationGoesOn: a restart, and a renewal, in the middle of a registration that takes minutes. The service is not
// asked to begin anew by the one, and knows the newest certificate after the other.
func TestRegistrationGoesOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newClouded(t, day, dpstest.Options{Takes: 3 * time.Minute})
		defer c.end()
		_, stop := c.boot()
		time.Sleep(time.Minute)
		stop()
		a, stop := c.boot()
		defer stop()
		time.Sleep(4 * time.Minute)
		settle()
		c.mustBeKnown(a)
		registers := func() (n int) {
			for _, op := range c.asked() {
				if op == dpstest.OpRegister {
					n++
				}
			}
			return n
		}
		if n := registers(); n != 1 {
			t.Errorf("%d registrations, want that of before the restart to go on", n)
		}

		a.RenewAll()
		time.Sleep(time.Minute)
		a.RenewAll()
		time.Sleep(10 * time.Second)
		settle()
		// The service refuses the newest while it is at the one before, which is as it should be, and ends by itself.
		d := device0(a)
		o, p := d.Onboarding, d.CloudProblem()
		if o.State != status.Pending || p == nil || p.Code != dps.CodeConflict || !p.Notice || a.Snapshot().ExitCode() != 0 {
			t.Errorf("while the former registration goes on: %+v, %+v, exit code %d", o, p, a.Snapshot().ExitCode())
		}
		time.Sleep(30 * time.Minute)
		settle()
		if n := c.live("device-id").Number; n != 3 {
			t.Fatalf("generation %d", n)
		}
		c.mustBeKnown(a)
	})
}

// TestCloudAndTheClock: with a clock that is not credible no cloud is told.
func TestCloudAndTheClock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newClouded(t, day, dpstest.Options{})
		defer c.end()
		a, stop := c.boot()
		time.Sleep(10 * time.Second)
		settle()
		c.mustBeKnown(a)
		stop()
		remove(t, c.resultFile())
		change := c.change
		c.change = func(o *Options) {
			change(o)
			o.Built = time.Now().Add(3 * time.Hour)
		}
		a, stop = c.boot()
		defer stop()
		answer, err := a.Onboard(t.Context(), control.Onboarding{Again: true})
		if err != nil || !strings.Contains(answer.Waits, "clock") {
			t.Errorf("onboard: %+v, %v", answer, err)
		}
		time.Sleep(2 * time.Hour)
		settle()
		c.mustAsk("register", "poll")
		time.Sleep(2 * time.Hour)
		settle()
		c.mustAsk("register", "poll", "register", "poll")
		c.mustBeKnown(a)
	})
}

// TestCloudOnce: "run --once" has the cloud know the certificate before it returns, or says why not; and the consumers are
// served in either case.
func TestCloudOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newClouded(t, day, dpstest.Options{Takes: 20 * time.Second})
		defer c.end()
		c.cloud.Always("", dpstest.Error(401002, "Unauthorized"))
		if err := c.once(); err == nil || !strings.Contains(err.Error(), "401002") {
			t.Errorf("a refusal: %v", err)
		}
		c.mustServe("out/combined.pem")
		c.cloud.Clear()
		if err := c.once(); err != nil { // over the back-off
			t.Error(err)
		}
		n := len(c.asked())
		if err := c.once(); err != nil {
			t.Error(err)
		}
		if again := len(c.asked()); again != n {
			t.Errorf("a turn with nothing to do asked the cloud %d times", again-n)
		}
		if live := thumbprint(c.live("device-id").Leaf); c.known() != live {
			t.Errorf("the hub knows %s, and %s is live", c.known(), live)
		}
		s, err := survey(c.device)
		if err != nil {
			t.Fatal(err)
		}
		if o := s.Certificates[0].Onboarding; o == nil || o.State != status.Registered || o.DeviceID != "gateway" {
			t.Errorf("from the disk status says %+v", o)
		}
		c.cloud.Always("", dpstest.Status(429, "", "Retry-After", "3600"))
		remove(t, c.resultFile())
		if err := c.once(); err == nil {
			t.Error("throttled, and no error")
		}
		n = len(c.asked())
		if err := c.once(); err == nil || !strings.Contains(err.Error(), "not before") {
			t.Errorf("what the cloud asked for: %v", err)
		}
		if again := len(c.asked()); again != n {
			t.Error("Retry-After was not obeyed")
		}

		// A clock that ran ahead by years, and was put right, has stored that no order goes over the year 2036.
		file := filepath.Join(filepath.Dir(c.resultFile()), "dps-state.json")
		stored, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		state := dps.ParseState(stored)
		state.LastTry, state.NextTry, state.RetryAfter = time.Now().Add(10*year), time.Now().Add(10*year), time.Now().Add(10*year)
		writeFile(t, file, state.Bytes())
		c.cloud.Clear()
		if err := c.once(); err != nil {
			t.Errorf("what a clock that was wrong has stored: %v", err)
		}
	})
}

// once is a turn of "run --once".
func (c *clouded) once() error {
	c.t.Helper()
	return c.turn(c.broken(0, durabletest.Fail))
}
