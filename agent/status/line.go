package status

import (
	"fmt"
	"strings"
)

// Line is the one line that systemctl status shows (sd_notify(3), STATUS=): how many certificates are well, and the
// worst of the others with its next try.
func (s Snapshot) Line() string {
	var managed, well int
	var worst *Certificate
	for i := range s.Certificates {
		c := &s.Certificates[i]
		if c.State == Unmanaged {
			continue
		}
		managed++
		if c.State == Valid {
			well++
			continue
		}
		if worst == nil || rank(c.State) < rank(worst.State) {
			worst = c
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d of %d certificates valid", well, managed)
	if worst != nil {
		fmt.Fprintf(&b, "; %s: %s", worst.ID, worst.State)
		if worst.LastClass != "" && worst.Failures > 0 {
			fmt.Fprintf(&b, ", %s", worst.LastClass)
		}
		if !worst.NextTry.IsZero() {
			fmt.Fprintf(&b, ", next try %s", worst.NextTry.Local().Format("Jan 2 15:04:05"))
		}
	}
	if len(s.Problems) > 0 {
		fmt.Fprintf(&b, "; %s", s.Problems[0].Code)
	}
	return b.String()
}

// rank orders states from the worst.
func rank(s State) int {
	for i, t := range []State{Expired, KeyMismatch, Missing, NotYetValid, Overdue, Due} {
		if s == t {
			return i
		}
	}
	return 99
}
