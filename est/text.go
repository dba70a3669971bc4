package est

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// printable returns s as one line that is safe to log: white space is folded to single spaces, and what cannot be
// printed, or is not UTF-8, is left out.
func printable(s string) string {
	clean := strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case r == utf8.RuneError, !unicode.IsPrint(r):
			return -1
		}
		return r
	}, s)
	return strings.Join(strings.Fields(clean), " ")
}

// shorten cuts s to at most limit bytes, at the boundary of a character, and marks that it did.
func shorten(s string, limit int) string {
	const mark = "…"
	if len(s) <= limit {
		return s
	}
	cut := limit - len(mark)
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + mark
}

// errorText returns what of a server's error body may be kept: at most errorTextLimit bytes, printable, and with each
// of secrets blotted out, because servers and proxies in between like to quote the request.
func errorText(body []byte, secrets []string) string {
	// Once before and once after, lest folding white space hides a secret from us or puts one together.
	return shorten(blot(printable(blot(string(body), secrets)), secrets), errorTextLimit)
}

func blot(text string, secrets []string) string {
	for _, secret := range secrets {
		if secret != "" {
			text = strings.ReplaceAll(text, secret, redacted)
		}
	}
	return text
}
