package agent

import (
	"fmt"
	"math"
	"time"
	"unicode/utf8"

	"github.com/rs/zerolog"

	"certagent/est"
)

// ending is what every try at a server has cost, and what came of it.
type ending struct {
	Traffic  est.Traffic
	began    time.Time // by the monotonic clock: the wall clock may be set meanwhile, and often is at a first boot
	took     time.Duration
	Result   string
	Class    string // of the error, "" on success
	Error    string
	Hint     string
	Failures int
	NextTry  time.Time
	NextWhy  string
}

func (e *ending) cost(z *zerolog.Event) {
	elapsed(z, "took_seconds", e.took)
	traffic(z, e.Traffic)
}

func (e *ending) outcome(z *zerolog.Event) {
	text(z, "class", e.Class)
	text(z, "error", e.Error)
	text(z, "hint", e.Hint)
	if e.Failures > 0 {
		z.Int("failures", e.Failures)
	}
	next(z, e.NextTry, e.NextWhy)
}

// Each of these writes one field of a log line, or none where there is nothing to say. All of it is bounded: parts come from
// servers, and nobody watches a gateway's disk.

// Bounds of one line.
const (
	maxText  = 2000 // bytes of a text
	maxItem  = 500  // bytes of one of a list
	maxItems = 32
)

func text(z *zerolog.Event, name, value string) {
	if value != "" {
		z.Str(name, clipTo(value, maxText))
	}
}

func list(z *zerolog.Event, name string, values []string) {
	if len(values) == 0 {
		return
	}
	shown := make([]string, 0, min(len(values), maxItems+1))
	for i, v := range values {
		if i == maxItems {
			shown = append(shown, fmt.Sprintf("%d more", len(values)-maxItems))
			break
		}
		shown = append(shown, clipTo(v, maxItem))
	}
	z.Strs(name, shown)
}

func problemCodes(z *zerolog.Event, problems []Problem) {
	if len(problems) == 0 {
		return
	}
	var all []string
	for _, p := range problems {
		all = append(all, p.Code)
	}
	list(z, "problems", all)
}

// elapsed is in seconds, rounded to milliseconds.
func elapsed(z *zerolog.Event, name string, d time.Duration) {
	z.Float64(name, math.Round(d.Seconds()*1000)/1000)
}

// when is in UTC, to the second.
func when(z *zerolog.Event, name string, t time.Time) {
	if !t.IsZero() {
		z.Str(name, t.UTC().Format(time.RFC3339))
	}
}

func next(z *zerolog.Event, t time.Time, why string) {
	if t.IsZero() {
		return
	}
	when(z, "next_try", t)
	text(z, "next_why", why)
}

func traffic(z *zerolog.Event, t est.Traffic) {
	if t.Connections == 0 {
		return
	}
	z.Int("connections", t.Connections).Int64("bytes_sent", t.Sent).Int64("bytes_received", t.Received)
	if len(t.Statuses) > 0 {
		z.Ints("statuses", t.Statuses)
	}
}

// clip bounds what is kept of an error: parts of it come from servers.
func clip(s string) string { return clipTo(s, maxText) }

// clipTo cuts s to about that many bytes, at the boundary of a character, and marks that it did.
func clipTo(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit] + "…"
}
