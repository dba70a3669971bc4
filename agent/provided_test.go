package agent

import (
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
