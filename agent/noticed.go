package agent

import (
	"time"

	"certagent/agent/status"
)

// noticed remembers since when this agent has seen the problems of which nothing on disk tells it. A problem is the same one as
// long as it has the same code on the same certificate: its text may have a time in it.
type noticed map[noticedKey]time.Time

type noticedKey struct{ id, code string }

// date gives each problem in s that has no date, or one that is yet to come since the clock was set back, the one of its first
// appearance, and gives what it remembers then: what is gone is forgotten, and is new when it comes back.
func (n noticed) date(s *status.Snapshot) noticed {
	seen := noticed{}
	note := func(id string, problems []Problem) {
		for i := range problems {
			p := &problems[i]
			if !p.Since.IsZero() && !p.Since.After(s.Time) {
				continue
			}
			key := noticedKey{id, p.Code}
			since, known := n[key]
			if !known || since.After(s.Time) { // the clock was set back
				since = s.Time
			}
			p.Since, seen[key] = since, since
		}
	}
	note("", s.Problems)
	for i := range s.Certificates {
		note(s.Certificates[i].ID, s.Certificates[i].Problems)
	}
	return seen
}
