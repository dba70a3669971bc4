package dps

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// detailLimit bounds a text of somebody else's that becomes part of an error, in bytes.
const detailLimit = 300

// printed is a value as it may stand in an error: bounded, in quotes.
func printed(s string) string { return strconv.Quote(shorten(s)) }

func shorten(s string) string {
	if len(s) <= detailLimit {
		return s
	}
	cut := detailLimit
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}

// quote is what of text may be kept: one printable line, bounded, and nothing of secrets in it.
func quote(text string, secrets []string) string {
	return shorten(blot(printable(blot(text, secrets)), secrets))
}

// printable is text as one line without anything that a terminal or a log would act on.
func printable(text string) string {
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

func blot(text string, secrets []string) string {
	for _, s := range secrets {
		text = strings.ReplaceAll(text, s, "[payload]")
	}
	return text
}

// leastSecret is from which length on a value of a payload is kept out of errors: anything shorter could be a part of
// any word.
const leastSecret = 4

// secretsOf are the values in a payload, whose text may come back in what a service or its webhook says about it:
// whole, as they are, and as JSON spells them.
func secretsOf(payload json.RawMessage) (secrets []string) {
	if payload == nil {
		return nil
	}
	add := func(s string) {
		if len(s) >= leastSecret {
			secrets = append(secrets, s)
		}
	}
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case string:
			add(v)
			spelt, _ := json.Marshal(v)
			if inner := string(spelt[1 : len(spelt)-1]); inner != v {
				add(inner)
			}
		case json.Number:
			add(v.String())
		case []any:
			for _, e := range v {
				walk(e)
			}
		case map[string]any:
			for _, e := range v {
				walk(e)
			}
		}
	}
	add(string(payload))
	var v any
	d := json.NewDecoder(strings.NewReader(string(payload)))
	d.UseNumber()
	if d.Decode(&v) == nil {
		walk(v)
	}
	// The longest first: a short value may be a part of a long one.
	slices.SortFunc(secrets, func(a, b string) int { return len(b) - len(a) })
	return secrets
}
