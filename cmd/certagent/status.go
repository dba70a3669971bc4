package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"certagent/agent"
	"certagent/agent/status"
	"certagent/store"
)

func (p *program) statusCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "status [ID...]",
		Short: "show the certificates, their problems and what happens next",
		Long: `status shows each certificate with its lifetime, what happens next and why, and each problem with
a remedy. It reads the state directory and needs no right to read the configuration.

Exit codes: 0 well, 1 failed, 2 usage, else the worst of: 3 expired, 5 key mismatch, 7 missing,
6 not yet valid, 4 overdue, 8 degraded (the certificate is fine, something around it is not).`,
		Example: "  certagent status\n  certagent status --json device-id",
		RunE: func(_ *cobra.Command, ids []string) error {
			return p.status(ids, asJSON)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON (schema 1)")
	return c
}

func (p *program) status(ids []string, asJSON bool) error {
	cfg, configErr := p.load()
	if errors.Is(configErr, fs.ErrPermission) {
		configErr = nil // the state directory tells enough
	}
	h, err := host()
	if err != nil {
		return failed(err)
	}
	dir := p.stateDirOf(cfg)
	s, err := store.View(dir)
	if err != nil {
		return failed(fmt.Errorf("read the state directory: %w", err))
	}
	defer s.Close()
	running, err := store.Held(dir)
	if err != nil {
		return failed(err)
	}
	snapshot, err := agent.Survey(agent.SurveyOptions{
		Config: cfg, ConfigError: configErr, Store: s, Running: running, Version: version, Built: built(), Host: h, Now: time.Now(),
	})
	if err != nil {
		return failed(err)
	}
	if len(ids) > 0 {
		all := snapshot.Certificates
		snapshot.Certificates = []status.Certificate{}
		for _, id := range ids {
			i := slices.IndexFunc(all, func(c status.Certificate) bool { return c.ID == id })
			if i < 0 {
				return misused(fmt.Errorf("there is no certificate %q", id))
			}
			snapshot.Certificates = append(snapshot.Certificates, all[i])
		}
	}
	if asJSON {
		err = writeJSON(p, snapshot)
	} else {
		err = snapshot.WriteTable(p.stdout)
	}
	if err != nil {
		return failed(err)
	}
	if code := snapshot.ExitCode(); code != exitOK {
		return &exitError{code: code}
	}
	return nil
}

func writeJSON(p *program, v any) error {
	out := json.NewEncoder(p.stdout)
	out.SetIndent("", "  ")
	return out.Encode(v)
}
