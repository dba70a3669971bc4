package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certagent/store"
	"certagent/store/durable"
	"certagent/store/durable/durabletest"
)

// supply is a delivery that is to be made: what the agent finds, and has to do in one turn.
type supply struct {
	name    string
	config  func(s shelf) string // default: one certificate, all formats, two hooks
	prepare func(c *served)      // makes what is there before; nil: nothing is
	spoilt  bool                 // somebody else changed outputs
	check   func(c *served, after string)
}

var bothHooks = []string{hookA, hookB}

func supplied(s shelf) string {
	const table = "provisioning.attestation.identity_cert"
	return oneCertificate + s.config(table) + "[" + table + ".on_renew]\nexec = [[\"/bin/a\"], [\"/bin/b\", \"two words\"]]\n"
}

var supplies = []supply{
	{name: "with the first enrolment"},
	{name: "with a renewal", prepare: func(c *served) { c.mustServe(); time.Sleep(20 * time.Hour) }},
	{
		name: "with a renewal that keeps the key",
		config: func(s shelf) string {
			return strings.Replace(supplied(s), "rotate_key = true", "rotate_key = false", 1)
		},
		prepare: func(c *served) { c.mustServe(); time.Sleep(20 * time.Hour) },
	},
	{
		name: "of outputs that drifted, with leftovers beside them, and of a hook that failed", spoilt: true,
		prepare: func(c *served) {
			c.witness.fails = hookB
			if err := c.serve(c.broken(0, durabletest.Fail)); err == nil {
				c.t.Fatal("a hook that fails is no error")
			}
			c.witness.fails = ""
			remove(c.t, c.shelf.path("cert"))
			writeFile(c.t, c.shelf.path("fullchain"), []byte("something else"))
			if err := os.Chmod(c.shelf.path("combined"), 0o644); err != nil {
				c.t.Fatal(err)
			}
			for format := range shelved {
				writeFile(c.t, durable.TempName(c.shelf.path(format)), []byte("half of it"))
			}
		},
	},
	{
		name: "of CA certificates that no renewal came with",
		prepare: func(c *served) {
			c.ca.lifetime = longLife
			c.mustServe()
			c.ca.add(newFakeCA(c.t, day).cert)
			time.Sleep(8 * day)
		},
		check: func(c *served, after string) {
			last := c.witness.told[len(c.witness.told)-1]
			if strings.HasSuffix(after, " at ") && last.event.Reason != reasonCABundle { // nothing failed
				c.t.Errorf("the last hook was told of %q", last.event.Reason)
			}
		},
	},
	{
		name: "to consumers that were added, and no more to those that were removed",
		prepare: func(c *served) {
			c.configure(oneCertificate + "[[provisioning.attestation.identity_cert.outputs]]\nformat = \"combined\"\n" +
				"path = \"DIR/out/a/former\"\n[provisioning.attestation.identity_cert.on_renew]\nexec = [[\"/bin/a\"]]\n")
			c.mustServe()
			c.leftOver(filepath.Join(c.shelf.dir, "a", "former"))
			c.configure(supplied(c.shelf))
		},
		check: func(c *served, after string) { c.keeps(filepath.Join(c.shelf.dir, "a", "former"), after) },
	},
	{
		name: "when another certificate has left the configuration",
		prepare: func(c *served) {
			c.configure(supplied(c.shelf) + "[cert_issuance.certs.mqtt]\nmethod = \"est\"\ncommon_name = \"mqtt\"\n" +
				"[[cert_issuance.certs.mqtt.outputs]]\nformat = \"combined\"\npath = \"DIR/out/c/former\"\n")
			c.mustServe()
			c.leftOver(filepath.Join(c.shelf.dir, "c", "former"))
			c.configure(supplied(c.shelf))
			time.Sleep(20 * time.Hour)
		},
		check: func(c *served, after string) { c.keeps(filepath.Join(c.shelf.dir, "c", "former"), after) },
	},
}

// TestEveryCallOfADeliveryFails: every call on the file systems of the store and of the outputs, every answer of the server
// and every hook fails once, in every way, during a turn that ends with a delivery. A hook that is run meanwhile, or ever
// after, finds all outputs to be of the live certificate, and durable. After each fault every output is the old one or a new
// one in full, and delivery.json claims nothing that is not so. The next turn completes: every hook was run for what is live,
// none once more that is known to have been, nothing is left over; and the turn after that does nothing.
func TestEveryCallOfADeliveryFails(t *testing.T) {
	for i, s := range supplies {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			for _, mode := range durabletest.Modes {
				stride, visited, calls := durabletest.Stride(37), 0, 0
				synctest.Test(t, func(t *testing.T) {
					c := s.begin(t)
					for n := 1 + 5*i%stride; c.breakAt(t, n, mode); n += stride {
						visited, calls = visited+1, n
					}
				})
				t.Logf("%v: %d fault points, every %dth of %d or some more", mode, visited, stride, calls)
				if durabletest.Few(visited, 2) {
					t.Errorf("%v: only %d fault points", mode, visited)
				}
			}
		})
	}
}

