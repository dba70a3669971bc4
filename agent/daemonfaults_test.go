package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"certagent/agent/config"
	"certagent/store"
	"certagent/store/durable"
	"certagent/store/durable/durabletest"
	"certagent/store/storetest"
)

// daemon is an agent that runs on a file system which may fail.
type daemon struct {
	*Agent
	stop func()
}

// run starts an agent on fsys; nil where it does not start.
func (d *device) run(fsys *durabletest.FS) *daemon {
	d.t.Helper()
	cfg, err := d.load()
	if err != nil {
		d.t.Fatal(err)
	}
	s, err := store.Open(d.state(), store.Options{MachineID: "test", FS: fsys})
	if err != nil {
		return nil
	}
	o := d.options(cfg, s)
	o.Dial = unreliable(fsys, o.Dial)
	a, err := New(o)
	if err != nil {
		d.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }() // ends with ctx
	return &daemon{a, func() {
		d.t.Helper()
		cancel()
		if err := <-done; err != nil {
			d.t.Errorf("Run: %v", err)
		}
		_ = s.Close() // which may be the call that fails
	}}
}

// TestADaemonOutlivesEveryFault: one call fails or lies, and the daemon goes on: within hours, by itself and without a
// restart, all that had to be issued is.
func TestADaemonOutlivesEveryFault(t *testing.T) {
	for i, w := range works {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			for _, mode := range []durabletest.Mode{durabletest.Fail, durabletest.Lie} {
				stride, visited := durabletest.Stride(29), 0
				synctest.Test(t, func(t *testing.T) {
					p := w.begin(t)
					for n := 1 + 3*i%stride; p.outlives(t, n, mode); n += stride {
						visited++
					}
				})
				t.Logf("%v: %d fault points, every %dth call", mode, visited, stride)
				if visited == 0 {
					t.Errorf("%v: no fault point", mode)
				}
			}
		})
	}
}

// outlives has the n-th call of a daemon fail and reports whether there were that many in three hours.
func (p *prepared) outlives(t *testing.T, n int, mode durabletest.Mode) bool {
	t.Helper()
	if err := storetest.Copy(p.before, p.state()); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(p.state())
	fsys, serial := p.broken(n, mode), p.ca.lastSerial()
	p.ca.fail(p.sentIsDurable(fsys))
	began := time.Now()
	d := p.run(fsys)
	if d == nil {
		return true // it does not start; its supervisor starts it again, which is a turn
	}
	at := func() string { return fmt.Sprintf("%v at %s", mode, strings.ReplaceAll(fsys.Fired(), p.dir, "")) }
	issued := func() bool {
		synctest.Wait()
		return !slices.ContainsFunc(p.ids, func(id string) bool { return !p.isNew(t, id, serial, at()) })
	}
	for !issued() && time.Since(began) < 3*time.Hour {
		time.Sleep(time.Minute)
	}
	if !issued() {
		t.Errorf("%s: nothing was issued in three hours\n%s", at(), p.logs)
	}
	d.stop()
	if wrong := storetest.Wrong(p.state()); len(wrong) > 0 {
		t.Errorf("%s: on disk: %v", at(), wrong)
	}
	return fsys.Fired() != ""
}

const withMQTT = oneCertificate + "[cert_issuance.certs.mqtt]\nmethod = \"est\"\ncommon_name = \"mqtt\"\n"

// TestEveryCallOfAReloadFails: a configuration that brings one certificate, takes another away with its request on the way,
// and changes a third, is loaded while a call fails, lies, or the disk dies. The daemon goes on; what was live stays so;
// in the end, after a restart if need be, all is as the new configuration says.
func TestEveryCallOfAReloadFails(t *testing.T) {
	const gone = "[cert_issuance.certs.gone]\nmethod = \"est\"\ncommon_name = \"gone\"\nurl = \"https://closed.example/\"\n"
	for _, mode := range durabletest.Modes {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			visited, stride := 0, durabletest.Stride(13)
			for n := 1; ; n += stride {
				fired := false
				synctest.Test(t, func(t *testing.T) {
					d := newDevice(t, 30*day, oneCertificate+gone)
					d.ca.fail(func(c call) error {
						if c.o.URL.Host == "closed.example" {
							return unavailable(c)
						}
						return nil
					})
					fsys := d.broken(0, mode)
					running := d.run(fsys)
					synctest.Wait()
					before, err := d.pair("device-id")
					if _, sent := storetest.PendingKey(d.state(), "gone"); before == nil || err != nil || sent != nil {
						t.Fatalf("before: %v, %v, request on its way: %v", before, err, sent)
					}

					fsys.Arm(n)
					d.configure(strings.Replace(withMQTT, `common_name = "gateway"`, `common_name = "router"`, 1))
					running.Reload()
					synctest.Wait()
					at := fmt.Sprintf("%v at %s", mode, strings.ReplaceAll(fsys.Fired(), d.dir, ""))
					fired = fsys.Fired() != ""
					fsys.Arm(0) // what comes later is no part of the reload
					time.Sleep(3 * time.Hour)
					synctest.Wait()
					if wrong := storetest.Wrong(d.state()); len(wrong) > 0 {
						t.Errorf("%s: on disk: %v", at, wrong)
					}
					if pair, err := d.pair("device-id"); pair == nil || err != nil {
						t.Errorf("%s: what was live is %v, %v", at, pair, err)
					}
					if mode == durabletest.Stop && fired {
						running.stop()
						if running = d.run(d.broken(0, mode)); running == nil {
							t.Fatalf("%s: no restart", at)
						}
						time.Sleep(3 * time.Hour)
						synctest.Wait()
					}
					if cn := d.live("device-id").Leaf.Subject.CommonName; cn != "router" {
						t.Errorf("%s: the change of the name was forgotten: it is %s", at, cn)
					}
					d.live("mqtt")
					running.stop()
					d.mustTurn()
					d.isTidy(at)
					d.lastGoodIs(t, at)
				})
				if !fired {
					break
				}
				visited++
			}
			t.Logf("%d fault points, every %dth call", visited, stride)
			if durabletest.Few(visited, 3) {
				t.Errorf("only %d fault points", visited)
			}
		})
	}
}

