package status

import (
	"fmt"
	"slices"
	"strings"
)

const (
	// many is how many certificates are shown one by one, with everything that is known of them. Where there are more, one that
	// is well has one line, and those that are alike are told of together.
	many = 20
	// fewAlike is how many of those that are alike are shown then: the first to expire. It holds for problems of one code, too.
	fewAlike = 3
)

// alike are certificates of one story: what is said of the first ones holds for all of them, but for the times.
type alike struct {
	story string
	shown []*Certificate
	more  int // that are not shown
}

// story is how c is and why, without its times: its state, and the codes of its problems or else the class of its failures.
func (c *Certificate) story() string {
	words := []string{string(c.State)}
	for _, p := range c.Problems {
		if !slices.Contains(words, p.Code) {
			words = append(words, p.Code)
		}
	}
	if c.Failures > 0 && len(c.Problems) == 0 {
		words = append(words, c.LastClass)
	}
	return strings.Join(words, ", ")
}

// alikes puts certificates of one story together, in the order of their first ones. Of many certificates, unless each is asked for,
// a few of a story are left, those that expire first.
func alikes(certificates []*Certificate, each bool) (groups []*alike) {
	of := map[string]*alike{}
	for _, c := range certificates {
		story := c.story()
		g := of[story]
		if g == nil {
			g = &alike{story: story}
			of[story], groups = g, append(groups, g)
		}
		g.shown = append(g.shown, c)
	}
	if each || len(certificates) <= many {
		return groups
	}
	for _, g := range groups {
		if len(g.shown) <= fewAlike+1 { // a line for the one more is a line as well
			continue
		}
		slices.SortStableFunc(g.shown, func(a, b *Certificate) int { return a.NotAfter.Compare(b.NotAfter) })
		g.more = len(g.shown) - fewAlike
		g.shown = g.shown[:fewAlike]
	}
	return groups
}

// writeMore writes how many there are of which g shows a few.
func (p *page) writeMore(g *alike) {
	if g.more > 0 {
		p.say("", "  ", p.words(fmt.Sprintf("and %d more like these: %s (--all shows each)", g.more, g.story))...)
	}
}
