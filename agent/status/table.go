package status

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
)

const barWidth = 20

// WriteTable writes the Snapshot for people: a line for each certificate with a bar of its lifetime, then the problems
// with what to do. It fits 80 columns as long as ids have at most 16 characters. Times are in the zone of s.Time.
func (s Snapshot) WriteTable(w io.Writer) error {
	var b strings.Builder
	width := len("ID")
	for _, c := range s.Certificates {
		width = max(width, len(c.ID))
	}
	fmt.Fprintf(&b, "%-*s  %-13s  %-*s  %s\n", width, "ID", "STATE", barWidth+2, "LIFETIME", "EXPIRES")
	for _, c := range s.Certificates {
		expires := "-"
		if !c.NotAfter.IsZero() {
			expires = fmt.Sprintf("%s (%s)", Until(c.NotAfter.Sub(s.Time)), c.NotAfter.In(s.Time.Location()).Format("2006-01-02"))
		}
		fmt.Fprintf(&b, "%-*s  %-13s  %s  %s\n", width, c.ID, c.State, bar(c, s.Time), expires)
		if !c.NextTry.IsZero() {
			fmt.Fprintf(&b, "%-*s  next: %s, %s\n", width, "", when(c.NextTry, s.Time), c.NextWhy)
		}
	}
	if len(s.Certificates) == 0 {
		b.WriteString("no certificates\n")
	}
	writeProblems(&b, "", s.Problems)
	for _, c := range s.Certificates {
		writeProblems(&b, c.ID, c.Problems)
	}
	if !s.Running {
		b.WriteString("\nno agent is running on this state directory: this is what it left on disk\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func writeProblems(b *strings.Builder, id string, problems []Problem) {
	for _, p := range problems {
		b.WriteByte('\n')
		if id != "" {
			fmt.Fprintf(b, "%s: ", id)
		}
		fmt.Fprintf(b, "%s: %s\n", p.Code, Printable(p.Text))
		if p.Hint != "" {
			fmt.Fprintf(b, "  hint: %s\n", Printable(p.Hint))
		}
	}
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

// bar draws the lifetime: what has passed, and the threshold as a '|'.
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

// Until says a time that is d away in words: "in 3 days", "2 hours ago".
func Until(d time.Duration) string {
	if d < 0 {
		return span(-d) + " ago"
	}
	return "in " + span(d)
}

func span(d time.Duration) string {
	const day = 24 * time.Hour
	unit := func(n time.Duration, word string) string {
		if n == 1 {
			return "1 " + word
		}
		return fmt.Sprintf("%d %ss", n, word)
	}
	switch {
	case d < 2*time.Minute:
		return unit(d/time.Second, "second")
	case d < 2*time.Hour:
		return unit(d/time.Minute, "minute")
	case d < 2*day:
		return unit(d/time.Hour, "hour")
	default:
		return unit(d/day, "day")
	}
}

func when(t, now time.Time) string {
	if !t.After(now) {
		return "now"
	}
	return Until(t.Sub(now))
}
