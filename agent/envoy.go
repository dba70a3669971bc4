package agent

import (
	"context"
	"strings"
	"sync/atomic"
	"time"

	"certagent/agent/config"
	"certagent/agent/onboard/dps"
	"certagent/agent/status"
	"certagent/store"
	"certagent/store/export"
)

// envoy is the part of the device certificate's keeper that makes it known to the cloud. It belongs to the keeper's
// goroutine and does not block it: each errand is one exchange that runs beside it, one at a time, and what came of it is on
// disk before the next begins. When the next is due the clock task knows, as of everything else. A renewal neither waits for
// it nor fails with it.
type envoy struct {
	cloud cloud             // nil while there is none to be told
	files *store.Onboarding // of cloud
	// file is what the file of the result was like when it was last read or written, for the clock task to compare; nil
	// while there is no cloud.
	file          atomic.Pointer[resultFile]
	result, state []byte // as they are on disk, as far as is known

	running bool
	cancel  context.CancelFunc // ends the running errand
	ordered bool               // somebody asked for it, and no try since has come to an end
	more    bool               // of them that it be done once more than what is under way
	waived  bool               // deliveries wait no more
	event   *registrationEvent // of the registration under way; nil between two
	saveErr error              // what is to be stored could not be written
	readErr error              // what is stored could not be read
	unread  int                // how often, in a row
}

// resultFile is a file with its fingerprint.
type resultFile struct {
	files       *store.Onboarding
	fingerprint string
}

// altered tells that somebody did something to the file of the result. Any goroutine may ask.
func (e *envoy) altered() bool {
	f := e.file.Load()
	return f != nil && f.files.Fingerprint() != f.fingerprint
}

// register begins the next errand to the cloud, if there is one now, and says when to look again. While one runs, what comes
// of it has the keeper look.
func (k *keeper) register(ctx context.Context) (at time.Time) {
	e := &k.envoy
	if ctx.Err() != nil {
		return time.Time{}
	}
	if e.readErr = k.aim(); e.readErr != nil {
		return k.agent.o.Now().Add(maxSleep)
	}
	if e.cloud == nil || e.running {
		return time.Time{}
	}
	k.saveOnboarding() // what could not be written before
	now := k.agent.o.Now()
	next := e.cloud.next(now)
	switch {
	case next.why == "":
		e.ordered, e.more = false, false
		return time.Time{}
	case !k.agent.clock.credible():
		return time.Time{} // that it is has everybody look
	case next.at.After(now):
		return next.at
	}
	k.send(ctx, next.why)
	return time.Time{}
}

// aim finds out what is to be known to which cloud. An errand about something else is called off.
func (k *keeper) aim() error {
	e := &k.envoy
	if k.cfg.Role != config.RoleDevice {
		return nil
	}
	p := k.agent.provisioning()
	was, is := "", ""
	if e.cloud != nil {
		was = e.cloud.name()
	}
	fresh := cloudOf(p)
	if fresh != nil {
		is = fresh.name()
	}
	if was != is {
		if e.running { // a letter has the keeper look again
			e.cancel()
			return nil
		}
		k.leaveCloud()
		e.cloud, e.files = fresh, k.agent.o.Store.Onboarding(is)
		if fresh == nil {
			return nil
		}
	}
	if fresh == nil {
		return nil
	}
	if err := k.readOnboarding(); err != nil {
		return err
	}
	if changed := e.cloud.aim(p, k.presentable()); changed {
		e.event = nil // of what is registered no more
		if e.running {
			e.cancel()
		} else {
			e.cloud.hangUp()
		}
		e.waived = false
	}
	return nil
}

// leaveCloud forgets the cloud that was told so far; its files stay.
func (k *keeper) leaveCloud() {
	e := &k.envoy
	if e.cloud != nil {
		e.cloud.hangUp()
	}
	e.cloud, e.files, e.result, e.state, e.event = nil, nil, nil, nil, nil
	e.ordered, e.more, e.waived, e.saveErr, e.unread = false, false, false, nil, 0
	e.file.Store(nil)
}

// presentable is the live generation if it can be shown to a cloud; nil if there is none, or it is another device's, or not
// valid now. Its renewal is another's business.
func (k *keeper) presentable() *store.Generation {
	return presentable(k.agent.o.Host.own(k.live), k.agent.o.Now())
}

func presentable(g *store.Generation, now time.Time) *store.Generation {
	if g == nil || now.Before(g.Leaf.NotBefore) || !now.Before(g.Leaf.NotAfter) {
		return nil
	}
	return g
}

// readOnboarding reads what is on disk, at first all of it and later the result, where somebody did something to that. As
// with the retry state, one error must not have it written over, and a bad sector must not keep the device from its cloud.
func (k *keeper) readOnboarding() error {
	e := &k.envoy
	first := e.file.Load() == nil
	if !first && !e.altered() {
		return nil
	}
	fingerprint := e.files.Fingerprint()
	result, err := e.files.Result()
	var state []byte
	if first && err == nil {
		state, err = e.files.State()
	}
	if err != nil && e.unread < maxUnread {
		e.unread++
		return err
	}
	if err != nil {
		k.agent.o.Log.Error().Str("event", "disk").Str("certificate", k.id).Err(err).
			Msg("what is known of the cloud not read; the certificate is registered again")
	}
	e.unread = 0
	e.cloud.restore(result, state)
	e.file.Store(&resultFile{e.files, fingerprint})
	e.result, _ = e.cloud.stored()
	if first {
		_, e.state = e.cloud.stored()
		s, _ := e.cloud.describe(k.agent.o.Now())
		e.ordered = s.Ordered
	}
	return nil
}

