package main

import (
	"context"
	"errors"
	"net/http"

	"github.com/spf13/cobra"

	"certagent/agent/control"
)

func (p *program) reloadCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "reload",
		Short: "have the running agent read its configuration again",
		Long: `reload does what SIGHUP does, and waits for it: for ExecReload=. A configuration that does not load is said with
every mistake, and changes nothing: the agent goes on with the one that it has.

Exit codes: 0 loaded, 1 failed, 2 the configuration is wrong.`,
		Example: "  certagent reload",
		Args:    atMost(0),
		RunE:    func(c *cobra.Command, _ []string) error { return p.reload(c.Context()) },
	}
}

func (p *program) reload(ctx context.Context) error {
	cfg, _ := p.load() // the agent says what is wrong with it
	client := p.client(cfg)
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, changeWithin)
	defer cancel()
	err := client.Reload(ctx)
	if e, ok := errors.AsType[*control.Error](err); ok && e.Status == http.StatusUnprocessableEntity {
		return misused(&hint{err, "nothing was changed; certagent config check says when it is right"})
	}
	if err != nil {
		return p.unreached(err, cfg)
	}
	return nil
}
