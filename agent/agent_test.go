package agent

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"certagent/agent/config"
	"certagent/agent/status"
	"certagent/est"
	"certagent/store"
	"certagent/store/durable"
	"certagent/store/keys"
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
	cfg, err := d.load()
	if err != nil {
		d.t.Fatal(err)
	}
	s, err := store.Open(filepath.Join(d.dir, "state"), store.Options{MachineID: "test"})
	if err != nil {
		d.t.Fatal(err)
	}
	a, err := New(d.options(cfg, s))
	if err != nil {
		d.t.Fatal(err)
	}
	return a, d.start(a, s)
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

const day = 24 * time.Hour

// settle lets everything happen that happens at once.
func settle() { synctest.Wait() }

func TestRenewsForEver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, day, oneCertificate)
		_, stop := d.boot()
		defer stop()
		born := time.Now()
		time.Sleep(10*day + time.Hour)
		settle()

		calls := d.ca.seen()
		want := 1 + int(10*day/(day*8/10))
		if len(calls) != want {
			t.Fatalf("%d requests in ten days, want %d", len(calls), want)
		}
		if c := calls[0]; c.op != opEnroll || c.identity != identityBootstrap {
			t.Errorf("first request: %s by %s, want simpleenroll by the bootstrap certificate", c.op, c.identity)
		}
		for n, c := range calls[1:] {
			if c.op != opReenroll || c.identity != identitySelf {
				t.Errorf("request %d: %s by %s, want simplereenroll by the certificate itself", n+2, c.op, c.identity)
			}
			due := born.Add(time.Duration(n+1) * day * 8 / 10)
			if late := c.at.Sub(due); late < 0 || late > time.Second {
				t.Errorf("request %d came %v after it was due", n+2, late)
			}
		}
		if g := d.live("device-id"); g.Number != want {
			t.Errorf("live generation is %d, want %d", g.Number, want)
		}
	})
}

func TestForcedRenewal(t *testing.T) {
	t.Parallel()
	for _, rotate := range []bool{true, false} {
		t.Run(fmt.Sprintf("rotate_key=%v", rotate), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := newDevice(t, day, strings.Replace(oneCertificate, "rotate_key = true", fmt.Sprintf("rotate_key = %v", rotate), 1))
				a, stop := d.boot()
				defer stop()
				settle()
				before := d.live("device-id")
				time.Sleep(time.Hour)
				a.RenewAll()
				a.RenewAll() // coalesced with the first, or one more renewal; never an error
				settle()
				after := d.live("device-id")
				if after.Number < 2 || after.Leaf.SerialNumber.Cmp(before.Leaf.SerialNumber) == 0 {
					t.Fatalf("generation %d with serial %x after the force", after.Number, after.Leaf.SerialNumber)
				}
				if same := keys.Equal(before.Key.Public(), after.Key.Public()); same == rotate {
					t.Errorf("same key: %v with rotate_key = %v", same, rotate)
				}
				if after.Meta.Reason != string(reasonForced) {
					t.Errorf("reason in meta.json is %q", after.Meta.Reason)
				}
			})
		})
	}
}

// TestOutageLongerThanTheCertificate: an expired certificate cannot log in, so the bootstrap certificate brings it back,
// and the wait after the outage is short although it has failed for days.
func TestOutageLongerThanTheCertificate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, 10*day, oneCertificate)
		a, stop := d.boot()
		defer stop()
		settle()
		time.Sleep(6 * day)
		down := time.Now()
		d.ca.fail(unavailable)
		time.Sleep(7 * day) // it expires after four of them
		settle()

		tries := d.ca.since(down)
		if n := len(tries); n < 10 || n > 60 {
			t.Errorf("%d tries in a week of outage", n)
		}
		if last := tries[len(tries)-1]; last.identity != identityBootstrap || last.op != opEnroll {
			t.Errorf("the last try after expiry was %s by %s", last.op, last.identity)
		}
		expired := d.live("device-id").Leaf.NotAfter
		if i := slices.IndexFunc(tries, func(c call) bool { return !c.at.Before(expired) }); tries[i].at.Sub(expired) > time.Minute {
			t.Errorf("the first try after expiry came %v later, want at once", tries[i].at.Sub(expired))
		}
		s := a.Snapshot()
		if c := s.Certificates[0]; c.State != status.Expired || c.LastClass != "unavailable" || s.ExitCode() != status.ExitExpired {
			t.Errorf("status: %s, %s, exit code %d", c.State, c.LastClass, s.ExitCode())
		}

		d.ca.fail(nil)
		up := time.Now()
		for d.live("device-id").Number == 1 && time.Since(up) < 3*day {
			time.Sleep(time.Minute)
		}
		if g := d.live("device-id"); g.Number != 2 || g.Meta.Identity != string(identityBootstrap) {
			t.Errorf("three days after the outage: generation %d by %s", g.Number, g.Meta.Identity)
		}
	})
}

func TestRefusedIdentityIsPassedOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, day, oneCertificate)
		_, stop := d.boot()
		defer stop()
		settle()
		time.Sleep(time.Minute)
		d.ca.fail(func(c call) error {
			if c.identity == identitySelf {
				return &est.Error{Op: c.op, Class: est.ErrUnauthorized, Status: 401, Refusal: true}
			}
			return nil
		})
		start := time.Now()
		time.Sleep(day - time.Hour)
		settle()
		var who []identityName
		for _, c := range d.ca.since(start) {
			who = append(who, c.identity)
		}
		if want := []identityName{identitySelf, identitySelf, identityBootstrap}; !slices.Equal(who, want) {
			t.Errorf("tried %v, want %v", who, want)
		}
	})
}

func TestLostFilesAreIssuedAnew(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(t *testing.T, dir string){
		"the live link": func(t *testing.T, dir string) { remove(t, filepath.Join(dir, "live")) },
		"the key":       func(t *testing.T, dir string) { remove(t, filepath.Join(dir, "live", "key.pem")) },
		"everything": func(t *testing.T, dir string) {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		},
		"a damaged certificate": func(t *testing.T, dir string) {
			writeFile(t, filepath.Join(dir, "live", "cert.pem"), []byte("-----BEGIN CERTIFICATE-----\n"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := newDevice(t, day, oneCertificate)
				_, stop := d.boot()
				defer stop()
				settle()
				before := d.live("device-id").Leaf.SerialNumber
				time.Sleep(time.Hour)
				lose(t, filepath.Join(d.dir, "state", "certs", "device-id"))
				time.Sleep(2 * time.Minute) // the clock task's look; the watch is not part of the bubble
				settle()
				if after := d.live("device-id"); after.Leaf.SerialNumber.Cmp(before) == 0 {
					t.Error("not issued anew")
				}
				if n := len(d.ca.seen()); n != 2 {
					t.Errorf("%d requests, want 2", n)
				}
			})
		})
	}
}

// TestApprovalThatTakesDays: the same request is repeated byte for byte, also across a restart, no earlier than the server
// said, and a force does not change that.
func TestApprovalThatTakesDays(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, day, oneCertificate)
		d.ca.fail(func(c call) error {
			return &est.Error{Op: c.op, Class: est.ErrPending, Status: 202, RetryAfter: 6 * time.Hour}
		})
		a, stop := d.boot()
		time.Sleep(9 * time.Hour)
		a.RenewAll()
		settle()
		stop()
		a, stop = d.boot()
		defer stop()
		time.Sleep(time.Hour)
		settle()
		if p := a.Snapshot().Certificates[0]; !p.Pending {
			t.Errorf("status does not show the pending request: %+v", p)
		}
		d.ca.fail(nil)
		time.Sleep(3 * time.Hour)
		settle()
		calls := d.ca.seen()
		if len(calls) != 3 {
			t.Fatalf("%d requests, want 3", len(calls))
		}
		for i, c := range calls {
			if !bytes.Equal(c.csr, calls[0].csr) {
				t.Errorf("request %d is not the first one repeated", i+1)
			}
			if i > 0 && c.at.Sub(calls[i-1].at) < 6*time.Hour {
				t.Errorf("request %d came after %v", i+1, c.at.Sub(calls[i-1].at))
			}
		}
	})
}

// TestApprovalAtNoSaidTime: a 202 without Retry-After is a matter of a quarter of an hour, one until the next century of a
// week.
func TestApprovalAtNoSaidTime(t *testing.T) {
	stories := storiesOf(t)
	for _, test := range []struct{ said, want time.Duration }{{0, 15 * time.Minute}, {876600 * time.Hour, 7 * day}} {
		stories.play(fmt.Sprintf("told to wait %v", test.said), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDevice(t, day, oneCertificate)
				d.ca.fail(func(c call) error {
					return &est.Error{Op: c.op, Class: est.ErrPending, Status: 202, RetryAfter: test.said}
				})
				_, stop := d.boot()
				defer stop()
				time.Sleep(test.want + 5*time.Minute)
				settle()
				calls := d.ca.seen()
				if len(calls) != 2 || calls[1].at.Sub(calls[0].at) < test.want {
					t.Errorf("told to wait %v: %d requests, want a second after %v", test.said, len(calls), test.want)
				}
			})
		})
	}
}

