package agent

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"certagent/est"
	"certagent/store"
	"certagent/store/durable"
)

// TestApprovalThatTakesDays: the same request is repeated byte for byte, also across a restart, no earlier than the server
// said, and a force does not change that.
func TestApprovalThatTakesDays(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, day, oneCertificate)
		d.ca.fail(func(c call) error {
			return &est.Error{Op: c.op, Class: est.ErrPending, Status: 202, RetryAfter: 6 * time.Hour}
		})
		a, stop := d.boot()
		time.Sleep(9 * time.Hour)
		a.RenewAll()
		settle()
		stop()
		a, stop = d.boot()
		defer stop()
		time.Sleep(time.Hour)
		settle()
		if p := a.Snapshot().Certificates[0]; !p.Pending {
			t.Errorf("status does not show the pending request: %+v", p)
		}
		d.ca.fail(nil)
		time.Sleep(3 * time.Hour)
		settle()
		calls := d.ca.seen()
		if len(calls) != 3 {
			t.Fatalf("%d requests, want 3", len(calls))
		}
		for i, c := range calls {
			if !bytes.Equal(c.csr, calls[0].csr) {
				t.Errorf("request %d is not the first one repeated", i+1)
			}
			if i > 0 && c.at.Sub(calls[i-1].at) < 6*time.Hour {
				t.Errorf("request %d came after %v", i+1, c.at.Sub(calls[i-1].at))
			}
		}
	})
}

// TestApprovalAtNoSaidTime: a 202 without Retry-After is a matter of a quarter of an hour, one until the next century of a
// week.
func TestApprovalAtNoSaidTime(t *testing.T) {
	stories := storiesOf(t)
	for _, test := range []struct{ said, want time.Duration }{{0, 15 * time.Minute}, {876600 * time.Hour, 7 * day}} {
		stories.play(fmt.Sprintf("told to wait %v", test.said), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDevice(t, day, oneCertificate)
				d.ca.fail(func(c call) error {
					return &est.Error{Op: c.op, Class: est.ErrPending, Status: 202, RetryAfter: test.said}
				})
				_, stop := d.boot()
				defer stop()
				time.Sleep(test.want + 5*time.Minute)
				settle()
				calls := d.ca.seen()
				if len(calls) != 2 || calls[1].at.Sub(calls[0].at) < test.want {
					t.Errorf("told to wait %v: %d requests, want a second after %v", test.said, len(calls), test.want)
				}
			})
		})
	}
}

// countedReads is a file system that counts how often a pending request is opened.
type countedReads struct {
	durable.FS
	requests atomic.Int64
}

func (c *countedReads) OpenFile(path string, flag int, mode fs.FileMode) (durable.File, error) {
	if filepath.Base(path) == "request.json" && flag == os.O_RDONLY|durable.NoFollow|durable.NonBlock {
		c.requests.Add(1)
	}
	return c.FS.OpenFile(path, flag, mode)
}

// TestApprovalIsAwaitedAtRest: a request that waits is not read, and its signature not verified, at each look of a day; but that somebody
// has removed it is noticed within the minute, and ends the wait.
func TestApprovalIsAwaitedAtRest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, day, oneCertificate)
		d.ca.fail(func(c call) error { return &est.Error{Op: c.op, Class: est.ErrPending, Status: 202, RetryAfter: day} })
		cfg, err := d.load()
		if err != nil {
			t.Fatal(err)
		}
		files := &countedReads{FS: durable.OS{}}
		s, err := store.Open(d.state(), store.Options{FS: files, MachineID: "test"})
		if err != nil {
			t.Fatal(err)
		}
		a, err := New(d.options(cfg, s))
		if err != nil {
			t.Fatal(err)
		}
		defer d.start(a, s)()
		time.Sleep(5 * time.Minute)
		before := files.requests.Load()
		if before == 0 {
			t.Error("the request was never read")
		}
		time.Sleep(12 * time.Hour)
		if n := files.requests.Load() - before; n != 0 {
			t.Errorf("the request, which is the same, was read %d times more", n)
		}
		if err := os.RemoveAll(filepath.Join(d.state(), "certs", "device-id", "pending")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		settle()
		if n := len(d.ca.seen()); n != 2 {
			t.Errorf("%d requests, want another after the first was removed", n)
		}
	})
}
