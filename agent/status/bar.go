package status

import (
	"slices"
	"strings"
	"time"
)

// barColumns is how wide a bar of so many cells is.
func (p *page) barColumns(cells int) int {
	if p.look.Unicode {
		return cells
	}
	return cells + len("[]")
}

// bar draws the lifetime of c in so many cells: what has passed, what is left, and when renewal is due.
func (p *page) bar(c *Certificate, now time.Time, cells int) string {
	begin, passed, left, mark, end := "[", "#", ".", "|", "]"
	if p.look.Unicode {
		begin, passed, left, mark, end = "", "█", "░", "┃", ""
	}
	life := c.NotAfter.Sub(c.NotBefore)
	if life <= 0 {
		return begin + strings.Repeat(" ", cells) + end
	}
	at := func(t time.Time) int {
		return int(float64(cells) * min(1, max(0, float64(t.Sub(c.NotBefore))/float64(life))))
	}
	drawn := slices.Repeat([]string{left}, cells)
	for i := range at(now) {
		drawn[i] = passed
	}
	if !c.RenewAt.IsZero() {
		drawn[min(at(c.RenewAt), cells-1)] = mark
	}
	return begin + strings.Join(drawn, "") + end
}
