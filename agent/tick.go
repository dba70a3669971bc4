package agent

import (
	"cmp"
	"context"
	"math"
	"runtime/debug"
	"slices"
	"time"
)

// maxSleep bounds every wait. Go's timers follow the monotonic clock, which stops while the device is suspended and does
// not see the wall clock being set: a timer armed for sixty days may fire after the certificate is dead.
const maxSleep = time.Minute

// clockStep is how far the wall clock may part from the monotonic one between two looks before it counts as set, or as a
// suspend that the monotonic clock slept through.
const clockStep = 5 * time.Second

// tick is the one clock task for all keepers and the authorities: it wakes at the next due time, at the latest after a
// minute, looks at the wall clock, kicks those whose time has come or whose files changed, and feeds the watchdog. It ends
// with ctx.
func (a *Agent) tick(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	credible := a.clock.credible()
	var minute, fed time.Time // when the slow part and the watchdog were last served
	var looked string         // the certificate that was looked at last
	wall, mono, slept := a.o.Now(), time.Now(), a.o.Suspended()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-a.rewake:
		}
		now, started := a.o.Now(), time.Now()
		if minute.IsZero() || started.Sub(minute) >= maxSleep {
			first := minute.IsZero()
			minute = started
			a.clock.synchronised()
			a.keepPlace()
			looked = a.lookAtFiles(looked)
			send(a.lookAtOutputs, struct{}{})
			send(a.lookAtSocket, make(chan struct{}))
			send(a.lookAtTextfile, struct{}{})
			send(a.lookAtListener, struct{}{})
			a.keepLastGood()
			if !first && a.attempts.idle() {
				debug.FreeOSMemory() // what a thousand attempts took, or the start, is needed by others now
			}
		}
		asleep := a.o.Suspended()
		stepped := now.Sub(wall) - started.Sub(mono)
		set := stepped - (asleep - slept)
		wall, mono, slept = now, started, asleep
		if set.Abs() > clockStep {
			a.clockSet(now, set)
		}
		if was := credible; was != a.clock.credible() || stepped.Abs() > clockStep {
			credible = a.clock.credible()
			a.kickAll() // every time that was planned was planned by another clock
		}
		if a.o.Watchdog > 0 && (fed.IsZero() || started.Sub(fed) >= a.o.Watchdog/4) && a.alive() {
			fed = started
			a.o.Notify("WATCHDOG=1")
		}
		sleep := maxSleep
		if a.o.Watchdog > 0 {
			sleep = min(sleep, a.o.Watchdog/3)
		}
		timer.Reset(a.kickDue(now, sleep))
	}
}

// kickDue kicks those whose time has come, and says for how long nobody else's will, at most for the time given.
func (a *Agent) kickDue(now time.Time, sleep time.Duration) time.Duration {
	a.alarm.Store(math.MaxInt64) // who sets a time from here on tells, as it may have been looked at already
	for _, p := range a.posts() {
		wake := p.wake.Load()
		if wake == 0 {
			continue
		}
		at := time.UnixMilli(wake)
		if at.After(now) {
			sleep = min(sleep, at.Sub(now))
			continue
		}
		// It sets the next time when it has looked.
		if p.wake.CompareAndSwap(wake, 0) {
			send(p.kick, struct{}{})
		}
	}
	a.alarm.Store(now.Add(sleep).UnixMilli())
	return sleep
}

// wakeSoon tells the clock task that the time of p has changed, if that is before it wakes anyway.
func (a *Agent) wakeSoon(p post) {
	if wake := p.wake.Load(); wake != 0 && wake < a.alarm.Load() {
		send(a.rewake, struct{}{})
	}
}

// clockSet tells everybody that the wall clock, which says now, was set by that much.
func (a *Agent) clockSet(now time.Time, by time.Duration) {
	z := a.o.Log.Info().Str("event", "clock")
	when(z, "now", now)
	elapsed(z, "by_seconds", by)
	z.Msg("the clock was set")
	for _, k := range a.allKeepers() {
		k.wish(wishClock)
	}
}

func (a *Agent) allKeepers() []*keeper {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := make([]*keeper, 0, len(a.keepers))
	for _, k := range a.keepers {
		all = append(all, k)
	}
	return all
}

// posts are those of everybody whom the clock task serves.
func (a *Agent) posts() []post {
	all := []post{a.authorities.post}
	for _, k := range a.allKeepers() {
		all = append(all, k.post)
	}
	return all
}

func (a *Agent) kickAll() {
	for _, p := range a.posts() {
		send(p.kick, struct{}{})
	}
}

// looksAMinute is at how many certificates whose directories are watched the clock task looks each minute all the same, in
// turn. More would keep a device with a thousand of them awake.
const looksAMinute = 32

// lookAtFiles is the fallback for what the watch of the directories misses: a keeper is kicked when the files of its
// certificate are not those that it read. It looks at all that are not watched, and at some that are, beginning with the one
// after next in the order of ids; it gives the last of those.
func (a *Agent) lookAtFiles(next string) (last string) {
	all := a.allKeepers()
	slices.SortFunc(all, func(x, y *keeper) int { return cmp.Compare(x.id, y.id) })
	begin, _ := slices.BinarySearchFunc(all, next+"\x00", func(k *keeper, id string) int { return cmp.Compare(k.id, id) })
	last = next
	watched := 0
	for i := range all {
		k := all[(begin+i)%len(all)]
		if k.envoy.altered() {
			send(k.kick, struct{}{})
		}
		if k.watched.Load() {
			if watched == looksAMinute {
				continue
			}
			watched++
			last = k.id
		}
		if read := k.read.Load(); read != nil && *read != k.stored.Fingerprint() {
			send(k.kick, struct{}{})
		}
	}
	return last
}

// keepPlace makes sure of the state directory: a disk that was unmounted and is back has another lock file than the one
// that is held, so that a second agent could start on it.
func (a *Agent) keepPlace() {
	err := a.o.Store.Present()
	a.mu.Lock()
	before := a.placeErr
	a.placeErr = err
	a.mu.Unlock()
	switch {
	case err != nil && (before == nil || before.Error() != err.Error()):
		a.o.Log.Error().Str("event", "disk").Str("error", clip(err.Error())).
			Msg("state directory cannot be used; looking again within a minute")
	case err == nil && before != nil:
		a.o.Log.Info().Str("event", "disk").Msg("state directory can be used again")
	}
	if (err == nil) != (before == nil) {
		send(a.changed, struct{}{})
	}
}

// keepLastGood puts the configuration in force back where somebody deleted it; usually it finds it there.
func (a *Agent) keepLastGood() {
	a.mu.Lock()
	doc, bad := a.cfg.Merged, a.configErr != nil
	a.mu.Unlock()
	if bad {
		return // it was kept when it was loaded
	}
	if err := a.o.Store.SaveLastGood(doc); err != nil {
		a.o.Log.Debug().Str("event", "disk").Str("error", clip(err.Error())).Msg("configuration not kept")
	}
}

// busyAtMost is how long one may be busy with one thing before it counts as stuck. None ever blocks, so that this is generous.
const busyAtMost = 10 * time.Second

// alive tells whether nobody is stuck.
func (a *Agent) alive() bool {
	for _, p := range a.posts() {
		if busy := p.busyFor(); busy > busyAtMost {
			z := a.o.Log.Error().Str("event", "stuck").Str("keeper", p.owner)
			elapsed(z, "busy_seconds", busy)
			z.Msg("keeper is stuck; the watchdog is not fed")
			return false
		}
	}
	return true
}
