package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"certagent/agent/control"
	"certagent/agent/status"
)

func (p *program) onboardCommand() *cobra.Command {
	var order control.Onboarding
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "onboard",
		Short: "have the cloud know the device certificate, now",
		Long: `onboard has the running agent tell the cloud of [provisioning] about the certificate device-id, if it is not known
there yet, and waits for what comes of it. It does so over the agent's own back-off, but not over what the cloud asked
for, nor over a clock that is not credible. Where the certificate is known already, it says so and tells nobody.

With --again it is told also where nothing changed: after a device was deleted at the hub, or is to go to another one.
That stands until it was done, also over a restart. An interrupt (Ctrl-C) ends the waiting and not the registration.

Exit codes: 0 known, 1 refused, failed or not done in time, 2 usage.`,
		Example: "  certagent onboard\n  certagent onboard --again",
		Args:    atMost(0),
		RunE:    func(c *cobra.Command, _ []string) error { return p.onboard(c.Context(), order, timeout) },
	}
	c.Flags().BoolVar(&order.Again, "again", false, "also where the cloud knows the certificate already")
	c.Flags().DurationVar(&timeout, "timeout", 2*time.Minute, "how long to wait at most")
	return c
}

func (p *program) onboard(ctx context.Context, order control.Onboarding, timeout time.Duration) error {
	if err := waitable(timeout); err != nil {
		return err
	}
	cfg, err := p.named()
	if err != nil {
		return err
	}
	client := p.client(cfg)
	defer client.Close()
	if _, err := p.reach(ctx, client, cfg); err != nil {
		return err
	}
	asked, cancel := context.WithTimeout(ctx, changeWithin)
	defer cancel()
	answer, err := client.Onboard(asked, order)
	if err != nil {
		return p.unreached(err, cfg)
	}
	ctx, end := context.WithTimeout(ctx, timeout)
	defer end()
	waits := answer.Waits
	for revision := ""; ; {
		news, changed, err := client.Status(ctx, revision, control.MaxWait)
		switch {
		case ctx.Err() != nil:
			why := fmt.Sprintf("not done within %v", timeout)
			if waits != "" {
				why += ": " + status.Printable(waits)
			}
			return failed(&hint{errors.New(answer.ID + ": " + why), "what was asked for stands; certagent status says how far it is"})
		case err != nil:
			pause(ctx, time.Second) // it may be on its way down or up, and goes on then
			continue
		case !changed:
			continue
		}
		revision = news.Revision
		c, kept := find(news.Snapshot, answer.ID)
		if !kept || c.Onboarding == nil {
			return failed(fmt.Errorf("%s: the configuration names no cloud for it any more", answer.ID))
		}
		if !onItsWay(c.Onboarding) {
			return p.onboarded(c, answer.Known)
		}
	}
}

// onItsWay reports whether something comes of an order by itself. What was ordered may have come to its end and be overtaken: by a
// renewal, whose certificate the cloud is told of next.
func onItsWay(o *status.Onboarding) bool {
	return o.Ordered || o.State == status.Pending && o.Why != ""
}

// onboarded says what came of it.
func (p *program) onboarded(c status.Certificate, known bool) error {
	o := c.Onboarding
	if o.State == status.Registered && o.Why == "" {
		words := "registered"
		if known {
			words = "known already"
		}
		where := o.Hub
		if where == "" {
			where = o.Endpoint
		}
		if o.DeviceID != "" {
			words += " as " + o.DeviceID
		}
		_, err := fmt.Fprintf(p.stdout, "%s: %s at %s, since %s: %s\n", c.ID, status.Printable(words), status.Printable(where),
			o.Registered.Local().Format(time.DateTime), o.File)
		return err
	}
	problem := c.CloudProblem()
	if i := slices.IndexFunc(c.Problems, func(p status.Problem) bool { return !p.Notice }); problem == nil && i >= 0 {
		problem = &c.Problems[i] // it may be why there is no certificate
	}
	if problem == nil {
		return failed(&hint{fmt.Errorf("%s: not registered yet", c.ID), "certagent status says why"})
	}
	return failed(&hint{fmt.Errorf("%s: not registered: %s", c.ID, status.Printable(problem.Text)), problem.Hint})
}
