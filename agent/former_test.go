package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certagent/store/durable"
	"certagent/store/export"
)

// slowSweep is outputs of which the former ones lie on a file system that hangs until gate is closed.
type slowSweep struct {
	export.Writer
	gate chan struct{}
}

func (s slowSweep) Sweep(paths []string) []string {
	<-s.gate
	return s.Writer.Sweep(paths)
}

// TestFormerOutputsHoldNobodyUp: an output has left the configuration because its file system hangs. What is delivered to the
// others, renewals, and the end of the agent do not wait for it; what a crash left there goes when it does not hang any more,
// also after restarts.
func TestFormerOutputsHoldNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, hooks := newServed(t, day, delivering)
		_, stop := d.boot()
		settle()
		stop()
		left := durable.TempName(filepath.Join(d.dir, "out/ca.pem"))
		writeFile(t, left, []byte("half of it"))
		is := func() bool { _, err := os.Lstat(left); return err == nil }

		d.configure(strings.Replace(delivering, "DIR/out/ca.pem", "DIR/out/other.pem", 1))
		gate := make(chan struct{})
		d.change = func(o *Options) {
			uid, gid := o.Store.Owner()
			o.Hooks, o.Outputs = hooks, slowSweep{export.Writer{UID: uid, GID: gid}, gate}
		}
		for range 2 {
			a, stop := d.boot()
			settle()
			a.Reload()
			settle()
			if c := device0(a); codes(c) != "" || len(c.Outputs) != 2 || c.Outputs[1].State != "ok" {
				t.Errorf("while it hangs: %+v", c)
			}
			a.RenewAll()
			time.Sleep(time.Hour)
			settle()
			d.mustServe("out/combined.pem")
			began := time.Now()
			if stop(); time.Since(began) > time.Second {
				t.Errorf("stopping took %v", time.Since(began))
			}
		}
		if !is() {
			t.Error("gone before anybody could look")
		}
		close(gate)
		_, stop = d.boot()
		settle()
		stop()
		if is() {
			t.Error("what a crash left beside a former output is there still")
		}
		if _, err := os.Lstat(filepath.Join(d.dir, "out/ca.pem")); err != nil {
			t.Errorf("the former output itself: %v", err)
		}
		state, err := os.ReadFile(filepath.Join(d.dir, "state/certs/device-id/delivery.json"))
		if err != nil || strings.Contains(string(state), "former") {
			t.Errorf("%v, delivery.json in the end:\n%s", err, state)
		}
	})
}
