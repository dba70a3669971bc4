package agent

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"certagent/agent/config"
	"certagent/agent/status"
	"certagent/est"
	"certagent/store"
	"certagent/store/durable"
	"certagent/store/keys"
)

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

// TestReloadForgetsWhatWasLoadedBefore: certificates that are added one by one do not each keep a configuration of them all.
func TestReloadForgetsWhatWasLoadedBefore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, day, oneCertificate)
		var loaded []weak.Pointer[config.Certificate]
		d.change = func(o *Options) {
			load := o.Load
			o.Load = func() (*config.Config, error) {
				cfg, err := load()
				if err == nil {
					loaded = append(loaded, weak.Make(&cfg.Certificates[0]))
				}
				return cfg, err
			}
		}
		a, stop := d.boot()
		defer stop()
		for i := range 3 {
			d.text += fmt.Sprintf("[cert_issuance.certs.c%d]\nmethod = \"est\"\ncommon_name = \"c%[1]d\"\n", i)
			a.Reload()
			settle()
		}
		runtime.GC()
		for i, first := range loaded[:2] {
			if first.Value() != nil {
				t.Errorf("configuration %d of 3 is still in memory", i+1)
			}
		}
		runtime.KeepAlive(a)
	})
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

// brokenKeys panics at every key.
type brokenKeys struct{ keys.Provider }

func (brokenKeys) Generate(keys.Algorithm) (keys.Key, error) { panic("a bug") }

// TestPanicOverAKey: a key is made on a goroutine of its own, which must not end the agent either.
func TestPanicOverAKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, day, oneCertificate)
		d.change = func(o *Options) { o.Keys = brokenKeys{} }
		a, stop := d.boot()
		defer stop()
		settle()
		if c := a.Snapshot().Certificates[0]; c.LastClass != "internal" || c.Failures != 1 || !strings.Contains(c.LastError, "panic: a bug") {
			t.Errorf("%+v", c)
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
