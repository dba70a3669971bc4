package config

import "strings"

// Nearest is the name closest to a misspelt one, or "" if none is close.
func Nearest(name string, names []string) string {
	best, at := "", max(1, len(name)/3)+1
	for _, n := range names {
		if max(len(name)-len(n), len(n)-len(name)) >= at {
			continue // a megabyte of a name is not compared letter by letter
		}
		if d := distance(strings.ToLower(name), n); d < at {
			best, at = n, d
		}
	}
	return best
}

// distance counts the letters to add, drop, change or swap with a neighbour to make b of a.
func distance(a, b string) int {
	before, last, row := []int(nil), []int(nil), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, last, row = last, row, make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			change := last[j-1]
			if a[i-1] != b[j-1] {
				change++
			}
			row[j] = min(last[j]+1, row[j-1]+1, change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return row[len(b)]
}
