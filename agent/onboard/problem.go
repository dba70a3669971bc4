package onboard

import "time"

// Problem is something about a certificate and its cloud that a person should know.
type Problem struct {
	Code   string    `json:"code"` // one of the protocol's
	Text   string    `json:"text"`
	Hint   string    `json:"hint,omitempty"`
	Notice bool      `json:"notice,omitempty"` // all goes as it should, so far
	Since  time.Time `json:"since,omitzero"`   // the first failure in a row with this code; zero where it is none of a try
}

// After is p of a try that ended at now, and followed one that left before, nil where that left none.
func (p Problem) After(before *Problem, now time.Time) *Problem {
	p.Since = now
	if before != nil && before.Code == p.Code && !before.Since.After(now) {
		p.Since = before.Since
	}
	return &p
}
