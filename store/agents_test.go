package store_test

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"certagent/store"
)

// hold starts a second agent on dir, and gives what opening it said.
func hold(t *testing.T, dir string) (*exec.Cmd, string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), holdVariable+"="+dir)
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err, cmd.Start())
	t.Cleanup(func() { in.Close(); cmd.Wait() })
	said, err := bufio.NewReader(out).ReadString('\n')
	must(t, err)
	return cmd, strings.TrimSpace(said)
}

func TestOneAgentAtATime(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	cmd, said := hold(t, dir)
	if said != "<nil>" {
		t.Fatal(said)
	}
	_, err := store.Open(dir, store.Options{})
	if !errors.Is(err, store.ErrLocked) || !strings.Contains(err.Error(), fmt.Sprintf("process %d", cmd.Process.Pid)) {
		t.Fatalf("a second agent: %v", err)
	}
	// The kernel gives the lock back, however the holder ends.
	must(t, cmd.Process.Kill())
	cmd.Wait()
	s := open(t, dir)
	if _, said := hold(t, dir); !strings.Contains(said, fmt.Sprintf("process %d", os.Getpid())) {
		t.Errorf("the other way round: %s", said)
	}
	must(t, s.Present())
}

func TestHeld(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	held := func(want bool) {
		t.Helper()
		if got, err := store.Held(dir); err != nil || got != want {
			t.Errorf("held: %v, %v, want %v", got, err, want)
		}
	}
	held(false)
	s := open(t, dir)
	held(true)
	must(t, s.Close())
	held(false) // the file is there, with a process id in it

	// Somebody is asking just now: that is no agent.
	f, err := os.Open(filepath.Join(dir, "lock"))
	must(t, err, syscall.Flock(int(f.Fd()), syscall.LOCK_SH))
	opened := make(chan error)
	go func() {
		s, err := store.Open(dir, store.Options{})
		if err == nil {
			err = s.Close()
		}
		opened <- err
	}()
	must(t, f.Close(), <-opened)
}

func TestViewWhileAnAgentRuns(t *testing.T) {
	s, c, _, g := start(t)
	k := generate(t)
	p, err := c.SavePending(k, request(t, k))
	must(t, err, c.SaveRetry(store.Retry{Failures: 3}))
	before := tree(t, s.Dir())
	v, err := store.View(s.Dir())
	must(t, err)
	vc := certificate(t, v, "device-id")
	live, err := vc.Live()
	if err != nil || live.Number != g.Number || live.Key == nil {
		t.Errorf("live: %+v, %v", live, err)
	}
	if got, err := vc.Pending(); err != nil || got == nil || got.ID != p.ID {
		t.Errorf("pending: %+v, %v", got, err)
	}
	if r, err := vc.Retry(); err != nil || r.Failures != 3 {
		t.Errorf("retry: %+v, %v", r, err)
	}
	_, pendingErr := vc.SavePending(k, *p)
	_, commitErr := vc.Commit(store.Issue{Pending: p, Leaf: g.Leaf})
	_, restoreErr := vc.Restore()
	for name, err := range map[string]error{
		"SavePending": pendingErr, "Commit": commitErr, "Restore": restoreErr, "DropPending": vc.DropPending(),
		"SaveRetry": vc.SaveRetry(store.Retry{}), "SaveDelivery": vc.SaveDelivery(store.Delivery{}), "SaveLastGood": v.SaveLastGood(nil),
		"SaveClock":   v.SaveClock(store.Clock{Mark: epoch}),
		"UpdateTrust": v.UpdateTrust("h:1", keep(g.Leaf)), "Present": v.Present(),
	} {
		if err == nil {
			t.Errorf("%s works in a view", name)
		}
	}
	if after := tree(t, s.Dir()); !slices.Equal(before, after) {
		t.Errorf("the view changed something:\n%s", strings.Join(after, "\n"))
	}
	if _, err := store.View(filepath.Join(s.Dir(), "nowhere")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("view of nothing: %v", err)
	}
}

func TestPresent(t *testing.T) {
	s, c, a, _ := start(t)
	must(t, s.Present())
	// A part of the skeleton goes.
	must(t, os.RemoveAll(filepath.Join(s.Dir(), "trust")), s.Present())
	// All of it goes.
	must(t, os.RemoveAll(s.Dir()))
	if _, err := c.Live(); !errors.Is(err, store.ErrMissing) {
		t.Errorf("live with nothing there: %v", err)
	}
	must(t, s.Present())
	if _, err := store.Open(s.Dir(), store.Options{}); !errors.Is(err, store.ErrLocked) {
		t.Errorf("a second agent on the new directory: %v", err)
	}
	a.renew(t, c, generate(t))
	if g, err := c.Live(); err != nil || g.Number != 1 {
		t.Errorf("live: %+v, %v", g, err)
	}
	// The lock file goes, and somebody else is faster.
	must(t, os.Remove(filepath.Join(s.Dir(), "lock")))
	if _, said := hold(t, s.Dir()); said != "<nil>" {
		t.Fatal(said)
	}
	if err := s.Present(); !errors.Is(err, store.ErrLocked) {
		t.Errorf("present with somebody else's lock: %v", err)
	}
}
