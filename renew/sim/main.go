// Command sim follows fleets of devices through years of certificates, and says what they ask of their EST server. When a
// device renews, tries again and goes on after a power cut is decided by package renew, the very one that is in the agent.
//
// Time is simulated: a device is a value, and what it does next waits in a list for its minute. The same program prints and
// draws the same bytes each time.
//
//	go run ./renew/sim -docs docs
//
// It exits with 1 when a goal is missed; see goal.go.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

func main() { os.Exit(start(os.Args[1:], os.Stdout, os.Stderr)) }

// start returns the exit code: 1 when a goal was missed or a file not written, 2 for usage.
func start(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("sim", flag.ContinueOnError)
	flags.SetOutput(stderr)
	devices := flags.Int("devices", 100_000, "devices in a fleet")
	docs := flags.String("docs", "", "directory whose pictures fleet-*.svg are drawn, and whose performance.md gets the tables")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if flags.NArg() > 0 || *devices < 1 {
		fmt.Fprintln(stderr, "sim: it takes no arguments, and -devices must be 1 or more")
		return 2
	}
	runs := simulateAll(*devices)
	writeTables(stdout, runs)
	code := 0
	if *docs != "" {
		if err := document(*docs, runs); err != nil {
			fmt.Fprintln(stderr, "sim:", err)
			code = 1
		}
	}
	for _, r := range runs {
		for _, m := range r.missed(fleetGoals) {
			fmt.Fprintln(stderr, "sim: goal missed:", m)
			code = 1
		}
	}
	return code
}

// document draws the pictures and puts the tables into performance.md.
func document(dir string, runs []run) error {
	for _, c := range charts(runs) {
		if err := os.WriteFile(filepath.Join(dir, c.file), c.svg(), 0o644); err != nil {
			return fmt.Errorf("draw chart: %w", err)
		}
	}
	file := filepath.Join(dir, "performance.md")
	page, err := os.ReadFile(file)
	if err == nil {
		page, err = withTables(page, runs)
	}
	if err == nil {
		err = os.WriteFile(file, page, 0o644)
	}
	if err != nil {
		return fmt.Errorf("put tables into performance.md: %w", err)
	}
	return nil
}

// Between these lines of performance.md stand the tables.
const (
	tablesBegin = "<!-- made by make sim -->\n"
	tablesEnd   = "<!-- end of what make sim made -->\n"
)

// withTables returns page with the tables of runs in place of those that it has.
func withTables(page []byte, runs []run) ([]byte, error) {
	before, rest, begun := bytes.Cut(page, []byte(tablesBegin))
	_, after, ended := bytes.Cut(rest, []byte(tablesEnd))
	if !begun || !ended {
		return nil, fmt.Errorf("no lines %q and %q", tablesBegin, tablesEnd)
	}
	var b bytes.Buffer
	b.Write(before)
	b.WriteString(tablesBegin + "\n")
	writeTables(&b, runs)
	b.WriteString(tablesEnd)
	b.Write(after)
	return b.Bytes(), nil
}
