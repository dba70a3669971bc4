package agent

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certagent/est"
)

// TestSuspend: the monotonic clock stands still and the wall clock moves on. The threshold passes meanwhile; the renewal comes
// within a minute of waking up, however long it was.
func TestSuspend(t *testing.T) {
	t.Parallel()
	for _, asleep := range []time.Duration{9 * time.Hour, 9 * day, 100 * day} {
		t.Run(asleep.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := newAstray(t, asleep*10/9, oneCertificate)
				_, stop := d.boot()
				defer stop()
				settle()
				d.sleep(asleep)
				time.Sleep(aMinute)
				settle()
				if calls := d.ca.seen(); len(calls) != 2 || calls[1].identity != identitySelf {
					t.Errorf("%d requests, want one for enrolment and one for renewal", len(calls))
				}
				if strings.Contains(d.logs.String(), clockWasSet) {
					t.Error("a suspend was taken for a clock that was set")
				}
			})
		})
	}
}

// TestSuspendIsNoRepair: a clock that was set ends the back-off of what a wrong clock can cause, and a suspend does not: a
// laptop's lid would else have a server asked as often as it is opened. One that was set while the device slept is a clock
// that was set.
func TestSuspendIsNoRepair(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		asleep, set time.Duration
		asked       int
	}{
		"suspended":                {asleep: 10 * time.Minute},
		"set":                      {set: 10 * time.Minute, asked: 1},
		"suspended and set ahead":  {asleep: 10 * time.Minute, set: 6 * time.Second, asked: 1},
		"suspended and set back":   {asleep: 10 * time.Minute, set: -6 * time.Second, asked: 1},
		"suspended and corrected":  {asleep: 10 * time.Minute, set: -4 * time.Second},
		"suspended over the wait":  {asleep: day, asked: 1},
		"set back by what it lost": {asleep: 10 * time.Minute, set: -10 * time.Minute, asked: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := newAstray(t, 40*day, oneCertificate)
				d.ca.fail(func(call) error { return &est.Error{Class: est.ErrUntrusted} })
				_, stop := d.boot()
				defer stop()
				time.Sleep(30 * time.Minute) // two waits are over, and one of 80 minutes has begun
				settle()
				asked := len(d.ca.seen())
				d.sleep(tc.asleep)
				d.set(tc.asleep + tc.set)
				time.Sleep(aMinute)
				settle()
				if n := len(d.ca.seen()) - asked; n != tc.asked {
					t.Errorf("%d requests in the minute after, want %d", n, tc.asked)
				}
				if said := strings.Contains(d.logs.String(), clockWasSet); said != (tc.set.Abs() > clockStep) {
					t.Errorf("the log says that the clock was set: %v", said)
				}
			})
		})
	}
}
