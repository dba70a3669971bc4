package agent

import (
	"testing"
	"time"

	"certagent/agent/status"
)

func TestNoticed(t *testing.T) {
	start := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	at := func(minute int) time.Time { return start.Add(time.Duration(minute) * time.Minute) }
	known := start.Add(-time.Hour)
	n := noticed{}
	for _, tc := range []struct {
		name  string
		now   time.Time
		codes string // of the certificate's problems, a letter each; k has a date of its own
		want  []time.Time
	}{
		{"new", at(0), "ab", []time.Time{at(0), at(0)}},
		{"the same, and one more", at(1), "cab", []time.Time{at(1), at(0), at(0)}},
		{"one with a date", at(2), "ak", []time.Time{at(0), known}},
		{"one that was gone is new", at(3), "ab", []time.Time{at(0), at(3)}},
		{"the clock was set back", at(-60), "ab", []time.Time{at(-60), at(-60)}},
		{"a date of a clock that was ahead", at(-90), "k", []time.Time{at(-90)}},
		{"both as before", at(-60), "ab", []time.Time{at(-60), at(-60)}},
		{"and is right again", at(4), "ab", []time.Time{at(-60), at(-60)}},
	} {
		s := status.Snapshot{Time: tc.now, Problems: []Problem{{Code: "a"}}, Certificates: []status.Certificate{{ID: "mqtt"}}}
		for _, code := range tc.codes {
			p := Problem{Code: string(code)}
			if code == 'k' {
				p.Since = known
			}
			s.Certificates[0].Problems = append(s.Certificates[0].Problems, p)
		}
		n = n.date(&s)
		for i, p := range s.Certificates[0].Problems {
			if !p.Since.Equal(tc.want[i]) {
				t.Errorf("%s: %s since %v, want %v", tc.name, p.Code, p.Since, tc.want[i])
			}
		}
		if s.Problems[0].Since.IsZero() {
			t.Errorf("%s: the agent's own problem has no date", tc.name)
		}
	}
}
