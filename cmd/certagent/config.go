package main

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/spf13/cobra"

	"certagent/agent/config"
	"certagent/agent/status"
)

func (p *program) configCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "config",
		Short: "check or show the configuration, or what IoT Edge makes of it",
		Long: `config is about the configuration file and the parts in config.d beside it; certagent-config.toml(5) describes them.

Exit codes: those of its commands.`,
		Example: "  certagent config check\n  certagent config show\n  certagent config aziot",
		Args:    command,
		RunE:    func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(p.configCheckCommand(), p.configShowCommand(), p.configAziotCommand())
	return c
}

func (p *program) configCheckCommand() *cobra.Command {
	var dropIns string
	c := &cobra.Command{
		Use:   "check [FILE]",
		Short: "say what is wrong with the configuration, all of it",
		Long: `check reads the configuration as the daemon would, config.d/*.toml included, and says every mistake with
file, line and column. FILE stands for --config FILE. With --drop-ins a new file is judged where it is prepared, by
what would be in force in its place. It writes nothing and dials nothing.

Exit codes: 0 it loads, perhaps with warnings; 1 failed; 2 usage, or there is a mistake.`,
		Example: "  certagent config check\n  certagent config check ./new-config.toml\n" +
			"  certagent config check --drop-ins /etc/certagent/config.d ./new-config.toml",
		Args: atMost(1),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 {
				if c.Flags().Changed("config") {
					return misused(&hint{fmt.Errorf("%s: FILE and --config are both given", nameOf(c)), "name the file once"})
				}
				p.configFile = args[0]
			}
			load := p.load
			if dropIns != "" {
				load = func() (*config.Config, error) { return config.LoadWith(p.configFile, dropIns, p.defaults()) }
			}
			cfg, err := load()
			if err != nil {
				return badConfig(err)
			}
			for _, w := range append(cfg.Warnings, cfg.CheckFiles()...) {
				fmt.Fprintf(p.stderr, "certagent: warning: %s\n", status.Printable(w.String()))
			}
			_, err = fmt.Fprintf(p.stdout, "%s: well, %s\n", p.configFile, certificates(cfg))
			return err
		},
	}
	c.Flags().StringVar(&dropIns, "drop-ins", "", "read the parts in `DIR`, in place of config.d beside the file")
	return c
}

func (p *program) configShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show",
		Short: "print the configuration as it would be loaded now",
		Long: `show prints the configuration that would be in force if it were loaded now: the file and config.d/*.toml merged, all
defaults filled in, secrets redacted. What it prints is TOML.

Exit codes: 0 printed, 1 failed, 2 usage, or the configuration is wrong.`,
		Example: "  certagent config show\n  certagent config show --config ./new-config.toml",
		Args:    atMost(0),
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
