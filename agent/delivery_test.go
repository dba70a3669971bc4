package agent

import (
	"crypto/x509"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"certagent/store"
)

// steps is a state of delivery in short: the outputs, then the hooks, each by its name and its state, as "a:ok".
func steps(d store.Delivery) string {
	var all []string
	for _, o := range d.Outputs {
		all = append(all, o.Path+":"+string(o.State))
	}
	for _, h := range d.Hooks {
		all = append(all, fmt.Sprintf("%s:%s/%d", h.Hook, h.State, h.Tries))
	}
	return strings.Join(all, " ")
}

func hooked(name string, state store.Progress, tries int) store.DeliveredHook {
	return store.DeliveredHook{Hook: name, State: state, Tries: tries}
}

func TestReconcile(t *testing.T) {
	output := func(path string) store.DeliveredOutput { return store.DeliveredOutput{Path: path, Format: "cert"} }
	done := func(o store.DeliveredOutput) store.DeliveredOutput {
		o.State, o.Mark, o.Written = store.StepOK, "m", time.Unix(1, 0)
		return o
	}
	was := store.Delivery{
		Generation: 1, SHA256: "A", CAs: "x", Reason: "missing",
		Outputs: []store.DeliveredOutput{done(output("o1")), done(output("o2"))},
		Hooks:   []store.DeliveredHook{hooked("a", store.StepOK, 1), hooked("b", store.StepOK, 2), hooked("a", store.StepOK, 3)},
	}
	half := was
	half.Hooks = []store.DeliveredHook{hooked("a", store.StepOK, 1), hooked("b", store.StepFailed, 2), hooked("a", store.StepOK, 3)}
	half.Failures, half.NextTry = 3, time.Unix(9, 0)
	same := wanted{
		generation: 1, sha256: "A", cas: "x", reason: "missing",
		outputs: []store.DeliveredOutput{output("o1"), output("o2")}, hooks: []string{"a", "b", "a"},
	}
	with := func(change func(w *wanted)) wanted {
		w := same
		change(&w)
		return w
	}
	for _, tc := range []struct {
		name   string
		was    store.Delivery
		w      wanted
		want   string
		reason string
	}{
		{"nothing before", store.Delivery{}, same, "o1:pending o2:pending a:pending/0 b:pending/0 a:pending/0", "missing"},
		{"the same", was, same, "o1:ok o2:ok a:ok/1 b:ok/2 a:ok/3", "missing"},
		{"the same, half done", half, same, "o1:ok o2:ok a:ok/1 b:failed/2 a:ok/3", "missing"},
		{"another certificate", half, with(func(w *wanted) { w.sha256, w.generation, w.reason = "B", 2, "threshold" }),
			"o1:pending o2:pending a:pending/0 b:pending/0 a:pending/0", "threshold"},
		{"other CA certificates", was, with(func(w *wanted) { w.cas = "y" }),
			"o1:pending o2:pending a:pending/0 b:pending/0 a:pending/0", reasonCABundle},
		{"other CA certificates, before all were told", half, with(func(w *wanted) { w.cas = "y" }),
			"o1:pending o2:pending a:pending/0 b:pending/0 a:pending/0", "missing"},
		{"another order, one more", half, with(func(w *wanted) { w.hooks = []string{"b", "c", "a"} }),
			"o1:ok o2:ok b:failed/2 c:pending/0 a:ok/1", "missing"},
		{"one equal hook more", was, with(func(w *wanted) { w.hooks = []string{"a", "a", "a"} }),
			"o1:ok o2:ok a:ok/1 a:ok/3 a:pending/0", "missing"},
		{"another output", was, with(func(w *wanted) { w.outputs = []store.DeliveredOutput{output("o3"), output("o2")} }),
			"o3:pending o2:ok a:ok/1 b:ok/2 a:ok/3", "missing"},
		{"another format", was, with(func(w *wanted) { w.outputs = []store.DeliveredOutput{{Path: "o1", Format: "key"}, output("o2")} }),
			"o1:pending o2:ok a:ok/1 b:ok/2 a:ok/3", "missing"},
		{"nothing any more", was, wanted{generation: 1, sha256: "A", cas: "x"}, "", "missing"},
	} {
		got := reconcile(tc.was, tc.w)
		if s := steps(got); s != tc.want || got.Reason != tc.reason {
			t.Errorf("%s:\ngot  %s, %s\nwant %s, %s", tc.name, s, got.Reason, tc.want, tc.reason)
		}
		if got.Generation != tc.w.generation || got.SHA256 != tc.w.sha256 || got.CAs != tc.w.cas {
			t.Errorf("%s: is about %+v", tc.name, got)
		}
		if anew := tc.was.SHA256 != tc.w.sha256 || tc.was.CAs != tc.w.cas; anew != (got.NextTry.IsZero() && got.Failures == 0) &&
			tc.was.Failures > 0 {
			t.Errorf("%s: %d failures, next try %v", tc.name, got.Failures, got.NextTry)
		}
		if twice := reconcile(got, tc.w); !reflect.DeepEqual(twice, got) {
			t.Errorf("%s: a second time it is\n%+v, not\n%+v", tc.name, twice, got)
		}
	}
	// Beside an output that is none any more a crash may have left something, until it is one again.
	moved := with(func(w *wanted) { w.outputs = []store.DeliveredOutput{output("o3"), output("o2")} })
	if d := reconcile(was, moved); !slices.Equal(d.Former, []string{"o1"}) {
		t.Errorf("former outputs %q", d.Former)
	} else if d := reconcile(d, wanted{sha256: "B"}); !slices.Equal(d.Former, []string{"o1", "o3", "o2"}) {
		t.Errorf("former outputs in the end %q", d.Former)
	} else if d := reconcile(d, moved); !slices.Equal(d.Former, []string{"o1"}) {
		t.Errorf("former outputs when two are back %q", d.Former)
	}
	// What was known of a file serves for the next generation too: what did not change is not written again.
	next := reconcile(was, with(func(w *wanted) { w.sha256 = "B" }))
	if next.Outputs[0].Mark != "m" || next.Outputs[0].Written.IsZero() {
		t.Errorf("the mark is gone: %+v", next.Outputs[0])
	}
}

