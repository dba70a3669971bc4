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
		Args:  atMost(0),
		RunE:  func(*cobra.Command, []string) error { return p.printVersion() },
	}
}

func (p *program) printVersion() error {
	_, err := fmt.Fprintln(p.stdout, versionLine())
	return err
}

func versionLine() string {
	date := "unknown date"
	if b := built(); !b.IsZero() {
		date = b.UTC().Format(time.DateOnly)
	}
	return fmt.Sprintf("certagent %s (%s, %s, %s/%s)", version, date, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
