package agent

import (
	"io/fs"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"certagent/store"
	"certagent/store/durable"
)

// fullDisk cannot write one file while it is full.
type fullDisk struct {
	durable.FS
	name string
	full *atomic.Bool
}

func (f fullDisk) Rename(from, to string) error {
	if f.full.Load() && filepath.Base(to) == f.name {
		return &fs.PathError{Op: "rename", Path: to, Err: syscall.ENOSPC}
	}
	return f.FS.Rename(from, to)
}

// TestStateThatCannotBeWritten is no reason not to tell consumers, nor to tell them twice; it is a problem until it
// can be written, which is made good within a minute, although nothing else is due.
func TestStateThatCannotBeWritten(t *testing.T) {
	for _, name := range []string{"delivery.json", "retry.json"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d, hooks := newServed(t, longLife, delivering)
				var full atomic.Bool
				full.Store(true)
				s, err := store.Open(d.state(), store.Options{MachineID: "test", FS: fullDisk{durable.OS{}, name, &full}})
				if err != nil {
					t.Fatal(err)
				}
				cfg, err := d.load()
				if err != nil {
					t.Fatal(err)
				}
				a, err := New(d.options(cfg, s))
				if err != nil {
					t.Fatal(err)
				}
				stop := d.start(a, s)
				time.Sleep(3 * time.Hour)
				settle()
				mustTell(t, hooks, hookA+"/1/missing", hookB+"/1/missing")
				if codes(device0(a)) != "store" {
					t.Errorf("problems on a full disk: %s", codes(device0(a)))
				}
				full.Store(false)
				time.Sleep(time.Minute)
				settle()
				if codes(device0(a)) != "" {
					t.Errorf("problems when there is room again: %s", codes(device0(a)))
				}
				stop()
				_, stop = d.boot()
				defer stop()
				settle()
				mustTell(t, hooks, hookA+"/1/missing", hookB+"/1/missing")
			})
		})
	}
}

// TestDamagedRetryStateIsTold: it may have said that a new key is wanted, after a compromise for example.
func TestDamagedRetryStateIsTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, day, oneCertificate)
		for range 2 { // then it is written anew
			_, stop := d.boot()
			settle()
			stop()
			writeFile(t, filepath.Join(d.dir, "state", "certs", "device-id", "retry.json"), []byte("{"))
		}
		if told, asked := strings.Count(d.logs.String(), "retry state damaged"), len(d.ca.seen()); told != 1 || asked != 1 {
			t.Errorf("told of %d times, want 1; %d requests, want 1", told, asked)
		}
	})
}
