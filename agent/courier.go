package agent

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"certagent/agent/hook"
	"certagent/store"
	"certagent/store/export"
)

// Exporter is what a delivery needs to write outputs; [export.Writer] is one.
type Exporter interface {
	Check(export.Set, map[string]export.Mark) []export.Result
	Apply(export.Set, map[string]export.Mark) []export.Result
	Sweep(paths []string) (clean []string)
}

// HookRunner is what a delivery needs to tell consumers; [hook.Runner] is one.
type HookRunner interface {
	Run(context.Context, hook.Hook, hook.Event) hook.Result
}

// courier is the part of a keeper that serves the consumers of its certificate: it writes the outputs, then runs the
// hooks. It belongs to the keeper's goroutine and does not block it: each step runs beside it, one at a time, and what
// came of it is on disk before the next begins. A renewal neither waits for it nor fails with it.
type courier struct {
	// lookout is for the minute's look at the outputs; nil while there is nothing to look at.
	lookout atomic.Pointer[lookout]

	state    store.Delivery
	outdated bool // the outputs are to be looked at: since the start, or another configuration
	settled  bool // see deliveryQuestion
	running  bool
	sweep    bool // former outputs are to be swept: since the start, or another configuration
	sweeping bool
	cancel   context.CancelFunc // ends the running step
	event    *deliveryEvent     // of the delivery under way; nil between two
	saveErr  error              // the state could not be written
	readErr  error              // what is to be delivered could not be found out
	unread   int                // how often state could not be read from disk, in a row
}

// handed is what came of a step.
type handed struct {
	step    deliveryStep
	outputs []export.Result // of writing
	lookout *lookout
	hook    hook.Result
	err     error // the step was not made, or broke off
}

// retryNow has everything that failed tried again now.
func (c *courier) retryNow() {
	c.outdated, c.sweep = true, true
	for i := range c.state.Hooks {
		c.state.Hooks[i].NextTry = time.Time{}
	}
}

// deliver begins the next step of the delivery, if there is one now, and says when to look again. While a step runs, what
// comes of it has the keeper look.
func (k *keeper) deliver(ctx context.Context) (at time.Time) {
	c := &k.courier
	if c.running || ctx.Err() != nil {
		return time.Time{}
	}
	if c.readErr = k.readDelivery(); c.readErr != nil {
		return k.agent.o.Now().Add(maxSleep)
	}
	asked := len(k.cfg.Outputs) > 0 || len(hooksOf(k.cfg.OnRenew)) > 0 ||
		len(c.state.Outputs)+len(c.state.Hooks)+len(c.state.Former) > 0
	if !asked || k.live == nil || k.agent.o.Host.cloned(k.live) { // what another device uses is not handed out here
		c.lookout.Store(nil)
		c.readErr = nil
		return time.Time{}
	}
	if until := k.held(); !until.IsZero() {
		return until
	}
	to, err := k.agent.consign(k.cfg, k.live)
	if c.readErr = err; err != nil {
		return k.agent.o.Now().Add(maxSleep)
	}
	if *k.read.Load() != k.stored.Fingerprint() {
		// An attempt has just committed another generation. The CA certificates that came with it are no news of this one.
		return k.agent.o.Now().Add(maxSleep)
	}
	c.state = reconcile(c.state, to.wanted())
	k.sweepFormer()
	step := nextStep(deliveryQuestion{now: k.agent.o.Now(), state: c.state, outdated: c.outdated, settled: c.settled})
	if step.none() {
		k.saveDelivery()
		k.endDelivery(step.at)
		return step.at
	}
	if c.event == nil {
		c.event = &deliveryEvent{Certificate: k.id, began: time.Now()}
	}
	c.event.Generation, c.event.Reason = to.live.Number, c.state.Reason
	if step.hook >= 0 {
		h := &c.state.Hooks[step.hook]
		*h = begin(*h, k.agent.o.Rand(), k.agent.o.Now())
	}
	// A state that cannot be written keeps no consumer waiting: what is on disk then has the step done once more after a
	// crash, and never once less.
	k.saveDelivery()
	k.hand(ctx, step, to)
	return time.Time{}
}

