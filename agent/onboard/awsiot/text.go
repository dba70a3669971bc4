package awsiot

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// textLimit bounds a text of somebody else's that becomes part of an error, in bytes.
const textLimit = 200

// printed is a value as it may stand in an error: bounded, in quotes.
func printed(s string) string { return strconv.Quote(shorten(s)) }

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

// oneLine is text as one bounded line without anything that a terminal or a log would act on.
func oneLine(text string) string {
	return shorten(strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case r == utf8.RuneError, !unicode.IsPrint(r):
			return -1
		}
		return r
	}, text))
}
