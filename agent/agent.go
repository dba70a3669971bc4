// Package agent is the daemon: one keeper for each certificate, the choice of the identity that logs in, attempts,
// reload, and what status says about all of it.
//
// A keeper is a goroutine that owns one certificate; a clock task kicks the keepers whose time has come; attempts run
// beside their keeper. What to do is decided by a pure function (decide) from what the store, the configuration and the
// clock say, so that the daemon, "run --once" and "status" cannot disagree. The package holds no protocol (package est),
// no file format (package store) and no rule of time (package renew): it joins them.
package agent

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"certagent/agent/config"
	"certagent/agent/hook"
	"certagent/agent/status"
	"certagent/store"
)

// maxCommitting is how many issued certificates are stored at once.
const maxCommitting = 16

// How many outputs are written and how many hooks run at once, each for a certificate of its own. They do not wait for
// attempts, nor for each other: a hook may take an hour.
const (
	maxWriting = 4
	maxTelling = 16
)

// Agent keeps the certificates of a [config.Config]. Its methods may be called at any time from any goroutine.
type Agent struct {
	o     Options
	clock *clock
	// attempts is where attempts wait for their turn.
	attempts queue
	// committing bounds how many of them, the server's part over, are storing what was issued.
	committing slots
	// writing and telling bound the steps of deliveries.
	writing, telling slots
	// lookAtOutputs has watchOutputs look.
	lookAtOutputs chan struct{}
	// vanished are the paths of outputs whose certificates had left the configuration at the start.
	vanished []string
	// authorities keeps the CA certificates of the servers fresh.
	authorities *authorities
	// alarm is when the clock task wakes next, and rewake tells it that somebody has to be woken before that.
	alarm  atomic.Int64
	rewake chan struct{}
	// changed tells Run that a keeper published something.
	changed chan struct{}
	// lookAtSocket has keepSocket look, and close the channel that it is given.
	lookAtSocket chan chan struct{}
	// lookAtTextfile has keepTextfile look, and lookAtListener keepListener.
	lookAtTextfile, lookAtListener chan struct{}
	started                        time.Time
	// reloads asks Run for a reload; the letter is answered with its error, if it has a place for one.
	reloads chan chan<- error
	// read is closed when what the store keeps of each certificate has been read (readAll), and the keepers run. Nobody is told
	// before that how certificates are.
	read chan struct{}

	mu sync.Mutex // guards what follows
	// cfg is the configuration in force and configErr why it is not the one in the files; nil if it is.
	cfg         *config.Config
	configErr   error
	configSince time.Time
	keepers     map[string]*keeper
	running     map[string]*runningKeeper
	views       map[string]publishedView
	placeErr    error           // why the state directory cannot be used; nil if it can
	servers     []status.Server // as authorities saw them last
	serverWoes  []Problem       // and what was wrong with them
	socketErr   error           // why the control socket cannot be had; nil if it can
	textfileErr error           // why the textfile with metrics cannot be written; nil if it can, or none is wanted
	listenErr   error           // why metrics cannot be served; nil if they can, or need not be
	unmanaged   []view          // certificates on disk that are not in the configuration
	noticed     noticed         // since when there are problems that have no date
	revision    int             // of what is published
	news        chan struct{}   // closed with the next revision
}

// runningKeeper ends a keeper's goroutine.
type runningKeeper struct {
	stop context.CancelFunc
	done chan struct{} // closed when it has ended
}

// publishedView is what a keeper lets the others see.
type publishedView struct {
	view  view // as of its last look; what it means is found out when somebody asks
	live  *store.Generation
	tried bool
}

