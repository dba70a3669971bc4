package agent

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certagent/agent/onboard"
	"certagent/agent/onboard/dps"
	"certagent/agent/onboard/dps/dpstest"
	"certagent/store/durable"
	"certagent/store/durable/durabletest"
)

// unreliableCloud has every connection to the cloud counted beside the calls on the file system: it may never come about, or
// break with the first byte.
type unreliableCloud struct {
	onboard.Dialer
	fs *durabletest.FS
}

func (u unreliableCloud) DialContext(ctx context.Context, network, address string) (c net.Conn, err error) {
	if fault := u.fs.Do("dial", "the cloud", func() { c, err = u.Dialer.DialContext(ctx, network, address) }); fault != nil {
		if c != nil {
			c.Close()
		}
		return nil, fault
	}
	return c, err
}

// TestEveryCallOfARegistrationFails: every call on the file system, and every connection to the cloud and to the EST server, fails
// once, in every way, during a turn that enrols or renews, registers and delivers; among the ways is an agent that is killed there.
// After each the result on disk is the old one or a new one in full, of a certificate that the hub knew; the next turn
// completes; and the turn after that asks nobody.
func TestEveryCallOfARegistrationFails(t *testing.T) {
	for name, renewal := range map[string]bool{"the first certificate": false, "a renewed one": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, mode := range durabletest.Modes {
				stride, visited := durabletest.Stride(29), 0
				synctest.Test(t, func(t *testing.T) {
					for n := 1; breakRegistration(t, renewal, n, mode); n += stride {
						visited++
					}
				})
				if durabletest.Few(visited, 2) {
					t.Errorf("%v: only %d fault points", mode, visited)
				}
			}
		})
	}
}

// breakRegistration has the n-th call of a turn fail, checks, and reports whether there were that many calls.
func breakRegistration(t *testing.T, renewal bool, n int, mode durabletest.Mode) bool {
	t.Helper()
	c := newClouded(t, day, dpstest.Options{})
	defer c.end()
	if renewal {
		if err := c.once(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Hour)
	}
	before := c.resultOnDisk()
	fsys := c.broken(n, mode)
	change := c.change
	c.change = func(o *Options) {
		change(o)
		o.Clouds = unreliableCloud{o.Clouds, fsys}
	}
	first := c.turn(fsys)
	after := "after " + mode.String() + " at " + fsys.Fired()
	c.change = change
	if r := c.resultOnDisk(); before != nil && r == nil {
		t.Errorf("%s: the result is gone", after)
	} else if r != nil && (before == nil || r.SHA256 != before.SHA256) && r.SHA256 != c.known() {
		t.Errorf("%s: the result claims %s, and the hub knows %s", after, r.SHA256, c.known())
	}
	if fsys.Fired() == "" {
		if first != nil {
			t.Errorf("a turn without a fault: %v", first)
		}
		return false
	}
	time.Sleep(time.Minute) // the service takes five polls in ten seconds
	if err := c.once(); err != nil {
		t.Errorf("%s: the next turn: %v", after, err)
	}
	live := thumbprint(c.live("device-id").Leaf)
	if r := c.resultOnDisk(); r == nil || r.SHA256 != live || c.known() != live {
		t.Errorf("%s, and one turn more: %s is live, the hub knows %s, the result is %+v", after, live, c.known(), r)
	}
	c.mustServe("out/combined.pem")
	asked := len(c.asked())
	if err := c.once(); err != nil || len(c.asked()) != asked {
		t.Errorf("%s: a turn with nothing to do asked the cloud %d times, %v", after, len(c.asked())-asked, err)
	}
	names, err := os.ReadDir(filepath.Dir(c.resultFile()))
	if err != nil {
		t.Error(err)
	}
	for _, name := range names {
		if durable.IsTemp(name.Name()) || strings.HasPrefix(name.Name(), "displaced") {
			t.Errorf("%s: %s is left over", after, name.Name())
		}
	}
	return true
}

// resultOnDisk is what applications read; nil if there is none.
func (c *clouded) resultOnDisk() *dps.Result {
	c.t.Helper()
	file, err := os.ReadFile(c.resultFile())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	r := dps.ParseResult(file)
	if err != nil || r == nil {
		c.t.Errorf("the result is not whole: %v: %s", err, file)
	}
	return r
}
