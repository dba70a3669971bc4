package agent

import (
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"certagent/est"
	"certagent/store"
	"certagent/store/durable"
	"certagent/store/keys"
)

func TestRenewsForEver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, day, oneCertificate)
		_, stop := d.boot()
		defer stop()
		born := time.Now()
		time.Sleep(10*day + time.Hour)
		settle()

		calls := d.ca.seen()
		want := 1 + int(10*day/(day*8/10))
		if len(calls) != want {
			t.Fatalf("%d requests in ten days, want %d", len(calls), want)
		}
		if c := calls[0]; c.op != opEnroll || c.identity != identityBootstrap {
			t.Errorf("first request: %s by %s, want simpleenroll by the bootstrap certificate", c.op, c.identity)
		}
		for n, c := range calls[1:] {
			if c.op != opReenroll || c.identity != identitySelf {
				t.Errorf("request %d: %s by %s, want simplereenroll by the certificate itself", n+2, c.op, c.identity)
			}
			due := born.Add(time.Duration(n+1) * day * 8 / 10)
			if late := c.at.Sub(due); late < 0 || late > time.Second {
				t.Errorf("request %d came %v after it was due", n+2, late)
			}
		}
		if g := d.live("device-id"); g.Number != want {
			t.Errorf("live generation is %d, want %d", g.Number, want)
		}
	})
}

func TestForcedRenewal(t *testing.T) {
	t.Parallel()
	for _, rotate := range []bool{true, false} {
		t.Run(fmt.Sprintf("rotate_key=%v", rotate), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := newDevice(t, day, strings.Replace(oneCertificate, "rotate_key = true", fmt.Sprintf("rotate_key = %v", rotate), 1))
				a, stop := d.boot()
				defer stop()
				settle()
				before := d.live("device-id")
				time.Sleep(time.Hour)
				a.RenewAll()
				a.RenewAll() // coalesced with the first, or one more renewal; never an error
				settle()
				after := d.live("device-id")
				if after.Number < 2 || after.Leaf.SerialNumber.Cmp(before.Leaf.SerialNumber) == 0 {
					t.Fatalf("generation %d with serial %x after the force", after.Number, after.Leaf.SerialNumber)
				}
				if same := keys.Equal(before.Key.Public(), after.Key.Public()); same == rotate {
					t.Errorf("same key: %v with rotate_key = %v", same, rotate)
				}
				if after.Meta.Reason != string(reasonForced) {
					t.Errorf("reason in meta.json is %q", after.Meta.Reason)
				}
			})
		})
	}
}

// seen is a disk on which somebody sees a new live link at once, before the agent can have said anything of it.
type seen struct {
	durable.FS
	then  func()
	noted *atomic.Int32 // how often retry.json was written
}

func (s seen) Rename(from, to string) error {
	err := s.FS.Rename(from, to)
	switch filepath.Base(to) {
	case "live":
		s.then()
	case "retry.json":
		s.noted.Add(1)
	}
	return err
}

// TestForcedByWhoSawTheLastOne: a renewal that is forced as soon as the last one can be seen is one more.
func TestForcedByWhoSawTheLastOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, day, oneCertificate)
		var a *Agent
		forces := 2
		var noted atomic.Int32
		disk := seen{durable.OS{Root: d.state()}, func() {
			if forces--; forces < 0 {
				return
			}
			before := noted.Load()
			a.RenewAll()
			// Until the keeper has heard of it, unless it waits for this very rename; the bubble's time stands still then.
			for range 100_000 {
				if noted.Load() > before {
					return
				}
				runtime.Gosched()
			}
		}, &noted}
		cfg, err := d.load()
		if err != nil {
			t.Fatal(err)
		}
		s, err := store.Open(d.state(), store.Options{MachineID: "test", FS: disk})
		if err != nil {
			t.Fatal(err)
		}
		if a, err = New(d.options(cfg, s)); err != nil {
			t.Fatal(err)
		}
		defer d.start(a, s)()
		time.Sleep(time.Minute)
		settle()
		if g := d.live("device-id"); g.Number != 3 || g.Meta.Reason != string(reasonForced) {
			t.Errorf("generation %d, %s", g.Number, g.Meta.Reason)
		}
	})
}

// TestSpreadFirstRenewal: a fleet enrolled in one minute flattens at its first renewal; a server that renews only near the
// end says no to that, which is no failure.
func TestSpreadFirstRenewal(t *testing.T) {
	t.Parallel()
	text := strings.Replace(oneCertificate, "rotate_key = true", "rotate_key = true\nfirst_renewal = \"spread\"", 1)
	for _, strict := range []bool{false, true} {
		t.Run(fmt.Sprintf("strict=%v", strict), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := newDevice(t, 10*day, text)
				a, stop := d.boot()
				defer stop()
				settle()
				born := time.Now()
				if strict {
					d.ca.fail(func(c call) error {
						if time.Since(born) < 8*day {
							return &est.Error{Op: c.op, Class: est.ErrUnauthorized, Status: 403, Refusal: true}
						}
						return nil
					})
				}
				time.Sleep(time.Until(a.Snapshot().Certificates[0].RenewAt) + time.Second)
				settle()
				calls := d.ca.seen()
				if len(calls) != 2 {
					t.Fatalf("%d requests before the threshold, want 2", len(calls))
				}
				if early := calls[1].at.Sub(born); early < day || early >= 8*day {
					t.Errorf("first renewal after %v", early)
				}
				c := a.Snapshot().Certificates[0]
				if c.Failures != 0 || len(c.Problems) != 0 {
					t.Errorf("the early refusal counts: %+v", c)
				}
				time.Sleep(time.Until(born.Add(8*day)) + time.Minute)
				settle()
				if n := len(d.ca.seen()); strict && n != 3 {
					t.Errorf("%d requests by the threshold, want 3", n)
				}
				if d.live("device-id").Meta.First {
					t.Error("the renewed certificate still counts as the first")
				}
			})
		})
	}
}

