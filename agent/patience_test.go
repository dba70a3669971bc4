package agent

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"certagent/est"
)

// refusesName grants everything but the name.
func refusesName(name string) func(call) error {
	return func(c call) error {
		if strings.Contains(string(c.csr), name) {
			return refused(c)
		}
		return nil
	}
}

// TestRefusedChangeIsAskedForEverMoreSeldom: a change of the configuration that the server never grants is asked for
// ever more seldom, at most by retry, however long that is.
func TestRefusedChangeIsAskedForEverMoreSeldom(t *testing.T) {
	t.Parallel()
	stories := storiesOf(t)
	for _, life := range []time.Duration{30 * day, year, 10 * year} {
		for _, draw := range draws {
			stories.play(fmt.Sprintf("%v, draw %.1f", life, draw), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					d := newDevice(t, life, oneCertificate)
					d.drawing(draw)
					s := d.begins()
					defer func() { s.stop() }()
					d.ca.fail(refusesName("other"))
					d.text = strings.Replace(d.text, `common_name = "gateway"`, `common_name = "other"`, 1)
					s.agent.Reload()
					begin := time.Now()
					for time.Since(begin) < 28*day {
						s.off(4 * time.Hour)
					}
					if n := len(d.ca.since(begin)); n < 6 || n > 60 {
						t.Errorf("life %v, draw %.1f: %d tries in four weeks, want 6 to 60", life, draw, n)
					}
				})
			})
		}
	}
}

// TestRepairServesAChange: a change that the server refused is asked for as soon as a person has repaired the login.
func TestRepairServesAChange(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, year, strings.Replace(oneCertificate, "jitter = \"0%\"\n", "", 1))
		s := d.begins()
		defer func() { s.stop() }()
		d.ca.fail(refusesName("other"))
		d.text = strings.Replace(d.text, `common_name = "gateway"`, `common_name = "other"`, 1)
		s.agent.Reload()
		settle()
		s.passes(5 * day)
		repaired := time.Now()
		d.ca.fail(nil)
		appendTo(t, filepath.Join(d.dir, "ca.pem"), "#\n")
		time.Sleep(time.Minute)
		settle()
		if n := len(d.ca.since(repaired)); n != 1 {
			t.Errorf("%d tries within a minute of the repair, want 1", n)
		}
	})
}

// TestInterruptedTryIsMadeAgain: what the agent did not live to see the end of it begins with at the next start, also where
// a renewal that came due meanwhile would wait for its turn.
func TestInterruptedTryIsMadeAgain(t *testing.T) {
	t.Parallel()
	for _, fresh := range []bool{false, true} { // whether an agent was started since the first certificate
		synctest.Test(t, func(t *testing.T) {
			d := newDevice(t, 2*day, defaults)
			var hangs atomic.Bool
			var asked atomic.Int64
			d.change = func(o *Options) {
				o.Rand = func() float64 { return draws[2] }
				o.Dial = func(o est.Options) (Enroller, error) {
					client, err := d.ca.dial(o)
					if hangs.Load() {
						client = hung{client, func() { asked.Add(1) }}
					}
					return client, err
				}
			}
			s := d.begins()
			defer func() { s.stop() }()
			time.Sleep(day)
			if fresh {
				s.restarts()
			}
			hangs.Store(true)
			for asked.Load() == 0 {
				time.Sleep(time.Minute)
				settle()
			}
			for n := 2; n <= 5; n++ {
				s.restarts()
				if asked.Load() != int64(n) {
					t.Fatalf("%d tries after start %d, want one at each", asked.Load(), n)
				}
			}
			hangs.Store(false)
			s.restarts()
			if g := d.live("device-id"); g.Number != 2 {
				t.Errorf("generation %d is live after the start that could renew", g.Number)
			}
		})
	}
}

// TestCrashLoopWithoutAClock: a device that begins each day of its life in 1970, and learns the time from the network
// before its agent dies, does not ask a server in each of them.
func TestCrashLoopWithoutAClock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, year, defaults)
		var asked atomic.Int64
		var wrong atomic.Bool
		d.change = func(o *Options) {
			o.Dial = func(o est.Options) (Enroller, error) {
				client, err := d.ca.dial(o)
				return hung{client, func() { asked.Add(1) }}, err
			}
			o.Built = time.Now().Add(-day)
			o.Now = func() time.Time {
				if wrong.Load() {
					return time.Unix(1000, 0)
				}
				return time.Now()
			}
		}
		for range 60 {
			wrong.Store(true)
			s := d.begins()
			wrong.Store(false)
			time.Sleep(2 * time.Minute)
			settle()
			s.stop()
		}
		if n := asked.Load(); n < 5 || n > 12 {
			t.Errorf("%d tries in two hours, want 5 to 12", n)
		}
	})
}

// TestImpatientApproval: a server that wants to be asked every second for an approval is asked once a minute.
func TestImpatientApproval(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, day, defaults)
		d.ca.fail(func(c call) error {
			return &est.Error{Op: c.op, Class: est.ErrPending, Status: 202, RetryAfter: time.Second}
		})
		s := d.begins()
		defer func() { s.stop() }()
		time.Sleep(2 * time.Hour)
		settle()
		if n := len(d.ca.seen()); n < 100 || n > 121 {
			t.Errorf("%d requests in two hours, want one a minute", n)
		}
	})
}

// TestClockThatIsSetAgainAndAgain: setting the clock ends the back-off of what a wrong clock may have caused; two sources of
// time that do not agree, and set it in turn, do not.
func TestClockThatIsSetAgainAndAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, year, defaults)
		var ahead atomic.Int64 // by so many nanoseconds
		d.change = func(o *Options) { o.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) } }
		s := d.begins()
		defer func() { s.stop() }()
		threshold, _ := s.loses(func(c call) error { return &est.Error{Op: c.op, Class: est.ErrUntrusted} })
		for n := range 8 * 60 {
			time.Sleep(time.Minute)
			ahead.Store(int64(n%2) * int64(10*time.Second))
		}
		settle()
		if n := len(d.ca.since(threshold)); n < 5 || n > 30 {
			t.Errorf("%d tries in eight hours, want 5 to 30", n)
		}
	})
}
