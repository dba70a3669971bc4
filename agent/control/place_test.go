package control_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"certagent/agent/control"
)

// TestManyAgentsForOneSocket: of those that start at once one has it, and knows that; it goes on having it.
func TestManyAgentsForOneSocket(t *testing.T) {
	t.Parallel()
	for range 20 {
		socket := filepath.Join(t.TempDir(), "control.sock")
		var all sync.WaitGroup
		errs := make([]error, 8)
		servers := make([]*control.Server, len(errs))
		for i := range errs {
			a := newAgent()
			a.snapshot.StateDir = fmt.Sprint(i)
			servers[i] = control.NewServer(a, zerolog.Nop())
			defer servers[i].Close()
			all.Go(func() { errs[i] = servers[i].Keep(socket, -1, -1) })
		}
		all.Wait()
		var has []string
		for i, err := range errs {
			if err == nil {
				has = append(has, fmt.Sprint(i))
			} else if !strings.Contains(err.Error(), "another program answers there") {
				t.Error(err)
			}
		}
		news, _, err := client(t, socket).Status(t.Context(), "", 0)
		if err != nil || len(has) != 1 || news.Snapshot.StateDir != has[0] {
			t.Fatalf("%q believe that they have it; %q answers, %v", has, news.Snapshot.StateDir, err)
		}
	}
}

// TestADirectoryThatSomebodyLocks: whoever may read it may lock it for ever, which keeps nobody from anything.
func TestADirectoryThatSomebodyLocks(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "control.sock")
	dir, err := os.Open(filepath.Dir(socket))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	s := control.NewServer(newAgent(), zerolog.Nop())
	defer s.Close()
	if err := s.Keep(socket, -1, -1); err != nil {
		t.Error(err)
	}
}

// TestPlaceOfTheSocket: what answers is never taken away, what is dead is replaced, what is something else is left alone.
func TestPlaceOfTheSocket(t *testing.T) {
	t.Parallel()
	dead := func(t *testing.T, path string) {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		l.Close()
	}
	for name, c := range map[string]struct {
		before func(t *testing.T, path string)
		says   string // "" means that it is had
	}{
		"nothing there": {func(*testing.T, string) {}, ""},
		"a dead one":    {dead, ""},
		"one half made": {func(t *testing.T, path string) { dead(t, path+".new") }, ""},
		"one that answers": {func(t *testing.T, path string) {
			l, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
		}, "another program answers there"},
		"a file": {func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "no socket"},
		"a link": {func(t *testing.T, path string) {
			if err := os.Symlink("/dev/log", path); err != nil {
				t.Fatal(err)
			}
		}, "no socket"},
		"no directory": {func(t *testing.T, path string) {
			if err := os.Remove(filepath.Dir(path)); err != nil {
				t.Fatal(err)
			}
		}, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			socket := filepath.Join(t.TempDir(), "control.sock")
			c.before(t, socket)
			before, _ := os.Lstat(socket)
			s := control.NewServer(newAgent(), zerolog.Nop())
			defer s.Close()
			err := s.Keep(socket, -1, -1)
			if c.says != "" {
				after, _ := os.Lstat(socket)
				if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), socket) {
					t.Errorf("%v, want %q", err, c.says)
				}
				if before != nil && !os.SameFile(before, after) {
					t.Error("what was there is gone")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := client(t, socket).Status(t.Context(), "", 0); err != nil {
				t.Error(err)
			}
			if info, err := os.Lstat(socket); err != nil || info.Mode() != fs.ModeSocket|0o666 {
				t.Errorf("mode %v, %v", info.Mode(), err)
			}
			if left, _ := filepath.Glob(socket + "?*"); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

func TestPathThatIsTooLong(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), strings.Repeat("x", 110))
	err := control.NewServer(newAgent(), zerolog.Nop()).Keep(socket, -1, -1)
	if err == nil || !strings.Contains(err.Error(), "107 are the most") {
		t.Error(err)
	}
}

// TestKeepingTheSocket: one that somebody removed is made again, and one that is to be elsewhere moves.
func TestKeepingTheSocket(t *testing.T) {
	t.Parallel()
	s, socket := serve(t, newAgent())
	reached := func(socket string) error {
		_, _, err := client(t, socket).Status(t.Context(), "", 0)
		return err
	}
	if err := s.Keep(socket, -1, -1); err != nil || reached(socket) != nil {
		t.Errorf("all is well: %v, %v", err, reached(socket))
	}
	if err := os.Remove(socket); err != nil {
		t.Fatal(err)
	}
	if err := s.Keep(socket, -1, -1); err != nil || reached(socket) != nil {
		t.Errorf("removed: %v, %v", err, reached(socket))
	}
	nowhere := filepath.Join(t.TempDir(), "no", "control.sock")
	if err := s.Keep(nowhere, -1, -1); err == nil || reached(socket) != nil {
		t.Errorf("where it cannot be it is as before: %v, %v", err, reached(socket))
	}
	other := filepath.Join(t.TempDir(), "control.sock")
	if err := s.Keep(other, -1, -1); err != nil || reached(other) != nil || !errors.Is(reached(socket), control.ErrNobody) {
		t.Errorf("moved: %v, %v, %v", err, reached(other), reached(socket))
	}
	// Another agent's socket in this one's place is not this one's to remove.
	if err := os.Remove(other); err != nil {
		t.Fatal(err)
	}
	second := control.NewServer(newAgent(), zerolog.Nop())
	defer second.Close()
	if err := second.Keep(other, -1, -1); err != nil {
		t.Fatal(err)
	}
	if err := s.Keep(other, -1, -1); err == nil {
		t.Error("two servers have one socket")
	}
	s.Close()
	if err := reached(other); err != nil {
		t.Errorf("the other agent's socket: %v", err)
	}
}