// TestRestartKeepsKeyAndBackOff: neither a new key nor an early try for a server that is down.
func TestRestartKeepsKeyAndBackOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, day, oneCertificate)
		d.ca.fail(unavailable)
		for range 20 {
			_, stop := d.boot()
			time.Sleep(time.Minute)
			settle()
			stop()
		}
		calls := d.ca.seen()
		if len(calls) > 3 {
			t.Errorf("%d tries in 20 minutes with 20 restarts, want no more than without restarts", len(calls))
		}
		for _, c := range calls {
			if !bytes.Equal(c.csr, calls[0].csr) {
				t.Error("the request changed over a restart")
			}
		}
	})
}

// TestKilledBetweenCommitAndRecord: what was wanted is had, and nothing is asked for twice.
func TestKilledBetweenCommitAndRecord(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, day, oneCertificate)
		_, stop := d.boot()
		settle()
		stop()
		s, err := store.Open(filepath.Join(d.dir, "state"), store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		c, err := s.Certificate("device-id")
		if err != nil {
			t.Fatal(err)
		}
		if err := c.SaveRetry(store.Retry{Reissue: "forced", Failures: 7, LastSuccess: time.Now().Add(-time.Hour)}); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		a, stop := d.boot()
		defer stop()
		settle()
		if n := len(d.ca.seen()); n != 1 {
			t.Errorf("%d requests, want 1", n)
		}
		if c := a.Snapshot().Certificates[0]; c.Failures != 0 || c.LastSuccess.IsZero() {
			t.Errorf("status: %+v", c)
		}
	})
}

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

func TestESTIdentity(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, day, withESTIdentity)
		_, stop := d.boot()
		defer stop()
		time.Sleep(5 * day)
		settle()
		calls := d.ca.seen()
		if c := calls[0]; c.id != "est-id" || c.identity != identityBootstrap {
			t.Fatalf("first request: for %s by %s", c.id, c.identity)
		}
		if c := calls[1]; c.id != "device-id" || c.identity != identityEST {
			t.Fatalf("second request: for %s by %s", c.id, c.identity)
		}
		for _, c := range calls[2:] {
			if c.identity == identityBootstrap {
				t.Errorf("the bootstrap certificate was used again, for %s", c.id)
			}
		}

		down := time.Now()
		d.ca.fail(unavailable)
		time.Sleep(2 * day)
		d.ca.fail(nil)
		up := time.Now()
		time.Sleep(6 * time.Hour)
		settle()
		back := d.ca.since(up)
		if len(back) < 2 || back[0].identity != identityBootstrap {
			t.Fatalf("after both expired (outage at %v): %+v", down, back)
		}
		for _, id := range []string{"est-id", "device-id"} {
			if g := d.live(id); !g.Leaf.NotAfter.After(time.Now()) {
				t.Errorf("%s is still expired", id)
			}
		}
	})
}

func TestESTIdentityThatCannotBeHadHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, day, withESTIdentity)
		d.ca.fail(func(c call) error {
			if c.id == "est-id" {
				return &est.Error{Op: c.op, Class: est.ErrRejected, Status: 400}
			}
			return nil
		})
		_, stop := d.boot()
		defer stop()
		settle()
		if g := d.live("device-id"); g.Meta.Identity != string(identityBootstrap) {
			t.Errorf("device-id was enrolled by %s", g.Meta.Identity)
		}
	})
}

