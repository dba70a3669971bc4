package status

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

const fewIDs = 4 // as many are named where one problem is that of several certificates

// remark is a problem and the certificates that have it; none where it is the agent's own.
type remark struct {
	ids []string
	Problem
}

// remarksOf collects the problems, and makes one of those that several certificates share, whose texts differ in their ids
// at most. Notices come last.
func remarksOf(own []Problem, certificates []*Certificate) (all []*remark) {
	for _, p := range own {
		all = append(all, &remark{Problem: p})
	}
	shared := map[Problem]*remark{}
	for _, c := range certificates {
		for _, p := range c.Problems {
			key := Problem{Code: p.Code, Text: strings.ReplaceAll(p.Text, c.ID, "\x00"), Hint: strings.ReplaceAll(p.Hint, c.ID, "\x00"), Notice: p.Notice}
			r := shared[key]
			if r == nil {
				r = &remark{Problem: p}
				shared[key], all = r, append(all, r)
			}
			r.ids = append(r.ids, c.ID)
			if !p.Since.IsZero() && (r.Since.IsZero() || p.Since.Before(r.Since)) {
				r.Since = p.Since
			}
		}
	}
	slices.SortStableFunc(all, func(a, b *remark) int {
		switch {
		case a.Notice == b.Notice:
			return 0
		case b.Notice:
			return -1
		}
		return 1
	})
	return all
}

// writeProblems writes each with what to do; unless inFull, a few of each code, and how many more there are: a server that is gone has
// a thousand certificates say so, each with a time or a number of its own.
func (p *page) writeProblems(all []*remark, inFull bool, now time.Time) {
	told, untold := map[string]int{}, map[string]int{}
	for _, r := range all {
		if told[r.Code]++; told[r.Code] > fewAlike && !inFull {
			untold[r.Code]++
			continue
		}
		p.WriteByte('\n')
		p.say("", "  ", slices.Concat(p.heading(r.ids, r.Problem), p.words(r.Text))...)
		if r.Hint != "" {
			p.say("  hint: ", "    ", p.words(r.Hint)...)
		}
		if !r.Since.IsZero() {
			p.say("  since: ", "    ", p.words(moment(r.Since, now))...)
		}
	}
	for _, r := range all { // in that order
		if n := untold[r.Code]; n > 0 {
			untold[r.Code] = 0
			p.WriteByte('\n')
			p.say("", "  ", append(p.heading(nil, Problem{Code: r.Code, Notice: r.Notice}),
				p.words(fmt.Sprintf("%d more like these; certagent status ID shows those of one certificate, --all each", n))...)...)
		}
	}
}

// heading is whose problem it is, and its code.
func (p *page) heading(ids []string, problem Problem) (words []word) {
	rest := ""
	if len(ids) > fewIDs {
		rest = fmt.Sprintf("and %d more:", len(ids)-fewIDs+1)
		ids = ids[:fewIDs-1]
	}
	for i, id := range ids {
		sign := ","
		if i == len(ids)-1 {
			sign = ":"
			if rest != "" {
				sign = ""
			}
		}
		words = append(words, word{text: p.clean(id) + sign})
	}
	words = append(words, p.words(rest)...)
	code, c := word{text: p.clean(problem.Code) + ":", colour: red}, cyan
	if problem.Notice {
		code = word{text: p.clean(problem.Code), colour: c}
		return append(words, code, word{text: "(notice):"})
	}
	return append(words, code)
}
