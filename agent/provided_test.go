package agent

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestFilesThatHang: a file system that hangs under what a person provides for one certificate is that certificate's problem. The
// watchdog is fed, no attempt hangs with it, the other certificates are renewed, and all goes on when it answers.
func TestFilesThatHang(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, day, strings.Replace(oneCertificate, `common_name = "gateway"`, `common_name_from = "hostname"`, 1)+
			"\n[cert_issuance.certs.mqtt]\nmethod = \"est\"\ncommon_name = \"mqtt\"\n")
		var hangs atomic.Bool
		var asked, fed atomic.Int64
		answers := make(chan struct{})
		d.change = func(o *Options) {
			o.Host.Hostname = func() (string, error) {
				if hangs.Load() {
					asked.Add(1)
					<-answers
				}
				return "gateway", nil
			}
			o.Watchdog = time.Minute
			o.Notify = func(s string) {
				if s == "WATCHDOG=1" {
					fed.Add(1)
				}
			}
		}
		a, stop := d.boot()
		defer stop()
		settle()
		before, others := d.live("device-id").Number, d.live("mqtt").Number
		hangs.Store(true)
		a.RenewAll()
		time.Sleep(2 * day)
		settle()
		if n := fed.Load(); n < 2*24*60 {
			t.Errorf("the watchdog was fed %d times in two days", n)
		}
		if n := asked.Load(); n != 1 {
			t.Errorf("a file system that hangs was asked %d times", n)
		}
		if codes := codes(device0(a)); !strings.Contains(codes, "files-hang") {
			t.Errorf("problems while it hangs: %s", codes)
		}
		if d.live("device-id").Number != before || d.live("mqtt").Number < others+2 {
			t.Errorf("generations %d and %d", d.live("device-id").Number, d.live("mqtt").Number)
		}
		hangs.Store(false)
		close(answers)
		time.Sleep(2 * time.Minute)
		settle()
		if n := d.live("device-id").Number; n != before+1 {
			t.Errorf("generation %d after it answered, want %d", n, before+1)
		}
		if codes := codes(device0(a)); codes != "" {
			t.Errorf("problems after it answered: %s", codes)
		}
	})
}

// TestFilesThatAreSlow: a certificate whose files take longer than a keeper waits, each time, is renewed all the same.
func TestFilesThatAreSlow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, day, strings.Replace(oneCertificate, `common_name = "gateway"`, `common_name_from = "hostname"`, 1))
		d.change = func(o *Options) {
			o.Host.Hostname = func() (string, error) { time.Sleep(2 * patience); return "gateway", nil }
		}
		_, stop := d.boot()
		defer stop()
		time.Sleep(2*day + time.Hour)
		settle()
		if n := len(d.ca.seen()); n < 3 {
			t.Errorf("%d certificates in two days, each the lifetime of one", n)
		}
	})
}

// TestOnceWaitsForFiles: a single turn has no later look, so that it waits for files which are slow, as on a file system that is mounted
// first. It ends where they hang, and says that.
func TestOnceWaitsForFiles(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		takes time.Duration
		want  string
	}{
		"slow":  {5 * patience, ""},
		"hangs": {day, "the files that it needs do not answer"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := newDevice(t, day, strings.Replace(oneCertificate, `common_name = "gateway"`, `common_name_from = "hostname"`, 1))
				d.change = func(o *Options) {
					o.Host.Hostname = func() (string, error) { time.Sleep(test.takes); return "gateway", nil }
				}
				a, s := d.made(nil)
				defer s.Close()
				began := time.Now()
				err := a.Once(t.Context())
				if said := fmt.Sprint(err); (err == nil) != (test.want == "") || !strings.Contains(said, test.want) && err != nil {
					t.Errorf("%v", err)
				}
				if took := time.Since(began); took > time.Hour {
					t.Errorf("it took %v", took)
				}
				time.Sleep(day) // until all is read
			})
		})
	}
}

// TestLateFilesOfAnotherConfiguration: what comes late and is of a configuration that was replaced meanwhile says nothing of the new one.
func TestLateFilesOfAnotherConfiguration(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, longLife, strings.Replace(oneCertificate, `common_name = "gateway"`, `common_name_from = "hostname"`, 1))
		var slow atomic.Bool
		d.change = func(o *Options) {
			o.Host.Hostname = func() (string, error) {
				if slow.Load() {
					time.Sleep(2 * patience)
				}
				return "gateway", nil
			}
		}
		a, stop := d.boot()
		defer stop()
		settle()
		slow.Store(true)
		a.kickAll()
		settle()
		d.text = strings.Replace(d.text, `common_name_from = "hostname"`, `common_name = "other"`, 1)
		if err := a.ReloadNow(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Hour)
		settle()
		if name := d.live("device-id").Leaf.Subject.CommonName; name != "other" {
			t.Errorf("two hours after a reload the certificate is that of %s", name)
		}
	})
}

// TestLateFilesCountForAWhile: what was asked for long ago may say how things were then, and is asked for again.
func TestLateFilesCountForAWhile(t *testing.T) {
	for age, counts := range map[time.Duration]bool{maxSleep: true, time.Hour: false} {
		d := newDevice(t, day, oneCertificate)
		a, s := d.made(nil)
		k := a.keepers["device-id"]
		late := make(chan provided, 1)
		late <- provided{of: configuration{k.cfg, k.stamp}, asked: time.Now().Add(-age), login: "of then"}
		k.reading = late
		if p, ok := k.readProvided(patience); !ok || (p.login == "of then") != counts || k.reading != nil {
			t.Errorf("asked for %v ago: %v, %+v", age, ok, p)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestFilesThatCrashUs: a crash over what a person provides for one certificate is that certificate's problem.
func TestFilesThatCrashUs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, day, strings.Replace(oneCertificate, `common_name = "gateway"`, `common_name_from = "hostname"`, 1)+
			"\n[cert_issuance.certs.mqtt]\nmethod = \"est\"\ncommon_name = \"mqtt\"\n")
		d.change = func(o *Options) { o.Host.Hostname = func() (string, error) { panic("deliberate") } }
		a, stop := d.boot()
		defer stop()
		time.Sleep(2 * time.Minute)
		settle()
		if d.live("mqtt").Number != 1 {
			t.Error("the other certificate is not there")
		}
		if codes := codes(device0(a)); !strings.Contains(codes, "internal") {
			t.Errorf("problems: %s", codes)
		}
	})
}
