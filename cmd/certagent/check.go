package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"os"
	"os/user"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"certagent/agent/check"
	"certagent/agent/config"
	"certagent/agent/control"
	"certagent/agent/status"
	"certagent/store"
	"certagent/store/durable"
)

func (p *program) checkCommand() *cobra.Command {
	var offline, asJSON bool
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "check [ID...]",
		Short: "find out what is wrong with this gateway, and what to do",
		Long: `check looks at the configuration, at the files that it names, as the agent's user sees them, at the clock, the trust
anchors and credentials, at each EST server, and at each certificate with its outputs and hooks. Each result is ok,
warning, failed, or skipped with the reason; what is not ok has a hint.

It changes nothing. An EST server is asked for /cacerts and /csrattrs, and nothing that a CA would act on: client
certificates are shown to it, and the password only if /csrattrs asks for it. It is best run as root: what only the
agent's user may see is skipped otherwise.

Exit codes: 0 nothing failed, 1 something did, 2 usage or configuration.`,
		Example: "  certagent check\n  certagent check --offline\n  certagent check --json mqtt",
		RunE: func(c *cobra.Command, ids []string) error {
			if err := lasting(timeout); err != nil {
				return err
			}
			// net/http prints through the standard logger what a server sends out of turn, and nobody has looked at that.
			stdlog.SetOutput(io.Discard)
			return p.check(c.Context(), ids, check.Options{Offline: offline, Timeout: timeout}, asJSON)
		},
	}
	c.Flags().BoolVar(&offline, "offline", false, "ask no server")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON (schema 1)")
	c.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "how long it may take, as a whole")
	return c
}

func (p *program) check(ctx context.Context, ids []string, o check.Options, asJSON bool) error {
	o.File, o.Version, o.Built, o.Host, o.Now = p.configFile, version, built(), host(), time.Now()
	o.HandedOver = os.Getenv("CREDENTIALS_DIRECTORY") != ""
	o, err := p.prepared(ctx, o)
	if err != nil {
		return hung(err)
	}
	if o.Store != nil {
		defer o.Store.Close()
	}
	if err := choosing(&o, ids); err != nil {
		return err
	}
	if isTerminal(p.stderr) {
		o.Progress = func(ended, all int) { fmt.Fprintf(p.stderr, "\rcertagent: looking, %d of %d", ended, all) }
	}
	report := check.Run(ctx, o)
	if o.Progress != nil {
		fmt.Fprint(p.stderr, "\r\x1b[K") // the line is gone
	}
	if asJSON {
		err = report.WriteJSON(p.stdout)
	} else {
		err = report.WriteText(p.stdout, lookOf(p.stdout, os.Getenv))
	}
	switch {
	case err != nil:
		return failed(err)
	case o.ConfigError != nil:
		return &exitError{code: exitUsage}
	case report.Summary.Failed > 0:
		return &exitError{code: exitFailed}
	}
	return nil
}

// prepared fills in what is to be looked at. Files have half of the time: a configuration that does not come is the end, and a state
// directory that does not come is a result, by what is left of the time.
func (p *program) prepared(ctx context.Context, o check.Options) (check.Options, error) {
	begun := time.Now()
	left := func() time.Duration { return o.Timeout/2 - time.Since(begun) }
	p.reads("configuration", p.configFile)
	loaded, err := inTime(p, left(), func() (check.Options, error) {
		o := o
		// Where the files are wrong the agent would run on what loaded last, and that is looked at.
		cfg, why, err := p.loadOrLastGood()
		if o.Config, o.ConfigError = cfg, why; why == nil {
			o.ConfigError = err
		}
		o.StateDir = p.stateDirOf(cfg)
		return o, nil
	})
	if err != nil {
		return o, err
	}
	p.reads("state directory", loaded.StateDir)
	viewed, err := inTime(p, left(), func() (check.Options, error) {
		o := loaded
		o.Store, o.StoreError = store.View(o.StateDir)
		return o, nil
	})
	if err == nil {
		viewed, err = inTime(p, left()+askWithin, func() (check.Options, error) { // a stuck agent is no file
			o := viewed
			err := p.known(ctx, &o)
			return o, err
		})
	}
	if _, hangs := errors.AsType[*notInTime](err); !hangs {
		return viewed, err
	}
	loaded.StoreError, loaded.User = err, agentUser("")
	loaded.Timeout = max(o.Timeout-time.Since(begun), time.Second).Round(time.Second / 10)
	return loaded, nil
}

// lasting refuses a time that is none.
func lasting(timeout time.Duration) error {
	if timeout <= 0 {
		return misused(&hint{fmt.Errorf("--timeout %v leaves no time", timeout), "leave it out, or give it some seconds: --timeout 10s"})
	}
	return nil
}

// known fills in what status knows, and whom the agent works as. Without a configuration and a state directory there is nothing
// of it.
func (p *program) known(ctx context.Context, o *check.Options) error {
	client := p.client(o.Config)
	defer client.Close()
	news, unasked := p.ask(ctx, client, o.Config)
	o.Asked = unasked == nil
	if o.Asked {
		o.Snapshot = news.Snapshot
	} else {
		s, err := p.fromDisk(o.Config, o.ConfigError, unasked)
		if err != nil && o.StoreError == nil {
			return err
		}
		o.Snapshot = s
	}
	o.User = agentUser(o.StateDir)
	if o.Asked || o.Snapshot.Running { // one that is stuck listens all the same
		uid, groups, err := control.Listener(ctx, client.Socket())
		if err == nil && len(groups) > 0 && (o.Asked || int(uid) == o.User.UID) {
			o.User = check.UserOf(int(uid), int(groups[0]))
			o.User.GIDs = nil
			for _, g := range groups {
				o.User.GIDs = append(o.User.GIDs, int(g))
			}
		}
	}
	return nil
}

// agentUser is whom an agent works as that does not run: the state directory's owner (of "" nobody's), else the user of that name
// that the packages make, else whoever asks.
func agentUser(stateDir string) check.User {
	if info, err := os.Stat(stateDir); err == nil {
		return check.UserOf(durable.Owner(info))
	}
	if u, err := user.Lookup("certagent"); err == nil {
		uid, err := strconv.Atoi(u.Uid)
		if err == nil {
			return check.UserOf(uid, -1)
		}
	}
	return check.UserOf(os.Geteuid(), os.Getegid())
}

// choosing leaves the certificates with these ids, and the EST identities that log in for them; all of them without ids.
func choosing(o *check.Options, ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	known, wanted := idsOf(o.Snapshot), map[string]bool{}
	var configured []config.Certificate
	if o.Config != nil {
		configured = o.Config.Certificates
	}
	for i := range configured {
		known = append(known, configured[i].ID)
	}
	slices.Sort(known)
	known = slices.Compact(known)
	for _, id := range ids {
		if !slices.Contains(known, id) {
			return unknown(id, known)
		}
		wanted[id] = true
	}
	for i := range configured {
		if c := &configured[i]; slices.Contains(ids, c.ID) && c.ESTIdentity != "" {
			wanted[c.ESTIdentity] = true
		}
	}
	if o.Config != nil {
		chosen := *o.Config
		chosen.Certificates = nil
		for i := range configured {
			if wanted[configured[i].ID] {
				chosen.Certificates = append(chosen.Certificates, configured[i])
			}
		}
		o.Config = &chosen
	}
	var said []status.Certificate
	for i := range o.Snapshot.Certificates {
		if wanted[o.Snapshot.Certificates[i].ID] {
			said = append(said, o.Snapshot.Certificates[i])
		}
	}
	o.Snapshot.Certificates = said
	return nil
}