func TestLostFilesAreIssuedAnew(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(t *testing.T, dir string){
		"the live link": func(t *testing.T, dir string) { remove(t, filepath.Join(dir, "live")) },
		"the key":       func(t *testing.T, dir string) { remove(t, filepath.Join(dir, "live", "key.pem")) },
		"everything": func(t *testing.T, dir string) {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		},
		"a damaged certificate": func(t *testing.T, dir string) {
			writeFile(t, filepath.Join(dir, "live", "cert.pem"), []byte("-----BEGIN CERTIFICATE-----\n"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := newDevice(t, day, oneCertificate)
				_, stop := d.boot()
				defer stop()
				settle()
				before := d.live("device-id").Leaf.SerialNumber
				time.Sleep(time.Hour)
				settle() // else this minute's look may write into what is being removed
				lose(t, filepath.Join(d.dir, "state", "certs", "device-id"))
				time.Sleep(2 * time.Minute) // the clock task's look; the watch is not part of the bubble
				settle()
				if after := d.live("device-id"); after.Leaf.SerialNumber.Cmp(before) == 0 {
					t.Error("not issued anew")
				}
				if n := len(d.ca.seen()); n != 2 {
					t.Errorf("%d requests, want 2", n)
				}
			})
		})
	}
}

// afterCommit is the real file system, on which somebody does something right behind a commit: once.
type afterCommit struct {
	durable.OS
	do *func(live string)
}

func (f afterCommit) Rename(from, to string) error {
	err := f.OS.Rename(from, to)
	if do := *f.do; err == nil && do != nil && filepath.Base(to) == "live" {
		*f.do = nil
		do(to)
	}
	return err
}

// TestLostBehindTheCommit: what was made live may be gone before the keeper hears of it. It must not be shown as valid then until
// it is due.
func TestLostBehindTheCommit(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(t *testing.T, live string){
		"the live link": remove,
		"the key":       func(t *testing.T, live string) { remove(t, filepath.Join(live, "key.pem")) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := newDevice(t, day, oneCertificate)
				do := func(live string) { lose(t, live) }
				disk := afterCommit{durable.OS{Root: filepath.Join(d.dir, "state")}, &do}
				cfg, err := d.load()
				if err != nil {
					t.Fatal(err)
				}
				s, err := store.Open(filepath.Join(d.dir, "state"), store.Options{MachineID: "test", FS: disk})
				if err != nil {
					t.Fatal(err)
				}
				a, err := New(d.options(cfg, s))
				if err != nil {
					t.Fatal(err)
				}
				defer d.start(a, s)()
				time.Sleep(2 * time.Minute)
				settle()
				g := d.live("device-id")
				if shown := a.Snapshot().Certificates[0]; shown.Serial != g.Serial() {
					t.Errorf("status shows serial %s, live is %s", shown.Serial, g.Serial())
				}
			})
		})
	}
}

// TestRefusedChangeDoesNotStopRenewal: a CA that does not grant the new name must not let the old certificate die.
func TestRefusedChangeDoesNotStopRenewal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, day, oneCertificate)
		a, stop := d.boot()
		defer stop()
		settle()
		d.ca.fail(func(c call) error {
			r, err := x509.ParseCertificateRequest(c.csr)
			if err != nil {
				return err
			}
			if r.Subject.CommonName != "gateway" {
				return &est.Error{Op: c.op, Class: est.ErrUnauthorized, Status: 403, Refusal: true}
			}
			return nil
		})
		d.text = strings.Replace(d.text, `common_name = "gateway"`, `common_name = "other"`, 1)
		a.Reload()
		time.Sleep(4 * day)
		settle()
		g := d.live("device-id")
		if left := time.Until(g.Leaf.NotAfter); left < day/10 {
			t.Errorf("the old certificate has %v left", left)
		}
		problems := a.Snapshot().Certificates[0].Problems
		if !slices.ContainsFunc(problems, func(p Problem) bool { return p.Code == "drift" }) {
			t.Errorf("the drift is no problem in status: %+v", problems)
		}
		d.ca.fail(nil)
		time.Sleep(2 * time.Hour)
		settle()
		if cn := d.live("device-id").Leaf.Subject.CommonName; cn != "other" {
			t.Errorf("common name is %q once the CA allows the change", cn)
		}
	})
}