// lastGoodIs checks that the configuration that is kept is the one in force, in full.
func (d *device) lastGoodIs(t *testing.T, at string) {
	t.Helper()
	path := filepath.Join(d.state(), "last-good.toml")
	kept, err := os.ReadFile(path)
	if err == nil {
		_, err = config.Parse(path, kept, config.Defaults{StateDir: d.state(), RunDir: d.dir})
	}
	cfg, loadErr := d.load()
	if err != nil || loadErr != nil || string(kept) != string(cfg.Merged) {
		t.Errorf("%s: what is kept of the configuration, %v, %v:\n%s", at, err, loadErr, kept)
	}
}

// TestADiskThatIsBack: the state directory was away, and is back with the lock file of before. Within a minute it is held
// again; while another agent was faster, that is a problem by name, and it is over when that one ends.
func TestADiskThatIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, day, oneCertificate)
		a, stop := d.boot()
		defer stop()
		settle()
		away := filepath.Join(d.dir, "away")
		if err := errors.Join(storetest.Copy(d.state(), away), os.RemoveAll(d.state()), os.Rename(away, d.state())); err != nil {
			t.Fatal(err)
		}
		other, err := store.Open(d.state(), store.Options{})
		if err != nil {
			t.Fatalf("the disk that is back is held already: %v", err)
		}
		time.Sleep(2 * time.Minute)
		if p := a.Snapshot().Problems; len(p) != 1 || !strings.Contains(p[0].Text, "another agent holds the state directory") {
			t.Errorf("with another agent: %+v", p)
		}
		if err := other.Close(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		if p := a.Snapshot().Problems; len(p) > 0 {
			t.Errorf("when the other has gone: %+v", p)
		}
		if _, err := store.Open(d.state(), store.Options{}); !errors.Is(err, store.ErrLocked) {
			t.Errorf("a second agent on the disk that is back: %v", err)
		}
	})
}

// TestADiskThatWasFull: while the disk takes nothing, tries follow the back-off of failures, so that no server is asked each
// minute; when it takes something again the certificate comes within a minute, however long the back-off had become. That
// the disk was full from the start changes nothing.
func TestADiskThatWasFull(t *testing.T) {
	for _, before := range []string{"nothing", "the directories"} {
		t.Run("with "+before, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDevice(t, day, oneCertificate)
				disk := &durabletest.Disk{FS: durable.OS{Root: d.state()}, Err: syscall.ENOSPC}
				if before != "nothing" {
					s, err := store.Open(d.state(), store.Options{})
					if err := errors.Join(err, s.Close()); err != nil {
						t.Fatal(err)
					}
				}
				disk.Shut.Store(true)
				running := d.run(durabletest.New(disk, 0, durabletest.Fail))
				if running == nil {
					t.Fatal("it does not start on a full disk")
				}
				time.Sleep(5 * time.Hour)
				synctest.Wait()
				c := device0(running.Agent)
				if !hasProblem(c.Problems, "store") || !strings.Contains(fmt.Sprint(c.Problems), "no space left on device") {
					t.Errorf("problems: %+v", c.Problems)
				}
				if asked := len(d.ca.fetches()); len(d.ca.seen()) > 0 || asked > 15 {
					t.Errorf("in five hours %d enrolments, /cacerts was asked %d times", len(d.ca.seen()), asked)
				}
				disk.Shut.Store(false)
				time.Sleep(time.Minute + time.Second)
				synctest.Wait()
				if live, err := d.pair("device-id"); live == nil || err != nil {
					t.Errorf("a minute after there was room: %v\n%s", err, d.logs)
				}
				if n := strings.Count(d.logs.String(), `"level":"error"`); n > 15 {
					t.Errorf("%d errors in five hours:\n%s", n, d.logs)
				}
				running.stop()
			})
		})
	}
}