// send begins an errand beside the keeper. It ends with ctx, and always with a letter.
func (k *keeper) send(ctx context.Context, why string) {
	e, a := &k.envoy, k.agent
	if e.event == nil {
		e.event = &registrationEvent{Certificate: k.id, Cloud: e.cloud.name(), Reason: why, began: time.Now()}
		if k.live != nil {
			e.event.Generation = k.live.Number
		}
	}
	ctx, e.cancel = context.WithCancel(ctx)
	e.running = true
	errand := e.cloud.begin(a.contact(), a.o.Rand(), a.o.Now())
	// A state that cannot be written keeps nobody waiting: what is on disk then has the errand done once more after a crash.
	k.saveOnboarding()
	go func() { k.back <- errand(ctx) }() // ends with the errand
}

// returned records what came of an errand, and logs a registration that has come to its end: once. It says whether it has.
func (k *keeper) returned(t tiding) (end bool) {
	e, now := &k.envoy, k.agent.o.Now()
	e.running = false
	e.cancel()
	end = t.record(k.agent.o.Rand(), now)
	k.saveOnboarding()
	ev := e.event
	if t.over || ev == nil { // the agent stops, or there is something newer to register
		e.event = nil
		return end
	}
	ev.add(t)
	if !end {
		return false
	}
	e.event, e.ordered, e.more = nil, e.more, false
	s, problems := e.cloud.describe(now)
	ev.end(s, problems, t.class, e.cloud.next(now), now)
	if ev.Result == status.Registered {
		k.agent.o.Log.Info().EmbedObject(ev).Msg("certificate registered with the cloud")
		return true
	}
	k.agent.o.Log.WithLevel(ev.level()).EmbedObject(ev).Msg("certificate not registered with the cloud")
	return true
}

// saveOnboarding writes what changed: the result before the state, which after a crash between the two has the registration
// made once more.
func (k *keeper) saveOnboarding() {
	e := &k.envoy
	result, state := e.cloud.stored()
	var err error
	if result != nil && string(result) != string(e.result) {
		if err = e.files.SaveResult(result); err == nil {
			e.result = result
			e.file.Store(&resultFile{e.files, e.files.Fingerprint()})
		}
	}
	if err == nil && string(state) != string(e.state) {
		if err = e.files.SaveState(state); err == nil {
			e.state = state
		}
	}
	if err != nil && (e.saveErr == nil || e.saveErr.Error() != err.Error()) {
		k.agent.o.Log.Error().Str("event", "disk").Str("certificate", k.id).Err(err).
			Msg("what is known of the cloud not written; a restart would register again")
	}
	e.saveErr = err
}

// A new certificate is of no use to its consumers before the cloud knows it: it refuses all others but the last that was
// registered. So they wait, though not for long: some of them have other business than the cloud, and the certificate that
// they have runs out.
const (
	holdAtMost = 5 * time.Minute
	holdPart   = 10 // of the lifetime
)

// held is until when the delivery of the live certificate waits for the cloud; zero if it does not.
func (k *keeper) held() time.Time {
	e, now := &k.envoy, k.agent.o.Now()
	if e.cloud == nil || e.waived {
		return time.Time{}
	}
	return heldUntil(e.cloud.next(now), k.live, now)
}

func heldUntil(next errand, live *store.Generation, now time.Time) time.Time {
	if !next.new || live == nil {
		return time.Time{}
	}
	issued := notAhead(live.Meta.Issued, now)
	until := issued.Add(min(holdAtMost, live.Leaf.NotAfter.Sub(live.Leaf.NotBefore)/holdPart))
	if issued.IsZero() || !until.After(now) {
		return time.Time{}
	}
	return until
}

// cloudMended has tried at once what the clock of this device, or a file on it, may have kept from working: somebody may have
// mended that. What is wrong with the cloud is no better for it.
func (k *keeper) cloudMended() {
	e := &k.envoy
	if e.cloud == nil {
		return
	}
	if _, problems := e.cloud.describe(k.agent.o.Now()); len(problems) > 0 &&
		(strings.HasSuffix(problems[0].Code, "-untrusted") || problems[0].Code == dps.CodePayload) {
		e.cloud.retryNow()
	}
}

// shownOnboarding is how it stands, as others may look at it; nil while there is no cloud to be told.
func (k *keeper) shownOnboarding() (*status.Onboarding, []Problem) {
	e := &k.envoy
	if e.cloud == nil {
		return nil, nil
	}
	s, problems := e.cloud.describe(k.agent.o.Now())
	s.File, s.Ordered, s.HoldsUntil = e.files.ResultFile(), e.ordered, k.held()
	if e.running {
		s.NextTry = time.Time{}
	}
	return &s, problems
}

// contact is what an errand needs. Those who may write what goes along are those who may write where outputs lie.
func (a *Agent) contact() contact {
	uid, gid := a.o.Store.Owner()
	return contact{dialer: a.o.Clouds, userAgent: a.userAgent(), now: a.o.Now, trust: export.Writer{UID: uid, GID: gid}.Trust()}
}

// provisioning is what the configuration in force says of the cloud.
func (a *Agent) provisioning() config.Provisioning {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.cfg.Provisioning
}