// breakAt has the n-th call of the turn fail, checks, and reports whether there were that many calls.
func (c *served) breakAt(t *testing.T, n int, mode durabletest.Mode) bool {
	t.Helper()
	c.again(t)
	old, _ := c.pair("device-id")
	before, fsys := c.record(), c.broken(n, mode)
	err := c.serve(fsys)
	at := fmt.Sprintf("%v at %s", mode, strings.ReplaceAll(fsys.Fired(), c.dir, ""))
	if fsys.Fired() == "" && err != nil {
		t.Fatalf("without a fault: %v", err)
	}
	if u := fsys.Unsynced(); len(u) > 0 {
		t.Errorf("%s: renamed before it was durable: %v", at, u)
	}
	c.isWhole(old, at)
	record := c.record()
	c.isTrue(before, record, at)
	if err == nil && slices.ContainsFunc(record.Outputs, func(o store.DeliveredOutput) bool { return o.State == store.StepFailed }) {
		t.Errorf("%s: the turn said that all is well, and delivery.json that it is not", at)
	}

	ran, asked := len(c.told), len(c.ca.seen())
	c.mustServe()
	c.isServed(at)
	live := c.live("device-id")
	now, _ := c.since(ran)
	done := c.record()
	all, _ := c.since(0)
	for _, h := range bothHooks {
		sha := thumbprint(live.Leaf)
		if times(all, h, sha) == 0 {
			t.Errorf("%s: %s was never run for generation %d", at, h, live.Number)
		}
		for _, r := range record.Hooks {
			again, same := times(now, h, sha), record.SHA256 == sha && record.CAs == done.CAs
			if r.Hook == h && same && (r.State == store.StepOK) != (again == 0) {
				t.Errorf("%s: delivery.json has %s as %s; in the next turn it is run %d times", at, h, r.State, again)
			}
		}
	}
	if record.SHA256 == thumbprint(live.Leaf) && len(c.ca.seen()) > asked {
		t.Errorf("%s: what was being delivered is asked for again", at)
	}
	c.isTidy(at)
	if c.check != nil {
		c.check(c, at)
	}

	ran, asked = len(c.told), len(c.ca.seen())
	was := c.stamps()
	c.mustServe()
	if more, _ := c.since(ran); len(more) > 0 || len(c.ca.seen()) > asked || c.stamps() != was {
		t.Errorf("%s: with nothing to do %d hooks are run, %d requests made; files before and after:\n%s\n%s",
			at, len(more), len(c.ca.seen())-asked, was, c.stamps())
	}
	return fsys.Fired() != ""
}

// TestADeliveryOutlivesEveryFault: one call fails or lies, and the daemon goes on: within hours, by itself and without a restart,
// all outputs are of one certificate that is live, and every hook was told of it.
func TestADeliveryOutlivesEveryFault(t *testing.T) {
	for i, s := range supplies {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			for _, mode := range []durabletest.Mode{durabletest.Fail, durabletest.Lie} {
				stride, visited := durabletest.Stride(61), 0
				for n, more := 1+7*i%stride, true; more; n += stride {
					synctest.Test(t, func(t *testing.T) { more = s.begin(t).outlives(t, n, mode) })
					if more {
						visited++
					}
				}
				t.Logf("%v: %d fault points, every %dth call", mode, visited, stride)
				if visited == 0 {
					t.Errorf("%v: no fault point", mode)
				}
			}
		})
	}
}

// outlives has the n-th call of a daemon fail and reports whether there were that many in the minute in which there is
// something to do.
func (c *served) outlives(t *testing.T, n int, mode durabletest.Mode) bool {
	t.Helper()
	c.again(t)
	fsys := c.broken(n, mode)
	serve := c.witness.options(fsys)
	c.change = func(o *Options) {
		serve(o)
		o.Rand = func() float64 { return 0 } // what is due is done at once
	}
	d := c.run(fsys)
	if d == nil {
		return true // it does not start; its supervisor starts it again, which is a turn
	}
	time.Sleep(time.Minute - time.Millisecond)
	synctest.Wait()
	fired := fsys.Fired()
	at := fmt.Sprintf("%v at %s", mode, strings.ReplaceAll(fired, c.dir, ""))
	fsys.Arm(0)
	time.Sleep(4 * time.Hour)
	synctest.Wait()
	d.stop()
	live := c.live("device-id")
	if err := c.shelf.complete(live.Leaf); err != nil {
		t.Errorf("%s: after four hours: %v\n%s", at, err, c.logs)
	}
	all, _ := c.since(0)
	for _, h := range bothHooks {
		if times(all, h, thumbprint(live.Leaf)) == 0 {
			t.Errorf("%s: %s was not run for generation %d in four hours\n%s", at, h, live.Number, c.logs)
		}
	}
	c.isWhole(nil, at)
	c.mustServe() // sweeps what could not be removed then
	c.isServed(at)
	c.isTidy(at)
	if c.check != nil {
		c.check(c, at)
	}
	return fired != ""
}
