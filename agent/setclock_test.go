package agent

import (
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"
)

// setClock is what time.Now gives where the wall clock was set to wall, and the monotonic one stands at mono. In a bubble
// times have no monotonic reading, so that this one is made by the layout of package time.
func setClock(wall time.Time, mono time.Duration) (now time.Time) {
	const hasMonotonic, secondsBefore1970 = 1 << 63, 2682288000 // of 1885
	*(*struct {
		wall uint64
		ext  int64
		loc  *time.Location
	})(unsafe.Pointer(&now)) = struct {
		wall uint64
		ext  int64
		loc  *time.Location
	}{hasMonotonic | uint64(wall.Unix()+secondsBefore1970)<<30 | uint64(wall.Nanosecond()), int64(mono), time.Local}
	return now
}

// TestClockIsSetWhileSomethingWaits: what waits to be tried again follows the wall clock, as the clock task does. Times that kept
// their monotonic reading would have the two disagree, and the keeper be kicked without end, or not for as long as the clock was set back.
func TestClockIsSetWhileSomethingWaits(t *testing.T) {
	for name, by := range map[string]time.Duration{"ahead": 30 * time.Minute, "back": -30 * day} {
		for what, served := range map[string]bool{"hook": true, "attempt": false} {
			t.Run(what+" "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					d, hooks := newServed(t, longLife, delivering)
					born := time.Now()
					var wall, looks atomic.Int64
					wall.Store(int64(60 * day)) // nothing is younger than the clock when it is set back
					d.change = func(o *Options) {
						o.Hooks = hooks
						o.Now = func() time.Time {
							if looks.Add(1) > 100_000 {
								panic("the clock is looked at without end")
							}
							return setClock(time.Now().Add(time.Duration(wall.Load())), time.Since(born))
						}
					}
					count := func() int { return len(hooks.times(hookA)) }
					if served {
						hooks.fail(hookA, errors.New("no"))
					} else {
						d.ca.fail(unavailable)
						count = func() int { return len(d.ca.seen()) }
					}
					_, stop := d.boot()
					defer stop()
					time.Sleep(8 * time.Minute)
					settle()
					before := count()
					wall.Add(int64(by))
					time.Sleep(3 * time.Minute)
					settle()
					if count() == before {
						t.Errorf("not tried again in three minutes; %d tries before:\n%s", before, d.logs)
					}
				})
			})
		}
	}
}
