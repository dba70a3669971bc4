//go:build external

package main

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"certagent/agent/status"
	"certagent/est/esttest"
)

// TestFirstStartOnAMediumThatTakesNothing: the first start of a device's life meets a disk that is full, is out of inodes, or is
// mounted for reading only. The daemon lives, is ready, says by name what is wrong, and asks nobody for what it cannot keep;
// when the disk takes something it gets its certificate by itself.
func TestFirstStartOnAMediumThatTakesNothing(t *testing.T) {
	inOwnMounts(t, func(t *testing.T) {
		for name, medium := range map[string]struct {
			options string
			shut    func(g *gateway) (open func() error)
			says    string
		}{
			"full": {"size=128k", func(g *gateway) func() error {
				g.fill()
				return func() error { return os.Remove(g.path("medium", "full")) }
			}, "no space left on device"},
			"out of inodes": {"nr_inodes=40", func(g *gateway) func() error {
				made := g.useUp()
				return func() error {
					for _, path := range made {
						if err := os.Remove(path); err != nil {
							return err
						}
					}
					return nil
				}
			}, "no space left on device"},
			"read-only": {"size=1m", func(g *gateway) func() error {
				remount := func(flags uintptr) error {
					return syscall.Mount("", g.path("medium"), "", syscall.MS_REMOUNT|flags, "size=1m")
				}
				if err := remount(syscall.MS_RDONLY); err != nil {
					g.t.Fatal(err)
				}
				return func() error { return remount(0) }
			}, "read-only file system"},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				s := esttest.New(t, esttest.Options{Lifetime: time.Minute})
				g := newGateway(t)
				g.mount("tmpfs", "tmpfs", "medium", 0, medium.options)
				g.write("config.toml", minutes(s, g.path("medium", "state")))
				open := medium.shut(g)
				manager, hear := g.manager()
				g.start(manager, "WATCHDOG_USEC=2000000")
				const sick = "STATUS=0 of 1 certificates valid; mqtt: missing, store"
				if !strings.Contains(hear("READY=1"), sick) {
					hear(sick)
				}
				hear("WATCHDOG=1")
				g.until("the daemon says what is wrong", func() bool { return strings.Contains(g.log.String(), medium.says) })
				if c := g.certificate("mqtt"); c.State != status.Missing {
					t.Errorf("status: %+v", c)
				}
				if code, out := g.runs(t, "run", "--once"); code == exitOK || !strings.Contains(out, medium.says) &&
					!strings.Contains(out, "another agent holds the state directory") {
					t.Errorf("certagent run --once: %d\n%s", code, out)
				}
				for _, l := range s.Logins() {
					if l.Issued != nil {
						t.Errorf("the server issued what cannot be kept: %v", l)
					}
				}
				if err := open(); err != nil {
					t.Fatal(err)
				}
				g.within(2*time.Minute, "the first certificate", func() bool {
					g.mustRun()
					_, err := g.pair()
					return err == nil
				})
				hear("STATUS=1 of 1 certificates valid")
				g.tidy()
			})
		}
	})
}