func TestNextStep(t *testing.T) {
	now := time.Unix(1e9, 0)
	later := now.Add(time.Minute)
	outs := func(states ...store.Progress) (o []store.DeliveredOutput) {
		for _, s := range states {
			o = append(o, store.DeliveredOutput{State: s})
		}
		return o
	}
	hook := func(s store.Progress, next time.Time) store.DeliveredHook {
		return store.DeliveredHook{State: s, NextTry: next}
	}
	const ok, pending, failed = store.StepOK, store.StepPending, store.StepFailed
	write := deliveryStep{write: true, hook: -1}
	run := func(i int) deliveryStep { return deliveryStep{hook: i} }
	wait := func(at time.Time) deliveryStep { return deliveryStep{hook: -1, at: at} }
	for _, tc := range []struct {
		name string
		q    deliveryQuestion
		want deliveryStep
	}{
		{"nothing to do", deliveryQuestion{}, wait(time.Time{})},
		{"all done", deliveryQuestion{state: store.Delivery{Outputs: outs(ok), Hooks: []store.DeliveredHook{hook(ok, time.Time{})}}}, wait(time.Time{})},
		{"outputs to be looked at", deliveryQuestion{outdated: true, state: store.Delivery{Outputs: outs(ok)}}, write},
		{"none to be looked at", deliveryQuestion{outdated: true}, wait(time.Time{})},
		{"outputs first", deliveryQuestion{state: store.Delivery{Outputs: outs(ok, pending), Hooks: []store.DeliveredHook{hook(pending, time.Time{})}}}, write},
		{"an output waits, and the hooks with it", deliveryQuestion{settled: true, state: store.Delivery{
			Outputs: outs(ok, failed), NextTry: later, Hooks: []store.DeliveredHook{hook(pending, time.Time{})},
		}}, wait(later)},
		{"the wait for outputs is over", deliveryQuestion{state: store.Delivery{Outputs: outs(failed), NextTry: now}}, write},
		{"a wait that a wrong clock wrote", deliveryQuestion{state: store.Delivery{Outputs: outs(failed), NextTry: now.Add(2 * time.Hour)}}, write},
		{"outputs are looked at before hooks", deliveryQuestion{state: store.Delivery{Outputs: outs(ok), Hooks: []store.DeliveredHook{hook(pending, time.Time{})}}}, write},
		{"then the hook", deliveryQuestion{settled: true, state: store.Delivery{Outputs: outs(ok), Hooks: []store.DeliveredHook{hook(pending, time.Time{})}}}, run(0)},
		{"no outputs", deliveryQuestion{state: store.Delivery{Hooks: []store.DeliveredHook{hook(ok, time.Time{}), hook(pending, time.Time{})}}}, run(1)},
		{"one that failed holds up none after it", deliveryQuestion{state: store.Delivery{Hooks: []store.DeliveredHook{hook(failed, later), hook(pending, time.Time{})}}}, run(1)},
		{"the first to wait for", deliveryQuestion{state: store.Delivery{Hooks: []store.DeliveredHook{hook(failed, later.Add(1)), hook(ok, now), hook(pending, later)}}}, wait(later)},
		{"its time has come", deliveryQuestion{state: store.Delivery{Hooks: []store.DeliveredHook{hook(failed, now)}}}, run(0)},
		{"a hook's wait that a wrong clock wrote", deliveryQuestion{state: store.Delivery{Hooks: []store.DeliveredHook{hook(failed, now.Add(91*time.Minute))}}}, run(0)},
	} {
		tc.q.now = now
		if got := nextStep(tc.q); got != tc.want {
			t.Errorf("%s: %+v, want %+v", tc.name, got, tc.want)
		}
	}
}