// New checks o and makes the keepers; it starts nothing, and what is kept of the certificates is read by Run or Once.
func New(o Options) (*Agent, error) {
	if o.Config == nil || o.Store == nil || o.Load == nil {
		return nil, errors.New("make an agent: Config, Load and Store are needed")
	}
	o = o.complete()
	a := &Agent{
		o: o, cfg: o.Config,
		committing: make(slots, maxCommitting), writing: make(slots, maxWriting), telling: make(slots, maxTelling), lookAtOutputs: make(chan struct{}, 1),
		lookAtSocket: make(chan chan struct{}, 1), lookAtTextfile: make(chan struct{}, 1), lookAtListener: make(chan struct{}, 1),
		news: make(chan struct{}), started: o.Now(),
		rewake: make(chan struct{}, 1), changed: make(chan struct{}, 1), reloads: make(chan chan<- error, 1),
		read:    make(chan struct{}),
		servers: []status.Server{}, keepers: map[string]*keeper{}, running: map[string]*runningKeeper{}, views: map[string]publishedView{},
	}
	a.authorities = newAuthorities(a)
	a.setConfigError(o.ConfigError)
	if o.ConfigError != nil {
		a.notLoaded(o.ConfigError, "configuration not loaded; running on the last good one")
	}
	a.warn(o.Config.Warnings)
	known, err := o.Store.Clock()
	if err != nil {
		// The build date is still a floor, and what corroborates the time next is written again.
		o.Log.Warn().Str("event", "disk").Str("error", clip(err.Error())).Msg("the newest corroborated time could not be read")
	}
	a.clock = newClock(&a.o, known, !o.Config.Clock.Check)
	stamp := stampOf(o.Config.Files)
	for i := range o.Config.Certificates {
		if _, err := a.add(&o.Config.Certificates[i], stamp); err != nil {
			return nil, err
		}
	}
	a.dropVanished()
	a.lookAtUnmanaged()
	return a, nil
}