func TestReload(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, day, oneCertificate)
		a, stop := d.boot()
		defer stop()
		settle()
		good := d.text

		d.text = strings.Replace(good, "threshold", "treshold", 1)
		a.Reload()
		settle()
		if p := a.Snapshot().Problems; len(p) != 1 || p[0].Code != "config-invalid" || !strings.Contains(p[0].Text, "treshold") {
			t.Errorf("after a bad file: %+v", p)
		}
		d.text = good
		a.Reload()
		settle()
		if p := a.Snapshot().Problems; len(p) != 0 {
			t.Errorf("after the good file: %+v", p)
		}
		if n := len(d.ca.seen()); n != 1 {
			t.Errorf("reloads that changed nothing made %d requests", n-1)
		}

		d.text = strings.Replace(good, `common_name = "gateway"`, `common_name = "other"`, 1)
		a.Reload()
		settle()
		calls := d.ca.seen()
		if c := calls[len(calls)-1]; len(calls) != 2 || c.op != opEnroll || c.identity != identitySelf {
			t.Fatalf("after the name changed: %d requests, the last %s by %s", len(calls), c.op, c.identity)
		}
		if cn := d.live("device-id").Leaf.Subject.CommonName; cn != "other" {
			t.Errorf("common name is %q", cn)
		}

		d.text = good + "\n[cert_issuance.certs.mqtt]\nmethod = \"est\"\ncommon_name = \"mqtt\"\n"
		a.Reload()
		settle()
		if cn := d.live("mqtt").Leaf.Subject.CommonName; cn != "mqtt" {
			t.Errorf("added certificate has common name %q", cn)
		}
		d.text = good
		a.Reload()
		settle()
		if all := a.Snapshot().Certificates; len(all) != 2 || all[1].ID != "mqtt" || all[1].State != status.Unmanaged {
			t.Errorf("after one was removed there are %+v", all)
		}
		d.live("mqtt") // its files are kept
	})
}

// TestRefusedChangeDoesNotStopRenewal: a CA that does not grant the new name must not let the old certificate die.
func TestRefusedChangeDoesNotStopRenewal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, day, oneCertificate)
		a, stop := d.boot()
		defer stop()
		settle()
		d.ca.fail(func(c call) error {
			r, err := x509.ParseCertificateRequest(c.csr)
			if err != nil {
				return err
			}
			if r.Subject.CommonName != "gateway" {
				return &est.Error{Op: c.op, Class: est.ErrUnauthorized, Status: 403, Refusal: true}
			}
			return nil
		})
		d.text = strings.Replace(d.text, `common_name = "gateway"`, `common_name = "other"`, 1)
		a.Reload()
		time.Sleep(10 * day)
		settle()
		g := d.live("device-id")
		if left := time.Until(g.Leaf.NotAfter); left < day/10 {
			t.Errorf("the old certificate has %v left", left)
		}
		problems := a.Snapshot().Certificates[0].Problems
		if !slices.ContainsFunc(problems, func(p Problem) bool { return p.Code == "drift" }) {
			t.Errorf("the drift is no problem in status: %+v", problems)
		}
		d.ca.fail(nil)
		time.Sleep(2 * time.Hour)
		settle()
		if cn := d.live("device-id").Leaf.Subject.CommonName; cn != "other" {
			t.Errorf("common name is %q once the CA allows the change", cn)
		}
	})
}

// TestSpreadFirstRenewal: a fleet enrolled in one minute flattens at its first renewal; a server that renews only near the
// end says no to that, which is no failure.
func TestSpreadFirstRenewal(t *testing.T) {
	t.Parallel()
	text := strings.Replace(oneCertificate, "rotate_key = true", "rotate_key = true\nfirst_renewal = \"spread\"", 1)
	for _, strict := range []bool{false, true} {
		t.Run(fmt.Sprintf("strict=%v", strict), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := newDevice(t, 10*day, text)
				a, stop := d.boot()
				defer stop()
				settle()
				born := time.Now()
				if strict {
					d.ca.fail(func(c call) error {
						if time.Since(born) < 8*day {
							return &est.Error{Op: c.op, Class: est.ErrUnauthorized, Status: 403, Refusal: true}
						}
						return nil
					})
				}
				time.Sleep(time.Until(a.Snapshot().Certificates[0].RenewAt) + time.Second)
				settle()
				calls := d.ca.seen()
				if len(calls) != 2 {
					t.Fatalf("%d requests before the threshold, want 2", len(calls))
				}
				if early := calls[1].at.Sub(born); early < day || early >= 8*day {
					t.Errorf("first renewal after %v", early)
				}
				c := a.Snapshot().Certificates[0]
				if c.Failures != 0 || len(c.Problems) != 0 {
					t.Errorf("the early refusal counts: %+v", c)
				}
				time.Sleep(time.Until(born.Add(8*day)) + time.Minute)
				settle()
				if n := len(d.ca.seen()); strict && n != 3 {
					t.Errorf("%d requests by the threshold, want 3", n)
				}
				if d.live("device-id").Meta.First {
					t.Error("the renewed certificate still counts as the first")
				}
			})
		})
	}
}

// slowKeys makes no key before it is let.
type slowKeys struct {
	keys.Provider
	let <-chan struct{}
}

