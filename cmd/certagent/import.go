package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"certagent/agent"
	"certagent/agent/config"
	"certagent/agent/control"
	"certagent/agent/status"
	"certagent/renew"
	"certagent/store"
	"certagent/store/durable"
)

func (p *program) importCommand() *cobra.Command {
	var cert, key string
	var replace bool
	c := &cobra.Command{
		Use:   "import ID --cert FILE --key FILE",
		Short: "take over an existing certificate and its key",
		Long: `import takes a certificate over that was got in another way, by aziot for example or in manufacturing, so that it is
renewed from now on. The certificate must be in the configuration. What is asked for there counts as what it was
issued for: nothing is issued anew before renewal is due.

--cert is PEM: the certificate, its chain, and roots if there are any, in any order. --key is PEM and not encrypted;
it may be in the same file. openssl x509 and openssl pkey make PEM of other forms. Both are copied; remove them
afterwards. It works with and without a running agent. With one, the key goes through a private file beside the
control socket, which only root and the agent's user can make.

Exit codes: 0 taken over, 1 refused or failed, 2 usage or configuration.`,
		Example: "  certagent import device-id --cert device-id.pem --key device-id.key.pem",
		Args:    one("as which certificate?", "certagent status lists those of the configuration"),
		RunE: func(c *cobra.Command, args []string) error {
			if cert == "" || key == "" {
				return misused(&hint{errors.New("import: --cert and --key are needed"), "certagent import --help says more"})
			}
			return p.importPair(c.Context(), args[0], cert, key, replace)
		},
	}
	c.Flags().StringVar(&cert, "cert", "", "`FILE` with the certificate and its chain")
	c.Flags().StringVar(&key, "key", "", "`FILE` with its private key")
	c.Flags().BoolVar(&replace, "replace", false, "also where the certificate is there already")
	return c
}

func (p *program) importPair(ctx context.Context, id, certFile, keyFile string, replace bool) error {
	cfg, err := p.load()
	if err != nil {
		return badConfig(err)
	}
	c, ok := cfg.Certificate(id)
	if !ok {
		return unconfigured(cfg, id)
	}
	pair, err := agent.ReadPair(certFile, keyFile)
	if err != nil {
		err = fmt.Errorf("read the certificate and its key: %w", err)
		if _, unopened := errors.AsType[*fs.PathError](err); !unopened {
			err = &hint{err, "certagent import --help says what the two files hold"}
		}
		return failed(err)
	}
	held, err := store.Held(cfg.StateDir)
	if err != nil {
		return failed(err)
	}
	var taken control.Imported
	if held {
		taken, err = p.handOver(ctx, cfg, control.Import{ID: id, Replace: replace}, pair)
	} else {
		taken, err = adopt(cfg, c, pair, replace)
	}
	if err != nil {
		return err
	}
	if info, err := os.Stat(keyFile); err == nil && info.Mode().Perm()&0o077 != 0 {
		taken.Warnings = append(taken.Warnings, fmt.Sprintf("others than its owner may read %s (mode %04o): if they did, certagent renew --new-key %s",
			keyFile, info.Mode().Perm(), id))
	}
	for _, w := range taken.Warnings {
		fmt.Fprintf(p.stderr, "certagent: warning: %s\n", status.Printable(w))
	}
	_, err = fmt.Fprintf(p.stdout, "%s: imported: %s\n", id, taken.Directory)
	return err
}

// unconfigured is unknown for a certificate that is not in the configuration.
func unconfigured(cfg *config.Config, id string) error {
	var ids []string
	for _, c := range cfg.Certificates {
		ids = append(ids, c.ID)
	}
	return unknown(id, ids)
}

// handOver has the running agent take the pair. The key does not go through the socket, whose other end may be anybody's
// tool, but through a file that nobody else can read and that only whoever may write beside the socket can make.
func (p *program) handOver(ctx context.Context, cfg *config.Config, i control.Import, pair agent.Pair) (control.Imported, error) {
	client := p.client(cfg)
	defer client.Close()
	// This also makes sure of who listens there, before a key is given to them.
	if _, err := p.reach(ctx, client, cfg); err != nil {
		return control.Imported{}, err
	}
	perm := durable.Perm{Mode: 0o600, UID: -1, GID: -1}
	if os.Geteuid() == 0 {
		info, err := os.Stat(cfg.StateDir) // not the socket, in whose place its directory's owner may put another
		if err != nil {
			return control.Imported{}, failed(err)
		}
		perm.UID, perm.GID = durable.Owner(info)
	}
	text, err := pair.PEM()
	if err != nil {
		return control.Imported{}, failed(err)
	}
	defer clear(text)
	// From here on an interrupt must not leave the key behind.
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	i.File = agent.BroughtName(rand.Text())
	file := filepath.Join(filepath.Dir(cfg.Control.Socket), i.File)
	defer func() { _ = os.Remove(file) }() // the agent removes it when it has read it
	if err := durable.Create(durable.OS{}, file, text, perm); err != nil {
		if errors.Is(err, fs.ErrPermission) {
			err = &hint{err, "run this as root or as the agent's user: only they can hand it a key"}
		}
		return control.Imported{}, failed(err)
	}
	ctx, cancel := context.WithTimeout(ctx, changeWithin)
	defer cancel()
	taken, err := client.Import(ctx, i)
	if errors.Is(ctx.Err(), context.Canceled) && err != nil {
		return control.Imported{}, failed(&hint{errors.New("interrupted"), "certagent status says whether it was taken over all the same"})
	}
	if err != nil {
		return control.Imported{}, p.unreached(err, cfg)
	}
	return taken, nil
}

// adopt takes the pair over where no agent runs.
func adopt(cfg *config.Config, c *config.Certificate, pair agent.Pair, replace bool) (control.Imported, error) {
	h := host()
	s, err := store.Open(cfg.StateDir, store.Options{MachineID: h.LastingID()})
	if err != nil {
		return control.Imported{}, failed(badStateDir(err))
	}
	defer s.Close()
	now := time.Now().Round(0)
	known, err := s.Clock()
	if err != nil {
		return control.Imported{}, failed(err)
	}
	credible, _ := renew.Clock{Build: built(), Mark: known.Mark, Refuted: known.Refuted, Ignore: !cfg.Clock.Check}.Judge(now)
	g, warnings, err := agent.Adopt(agent.Adoption{
		Store: s, Certificate: c, Pair: pair, Replace: replace, Host: h, Version: version, Now: now, Credible: credible,
	})
	if g == nil {
		if e, ok := errors.AsType[*control.Error](err); ok && e.Hint != "" {
			err = &hint{err, e.Hint}
		}
		return control.Imported{}, failed(err)
	}
	if err != nil {
		warnings = append(warnings, err.Error()) // it is live
	}
	return control.Imported{Generation: g.Number, Directory: g.Dir, Warnings: warnings}, nil
}
