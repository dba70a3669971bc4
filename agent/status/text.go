package status

import (
	"slices"
	"strings"
	"unicode"
)

// maxMarks is how many combining marks may stand on one character: languages need fewer, and a heap of them is written
// over the lines around it.
const maxMarks = 4

// Printable is text with everything replaced that could move a terminal's cursor, colour it, reverse the direction of what
// follows, or write over other lines: parts of a problem come from servers. It stays one line.
func Printable(text string) string {
	marks := 0
	return strings.Map(func(r rune) rune {
		if isMark(r) {
			if marks++; marks > maxMarks {
				return -1
			}
			return r
		}
		marks = 0
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case !unicode.IsPrint(r):
			return '?'
		}
		return r
	}, text)
}

// inASCII is printable text for a terminal that does not understand UTF-8, to which the bytes of a letter may be a command.
func inASCII(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r < 0x80:
			return r
		case isMark(r):
			return -1
		}
		return '?'
	}, strings.ReplaceAll(text, "…", "..."))
}

// isMark reports whether r is written over the character before it: it takes no column.
func isMark(r rune) bool { return r >= 0x300 && unicode.In(r, unicode.Mn, unicode.Me) }

// wide are the characters of two columns (Unicode Standard Annex #11, W and F), each range rounded up: a line that is a
// column too short harms nobody.
var wide = [...][2]rune{
	{0x1100, 0x115f}, {0x2300, 0x24ff}, {0x25a0, 0x27bf}, {0x2b00, 0x2bff}, {0x2e80, 0xa4cf}, {0xa960, 0xa97f}, {0xac00, 0xd7ff},
	{0xf900, 0xfaff}, {0xfe10, 0xfe1f}, {0xfe30, 0xfe6f}, {0xff00, 0xff60}, {0xffe0, 0xffe6}, {0x16fe0, 0x1b2ff}, {0x1f000, 0x1faff},
	{0x20000, 0x3ffff},
}

// runeColumns is how many columns of a terminal a printable character takes.
func runeColumns(r rune) int {
	switch {
	case r < 0x300:
		return 1
	case isMark(r):
		return 0
	case slices.ContainsFunc(wide[:], func(between [2]rune) bool { return between[0] <= r && r <= between[1] }):
		return 2
	}
	return 1
}

// columnsOf is how many columns printable text takes.
func columnsOf(text string) (n int) {
	for _, r := range text {
		n += runeColumns(r)
	}
	return n
}

// split breaks a word that is longer than a line of that many columns: behind a slash if there is one in the second half of
// the line, so that the parts of a path or a URL stay whole.
func split(word string, most int) (line, rest string) {
	used, slash := 0, 0
	for i, r := range word {
		// At least one character goes, whatever it takes; marks stay with theirs.
		if used += runeColumns(r); used > most && i > 0 {
			if slash > 0 {
				i = slash
			}
			return word[:i], word[i:]
		}
		if r == '/' && used > most/2 {
			slash = i + 1
		}
	}
	return word, ""
}
