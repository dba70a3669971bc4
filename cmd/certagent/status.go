package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"certagent/agent"
	"certagent/agent/config"
	"certagent/agent/control"
	"certagent/agent/status"
	"certagent/store"
)

func (p *program) statusCommand() *cobra.Command {
	var each, asJSON bool
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "status [ID...]",
		Short: "show the certificates, their problems and what happens next",
		Long: `status shows each certificate, the worst first, with its lifetime ('#' has passed, at '|' renewal is due),
what happens next and why, why the last try failed, and who logged in when it was issued; then each problem
with a remedy. Of more than 20 certificates one that is well has one line, and of those that are alike the first few
to expire are shown. It asks the running agent; while none answers, or not within 3 s, it reads the state directory.
It needs no right to read the configuration or the keys. A file system that hangs is waited for no longer than
--timeout, and named.

Exit codes: 0 well, 1 failed, 2 usage or configuration, else the worst of: 3 expired, 5 key mismatch,
7 missing, 6 not yet valid, 4 overdue, 8 degraded (the certificate is fine, something around it is not).`,
		Example: "  certagent status\n  certagent status --json device-id",
		RunE: func(c *cobra.Command, ids []string) error {
			if err := lasting(timeout); err != nil {
				return err
			}
			return p.status(c.Context(), ids, timeout, each, asJSON)
		},
	}
	c.Flags().BoolVar(&each, "all", false, "show each certificate in full, however many there are")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON (schema 1)")
	c.Flags().DurationVar(&timeout, "timeout", 20*time.Second, "how long its files may take")
	return c
}

func (p *program) status(ctx context.Context, ids []string, timeout time.Duration, each, asJSON bool) error {
	p.ofConsumer = true
	p.reads("configuration", p.configFile)
	asking, cancel := context.WithTimeout(ctx, timeout/2) // a stuck agent is no file: what is on disk has the other half
	defer cancel()
	snapshot, err := inTime(p, timeout, func() (status.Snapshot, error) { return p.survey(asking) })
	if err != nil {
		return hung(err)
	}
	if len(ids) > 0 {
		if snapshot.Certificates, err = choose(snapshot.Certificates, ids); err != nil {
			return err
		}
	}
	if asJSON {
		err = snapshot.WriteJSON(p.stdout)
	} else {
		look := lookOf(p.stdout, os.Getenv)
		look.Each = each || len(ids) > 0 // who names some wants to see those
		err = snapshot.WriteTable(p.stdout, look)
	}
	if err != nil {
		return failed(err)
	}
	if code := snapshot.ExitCode(); code != exitOK {
		return &exitError{code: code}
	}
	return nil
}

// survey is what the running agent says, or what can be known without it.
func (p *program) survey(ctx context.Context) (status.Snapshot, error) {
	cfg, configErr := p.load()
	client := p.client(cfg)
	defer client.Close()
	news, err := p.ask(ctx, client, cfg)
	if err != nil {
		return p.fromDisk(cfg, configErr, err)
	}
	s := news.Snapshot
	s.Time = s.Time.Local()
	return s, nil
}

// fromDisk finds out what can be known from outside: from the state directory, and from the configuration as far as it can
// be read and is right. Only without both there is nothing to show. unanswered is why the agent was not asked.
func (p *program) fromDisk(cfg *config.Config, configErr, unanswered error) (status.Snapshot, error) {
	dir, now := p.stateDirOf(cfg), time.Now()
	p.reads("state directory", dir)
	s, err := store.View(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist) && cfg != nil:
		return nothingYet(cfg, now), nil
	case err != nil && configErr != nil:
		return status.Snapshot{}, badConfig(configErr, err)
	case errors.Is(err, fs.ErrPermission):
		return status.Snapshot{}, failed(&hint{err, "run this as root or as the agent's user"})
	case err != nil:
		return status.Snapshot{}, failed(err)
	}
	defer s.Close()
	var unread error
	if errors.Is(configErr, fs.ErrPermission) {
		configErr, unread = nil, configErr // the state directory tells enough
	}
	running, err := store.Held(dir)
	if err != nil {
		return status.Snapshot{}, failed(err)
	}
	snapshot, err := agent.Survey(agent.SurveyOptions{
		Config: cfg, ConfigError: configErr, Store: s, Running: running, Version: version, Built: built(), Host: host(), Now: now,
	})
	if err != nil {
		return status.Snapshot{}, failed(err)
	}
	snapshot.Problems = append(snapshot.Problems, secondHand(snapshot, unread, unanswered)...)
	return snapshot, nil
}

