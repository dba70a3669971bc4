package agent

import (
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"certagent/renew"
	"certagent/store"
)

// clock judges the wall clock and keeps the newest corroborated time on disk.
type clock struct {
	o *Options

	mu     sync.Mutex // guards what follows
	rule   renew.Clock
	warned bool // the clock was found not credible and that was logged
}

func newClock(o *Options, known store.Clock, ignore bool) *clock {
	return &clock{o: o, rule: ruleOf(o.Built, known, ignore)}
}

// ruleOf is what a clock is judged by.
func ruleOf(built time.Time, known store.Clock, ignore bool) renew.Clock {
	return renew.Clock{Build: built, Mark: known.Mark, Refuted: known.Refuted, Ignore: ignore}
}

// ignore changes whether the clock is believed whatever it says ([clock] check = false).
func (c *clock) ignore(yes bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rule.Ignore = yes
}

func (c *clock) credible() bool {
	ok, _ := c.judge()
	return ok
}

func (c *clock) judge() (credible bool, why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	credible, why = c.rule.Judge(c.o.Now())
	if credible == c.warned {
		c.warned = !credible
		if credible {
			c.o.Log.Info().Str("event", "clock").Msg("the clock is credible again")
		} else {
			c.o.Log.Warn().Str("event", "clock").Str("why", why).
				Msg("the clock is not credible; nothing is tried until it is")
		}
	}
	return credible, why
}

// doubt says that the program's build date and a synchronised clock contradict each other; "" if they do not.
func (c *clock) doubt() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rule.Doubt(c.o.Now())
}

// reached is a time that is known to have come, zero if none is, or if the clock is to be believed whatever it says.
func (c *clock) reached() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rule.Ignore {
		return time.Time{}
	}
	return c.rule.Reached()
}

// renewed notes that a certificate has served: it was held until the threshold, and the server renewed it by itself. So the
// time from which on it is valid has come. No more is concluded from an exchange. That the server's own certificate is valid
// now says little, as it may be so for ten years; that one was issued now says that the CA's clock agrees with this
// one, and both may be wrong for an hour, or for a day, in which certificates that live for an hour renew each other. None
// of this must make the right time incredible afterwards: one that has served for less than a week says nothing.
func (c *clock) renewed(notBefore time.Time) {
	if c.o.Now().Sub(notBefore) >= servedAtLeast {
		c.observe(notBefore, false)
	}
}

// servedAtLeast is longer than the clocks of a device and of its server go wrong together with nobody seeing it.
const servedAtLeast = 7 * 24 * time.Hour

// synchronised looks at the system's synchronisation; only that may take back a mark that lies ahead.
func (c *clock) synchronised() {
	if c.o.Synced() {
		c.observe(c.o.Now(), true)
	}
}

func (c *clock) observe(at time.Time, synced bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	next, write := c.rule.Corroborated(at, synced)
	if !write {
		return
	}
	c.rule = next
	if err := c.o.Store.SaveClock(store.Clock{Mark: next.Mark, Refuted: next.Refuted}); err != nil {
		c.o.Log.Warn().Str("event", "disk").Str("error", clip(err.Error())).Msg("the newest corroborated time could not be written")
	}
}

const (
	// maxClockError is the estimated error below which the kernel's clock counts as synchronised. The kernel starts at 16 s,
	// goes back there when somebody sets the clock, and lets the estimate grow up to it once nobody steers the clock any more
	// (adjtimex(2), NTP_PHASE_LIMIT). Its flag STA_UNSYNC does not count: chronyd leaves it set where it is not to
	// write the hardware clock.
	maxClockError = 16 * time.Second
	// timesyncFlag is touched by systemd-timesyncd each time it has synchronised the clock (systemd-timesyncd.service(8)):
	// for a sandbox in which adjtimex(2) is forbidden.
	timesyncFlag = "/run/systemd/timesync/synchronized"
	// timesyncEvery is how old the flag may be: timesyncd polls twice an hour unless told otherwise (timesyncd.conf(5)).
	timesyncEvery = 6 * time.Hour
)

// systemSynced asks the kernel and timesyncd whether the clock, which says now, is synchronised.
func systemSynced(now time.Time) bool {
	maxError, touched := maxClockError, time.Time{}
	var t unix.Timex
	if _, err := unix.Adjtimex(&t); err == nil {
		maxError = time.Duration(t.Maxerror) * time.Microsecond
	}
	if info, err := os.Stat(timesyncFlag); err == nil {
		touched = info.ModTime()
	}
	return isSynced(maxError, touched, now)
}

// isSynced decides by the kernel's estimate of its error and by when timesyncd last touched its flag, zero for never. A flag
// that was touched long ago, or later than now, was so before somebody set the clock.
func isSynced(maxError time.Duration, touched, now time.Time) bool {
	age := now.Round(0).Sub(touched)
	return maxError < maxClockError || !touched.IsZero() && age >= -time.Second && age <= timesyncEvery
}

// suspended is for how long the system has been suspended since it started: CLOCK_BOOTTIME goes on then, CLOCK_MONOTONIC does
// not (clock_gettime(2)). 0 where the system cannot say.
func suspended() time.Duration {
	var boot, mono unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot) != nil || unix.ClockGettime(unix.CLOCK_MONOTONIC, &mono) != nil {
		return 0
	}
	return time.Duration(boot.Nano() - mono.Nano())
}

// reloading is what sd_notify(3) wants to hear at the start of a reload; systemd 253 and later ask for the time as well.
func reloading() string {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		return "RELOADING=1"
	}
	return fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", t.Nano()/1000)
}
