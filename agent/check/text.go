package check

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"certagent/agent/status"
)

// WriteJSON writes the Report for machines, in the order of the types; docs/check.md lists the fields.
func (r Report) WriteJSON(w io.Writer) error {
	return status.WriteJSON(w, r)
}

// WriteText writes the Report for people: the results by area and subject, the hints, and a summary.
func (r Report) WriteText(w io.Writer, look status.Look) error {
	var b strings.Builder
	area, subject := "", ""
	for _, c := range r.Checks {
		if c.Area != area {
			if area != "" {
				b.WriteByte('\n')
			}
			b.WriteString(c.Area + "\n")
			area, subject = c.Area, ""
		}
		if c.Subject != subject {
			look.Wrap(&b, "  ", "  ", c.Subject)
			subject = c.Subject
		}
		writeResult(&b, c, look)
	}
	if len(r.Checks) > 0 {
		b.WriteByte('\n')
	}
	b.WriteString(r.Summary.String() + "\n")
	_, err := io.WriteString(w, b.String())
	return err
}

const indent = "             "

func writeResult(b *strings.Builder, c *Result, look status.Look) {
	var line strings.Builder
	verdict := fmt.Sprintf("%-8s", c.Verdict)
	look.Wrap(&line, "    "+verdict+" ", indent, c.ID+": "+c.Text)
	text := line.String()
	if look.Colour {
		text = strings.Replace(text, verdict, c.Verdict.coloured()+verdict[len(c.Verdict):], 1)
	}
	b.WriteString(text)
	if c.Hint != "" {
		look.Wrap(b, indent+"hint: ", indent, c.Hint)
	}
}

func (v Verdict) coloured() string {
	code := map[Verdict]string{OK: "32", Warning: "33", Failed: "31", Skipped: "36"}[v]
	return "\x1b[" + code + "m" + string(v) + "\x1b[0m"
}

// String is the summary in one line: "31 checks: 29 ok, 1 warning, 1 failed".
func (s Summary) String() string {
	count := func(n int, one, many string) string {
		if n == 1 {
			return "1 " + one
		}
		return fmt.Sprintf("%d %s", n, many)
	}
	parts := []string{count(s.OK, "ok", "ok"), count(s.Warnings, "warning", "warnings"), count(s.Failed, "failed", "failed"),
		count(s.Skipped, "skipped", "skipped")}
	parts = slices.DeleteFunc(parts, func(p string) bool { return strings.HasPrefix(p, "0 ") })
	return count(s.Checks, "check", "checks") + ": " + strings.Join(parts, ", ")
}
