package onboard

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// textLimit bounds a text of somebody else's that becomes part of an error, in bytes.
const textLimit = 300

// Quote is a value as it may stand in an error: bounded, in quotes.
func Quote(s string) string { return strconv.Quote(shorten(s)) }

// Line is text as it may stand in an error: one bounded line of [Printable].
func Line(text string) string { return shorten(Printable(text)) }

// Printable is text as one line without anything that a terminal or a log would act on.
func Printable(text string) string {
	text = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case r == utf8.RuneError, !unicode.IsPrint(r):
			return -1
		}
		return r
	}, text)
	return strings.Join(strings.Fields(text), " ")
}

func shorten(s string) string {
	if len(s) <= textLimit {
		return s
	}
	cut := textLimit
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}
