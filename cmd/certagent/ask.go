package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"certagent/agent/config"
	"certagent/agent/control"
	"certagent/agent/status"
	"certagent/store"
)

// How long the agent may take to answer. One that is stuck is not waited for any longer.
const (
	askWithin    = 3 * time.Second  // a question; the agent takes a second of it at most
	changeWithin = 40 * time.Second // a change; the agent takes 30 s at most
)

// startsWithin is how long an agent that has its state directory may take to listen; it is asked anew every startsEvery.
const (
	startsWithin = 2 * time.Second
	startsEvery  = 20 * time.Millisecond
)

// client is for the agent that the configuration means, whether that loads (cfg) or not (nil). It believes what root says,
// whoever the state directory belongs to, and this process's user.
func (p *program) client(cfg *config.Config) *control.Client {
	if cfg != nil {
		return p.clientAt(cfg.Control.Socket, cfg)
	}
	return p.clientAt(config.PeekSocket(p.configFile, p.defaults()), cfg)
}

// clientAt is client for an agent that may listen elsewhere.
func (p *program) clientAt(socket string, cfg *config.Config) *control.Client {
	owners := []uint32{0, uint32(os.Geteuid())}
	dir := p.stateDirOf(cfg)
	p.reads("state directory", dir)
	if info, err := os.Stat(dir); err == nil {
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			owners = append(owners, st.Uid)
		}
	}
	return control.NewClient(socket, owners...)
}

// ask gets the status from the agent, if it is the one that keeps the state directory of the configuration: two agents that
// were given one socket must not answer for each other.
func (p *program) ask(ctx context.Context, client *control.Client, cfg *config.Config) (control.News, error) {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	news, _, err := client.Status(ctx, "", 0)
	if err != nil {
		return control.News{}, err
	}
	if want := p.namedStateDir(cfg); want != "" && want != news.Snapshot.StateDir {
		return control.News{}, fmt.Errorf("%w for %s: the agent at %s keeps %s", control.ErrNobody, want, client.Socket(), news.Snapshot.StateDir)
	}
	return news, nil
}

// namedStateDir is the state directory with links resolved, if the configuration or the environment names one; "" where only the
// default is left, because the configuration cannot be read.
func (p *program) namedStateDir(cfg *config.Config) string {
	dir := p.defaults().StateDir
	if cfg != nil {
		dir = cfg.StateDir
	} else if peeked := config.Peek(p.configFile); peeked != "" {
		dir = peeked
	}
	if real, err := filepath.EvalSymlinks(dir); dir != "" && err == nil {
		return real
	}
	return dir
}

// reach is ask for a command that needs a running agent. One that is being started is waited for.
func (p *program) reach(ctx context.Context, client *control.Client, cfg *config.Config) (control.News, error) {
	starting, cancel := context.WithTimeout(ctx, startsWithin)
	defer cancel()
	for {
		news, err := p.ask(ctx, client, cfg)
		if err == nil {
			return news, nil
		}
		if held, heldErr := store.Held(p.stateDirOf(cfg)); !errors.Is(err, control.ErrNobody) || heldErr != nil || !held {
			return news, p.unreached(err, cfg)
		}
		select {
		case <-starting.Done():
			return news, p.unreached(err, cfg)
		case <-time.After(startsEvery):
		}
	}
}

// named loads the configuration for a command that has the agent change something. The agent needs none that loads; but where the
// one that was named is not there, another agent would be meant than the one that listens where nothing is said.
func (p *program) named() (*config.Config, error) {
	cfg, err := p.load()
	if p.configFile != defaultConfig && errors.Is(err, fs.ErrNotExist) {
		return nil, badConfig(err)
	}
	return cfg, nil
}

// unreached is an error of asking the agent, with what to do.
func (p *program) unreached(err error, cfg *config.Config) error {
	if e, ok := errors.AsType[*control.Error](err); ok && e.Hint != "" {
		return failed(&hint{err, e.Hint})
	}
	held, heldErr := store.Held(p.stateDirOf(cfg))
	switch {
	case !errors.Is(err, control.ErrNobody):
		return failed(&hint{err, "its log says why (journalctl -u certagent); SIGUSR1 renews, SIGHUP reloads"})
	case heldErr == nil && held:
		return failed(&hint{err, "an agent runs, and listens elsewhere, not at all, or not yet: its log says why, or run_dir was changed since it read it"})
	}
	return failed(&hint{err, "start it (systemctl start certagent); certagent run --once does what is due without it"})
}

// waitable refuses a time to wait that is none.
func waitable(timeout time.Duration) error {
	if timeout < 0 {
		return misused(fmt.Errorf("--timeout is %v, and cannot be negative", timeout))
	}
	return nil
}

// find is the certificate called id in a Snapshot.
func find(s status.Snapshot, id string) (status.Certificate, bool) {
	for _, c := range s.Certificates {
		if c.ID == id {
			return c, true
		}
	}
	return status.Certificate{}, false
}

// idsOf are the certificates that somebody keeps.
func idsOf(s status.Snapshot) (ids []string) {
	for _, c := range s.Certificates {
		if c.State != status.Unmanaged {
			ids = append(ids, c.ID)
		}
	}
	return ids
}

// unknown says that there is no certificate id among ids, and which might have been meant.
func unknown(id string, ids []string) error {
	try := "there are: " + strings.Join(ids, ", ")
	if near := config.Nearest(id, ids); near != "" {
		try = "did you mean " + near + "?"
	} else if len(ids) == 0 {
		try = "none is configured"
	}
	return misused(&hint{fmt.Errorf("there is no certificate %q", id), try})
}
