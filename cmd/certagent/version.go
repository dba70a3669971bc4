package main

import (
	"fmt"
	"runtime"
	"time"

	"github.com/spf13/cobra"
)

func (p *program) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "print the version",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			date := "unknown date"
			if b := built(); !b.IsZero() {
				date = b.UTC().Format(time.DateOnly)
			}
			_, err := fmt.Fprintf(p.stdout, "certagent %s (%s, %s, %s/%s)\n", version, date, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}
