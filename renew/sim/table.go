package main

import (
	"fmt"
	"io"
	"strings"
)

// table is one of those that are printed. Each run stands in one at most.
type table struct {
	title   string
	columns []string
	holds   func(run) bool
	cells   func(run) []string
}

var tables = []table{
	{
		title:   "Nothing goes wrong:",
		columns: []string{"lifetime", "fleet", "renewals in a window", "peak", "expired"},
		holds:   func(r run) bool { return r.story.trouble == noTrouble && !r.story.busy },
		cells: func(r run) []string {
			return []string{r.lifetime.name, r.population.name, fmt.Sprintf("%.0f", r.load.mean), ratio(r.load.before),
				fmt.Sprint(r.outcome.expired)}
		},
	},
	{
		title: "Something goes wrong:",
		columns: []string{"lifetime", "what", "fleet", "peak before", "meanwhile", "after", "expired", "after it ended",
			"of these, with more than one retry left then"},
		holds: func(r run) bool { return r.story.trouble != noTrouble && !r.story.busy },
		cells: func(r run) []string {
			return []string{r.lifetime.name, r.story.name, r.population.name, ratio(r.load.before), ratio(r.load.during),
				ratio(r.load.after), fmt.Sprint(r.outcome.expired), fmt.Sprint(r.outcome.late), fmt.Sprint(r.outcome.neglected)}
		},
	},
	{
		title: fmt.Sprintf("The server has little to spare: in an hour it serves %.1f times the mean, and sends the others away with "+
			"503 and Retry-After: %.0f.", busyServes, busyAsks.Seconds()),
		columns: []string{"lifetime", "what", "fleet", "peak", "tries for a renewal", "expired"},
		holds:   func(r run) bool { return r.story.busy },
		cells: func(r run) []string {
			return []string{r.lifetime.name, r.story.name, r.population.name, ratio(max(r.load.before, r.load.during, r.load.after)),
				ratio(r.outcome.effort()), fmt.Sprint(r.outcome.expired)}
		},
	},
}

// writeTables prints the runs in Markdown.
func writeTables(w io.Writer, runs []run) {
	for _, t := range tables {
		fmt.Fprintf(w, "%s\n\n%s\n|%s\n", t.title, line(t.columns), strings.Repeat(" --- |", len(t.columns)))
		for _, r := range runs {
			if t.holds(r) {
				fmt.Fprintln(w, line(t.cells(r)))
			}
		}
		fmt.Fprintln(w)
	}
}

func line(cells []string) string { return "| " + strings.Join(cells, " | ") + " |" }

// effort is how many tries a renewal took on average.
func (o outcome) effort() float64 {
	var tries, renewals int
	for i := range o.tries {
		tries += int(o.tries[i])
		renewals += int(o.renewals[i])
	}
	return float64(tries) / float64(renewals)
}

// ratio prints a load in parts of the mean; one before which there was nothing is none.
func ratio(f float64) string {
	if f == 0 {
		return "–"
	}
	return fmt.Sprintf("%.2f", f)
}
