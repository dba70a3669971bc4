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

	"certagent/agent/config"
	"certagent/agent/control"
	"certagent/agent/status"
)

func (p *program) waitCommand() *cobra.Command {
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "wait ID",
		Short: "wait until a certificate is valid",
		Long: `wait returns when the certificate can be used and its outputs were written: for ExecStartPre= of a service that
needs it. An output that was written before and now cannot be replaced is not waited for, nor are hooks, as one of them may
start that very service. Outputs of a certificate that a cloud is
to know wait for that, five minutes at most: where the cloud may be away, say --timeout 6m. It asks the agent, or looks at the
state directory while none answers, and needs no right to read the configuration.

Exit codes: 0 valid; at the timeout that of certagent status for this certificate (3 expired, 5 key mismatch,
7 missing, 6 not yet valid), or 1; 2 usage.`,
		Example: "  certagent wait mqtt\n  ExecStartPre=certagent wait --timeout 2m mqtt",
		Args:    one("for which certificate?", "certagent status lists them"),
		RunE: func(c *cobra.Command, args []string) error {
			return p.wait(c.Context(), args[0], timeout)
		},
	}
	c.Flags().DurationVar(&timeout, "timeout", 5*time.Minute, "how long to wait at most; 0 looks once")
	return c
}

// lookEvery is how often the disk is looked at while no agent answers. What there is to notice is a socket that appears,
// files in directories that do not exist yet, and the time that passes.
const lookEvery = time.Second

func (p *program) wait(ctx context.Context, id string, timeout time.Duration) error {
	if err := waitable(timeout); err != nil {
		return err
	}
	p.ofConsumer = true
	deadline, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var last status.Snapshot
	var revision, said string
	for {
		cfg, configErr := p.load()
		client := p.client(cfg)
		news, err := p.news(ctx, deadline, client, cfg, revision)
		client.Close()
		asked, unanswered := err == nil, err
		all := asked
		if asked && news.Revision != revision {
			last, revision = news.Snapshot, news.Revision
		}
		if !asked {
			revision = ""
			s, err := p.fromDisk(cfg, configErr, err)
			switch {
			case err == nil:
				last, all = s, cfg != nil
			case errors.Is(err, fs.ErrPermission) && !errors.Is(err, fs.ErrNotExist):
				return err
			} // else there is nothing yet
		}
		ready, err := usable(last, id, all)
		if ready || err != nil {
			return err
		}
		if deadline.Err() != nil {
			return p.notValid(last, id, timeout)
		}
		if now := waitsFor(last, id, unanswered); now != said {
			said = now
			fmt.Fprintf(p.stderr, "certagent: %s\n", status.Printable(now))
		}
		if !asked {
			pause(deadline, lookEvery)
		}
	}
}

// news asks the agent, and with the revision that is known already waits for another one until the deadline.
func (p *program) news(ctx, deadline context.Context, client *control.Client, cfg *config.Config, revision string) (control.News, error) {
	if revision == "" || deadline.Err() != nil {
		return p.ask(ctx, client, cfg)
	}
	news, _, err := client.Status(deadline, revision, control.MaxWait)
	if deadline.Err() != nil {
		return p.ask(ctx, client, cfg) // a last time
	}
	return news, err
}

// serves tells whether the certificate itself can be used, and on this device.
func serves(c status.Certificate) bool {
	return slices.Contains([]status.State{status.Valid, status.Due, status.Overdue}, c.State) &&
		!slices.ContainsFunc(c.Problems, func(p status.Problem) bool { return p.Code == "cloned-state" })
}

// usable tells whether a consumer can begin. That nobody keeps the certificate is an error where everything is known of
// what is kept (all).
func usable(s status.Snapshot, id string, all bool) (bool, error) {
	c, ok := find(s, id)
	switch {
	case !ok && all:
		return false, unknown(id, idsOf(s))
	case !ok:
		return false, nil
	case c.State == status.Unmanaged:
		return false, misused(fmt.Errorf("%s is not in the configuration any more, and nobody renews it", id))
	}
	return serves(c) && !slices.ContainsFunc(c.Outputs, lacking), nil
}

// lacking tells that a consumer cannot read an output yet: it is about to be written, or never could be. One that cannot be
// replaced is there: whoever starts meanwhile is better off with the certificate before.
func lacking(o status.Output) bool {
	return o.State == status.Pending || o.State == status.Failed && o.Written.IsZero()
}

// unwritten stands behind the state of a certificate that serves when its consumer cannot begin.
const unwritten = ", and its outputs are not written yet"

// waitsFor says why a consumer cannot begin yet; unanswered is why the agent was not asked, nil if it was.
func waitsFor(s status.Snapshot, id string, unanswered error) string {
	c, ok := find(s, id)
	why := string(c.State)
	switch {
	case !ok:
		why = "nothing is known of it yet"
	case serves(c):
		why += unwritten
		if i := slices.IndexFunc(c.Outputs, func(o status.Output) bool { return lacking(o) && o.Error != "" }); i >= 0 {
			why += ": " + c.Outputs[i].Error
		}
		if o := c.Onboarding; o != nil && !o.HoldsUntil.IsZero() {
			why += ": they wait for the cloud, until " + o.HoldsUntil.Local().Format(time.TimeOnly) + " at most"
		}
	case c.NextWhy != "":
		why += ": " + c.NextWhy
	}
	if unanswered != nil {
		why += " (" + unanswered.Error() + ")"
	}
	return "waiting for " + id + ": " + why
}

// notValid says how it stands with the certificate after all that time.
func (p *program) notValid(s status.Snapshot, id string, timeout time.Duration) error {
	c, ok := find(s, id)
	if !ok {
		return failed(&hint{fmt.Errorf("nothing is known of %s after %v", id, timeout), "does the agent run? (systemctl status certagent)"})
	}
	s.Certificates = []status.Certificate{c}
	if err := s.WriteTable(p.stderr, lookOf(p.stderr, os.Getenv)); err != nil {
		return failed(err)
	}
	code, why := s.ExitCode(), string(c.State)
	if code == status.ExitOK || code == status.ExitDegraded || code == status.ExitOverdue {
		code = exitFailed // it is valid, and yet not there for its consumer
	}
	if serves(c) {
		why += unwritten
	}
	return &exitError{code, fmt.Errorf("%s cannot be used after %v: %s", id, timeout, why)}
}
