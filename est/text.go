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

// quote returns what of a server's text may be kept: at most limit bytes, printable, and with each of secrets blotted
// out, because servers and proxies in between like to quote the request.
func quote(text string, secrets []string, limit int) string {
	// Once before and once after, lest folding white space hides a secret from us or puts one together. It is shortened
	// last: half a secret would not be recognised. A secret that is no UTF-8 can leave half a character behind.
	clean := blot(printable(blot(text, secrets)), secrets)
	return shorten(strings.ToValidUTF8(clean, ""), limit)
}

// quoteBody is quote for the text of an error's body. Its reading may have stopped inside a secret: what could be the
// beginning of one, at the very end, is blotted out too.
func quoteBody(body []byte, secrets []string) string {
	text := blot(string(body), secrets)
	for _, secret := range secrets {
		for n := len(secret) - 1; n > 2; n-- {
			if rest, found := strings.CutSuffix(text, secret[:n]); found {
				text = rest + redacted
				break
			}
		}
	}
	return quote(text, secrets, errorTextLimit)
}

func blot(text string, secrets []string) string {
	for _, secret := range secrets {
		if secret != "" {
			text = strings.ReplaceAll(text, secret, redacted)
		}
	}
	return text
}
