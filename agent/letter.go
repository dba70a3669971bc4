package agent

import (
	"context"

	"certagent/agent/control"
)

// What others want of a keeper beside a look.
const (
	wishRenewal uint32 = 1 << iota // now, by force
	wishClock                      // what a clock that was wrong has caused to be forgotten: it was set
	wishOutputs                    // the outputs to be looked at: one is not what it was
	wishRetry                      // what failed to be tried again: somebody may have mended something
)

// wish tells the keeper what somebody wants of it; it does not wait.
func (k *keeper) wish(w uint32) {
	k.wishes.Or(w)
	send(k.kick, struct{}{})
}

// fulfil does what was wished for since the last time.
func (k *keeper) fulfil() {
	w := k.wishes.Swap(0)
	if w&wishClock != 0 {
		k.clockSet()
	}
	if w&wishOutputs != 0 {
		k.courier.outdated = true
	}
	if w&wishRetry != 0 {
		k.mended()
	}
	if w&wishRenewal != 0 {
		k.renew(control.Renewal{})
	}
}

// loop ends when ctx does, and then waits for the running attempt and delivery, which ctx ends too.
func (k *keeper) loop(ctx context.Context) {
	act, after := func() {}, func() {}
	for act != nil {
		k.works()
		act()
		k.look(ctx)
		after()
		k.waits()
		act, after = k.letter(ctx)
	}
	k.windUp()
}

// letter waits for a letter, and gives what is to be done about it: act before the look at how things are, after behind it.
// act is nil when ctx has ended. Here a thousand keepers rest. The runtime halves a stack of which less than a quarter is in
// use, so that what stands on it here decides whether a keeper at rest has 4 KiB of it or 8: no work is done in this function.
func (k *keeper) letter(ctx context.Context) (act, after func()) {
	after = func() {}
	select {
	case <-ctx.Done():
		return nil, after
	case <-k.kick:
		return k.fulfil, after
	case c := <-k.configure:
		return func() { k.configured(c) }, after
	case l := <-k.back:
		return func() { k.take(l) }, after
	case visit := <-k.visits:
		var leave func()
		return func() { leave = visit() }, func() { leave() }
	}
}

// take deals with what came of something that ran beside the keeper.
func (k *keeper) take(letter any) {
	switch l := letter.(type) {
	case *result:
		k.finish(l)
	case *handed:
		k.delivered(l)
	case tiding:
		_ = k.returned(l)
	case swept:
		k.sweptFormer(l)
	}
}

// windUp waits for what is under way, which has been told to end.
func (k *keeper) windUp() {
	if k.running {
		k.cancel()
	}
	for k.running || k.courier.running || k.envoy.running {
		k.take(<-k.back)
	}
	if k.envoy.cloud != nil {
		k.envoy.cloud.hangUp()
	}
}
