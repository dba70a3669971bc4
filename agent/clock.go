package agent

import (
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"certagent/renew"
)

// clock judges the wall clock and keeps the newest corroborated time on disk.
type clock struct {
	o *Options

	mu     sync.Mutex // guards rule
	rule   renew.Clock
	warned bool // the clock was found not credible and that was logged
}

func newClock(o *Options, mark time.Time, ignore bool) *clock {
	return &clock{o: o, rule: renew.Clock{Build: o.Built, Mark: mark, Ignore: ignore}}
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
			c.o.Log.Info().Msg("the clock is credible again")
		} else {
			c.o.Log.Warn().Str("why", why).Msg("the clock is not credible; nothing is tried until it is")
		}
	}
	return credible, why
}

// issued notes that a certificate was issued, by a CA behind a server that verified: the CA says with notBefore that this
// time has come. That the server's own certificate is valid at the present time says little: it may be valid for ten years,
// and a clock that ran ahead for a minute must not make the right time incredible afterwards.
func (c *clock) issued(notBefore time.Time) { c.observe(earliest(notBefore, c.o.Now()), false) }

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
	if err := c.o.Store.SaveClockMark(next.Mark); err != nil {
		c.o.Log.Warn().Err(err).Msg("the newest corroborated time could not be written")
	}
}

func earliest(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// maxClockError is the estimated error below which the kernel's clock counts as synchronised, in microseconds: the kernel
// lets the estimate grow to 16 s once nobody steers the clock (adjtimex(2), NTP_PHASE_LIMIT).
const maxClockError = 16_000_000

// timesyncFlag exists once systemd-timesyncd has synchronised the clock since boot (systemd-timesyncd.service(8)).
const timesyncFlag = "/run/systemd/timesync/synchronized"

// systemSynced asks the kernel and timesyncd whether the clock is synchronised.
func systemSynced() bool {
	var t unix.Timex
	if state, err := unix.Adjtimex(&t); err == nil && state != unix.TIME_ERROR && t.Maxerror < maxClockError {
		return true
	}
	_, err := os.Stat(timesyncFlag)
	return err == nil
}

// reloading is what sd_notify(3) wants to hear at the start of a reload; systemd 253 and later ask for the time as well.
func reloading() string {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		return "RELOADING=1"
	}
	return fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", t.Nano()/1000)
}