func TestWaitAfterAFailedDelivery(t *testing.T) {
	for failures, want := range map[int]time.Duration{
		1: time.Minute, 2: 4 * time.Minute, 3: 16 * time.Minute, 4: time.Hour, 5: time.Hour, 1e6: time.Hour,
	} {
		for draw, factor := range map[float64]float64{0: .5, .5: 1, .999: 1.499} {
			if got := deliveryDelay(failures, draw); got != time.Duration(factor*float64(want)) {
				t.Errorf("after %d failures, drawn %v: %v, want %v times %v", failures, draw, got, factor, want)
			}
		}
	}
}

// A hook whose end nobody saw is run again: at once after the first time, then by the rules for failures.
func TestHookThatNobodySawEnd(t *testing.T) {
	now := time.Unix(1e9, 0)
	h := hooked("a", store.StepPending, 0)
	for _, wait := range []time.Duration{0, time.Minute, 4 * time.Minute, 16 * time.Minute, time.Hour} {
		tries := h.Tries
		h = begin(h, .5, now)
		if h.State != store.StepPending || h.Tries != tries+1 || !h.LastTry.Equal(now) {
			t.Errorf("begun: %+v", h)
		}
		step := nextStep(deliveryQuestion{now: now, state: store.Delivery{Hooks: []store.DeliveredHook{h}}})
		if again := step.hook == 0; again != (wait == 0) || wait > 0 && step.at.Sub(now) != wait {
			t.Errorf("after %d tries: %+v, want a wait of %v", h.Tries, step, wait)
		}
	}
}

func TestBundle(t *testing.T) {
	ca, other := newFakeCA(t, day), newFakeCA(t, day)
	leaf := ca.sign(t, &x509.Certificate{SerialNumber: ca.cert.SerialNumber, NotAfter: time.Now().Add(day)}, ca.key.Public())
	live := &store.Generation{Leaf: leaf, CAs: []*x509.Certificate{ca.cert}}
	set := func(cas ...*x509.Certificate) string { return bundleID(cas) }
	for _, tc := range []struct {
		name  string
		known []*x509.Certificate
		want  string
	}{
		{"nothing known", nil, set(ca.cert)},
		{"the issuer", []*x509.Certificate{ca.cert}, set(ca.cert)},
		{"two", []*x509.Certificate{other.cert, ca.cert}, set(ca.cert, other.cert)},
		{"none that issued it", []*x509.Certificate{other.cert}, set(other.cert, ca.cert)},
		{"no roots", []*x509.Certificate{leaf}, set(ca.cert)},
	} {
		if got := bundleID(bundle(tc.known, live)); got != tc.want {
			t.Errorf("%s: another set", tc.name)
		}
	}
	if set(ca.cert, other.cert) != set(other.cert, ca.cert, other.cert) || set(ca.cert) == set(other.cert) || set() == set(ca.cert) {
		t.Error("sets are told apart by their order, or not at all")
	}
}
