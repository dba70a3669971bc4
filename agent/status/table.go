package status

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// What the table keeps to: the width of a terminal nobody has widened, and the cells of a lifetime's bar.
const (
	columns  = 80
	barWidth = 16
)

// WriteTable writes the Snapshot for people: a line for each certificate with a bar of its lifetime and what happens next,
// then the problems with what to do. It fits 80 columns as long as ids have at most 16 characters, but for single words
// that are longer: a path or a URL stays in one piece, to be copied. Times are in the zone of s.Time.
func (s Snapshot) WriteTable(w io.Writer) error {
	var b strings.Builder
	width := len("ID")
	for _, c := range s.Certificates {
		width = max(width, len(c.ID))
	}
	if len(s.Certificates) == 0 {
		b.WriteString("no certificates\n")
	} else {
		fmt.Fprintf(&b, "%-*s  %-13s  %-*s  EXPIRES (%s)\n", width, "ID", "STATE", barWidth+2, "LIFETIME", s.Time.Format("MST"))
	}
	for _, c := range s.Certificates {
		expires := "-"
		if !c.NotAfter.IsZero() {
			expires = moment(c.NotAfter, s.Time)
		}
		fmt.Fprintf(&b, "%-*s  %-13s  %s  %s\n", width, c.ID, c.State, bar(c, s.Time), expires)
		if next := s.next(c); next != "" {
			indent := strings.Repeat(" ", width+2)
			wrap(&b, indent+"next: ", indent+"  ", next)
		}
		if line := deliveryLine(c, s.Time); line != "" {
			indent := strings.Repeat(" ", width+2)
			wrap(&b, indent, indent+"  ", line)
		}
	}
	writeProblems(&b, "", s.Problems, s.Time)
	for _, c := range s.Certificates {
		writeProblems(&b, c.ID+": ", c.Problems, s.Time)
	}
	if s.Config == "" && !slices.ContainsFunc(s.Problems, func(p Problem) bool { return p.Code == "config-invalid" }) {
		b.WriteByte('\n')
		wrap(&b, "", "", "the configuration could not be read: this is what the agent noted in "+s.StateDir)
	}
	if !s.Running {
		b.WriteByte('\n')
		wrap(&b, "", "", "no agent is running: this is what is on disk in "+s.StateDir)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// next says when the agent will act on c and why then. Without an agent it promises nothing.
func (s Snapshot) next(c Certificate) string {
	if c.NextTry.IsZero() {
		return c.NextWhy
	}
	at, agent := "now", "when an agent runs"
	if c.NextTry.After(s.Time) {
		at = moment(c.NextTry, s.Time)
		agent = at + ", if an agent runs"
	}
	if !s.Running {
		at = agent
	}
	return at + ": " + c.NextWhy
}

// deliveryLine says how the consumers of c are served: "outputs: 3 ok; hooks: 1 ok, 1 failed; next try in 4 minutes (17:24:10)".
// It is empty for a certificate that has neither.
func deliveryLine(c Certificate, now time.Time) string {
	var outputs, hooks []string
	for _, o := range c.Outputs {
		outputs = append(outputs, o.State)
	}
	for _, h := range c.Hooks {
		hooks = append(hooks, h.State)
	}
	var parts []string
	add := func(name string, states []string) {
		if len(states) == 0 {
			return
		}
		var counts []string
		for _, state := range []string{"ok", "pending", "failed"} {
			if n := len(states) - len(slices.DeleteFunc(slices.Clone(states), func(s string) bool { return s == state })); n > 0 {
				counts = append(counts, fmt.Sprintf("%d %s", n, state))
			}
		}
		parts = append(parts, name+": "+strings.Join(counts, ", "))
	}
	add("outputs", outputs)
	add("hooks", hooks)
	if next := c.nextDelivery(); !next.IsZero() {
		parts = append(parts, "next try "+moment(next, now))
	}
	return strings.Join(parts, "; ")
}

func writeProblems(b *strings.Builder, whose string, problems []Problem, now time.Time) {
	for _, p := range problems {
		b.WriteByte('\n')
		code := p.Code
		if p.Notice {
			code += " (notice)"
		}
		wrap(b, whose+code+": ", "  ", p.Text)
		if p.Hint != "" {
			wrap(b, "  hint: ", "    ", p.Hint)
		}
		if !p.Since.IsZero() {
			wrap(b, "  since: ", "    ", moment(p.Since, now))
		}
	}
}

// wrap writes first and text, whose words are broken into lines that begin with indent.
func wrap(b *strings.Builder, first, indent, text string) {
	line := first
	for i, word := range strings.Fields(Printable(text)) {
		switch {
		case i == 0:
			line += word
		case utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > columns:
			b.WriteString(line + "\n")
			line = indent + word
		default:
			line += " " + word
		}
	}
	b.WriteString(line + "\n")
}

// Printable is text with everything that could move a terminal's cursor or colour it replaced: parts of a problem come
// from servers.
func Printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text)
}

// bar draws the lifetime: what has passed, and as a '|' when renewal is due.
func bar(c Certificate, now time.Time) string {
	life := c.NotAfter.Sub(c.NotBefore)
	if life <= 0 {
		return "[" + strings.Repeat(" ", barWidth) + "]"
	}
	at := func(t time.Time) int {
		return int(float64(barWidth) * min(1, max(0, float64(t.Sub(c.NotBefore))/float64(life))))
	}
	cells := []byte(strings.Repeat("#", at(now)) + strings.Repeat(".", barWidth-at(now)))
	if !c.RenewAt.IsZero() {
		cells[min(at(c.RenewAt), barWidth-1)] = '|'
	}
	return "[" + string(cells) + "]"
}

// moment says a time in words and by the clock, or by the calendar where that is further away than a day: "in 19 hours
// (17:24:10)", "3 days ago (2026-11-24)".
func moment(t, now time.Time) string {
	d := t.Sub(now)
	layout := time.DateOnly
	if d.Abs() < 24*time.Hour {
		layout = time.TimeOnly
	}
	return fmt.Sprintf("%s (%s)", Until(d), t.In(now.Location()).Format(layout))
}

// Until says a time that is d away in words: "in 3 days", "2 hours ago".
func Until(d time.Duration) string {
	if d < 0 {
		return span(-d) + " ago"
	}
	return "in " + span(d)
}

// span names d in the largest unit of which it has at least two, rounded down.
func span(d time.Duration) string {
	const day, year = 24 * time.Hour, 365 * 24 * time.Hour
	for _, u := range []struct {
		unit time.Duration
		name string
	}{{year, "years"}, {day, "days"}, {time.Hour, "hours"}, {time.Minute, "minutes"}} {
		if d >= 2*u.unit {
			return fmt.Sprintf("%d %s", d/u.unit, u.name)
		}
	}
	if n := d / time.Second; n != 1 {
		return fmt.Sprintf("%d seconds", n)
	}
	return "1 second"
}
