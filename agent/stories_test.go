package agent

import (
	"testing"

	"certagent/store/durable/durabletest"
)

// stories are the rows of a table, each a device's days or years minute by minute, that differ in what befalls it and not
// in the goroutines that live through it. All are played; under the race detector, which makes a minute some five times as
// dear, every fifth is, as with the points of a sweep ([durabletest.Stride]). Which those are, where the table is a map,
// differs from run to run.
type stories struct {
	t           *testing.T
	played, all int
}

func storiesOf(t *testing.T) *stories {
	s := &stories{t: t}
	t.Cleanup(func() { t.Logf("%d of %d stories were played", s.played, s.all) })
	return s
}

// play is t.Run for one of the stories.
func (s *stories) play(name string, story func(*testing.T)) {
	s.t.Helper()
	if s.all++; (s.all-1)%durabletest.Stride(1) == 0 {
		s.played++
		s.t.Run(name, story)
	}
}
