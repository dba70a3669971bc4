package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"certagent/agent/control"
	"certagent/agent/status"
)

func (p *program) renewCommand() *cobra.Command {
	var order control.Renewal
	var wait bool
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "renew [ID...]",
		Short: "have certificates issued anew, now",
		Long: `renew has the running agent issue these certificates anew, or all of them: over threshold, guard and back-off,
but not over a request that waits for approval at the server, nor over a clock that is not credible. One that fails
is tried again by the rules of retry, also after a restart.

With --new-key the new certificate has a key that did not exist before, also with rotate_key = false: for a key that
somebody else may have seen. That is wanted until it is granted; --discard takes it back.

With --wait it tells of each certificate when it was issued, also if the agent is started anew meanwhile. An interrupt
(Ctrl-C) ends the waiting and not the renewal.

Exit codes: 0 asked for (with --wait: issued), 1 refused, failed or not done in time, 2 usage.`,
		Example: "  certagent renew\n  certagent renew --wait mqtt\n  certagent renew --new-key --wait device-id",
		RunE: func(c *cobra.Command, ids []string) error {
			if c.Flags().Changed("timeout") && !wait {
				return misused(&hint{errors.New("renew: --timeout is for --wait"), "without --wait nothing is waited for"})
			}
			order.IDs = ids
			return p.renew(c.Context(), order, wait, timeout)
		},
	}
	c.Flags().BoolVar(&order.NewKey, "new-key", false, "with a new key, whatever rotate_key says; includes --discard")
	c.Flags().BoolVar(&order.Discard, "discard", false, "drop a request that waits for approval, and an older wish for a new key")
	c.Flags().BoolVar(&wait, "wait", false, "show progress, and what came of it")
	c.Flags().DurationVar(&timeout, "timeout", 10*time.Minute, "with --wait: how long to wait at most")
	return c
}

func (p *program) renew(ctx context.Context, order control.Renewal, wait bool, timeout time.Duration) error {
	if err := waitable(timeout); err != nil {
		return err
	}
	cfg, err := p.named()
	if err != nil {
		return err
	}
	client := p.client(cfg)
	defer client.Close()
	news, err := p.reach(ctx, client, cfg)
	if err != nil {
		return err
	}
	for _, id := range order.IDs {
		if kept := idsOf(news.Snapshot); !slices.Contains(kept, id) {
			return unknown(id, kept)
		}
	}
	asked, cancel := context.WithTimeout(ctx, changeWithin)
	defer cancel()
	answers, err := client.Renew(asked, order)
	if err != nil {
		return p.unreached(err, cfg)
	}
	w := &renewalWatch{program: p, last: news.Snapshot, shown: map[string]string{}}
	for _, a := range answers {
		w.begin(a, wait)
	}
	if wait {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		w.follow(ctx, client)
		if len(w.open) > 0 {
			w.giveUp(timeout)
		}
	}
	if w.err != nil {
		return failed(w.err)
	}
	return nil
}

// renewalWatch follows renewals to their end.
type renewalWatch struct {
	*program
	open  []control.Renewed // those that have not come to an end
	last  status.Snapshot   // what the agent said last
	away  error             // why it says nothing now; nil while it answers
	shown map[string]string // what was last said of each
	err   error             // what failed, a line for each
}

func (w *renewalWatch) begin(a control.Renewed, wait bool) {
	switch {
	case a.Refused != "":
		w.fail(a.ID, a.Refused, a.Hint)
	case wait:
		w.open = append(w.open, a)
	case a.Waits != "":
		fmt.Fprintf(w.stdout, "%s: asked for; %s\n", a.ID, status.Printable(a.Waits))
	default:
		fmt.Fprintf(w.stdout, "%s: asked for\n", a.ID)
	}
}

// fail notes that a certificate was not issued. Of hints the first is shown.
func (w *renewalWatch) fail(id, why, try string) {
	err := fmt.Errorf("%s: not renewed: %s", id, why)
	if try != "" {
		err = &hint{err, try}
	}
	w.err = errors.Join(w.err, err)
}

// follow asks the agent until every renewal has come to an end, or ctx ends. An agent that does not answer may be on its way
// down or up: what was asked of it stands, and one that is started anew goes on with it.
func (w *renewalWatch) follow(ctx context.Context, client *control.Client) {
	revision := ""
	for len(w.open) > 0 && ctx.Err() == nil {
		news, changed, err := client.Status(ctx, revision, control.MaxWait)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			w.away = err
			w.show("", err.Error()+"; waiting for it")
			pause(ctx, time.Second)
		case changed:
			w.away, w.last, revision = nil, news.Snapshot, news.Revision
			delete(w.shown, "")
			w.open = slices.DeleteFunc(w.open, w.ended)
		}
	}
}

// giveUp says of each that has not come to an end how far it is.
func (w *renewalWatch) giveUp(timeout time.Duration) {
	for _, a := range w.open {
		why := fmt.Sprintf("not done within %v", timeout)
		if c, ok := find(w.last, a.ID); w.away != nil {
			why += ": " + w.away.Error()
		} else if ok && c.NextWhy != "" {
			why += ": " + c.NextWhy
		}
		w.fail(a.ID, why, "what was asked for stands; certagent status says how far it is")
	}
}

// show says on a terminal how it goes, when that is new: of a certificate, or of the agent ("").
func (w *renewalWatch) show(id, text string) {
	if text == "" || text == w.shown[id] || !isTerminal(w.stderr) {
		return
	}
	w.shown[id] = text
	if id != "" {
		text = id + ": " + text
	}
	fmt.Fprintf(w.stderr, "certagent: %s\n", status.Printable(text))
}

// ended says what came of a renewal, or how far it is.
func (w *renewalWatch) ended(a control.Renewed) bool {
	c, kept := find(w.last, a.ID)
	switch {
	case !kept || c.State == status.Unmanaged:
		w.fail(a.ID, "it is not in the configuration any more", "")
	case c.Ordered:
		w.show(a.ID, c.NextWhy)
		return false
	case c.Generation > a.Generation:
		fmt.Fprintf(w.stdout, "%s: issued, valid until %s: %s\n", a.ID, c.NotAfter.Local().Format(time.DateTime), c.Directory)
	case c.Pending:
		w.fail(a.ID, "the request waits for approval at the server", "approve it there; the agent asks again by itself")
	default:
		w.fail(a.ID, strings.TrimSpace(c.LastError), hintOf(c))
	}
	return true
}

// hintOf is what to do about the first problem of a certificate.
func hintOf(c status.Certificate) string {
	for _, p := range c.Problems {
		if !p.Notice && p.Hint != "" {
			return p.Hint
		}
	}
	return ""
}

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	over := time.NewTimer(d)
	defer over.Stop()
	select {
	case <-ctx.Done():
	case <-over.C:
	}
}
