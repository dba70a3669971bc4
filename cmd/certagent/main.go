// Command certagent keeps a device's X.509 certificates alive over EST (RFC 7030).
//
// This package is the only place with os.Exit, signals and the service manager's protocol. One file holds one command.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"certagent/agent/config"
	"certagent/agent/control"
	"certagent/agent/status"
	"certagent/store"
)

// Set by the linker (Makefile): the version, and the commit's date in Unix seconds.
var (
	version   = "unknown"
	committed = "0"
)

// Exit codes of every command (status has more, see package status).
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2 // the command line or the configuration is wrong
)

const defaultConfig = "/etc/certagent/config.toml"

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
}

// run is the whole program but for its end; tests call it too.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	out := &output{w: stdout}
	p := &program{stdout: out, stderr: stderr}
	root := p.command()
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	code := exitOK
	if err != nil {
		code = exitUsage // cobra's own errors are about the command line
	}
	if e, ok := errors.AsType[*exitError](err); ok {
		code, err = e.code, e.err
	}
	if out.err != nil {
		code, err = exitFailed, out.err
	}
	if err != nil {
		for line := range strings.Lines(err.Error()) {
			fmt.Fprintf(stderr, "certagent: %s\n", status.Printable(strings.TrimSuffix(line, "\n")))
		}
		if h, ok := errors.AsType[*hint](err); ok {
			fmt.Fprintf(stderr, "certagent: hint: %s\n", status.Printable(h.text))
		}
	}
	return code
}

// output remembers that something was not written: what a command was asked to say and could not is a failure, whatever
// else the command thinks of it. Of help texts nobody else would notice.
type output struct {
	w   io.Writer
	err error // the first one
}

func (o *output) Write(p []byte) (int, error) {
	n, err := o.w.Write(p)
	if err != nil && o.err == nil {
		o.err = fmt.Errorf("write the output: %w", err)
	}
	return n, err
}

// exitError carries an exit code; a nil err means that everything was said already.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return fmt.Sprintf("exit %d: %v", e.code, e.err) }
func (e *exitError) Unwrap() error { return e.err }

func failed(err error) error  { return &exitError{exitFailed, err} }
func misused(err error) error { return &exitError{exitUsage, err} }

// hint is an error with something to try.
type hint struct {
	err  error
	text string
}

func (h *hint) Error() string { return h.err.Error() }
func (h *hint) Unwrap() error { return h.err }

// program is what all commands share.
type program struct {
	stdout, stderr io.Writer
	configFile     string
	// ofConsumer: the command may run in the unit of a consumer; see defaults.
	ofConsumer bool
	// reading is what is being read; nil before anything is. It has more than one user, see inTime.
	reading atomic.Pointer[place]
}

func (p *program) command() *cobra.Command {
	// The flag is ours, for cobra's would print through a template: text/template finds methods by their name at run time,
	// so that the linker could leave none out of the program (2 MB).
	var showVersion bool
	root := &cobra.Command{
		Use:   "certagent",
		Short: "keep a device's X.509 certificates alive over EST",
		Long: `certagent enrols a device's X.509 certificates over EST (RFC 7030), stores them with their
keys, renews them in time and recovers by itself through a bootstrap credential. The configuration says which
(certagent-config.toml(5)).

Exit codes: 0 well, 1 failed, 2 usage or configuration; status and wait have more.`,
		Example:       "  certagent config check\n  certagent status\n  certagent help renew",
		SilenceErrors: true, SilenceUsage: true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		Args:              command,
		RunE: func(c *cobra.Command, _ []string) error {
			if showVersion {
				return p.printVersion()
			}
			return c.Help()
		},
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if p.configFile == "" {
				return misused(errors.New("--config names no file"))
			}
			return nil
		},
	}
	root.Flags().BoolVar(&showVersion, "version", false, "print the version")
	root.SetFlagErrorFunc(badFlag)
	root.SetHelpFunc(giveHelp)
	root.SetHelpCommand(helpCommand())
	root.PersistentFlags().StringVar(&p.configFile, "config", defaultConfig, "configuration `FILE`; config.d/*.toml beside it is read too")
	root.PersistentFlags().BoolP("help", "h", false, "print this")
	root.AddCommand(p.runCommand(), p.statusCommand(), p.checkCommand(), p.renewCommand(), p.waitCommand(), p.reloadCommand(), p.onboardCommand(), p.importCommand(),
		p.configCommand(), p.caCertsCommand(), p.hookExecCommand(),
		p.completionCommand(), p.versionCommand())
	p.offerValues(root)
	return root
}

// defaults are the directories that systemd hands to the service (systemd.exec(5), StateDirectory=). In the unit of a consumer they
// are the consumer's, and count only where an agent has made them its own.
func (p *program) defaults() config.Defaults {
	d := config.Defaults{StateDir: os.Getenv("STATE_DIRECTORY"), RunDir: os.Getenv("RUNTIME_DIRECTORY")}
	if p.ofConsumer && store.Foreign(d.StateDir) {
		d.StateDir = ""
	}
	if p.ofConsumer && !control.Is(config.Socket(d)) {
		d.RunDir = ""
	}
	return d
}

func (p *program) load() (*config.Config, error) {
	d := p.defaults()
	p.reads("configuration", p.configFile)
	return config.Load(p.configFile, d)
}

// built is the date of the commit, before which no clock is believed; zero if unknown.
func built() time.Time {
	seconds, err := strconv.ParseInt(committed, 10, 64)
	if err != nil || seconds <= 0 {
		return time.Time{}
	}
	return time.Unix(seconds, 0)
}