// secondHand says why this is not what an agent says: none runs, or it was not asked; and why it is less than there is: the
// configuration was not read.
func secondHand(s status.Snapshot, unread, unanswered error) (problems []status.Problem) {
	if s.Running {
		problems = append(problems, notAsked(unanswered))
	} else {
		problems = append(problems, status.Problem{
			Code: "agent-not-running", Text: "no agent is running: nothing is renewed, and what is shown is what is on disk in " + s.StateDir,
			Hint: "start it (systemctl start certagent); if it has ended, journalctl -u certagent says why; where a timer runs " +
				"certagent run --once in its place, this is as it should be",
			Notice: !slices.ContainsFunc(s.Certificates, wanting),
		})
	}
	if unread != nil {
		if path, ok := errors.AsType[*fs.PathError](unread); ok {
			unread = path
		}
		problems = append(problems, status.Problem{
			Code: "config-unreadable", Text: fmt.Sprintf("the configuration could not be read: %v; what is shown is what the agent noted in %s",
				unread, s.StateDir),
			Hint: "to see all of it, run certagent status as root", Notice: true,
		})
	}
	return problems
}

// wanting tells that an agent would have something to do for c, and has not done it for long.
func wanting(c status.Certificate) bool {
	return !slices.Contains([]status.State{status.Valid, status.Due, status.Unmanaged}, c.State)
}

// notAsked says that an agent runs and this is not what it says. One that listens and does not answer is stuck.
func notAsked(why error) status.Problem {
	p := status.Problem{
		Code: "control-socket", Text: why.Error() + "; an agent runs, and this is what is on disk",
		Hint: "its log says why (journalctl -u certagent); systemctl restart certagent ends one that is stuck, or of another " +
			"version of the program",
	}
	p.Notice = errors.Is(why, control.ErrNobody) || errors.Is(why, control.ErrShut) || errors.Is(why, fs.ErrPermission)
	return p
}

// nothingYet is what is known before an agent has ever run: it makes the state directory.
func nothingYet(cfg *config.Config, now time.Time) status.Snapshot {
	s := status.Snapshot{
		Schema: status.Schema, Time: now, Version: version, Config: cfg.File, StateDir: cfg.StateDir,
		Certificates: []status.Certificate{},
	}
	for _, c := range cfg.Certificates {
		missing := status.Certificate{
			ID: c.ID, Role: string(c.Role), State: status.Missing, NextTry: now, NextWhy: "there is no certificate", Problems: []status.Problem{},
			Outputs: []status.Output{}, Hooks: []status.Hook{},
		}
		for _, problem := range c.Problems {
			missing.Problems = append(missing.Problems, status.Problem{Code: problem.Code, Text: problem.Text, Hint: problem.Hint})
		}
		s.Certificates = append(s.Certificates, missing)
	}
	s.Problems = secondHand(s, nil, nil)
	return s
}

// choose picks the certificates with the given ids, in that order.
func choose(all []status.Certificate, ids []string) ([]status.Certificate, error) {
	var known []string
	for _, c := range all {
		known = append(known, c.ID)
	}
	var chosen []status.Certificate
	for _, id := range ids {
		i := slices.Index(known, id)
		if i < 0 {
			return nil, unknown(id, known)
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}
