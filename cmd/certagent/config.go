package main

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/spf13/cobra"

	"certagent/agent/config"
)

func (p *program) configCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "config",
		Short: "check or show the configuration",
		Args:  command,
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
		Args:    atMost(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 1 {
				p.configFile = args[0]
			}
			cfg, err := p.load()
			if err != nil {
				return badConfig(err)
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
		Args:  atMost(0),
		RunE: func(*cobra.Command, []string) error {
			cfg, err := p.load()
			if err != nil {
				return badConfig(err)
			}
			_, err = p.stdout.Write(cfg.Show())
			return err
		},
	}
}

// badConfig is the end of a command whose configuration does not load; also is what went wrong besides.
func badConfig(err error, also ...error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = &hint{err, "write it (examples/ has some), or name another with --config"}
	case errors.Is(err, fs.ErrPermission):
		err = &hint{err, "it may hold a password and is not for everybody: run this as root or as the agent's user"}
	case errors.Is(err, syscall.EISDIR):
		err = &hint{err, "name the file in it with --config"}
	}
	return misused(errors.Join(append([]error{err}, also...)...))
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
