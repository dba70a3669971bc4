package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	stdlog "log"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"certagent/agent"
	"certagent/agent/config"
	"certagent/agent/control"
	"certagent/agent/hook"
	"certagent/store"
)

func (p *program) runCommand() *cobra.Command {
	var once bool
	c := &cobra.Command{
		Use:   "run",
		Short: "keep the certificates: the daemon",
		Long: `run keeps all configured certificates until it is told to stop. A configuration that is wrong at the start is
passed over for the one that loaded last; without one it ends.

With --once it does everything that is due, and exits. Only one agent runs on a state directory.

Signals:

  SIGUSR1          renew every certificate now
  SIGHUP           read the configuration again; a wrong one changes nothing
  SIGTERM, SIGINT  stop, within 5 s; a request on its way is kept for later

Exit codes: 0 stopped, or with --once all is done; 1 failed to start, or with --once something that was due failed or
waits for approval; 2 usage or configuration.`,
		Example: "  certagent run\n  certagent run --once --config ./config.toml",
		Args:    atMost(0),
		RunE: func(c *cobra.Command, _ []string) error {
			return p.keep(c.Context(), once)
		},
	}
	c.Flags().BoolVar(&once, "once", false, "do what is due, then exit")
	return c
}

func (p *program) keep(ctx context.Context, once bool) error {
	// First of all: the default action of SIGUSR1 and SIGHUP is to end the process.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGUSR1, syscall.SIGHUP)
	// A log that nobody reads any more is no reason to stop.
	signal.Ignore(syscall.SIGPIPE)
	// net/http prints what a server sends out of turn through the standard logger, where it may quote a login.
	stdlog.SetOutput(io.Discard)
	// A Go program that crashes exits with 2, as one with a bad configuration does, which a service manager rightly does not
	// start again (RestartPreventExitStatus=2). So a crash ends it by SIGABRT, as the watchdog's does.
	debug.SetTraceback("crash")
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, os.Interrupt)
	defer stop()
	if os.Getenv("GOGC") == "" {
		// A gateway has more time than memory. The default is 100: as much garbage as there is in use.
		debug.SetGCPercent(50)
	}

	cfg, configErr, err := p.loadOrLastGood()
	if err != nil {
		notify("STATUS=configuration is wrong: " + firstLine(err))
		return badConfig(err)
	}
	out := newLogging(p.stderr)
	out.apply(cfg.Log)
	log := out.logger()
	a, s, err := p.open(cfg, configErr, out)
	if err != nil {
		notify("STATUS=" + firstLine(err))
		return failed(err)
	}
	defer s.Close()
	if configErr == nil {
		if err := s.SaveLastGood(cfg.Merged); err != nil {
			log.Error().Str("event", "disk").Err(err).
				Msg("configuration not kept; a bad file at the next start would find no last good one")
		}
	}
	if once {
		if err := a.Once(ctx); err != nil {
			return failed(&hint{err, "certagent status says what to do"})
		}
		if configErr != nil {
			return badConfig(configErr, errors.New("what was due is done, by the last good configuration"))
		}
		return nil
	}
	go obey(ctx, signals, a)
	go func() { // ends with ctx
		if err := a.Watch(ctx); err != nil {
			log.Warn().Str("event", "watch").Err(err).
				Msg("directories are not watched; certificates are looked at once a minute, the configuration at SIGHUP")
		}
	}()
	if err := a.Run(ctx); err != nil {
		return failed(err)
	}
	return nil
}

// obey turns signals into what they ask for; it ends with ctx.
func obey(ctx context.Context, signals <-chan os.Signal, a *agent.Agent) {
	for {
		select {
		case <-ctx.Done():
			return
		case s := <-signals:
			switch s {
			case syscall.SIGUSR1:
				a.RenewAll()
			case syscall.SIGHUP:
				a.Reload()
			}
		}
	}
}

// open opens the store and makes the agent of cfg.
func (p *program) open(cfg *config.Config, configErr error, out *logging) (*agent.Agent, *store.Store, error) {
	h, log := host(), out.logger()
	s, err := store.Open(cfg.StateDir, store.Options{MachineID: h.LastingID()})
	if err != nil {
		return nil, nil, badStateDir(err)
	}
	watchdog, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn().Str("event", "watch").Err(err).Msg("watchdog not understood; it is not fed")
		watchdog = 0
	}
	a, err := agent.New(agent.Options{
		Config: cfg, ConfigError: configErr, Load: p.load, Store: s, Log: log,
		Version: version, Built: built(), Host: h, Notify: notify, Watchdog: watchdog,
		Loaded:  func(c *config.Config) { out.apply(c.Log) },
		Control: func(a *agent.Agent) agent.Control { return control.NewServer(a, log) },
		Hooks:   hook.Runner{Self: []string{os.Args[0], hookExec}, As: hooksAs(s.Owner())},
	})
	if err != nil {
		return nil, nil, errors.Join(err, s.Close())
	}
	return a, s, nil
}

// badStateDir is an error of opening the state directory, with what to do.
func badStateDir(err error) error {
	switch {
	case errors.Is(err, store.ErrLocked):
		return &hint{err, "one agent at a time; the running one obeys certagent renew and certagent reload"}
	case errors.Is(err, store.ErrUnsafe), errors.Is(err, fs.ErrPermission):
		return &hint{err, "it must belong to the user that the agent runs as, and nobody else may write in it; state_dir names another"}
	}
	return err
}

// notify tells systemd (sd_notify(3)); elsewhere it does nothing. The environment is kept, for later calls.
func notify(state string) {
	// There is nobody to tell that nobody could be told.
	_, _ = daemon.SdNotify(false, state)
}

// loadOrLastGood loads the configuration. When the files are wrong it takes the one that loaded last (why is the error of
// the files); err is set when there is none either.
func (p *program) loadOrLastGood() (cfg *config.Config, why, err error) {
	cfg, why = p.load()
	if why == nil {
		return cfg, nil, nil
	}
	dir := p.stateDirOf(nil)
	p.reads("state directory", dir)
	doc, err := lastGood(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, why
	}
	if err != nil {
		return nil, nil, errors.Join(why, err)
	}
	cfg, err = config.Parse(filepath.Join(dir, "last-good.toml"), doc, p.defaults())
	if err != nil {
		return nil, nil, errors.Join(why, fmt.Errorf("the last good configuration does not load either:\n%w", err))
	}
	cfg.File = p.configFile
	return cfg, why, nil
}

// lastGood reads the configuration that loaded last. It says what the agent runs, so that the store is to judge whether
// anybody else could have written it.
func lastGood(dir string) ([]byte, error) {
	s, err := store.View(dir)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	return s.LastGood()
}

// stateDirOf is the state directory: what cfg says, or without one what can be told of a file that does not load.
func (p *program) stateDirOf(cfg *config.Config) string {
	if cfg != nil {
		return cfg.StateDir
	}
	p.reads("configuration", p.configFile)
	if dir := config.Peek(p.configFile); dir != "" {
		return dir
	}
	if dir := p.defaults().StateDir; dir != "" {
		return dir
	}
	return "/var/lib/certagent"
}

func firstLine(err error) string {
	for i, r := range err.Error() {
		if r == '\n' {
			return err.Error()[:i]
		}
	}
	return err.Error()
}