func (s slowKeys) Generate(a keys.Algorithm) (keys.Key, error) {
	<-s.let
	return s.Provider.Generate(a)
}

// TestSlowKeyGenerationHoldsNobodyUp: neither the watchdog, nor another certificate, nor the end.
func TestSlowKeyGenerationHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, day, oneCertificate)
		let := make(chan struct{})
		var fed atomic.Int64
		d.change = func(o *Options) {
			o.Keys = slowKeys{keys.Files{FS: durable.OS{}}, let}
			o.Watchdog = time.Minute
			o.Notify = func(s string) {
				if s == "WATCHDOG=1" {
					fed.Add(1)
				}
			}
		}
		_, stop := d.boot()
		time.Sleep(10 * time.Minute)
		if fed.Load() < 20 {
			t.Errorf("the watchdog was fed %d times in ten minutes", fed.Load())
		}
		before := time.Now()
		stop()
		if took := time.Since(before); took > 0 {
			t.Errorf("the end took %v", took)
		}
		close(let) // the generation that was left behind ends by itself
		settle()
		if n := len(d.ca.seen()); n != 0 {
			t.Errorf("%d requests after the end", n)
		}
	})
}

func TestPanicIsOneCertificatesProblem(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, day, oneCertificate+"\n[cert_issuance.certs.mqtt]\nmethod = \"est\"\ncommon_name = \"mqtt\"\n")
		d.ca.fail(func(c call) error {
			if c.id == "mqtt" {
				panic("a bug")
			}
			return nil
		})
		a, stop := d.boot()
		defer stop()
		settle()
		d.live("device-id")
		s := a.Snapshot()
		if c := s.Certificates[1]; c.ID != "mqtt" || c.LastClass != "internal" || c.Failures != 1 {
			t.Errorf("mqtt: %+v", c)
		}
	})
}

func TestOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, day, withESTIdentity)
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
			a, err := New(Options{Config: cfg, Load: d.load, Store: s, Dial: d.ca.dial, Synced: func() bool { return false }})
			if err != nil {
				t.Fatal(err)
			}
			return a.Once(t.Context())
		}
		d.ca.fail(unavailable)
		if err := once(); !errors.Is(err, est.ErrUnavailable) {
			t.Errorf("with the server down: %v", err)
		}
		d.ca.fail(nil)
		if err := once(); err != nil { // over the back-off of the run before
			t.Errorf("with the server up: %v", err)
		}
		d.live("device-id")
		n := len(d.ca.seen())
		if err := once(); err != nil || len(d.ca.seen()) != n {
			t.Errorf("with nothing due: %v, %d requests", err, len(d.ca.seen())-n)
		}
		time.Sleep(20 * time.Hour)
		if err := once(); err != nil || len(d.ca.seen()) != n+2 {
			t.Errorf("with both due: %v, %d requests", err, len(d.ca.seen())-n)
		}
	})
}

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

// seen is a disk on which somebody sees a new live link at once, before the agent can have said anything of it.
type seen struct {
	durable.FS
	then  func()
	noted *atomic.Int32 // how often retry.json was written
}

func (s seen) Rename(from, to string) error {
	err := s.FS.Rename(from, to)
	switch filepath.Base(to) {
	case "live":
		s.then()
	case "retry.json":
		s.noted.Add(1)
	}
	return err
}

// TestForcedByWhoSawTheLastOne: a renewal that is forced as soon as the last one can be seen is one more.
func TestForcedByWhoSawTheLastOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, day, oneCertificate)
		var a *Agent
		forces := 2
		var noted atomic.Int32
		disk := seen{durable.OS{Root: d.state()}, func() {
			if forces--; forces < 0 {
				return
			}
			before := noted.Load()
			a.RenewAll()
			// Until the keeper has heard of it, unless it waits for this very rename; the bubble's time stands still then.
			for range 100_000 {
				if noted.Load() > before {
					return
				}
				runtime.Gosched()
			}
		}, &noted}
		cfg, err := d.load()
		if err != nil {
			t.Fatal(err)
		}
		s, err := store.Open(d.state(), store.Options{MachineID: "test", FS: disk})
		if err != nil {
			t.Fatal(err)
		}
		if a, err = New(d.options(cfg, s)); err != nil {
			t.Fatal(err)
		}
		defer d.start(a, s)()
		time.Sleep(time.Minute)
		settle()
		if g := d.live("device-id"); g.Number != 3 || g.Meta.Reason != string(reasonForced) {
			t.Errorf("generation %d, %s", g.Number, g.Meta.Reason)
		}
	})
}
