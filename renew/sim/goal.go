package main

import "fmt"

// goals are what a fleet asks of its server at most, in parts of the mean.
type goals struct {
	calm  float64 // from the first renewal on, when nothing goes wrong
	after float64 // after an outage or a power cut
}

// fleetGoals are those of a fleet that is large enough for chance not to make peaks.
var fleetGoals = goals{calm: 2, after: 4}

// missed says which goals r does not reach, in sentences. Goals are for certagent alone, those for the load only for fleets
// that are spread, and not for a server that has too little to spare.
func (r run) missed(g goals) []string {
	if !r.population.ours {
		return nil
	}
	var all []string
	miss := func(format string, a ...any) {
		all = append(all, fmt.Sprintf("%s, %s, %s: ", r.lifetime.name, r.story.name, r.population.name)+fmt.Sprintf(format, a...))
	}
	calm := r.story.trouble == noTrouble
	if r.population.flat && calm && r.load.before > g.calm {
		miss("the peak is %.2f × mean, want %g at most", r.load.before, g.calm)
	}
	if r.population.flat && r.story.bound && r.load.after > g.after {
		miss("the peak afterwards is %.2f × mean, want %g at most", r.load.after, g.after)
	}
	if calm && r.outcome.expired > 0 {
		miss("%d certificates expired", r.outcome.expired)
	}
	if r.outcome.early > 0 {
		miss("%d tries came sooner than the server had asked", r.outcome.early)
	}
	if r.outcome.neglected > 0 {
		miss("%d certificates expired that had more than one retry left", r.outcome.neglected)
	}
	return all
}
