package main

import (
	"fmt"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"certagent/agent/status"
)

func (p *program) versionCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "version",
		Short: "print the version",
		Long: `version prints which certagent this is: its version, the date of its last commit, the release of Go that built it, and
the system that it is for. A clock that stands before that date is not believed.

With --json that is an object with schema (1), version, committed (RFC 3339; missing if unknown), go, os and arch.

Exit codes: 0 printed, 1 failed, 2 usage.`,
		Example: "  certagent version\n  certagent version --json",
		Args:    atMost(0),
		RunE: func(*cobra.Command, []string) error {
			if asJSON {
				return p.printVersionJSON()
			}
			return p.printVersion()
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON (schema 1)")
	return c
}

func (p *program) printVersion() error {
	date := "unknown date"
	if b := built(); !b.IsZero() {
		date = b.UTC().Format(time.DateOnly)
	}
	_, err := fmt.Fprintf(p.stdout, "certagent %s (%s, %s, %s/%s)\n", version, date, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}

func (p *program) printVersionJSON() error {
	about := struct {
		Schema    int       `json:"schema"`
		Version   string    `json:"version"`
		Committed time.Time `json:"committed,omitzero"`
		Go        string    `json:"go"`
		OS        string    `json:"os"`
		Arch      string    `json:"arch"`
	}{1, version, built().UTC(), runtime.Version(), runtime.GOOS, runtime.GOARCH}
	return status.WriteJSON(p.stdout, about)
}
