package main

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"certagent/agent/config"
)

func (p *program) configCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "config",
		Short: "check or show the configuration",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(p.configCheckCommand(), p.configShowCommand())
	return c
}

func (p *program) configCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check [FILE]",
		Short: "say what is wrong with the configuration, all of it",
		Long: `check reads the configuration as the daemon would, config.d/*.toml included, and says every mistake with
file, line and column. It writes nothing and dials nothing. Exit code 2 if there is a mistake; warnings do not count.`,
		Example: "  certagent config check\n  certagent config check ./new-config.toml",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 1 {
				p.configFile = args[0]
			}
			cfg, err := p.load()
			if err != nil {
				return p.badConfig(err)
			}
			for _, w := range append(cfg.Warnings, cfg.CheckFiles()...) {
				fmt.Fprintf(p.stderr, "certagent: warning: %s\n", w)
			}
			_, err = fmt.Fprintf(p.stdout, "%s: well, %s\n", p.configFile, certificates(cfg))
			return err
		},
	}
}

func (p *program) configShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show",
		Short: "print the configuration in force if it were loaded now: merged, with defaults, secrets redacted",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			cfg, err := p.load()
			if err != nil {
				return p.badConfig(err)
			}
			_, err = p.stdout.Write(cfg.Show())
			return err
		},
	}
}

// badConfig says each mistake on a line of its own.
func (p *program) badConfig(err error) error {
	all, ok := errors.AsType[config.Errors](err)
	if !ok {
		if errors.Is(err, fs.ErrNotExist) {
			err = &hint{err, "write it (examples/ has some), or name another with --config"}
		}
		return misused(err)
	}
	for _, e := range all {
		fmt.Fprintf(p.stderr, "certagent: %v\n", e)
	}
	return misused(nil)
}

func certificates(cfg *config.Config) string {
	switch n := len(cfg.Certificates); n {
	case 0:
		return "no certificates"
	case 1:
		return "1 certificate: " + cfg.Certificates[0].ID
	default:
		list := fmt.Sprintf("%d certificates:", n)
		for _, c := range cfg.Certificates {
			list += " " + c.ID
		}
		return list
	}
}