// add makes the keeper of c, which never changes, without reading anything and without starting it.
func (a *Agent) add(c *config.Certificate, stamp string) (*keeper, error) {
	k, err := newKeeper(a, c, stamp)
	if err != nil {
		return nil, fmt.Errorf("open certificate %s in the store: %w", c.ID, err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.keepers[c.ID] = k
	return k, nil
}

// Run keeps the certificates until ctx ends; it returns nil then. No problem with a certificate ends it.
func (a *Agent) Run(ctx context.Context) error {
	var tasks sync.WaitGroup
	tasks.Go(func() { a.tick(ctx) }) // ends with ctx
	go a.watchOutputs(ctx)           // ends with ctx, unless a file system hangs
	go a.sweep(a.vanished)           // ends when it has looked, unless a file system hangs
	began := time.Now()
	a.present(a.o.Log.Info().Str("event", "start")).Msg("agent started")
	a.openSocket(ctx, &tasks)
	go a.keepTextfile(ctx)                   // ends with ctx, unless a file system hangs
	tasks.Go(func() { a.keepListener(ctx) }) // ends with ctx
	line := "reading what is kept of the certificates"
	a.o.Notify("READY=1\nSTATUS=" + line)
	tasks.Go(func() { // ends with ctx, but not before all is read
		a.readAll()
		a.startAll(ctx)
		close(a.read) // what compares keepers with another configuration finds all of them
		a.authorities.run(ctx)
	})
	read, reloads := a.read, (chan chan<- error)(nil)
	changed, rested := (<-chan struct{})(nil), (<-chan time.Time)(nil)
	for {
		select {
		case <-read:
			// From here on there is something to tell, and a whole set of keepers to compare with another configuration.
			read, reloads, changed = nil, a.reloads, a.changed
			send(a.changed, struct{}{})
			continue
		case answer := <-reloads:
			a.o.Notify(reloading())
			err := a.reload(ctx)
			a.o.Notify("READY=1")
			send(a.changed, struct{}{})
			send(a.lookAtListener, struct{}{})
			a.moveSocket()
			if answer != nil {
				answer <- err
			}
			continue
		case <-changed:
			a.tellNews()
			send(a.lookAtTextfile, struct{}{})
			if s := a.Snapshot().Line(); s != line {
				line = s
				a.o.Notify("STATUS=" + line)
			}
			changed, rested = nil, time.After(statusPause)
			continue
		case <-rested:
			changed, rested = a.changed, nil
			continue
		case <-ctx.Done():
		}
		a.o.Notify("STOPPING=1")
		done := make(chan struct{})
		go func() { tasks.Wait(); close(done) }()
		a.stopAll(done)
		z := a.present(a.o.Log.Info().Str("event", "stop"))
		elapsed(z, "ran_seconds", time.Since(began))
		z.Msg("agent stopped")
		return nil
	}
}

// present says which program runs, and on what.
func (a *Agent) present(z *zerolog.Event) *zerolog.Event {
	a.mu.Lock()
	cfg := a.cfg
	a.mu.Unlock()
	z.Str("version", a.o.Version)
	when(z, "built", a.o.Built)
	text(z, "configuration", cfg.File)
	list(z, "files", cfg.Files)
	return z.Str("state_dir", a.o.Store.Dir()).Int("certificates", len(cfg.Certificates))
}

// statusPause is the least time between two lines of status: to describe a thousand certificates takes a while, and when
// they are renewed at once each of them changes several times.
const statusPause = 500 * time.Millisecond

// startAll starts the keepers, unless ctx has ended: then stopAll may have been here.
func (a *Agent) startAll(ctx context.Context) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if ctx.Err() != nil {
		return
	}
	for id := range a.keepers {
		a.startLocked(ctx, id)
	}
}

// startLocked starts the goroutine of a keeper: it ends with ctx or when it is stopped. A panic restarts the keeper after a
// minute; it must not take the other certificates along. a.mu is held.
func (a *Agent) startLocked(ctx context.Context, id string) {
	k := a.keepers[id]
	ctx, stop := context.WithCancel(ctx)
	r := &runningKeeper{stop: stop, done: make(chan struct{})}
	a.running[id] = r
	go func() {
		defer close(r.done)
		defer stop()
		for ctx.Err() == nil {
			if crashed := guard(func() { k.loop(ctx) }); crashed != nil {
				a.crashed(k, crashed)
				k.rest(ctx, time.Minute)
			}
		}
	}()
}

// guard turns a panic of f into an error.
func guard(f func()) (crashed error) {
	defer func() {
		if p := recover(); p != nil {
			crashed = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	f()
	return nil
}

// stopGrace is how long Run waits for its keepers and tasks once it is to end: a disk may hang, and what was to be written
// then is not true yet. A hook has its own grace within it.
const stopGrace = hook.Grace + time.Second

func (a *Agent) stopAll(tasks <-chan struct{}) {
	a.mu.Lock()
	running := a.running
	a.running = map[string]*runningKeeper{}
	a.mu.Unlock()
	grace := time.NewTimer(stopGrace)
	defer grace.Stop()
	for _, r := range running {
		r.stop()
	}
	for id, r := range running {
		select {
		case <-r.done:
		case <-grace.C:
			a.o.Log.Warn().Str("event", "stuck").Str("certificate", id).
				Msg("an attempt or a delivery did not end in time and is abandoned; it is made again at the next start")
			return
		}
	}
	select {
	case <-tasks:
	case <-grace.C:
		a.o.Log.Warn().Str("event", "stuck").Msg("the refresh of CA certificates, or the reading at the start, did not end in time and is abandoned")
	}
}

// RenewAll forces the renewal of every certificate now (SIGUSR1).
func (a *Agent) RenewAll() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.o.Log.Info().Str("event", "order").Int("certificates", len(a.keepers)).
		Msg("renewal of every certificate is forced")
	for _, k := range a.keepers {
		k.wish(wishRenewal)
	}
}

// crashed shows that a keeper's goroutine came to a bad end; all else that is known of its certificate stands.
func (a *Agent) crashed(k *keeper, err error) {
	a.o.Log.Error().Str("event", "crash").Str("certificate", k.id).Str("error", clip(err.Error())).
		Msg("keeper crashed; it starts again in a minute")
	a.mu.Lock()
	v := a.views[k.id].view
	a.mu.Unlock()
	v.problems = []Problem{{Code: "internal", Text: clip(err.Error()), Hint: hintBug}}
	k.tried = true // its goroutine is this one
	a.published(k, v)
}

// published takes a keeper's view over, tells the service manager when its line changed, and wakes those that waited for
// this keeper's first attempt.
func (a *Agent) published(k *keeper, v view) {
	a.mu.Lock()
	if a.keepers[k.id] != k {
		a.mu.Unlock()
		return // no longer in the configuration
	}
	before := a.views[k.id]
	a.views[k.id] = publishedView{view: v, live: k.live, tried: k.tried}
	if before.tried != k.tried || before.live != k.live {
		for i := range a.cfg.Certificates {
			c := &a.cfg.Certificates[i]
			if c.ESTIdentity != k.id || c.ID == k.id {
				continue
			}
			if other := a.keepers[c.ID]; other != nil {
				send(other.kick, struct{}{})
			}
		}
	}
	a.mu.Unlock()
	send(a.changed, struct{}{})
}