// readDelivery reads what could not be read at the start. As with the retry state, one error must not have it written over,
// and a bad sector must not hold up the consumers for ever.
func (k *keeper) readDelivery() error {
	c := &k.courier
	if c.unread == 0 {
		return nil
	}
	d, err := k.stored.Delivery()
	if err != nil && c.unread < maxUnread {
		c.unread++
		return err
	}
	if err != nil {
		k.agent.o.Log.Error().Str("event", "disk").Str("certificate", k.id).Str("error", clip(err.Error())).
			Msg("delivery state not read; everything is delivered again")
	}
	c.state, c.unread = d, 0
	return nil
}

// hand makes a step beside the keeper. It ends with ctx, unless a file system hangs, and always with a letter.
func (k *keeper) hand(ctx context.Context, step deliveryStep, to consignment) {
	c, a := &k.courier, k.agent
	ctx, c.cancel = context.WithCancel(ctx)
	c.running = true
	var turn slots
	var act func() handed
	if step.write {
		c.outdated = false
		marks := marksOf(c.state.Outputs)
		turn, act = a.writing, func() handed { return a.write(to, marks) }
	} else {
		told, event := to.hooks[step.hook], to.event(k.id, c.state.Reason)
		turn, act = a.telling, func() handed { return handed{hook: a.o.Hooks.Run(ctx, told, event)} }
	}
	go func() {
		l := inTurn(ctx, turn, act)
		l.step = step
		k.back <- &l
	}()
}

// inTurn makes a step when there is a slot for it, and turns a panic into its error.
func inTurn(ctx context.Context, turn slots, step func() handed) (l handed) {
	if err := turn.acquire(ctx); err != nil {
		return handed{err: err}
	}
	defer turn.release()
	if crashed := guard(func() { l = step() }); crashed != nil {
		return handed{err: crashed}
	}
	return l
}

// write brings the outputs into order.
func (a *Agent) write(to consignment, marks map[string]export.Mark) handed {
	stamp := stampOf(to.passwordFiles()) // before they are read: what changes after that is noticed
	set := to.set()
	results := a.o.Outputs.Apply(set, marks)
	return handed{outputs: results, lookout: a.newLookout(set, results, to.passwordFiles(), stamp)}
}

func marksOf(outputs []store.DeliveredOutput) map[string]export.Mark {
	marks := map[string]export.Mark{}
	for _, o := range outputs {
		if o.Mark != "" {
			marks[o.Path] = export.Mark(o.Mark)
		}
	}
	return marks
}

// delivered records what came of a step.
func (k *keeper) delivered(l *handed) {
	c, now := &k.courier, k.agent.o.Now()
	c.running = false
	c.cancel()
	switch {
	case errors.Is(l.err, context.Canceled), errors.Is(l.hook.Err, hook.ErrStopped):
		// The agent is stopping, and the step is made again. A hook stays pending.
		c.outdated = c.outdated || l.step.write
	case l.step.write:
		k.recordOutputs(l, now)
	default:
		if l.err != nil {
			l.hook.Err = l.err
		}
		k.recordHook(&c.state.Hooks[l.step.hook], l.hook, now)
	}
	k.saveDelivery()
}

func (k *keeper) recordOutputs(l *handed, now time.Time) {
	c := &k.courier
	c.settled = true
	for i := range c.state.Outputs {
		o, r := &c.state.Outputs[i], export.Result{Err: l.err}
		if l.err == nil {
			r = l.outputs[i]
		}
		recordOutput(o, r, now)
		c.settled = c.settled && o.State == store.StepOK
		if r.Written {
			c.event.Written = append(c.event.Written, o.Path)
		}
		if o.State != store.StepOK {
			c.event.fail(o.Path, outputProblem(*o), o.Error, c.state.Failures+1)
		}
	}
	c.lookout.Store(l.lookout)
	if c.settled {
		c.state.Failures, c.state.NextTry = 0, time.Time{}
		return
	}
	c.state.Failures++
	c.state.NextTry = now.Add(deliveryDelay(c.state.Failures, k.agent.o.Rand()))
}

