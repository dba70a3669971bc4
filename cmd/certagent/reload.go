package main

import (
	"context"
	"errors"
	"net/http"

	"github.com/spf13/cobra"

	"certagent/agent/config"
	"certagent/agent/control"
)

func (p *program) reloadCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "reload",
		Short: "have the running agent read its configuration again",
		Long: `reload does what SIGHUP does, and waits for it: for ExecReload=. A configuration that does not load is said with
every mistake, and changes nothing: the agent goes on with the one that it has.

Exit codes: 0 loaded, 1 failed, 2 usage, or the configuration is wrong.`,
		Example: "  certagent reload",
		Args:    atMost(0),
		RunE:    func(c *cobra.Command, _ []string) error { return p.reload(c.Context()) },
	}
}

func (p *program) reload(ctx context.Context) error {
	cfg, err := p.named() // of one that does not load the agent says what is wrong
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, changeWithin)
	defer cancel()
	err = reloadAt(ctx, p.client(cfg))
	if before := p.lastSocket(cfg); before != "" && errors.Is(err, control.ErrNobody) {
		// The place of the socket may be what changed. Should a saved file have been noticed meanwhile, it is where it should be.
		if err = reloadAt(ctx, p.clientAt(before, cfg)); errors.Is(err, control.ErrNobody) {
			err = reloadAt(ctx, p.client(cfg))
		}
	}
	if e, ok := errors.AsType[*control.Error](err); ok && e.Status == http.StatusUnprocessableEntity {
		return misused(&hint{err, "nothing was changed; certagent config check says when it is right"})
	}
	if err != nil {
		return p.unreached(err, cfg)
	}
	return nil
}

func reloadAt(ctx context.Context, client *control.Client) error {
	defer client.Close()
	return client.Reload(ctx)
}

// lastSocket is where an agent listens that has not read its files since they were changed; "" for who may not know.
func (p *program) lastSocket(cfg *config.Config) string {
	doc, err := lastGood(p.stateDirOf(cfg))
	if err != nil {
		return ""
	}
	last, err := config.Parse("last-good.toml", doc, p.defaults())
	if err != nil {
		return ""
	}
	return last.Control.Socket
}
