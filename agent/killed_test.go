package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"certagent/agent/config"
	"certagent/agent/control"
	"certagent/est"
	"certagent/est/esttest"
	"certagent/store"
	"certagent/store/durable"
	"certagent/store/durable/durabletest"
	"certagent/store/export"
	"certagent/store/storetest"
)

// lastTurn is what a device that kills itself is told.
type lastTurn struct {
	Dir   string // with config.toml and the state directory
	At    int    // number of the call at which it dies: on its file system, or to the server
	Ahead time.Duration
	Order *control.Renewal // what it is told in a run, in place of a turn
}

// dieInATurn is the device: one turn, or one order, with the EST client that it has in life.
func dieInATurn(task string) error {
	var l lastTurn
	if err := json.Unmarshal([]byte(task), &l); err != nil {
		return err
	}
	state := filepath.Join(l.Dir, "state")
	load := func() (*config.Config, error) {
		text, err := os.ReadFile(filepath.Join(l.Dir, "config.toml"))
		if err != nil {
			return nil, err
		}
		return config.Parse("config.toml", text, config.Defaults{StateDir: state, RunDir: l.Dir})
	}
	cfg, err := load()
	if err != nil {
		return err
	}
	fsys := durabletest.New(durable.OS{Root: state}, l.At, durabletest.Kill)
	s, err := store.Open(state, store.Options{FS: fsys})
	if err != nil {
		return err
	}
	uid, gid := s.Owner()
	a, err := New(Options{
		Outputs: export.Writer{FS: fsys, UID: uid, GID: gid}, Hooks: realHooks(),
		Config: cfg, Load: load, Store: s, Log: zerolog.Nop(), Synced: func() bool { return false },
		Now:  func() time.Time { return time.Now().Add(l.Ahead) },
		Dial: unreliable(fsys, func(o est.Options) (Enroller, error) { return est.New(o) }),
	})
	switch {
	case err != nil:
	case l.Order != nil:
		err = obey(a, *l.Order)
	default:
		err = a.Once(context.Background())
	}
	return errors.Join(err, s.Close())
}

// TestKilledAtEveryCallOfATurn: a process with the real client, before a real server, kills itself at each call of its turn:
// the first enrolment, and a renewal by simplereenroll. What it leaves is a matching pair, the old or the new one, and
// the request that was sent, byte for byte; the next turn completes.
func TestKilledAtEveryCallOfATurn(t *testing.T) {
	for name, renewal := range map[string]bool{"first enrolment": false, "renewal": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := esttest.New(t, esttest.Options{})
			g := newGateway(t, server, trustFile, byUser, "")
			if renewal {
				g.mustTurn()
				g.ahead = 20 * time.Hour
			}
			stride, points := durabletest.Stride(3), 0
			for at := 1; diesAt(t, server, g, at); at += stride {
				points++
			}
			t.Logf("killed at %d calls, every %dth", points, stride)
			if durabletest.Few(points, 10) {
				t.Errorf("killed at %d calls only", points)
			}
		})
	}
}

// diesAt has a copy of the device die at that call, checks, and reports whether it died.
func diesAt(t *testing.T, server *esttest.Server, before *gateway, at int) bool {
	t.Helper()
	g := &gateway{t: t, dir: filepath.Join(t.TempDir(), "device"), text: before.text, ahead: before.ahead}
	if err := storetest.Copy(before.dir, g.dir); err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(g.dir, "state")
	if err := os.Mkdir(state, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(g.dir, "config.toml"), []byte(strings.ReplaceAll(g.text, "DIR", g.dir)))
	live := func() *storetest.Pair {
		p, err := storetest.Live(state, "mqtt")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("killed at call %d: %v", at, err)
		}
		return p
	}
	old, seen := live(), len(server.Logins())
	killed := g.dies(t, at)

	is := live()
	isNew := is != nil && (old == nil || !is.Leaf.Equal(old.Leaf))
	if old != nil && is == nil || !killed && !isNew {
		t.Errorf("killed at call %d: %v, live is %+v", at, killed, is)
	}
	if wrong := storetest.Wrong(state); len(wrong) > 0 {
		t.Errorf("killed at call %d: on disk: %v", at, wrong)
	}
	issued := func(all []esttest.Login) (last *esttest.Login) {
		for _, l := range all {
			if l.Issued != nil {
				last = &l
			}
		}
		return last
	}
	pending, pendingErr := storetest.PendingKey(state, "mqtt")
	if l := issued(server.Logins()[seen:]); l != nil && !isNew && !storetest.SameKey(pending, l.Issued.PublicKey) {
		t.Errorf("killed at call %d: a certificate was issued, and its key is gone: %v", at, pendingErr)
	}
	seen = len(server.Logins())
	g.mustTurn()
	done := live() // also without asking: a generation that was complete at the kill is made live
	switch l := issued(server.Logins()[seen:]); {
	case isNew && l != nil:
		t.Errorf("killed at call %d: the certificate was live, and is asked for again", at)
	case done == nil || old != nil && done.Leaf.Equal(old.Leaf):
		t.Errorf("killed at call %d: the next turn did not issue: %v", at, l)
	case !isNew && pendingErr == nil && !storetest.SameKey(pending, done.Leaf.PublicKey):
		t.Errorf("killed at call %d: the pending key was not used", at)
	}
	left, err := storetest.Leftovers(state)
	if wrong := append(storetest.Wrong(state), left...); err != nil || len(wrong) > 0 {
		t.Errorf("killed at call %d: on disk in the end: %v, %v", at, wrong, err)
	}
	return killed
}

// dies runs the device in a process of its own, and reports whether it was killed.
func (g *gateway) dies(t *testing.T, at int) bool {
	t.Helper()
	killed, _ := g.diesWith(t, lastTurn{At: at})
	return killed
}

// diesWith is dies for what l says, and what the device said before it died.
func (g *gateway) diesWith(t *testing.T, l lastTurn) (killed bool, says string) {
	t.Helper()
	l.Dir, l.Ahead = g.dir, g.ahead
	task, err := json.Marshal(l)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), dieVariable+"="+string(task))
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	err = cmd.Run()
	if cmd.ProcessState != nil && cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return true, said.String()
	}
	if err != nil {
		t.Fatalf("not killed at call %d: %v\n%s", l.At, err, &said)
	}
	return false, said.String()
}
