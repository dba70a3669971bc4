package agent

import (
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// The watchdog is not fed while a keeper is stuck, and is again when it goes on: here in a name service that hangs.
func TestWatchdogOfAStuckKeeper(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, 90*day, oneCertificate)
		var fed atomic.Int64
		release := make(chan struct{})
		d.change = func(o *Options) {
			o.Watchdog = 3 * time.Minute
			o.Notify = func(s string) { fed.Add(int64(strings.Count(s, "WATCHDOG=1"))) }
		}
		a, stop := d.boot()
		defer stop()
		in := func(minutes int) int64 {
			before := fed.Load()
			time.Sleep(time.Duration(minutes) * time.Minute)
			settle()
			return fed.Load() - before
		}
		if n := in(10); n < 9 {
			t.Errorf("fed %d times in ten minutes in which all is well", n)
		}
		for _, k := range a.allKeepers() {
			if err := k.visit(t.Context(), func() func() { <-release; return func() {} }); err != nil {
				t.Fatal(err)
			}
		}
		settle()
		if n := in(10); n > 1 { // the one that came before it had been stuck for long
			t.Errorf("fed %d times in ten minutes in which a keeper is stuck", n)
		}
		if !strings.Contains(d.logs.String(), "keeper is stuck") {
			t.Error("it is not said that a keeper is stuck")
		}
		close(release)
		if n := in(10); n < 9 {
			t.Errorf("fed %d times in ten minutes after that", n)
		}
	})
}
