package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"certagent/store/durable"
)

// Control answers for the Agent at a unix socket; [certagent/agent/control.Server] is one.
type Control interface {
	// Keep makes sure that it can be reached at socket, which belongs to uid and gid.
	Keep(socket string, uid, gid int) error
	// Close ends it without waiting for anybody.
	Close()
}

// openWithin is how long the start, or a reload, waits for the control socket: who is told that the agent is ready finds it there. A
// directory on a file system that hangs keeps nobody from starting.
const openWithin = time.Second

// openSocket starts to keep the control socket.
func (a *Agent) openSocket(ctx context.Context, tasks *sync.WaitGroup) {
	if a.o.Control == nil {
		return
	}
	opened := make(chan struct{})
	tasks.Go(func() { a.keepSocket(ctx, opened) }) // ends with ctx
	await(opened)
}

// moveSocket has the control socket where the configuration says now, before who asked for the reload asks for more.
func (a *Agent) moveSocket() {
	if a.o.Control == nil {
		return
	}
	opened := make(chan struct{})
	select {
	case <-a.lookAtSocket: // of the minute, for whom nobody waits
	default:
	}
	send(a.lookAtSocket, opened)
	await(opened)
}

func await(opened <-chan struct{}) {
	late := time.NewTimer(openWithin)
	defer late.Stop()
	select {
	case <-opened:
	case <-late.C:
	}
}

// keepSocket keeps the control socket where the configuration says, looking when it is told to: once a minute, and after a
// reload. It closes opened, and what it is told with, after the look.
func (a *Agent) keepSocket(ctx context.Context, opened chan<- struct{}) {
	server := a.o.Control(a)
	defer server.Close()
	for {
		a.noteSocket(a.lookAfterSocket(server))
		close(opened)
		select {
		case <-ctx.Done():
			return
		case opened = <-a.lookAtSocket:
		}
	}
}

func (a *Agent) lookAfterSocket(server Control) error {
	a.mu.Lock()
	socket := a.cfg.Control.Socket
	a.mu.Unlock()
	uid, gid := a.o.Store.Owner()
	if err := ensureRunDir(filepath.Dir(socket), uid, gid); err != nil {
		return fmt.Errorf("open the control socket %s: %w", socket, err)
	}
	sweepBrought(filepath.Dir(socket), a.o.Now())
	return server.Keep(socket, uid, gid)
}

// noteSocket logs a change of whether the socket can be had, and shows it.
func (a *Agent) noteSocket(err error) {
	a.mu.Lock()
	before := a.socketErr
	a.socketErr = err
	a.mu.Unlock()
	switch {
	case err != nil && (before == nil || before.Error() != err.Error()):
		a.o.Log.Warn().Str("event", "socket").Str("error", clip(err.Error())).
			Msg("control socket cannot be had; looking again within a minute")
	case err == nil && before != nil:
		a.o.Log.Info().Str("event", "socket").Msg("control socket can be had again")
	}
	if (err == nil) != (before == nil) {
		send(a.changed, struct{}{})
	}
}

func socketProblem(err error) Problem {
	return Problem{
		Code: "control-socket", Text: err.Error(),
		Hint: "see to that, or name another directory with run_dir; until then status reads the disk, SIGUSR1 renews and SIGHUP reloads",
	}
}

// ensureRunDir makes the directory of the socket (0755) where it is missing, and refuses one where others could put a
// socket of theirs in its place.
func ensureRunDir(dir string, uid, gid int) error {
	real, err := walk(dir)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := durable.MkdirAll(durable.OS{}, real, durable.Perm{Mode: 0o755, UID: uid, GID: gid}); err != nil {
		return err
	}
	_, err = walk(dir)
	return err
}

// walk gives dir with links resolved, as far as it is there. It refuses one in which everybody could replace a file of the
// agent's, and a way to it that a stranger could have prepared.
func walk(dir string) (real string, err error) {
	trust := durable.Trust{
		Others: func(info fs.FileInfo) durable.Others {
			if info.Mode().Perm()&0o002 == 0 {
				return durable.Others{}
			}
			return durable.Others{Who: "everybody", Fix: "chmod o-w", Replace: info.Mode()&fs.ModeSticky == 0}
		},
		Owns: func(owner int) bool { return owner == 0 || owner == os.Geteuid() },
	}
	real, info, err := durable.Walk(durable.OS{}, dir, trust)
	if err != nil {
		return real, err
	}
	if others := trust.Others(info); others.Replace {
		return real, &durable.UnsafeError{Why: fmt.Sprintf("%s may write %s", others.Who, real), Fix: others.Fix}
	}
	return real, nil
}

// CatchUp returns when what the keepers have done so far is published, or ctx ends.
func (a *Agent) CatchUp(ctx context.Context) {
	for _, k := range a.allKeepers() {
		// While a keeper waits for letters, everything is published that it has done.
		if k.busyFor() > 0 && k.visit(ctx, func() func() { return func() {} }) != nil {
			return // it says what it knows
		}
	}
}

// News names what is published now, and gives a channel that is closed when that changes.
func (a *Agent) News() (revision string, changed <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return strconv.FormatInt(a.started.UnixNano(), 36) + "-" + strconv.Itoa(a.revision), a.news
}

func (a *Agent) tellNews() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.revision++
	close(a.news)
	a.news = make(chan struct{})
}
