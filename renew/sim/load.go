package main

import "time"

// binsAWindow is how finely the load is counted: windows slide by that part of their width, so that no burst hides by being
// split between two.
const binsAWindow = 12

// windowOf is the width of the windows in which load is counted: 1 % of the lifetime, but never under an hour.
func windowOf(life time.Duration) time.Duration { return max(life/100, time.Hour) }

// mean is the load that the fleet cannot do without: the renewals of a window on average, from the first try on. Tries that
// fail are no part of it, so that they do not make their own peak look smaller.
func (o outcome) mean(c conditions) float64 {
	sum := 0
	for _, n := range o.renewals {
		sum += int(n)
	}
	return float64(sum) * float64(binsAWindow*c.bin) / float64(c.span-o.first)
}

// window gives the tries in the window that begins with a bin.
func (o outcome) window(bin int) int {
	sum := 0
	for _, n := range o.tries[bin:min(bin+binsAWindow, len(o.tries))] {
		sum += int(n)
	}
	return sum
}

// busiest gives the window with most tries of those that begin in [from, to), which must not be empty, and how many those
// are.
func (o outcome) busiest(c conditions, from, to time.Duration) (start time.Duration, tries int) {
	for bin := int(from / c.bin); bin < min(int(to/c.bin), len(o.tries)); bin++ {
		if n := o.window(bin); n > tries {
			start, tries = time.Duration(bin)*c.bin, n
		}
	}
	return start, tries
}

// load is what a fleet asked of its server, in parts of the mean.
type load struct {
	mean float64 // renewals in a window
	// before is the peak until the trouble begins to show in a window, during until it ends, after from there on. Without
	// trouble all is before.
	before, during, after float64
}

func loadOf(c conditions, o outcome) load {
	l := load{mean: o.mean(c)}
	peak := func(from, to time.Duration) float64 {
		_, tries := o.busiest(c, from, to)
		return float64(tries) / l.mean
	}
	if c.trouble.kind == noTrouble {
		l.before = peak(0, c.span)
		return l
	}
	shows := max(0, c.trouble.from-(binsAWindow-1)*c.bin)
	l.before, l.during, l.after = peak(0, shows), peak(shows, c.trouble.to), peak(c.trouble.to, c.span)
	return l
}