// recordOutput notes how it stands with one output.
func recordOutput(o *store.DeliveredOutput, r export.Result, now time.Time) {
	if r.Written {
		o.Written = now
	}
	o.Mark = string(r.Mark)
	if r.Settled() {
		o.State, o.Error, o.Hint, o.Refused, o.Since = store.StepOK, "", "", false, time.Time{}
		return
	}
	if o.State != store.StepFailed || o.Since.After(now) { // the clock was set back
		o.Since = now
	}
	o.State, o.Hint, o.Refused = store.StepFailed, "", false
	o.Error = "write " + o.Path + ": it is not known to be durable"
	if r.Err != nil {
		o.Error = clip(r.Err.Error())
	}
	if e, ok := errors.AsType[*export.RefusedError](r.Err); ok {
		o.Error, o.Hint, o.Refused = clip("write "+e.Path+": "+e.Why), e.Hint, true
	}
}

func (k *keeper) recordHook(h *store.DeliveredHook, r hook.Result, now time.Time) {
	e := k.courier.event
	e.Told = append(e.Told, h.Hook)
	h.Output, h.Skipped, h.NextTry = r.Output, r.Skipped, time.Time{}
	if r.Err == nil {
		h.State, h.Class, h.Error, h.Hint, h.Since = store.StepOK, "", "", "", time.Time{}
		return
	}
	if h.State = store.StepFailed; h.Error == "" || h.Since.After(now) {
		h.Since = now
	}
	h.Class, h.Error, h.Hint = "internal", clip(r.Err.Error()), ""
	if f, ok := errors.AsType[*hook.Error](r.Err); ok {
		h.Class, h.Hint = f.Class.Error(), f.Hint
	}
	h.NextTry = now.Add(deliveryDelay(h.Tries, k.agent.o.Rand()))
	e.fail(h.Hook, "hook-failed", h.Error, h.Tries)
}

// endDelivery logs a delivery: once, when there is nothing more to do now.
func (k *keeper) endDelivery(next time.Time) {
	c := &k.courier
	e := c.event
	c.event, c.settled = nil, false
	if e == nil {
		return
	}
	e.took, e.NextTry = time.Since(e.began), next
	for _, h := range c.state.Hooks {
		if h.State != store.StepOK {
			e.Waiting++
		}
	}
	switch {
	case len(e.Failed) > 0:
		k.agent.o.Log.Error().EmbedObject(e).Msg("certificate not delivered")
	case len(e.Written)+len(e.Told) > 0:
		k.agent.o.Log.Info().EmbedObject(e).Msg("certificate delivered")
	}
}

// saveDelivery keeps the state. One that was never anything but empty needs no file.
func (k *keeper) saveDelivery() {
	c := &k.courier
	if c.state.SHA256 == "" {
		return
	}
	err := k.stored.SaveDelivery(c.state)
	if err != nil && (c.saveErr == nil || c.saveErr.Error() != err.Error()) {
		k.agent.o.Log.Error().Str("event", "disk").Str("certificate", k.id).Str("error", clip(err.Error())).
			Msg("delivery state not written; a restart would deliver again")
	}
	c.saveErr = err
}

// shown is the state as others may look at it while the courier goes on.
func (c *courier) shown() store.Delivery {
	d := c.state
	d.Outputs, d.Hooks = slices.Clone(d.Outputs), slices.Clone(d.Hooks)
	return d
}

// undelivered says what is not delivered, nil if nothing.
func (c *courier) undelivered() error {
	err := c.readErr
	for _, o := range c.state.Outputs {
		if o.State != store.StepOK {
			err = errors.Join(err, errors.New(cmp.Or(o.Error, "write "+o.Path+": not done")))
		}
	}
	for _, h := range c.state.Hooks {
		if h.State != store.StepOK {
			err = errors.Join(err, errors.New(cmp.Or(h.Error, h.Hook+": not run")))
		}
	}
	return err
}
