package config

import (
	"cmp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Error gives the mistake in one line: FILE:LINE:COLUMN: KEY: VALUE: what is wrong; what would be right.
func (e Error) Error() string {
	return sentence(e.Place, e.Key, e.Value, e.Text, e.Hint)
}

// Error gives one line for each mistake.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, m := range e {
		lines[i] = m.Error()
	}
	return strings.Join(lines, "\n")
}

// String gives the warning in one line: FILE:LINE:COLUMN: KEY: what is so; what to do.
func (w Warning) String() string {
	return sentence(w.Place, w.Key, "", w.Text, w.Hint)
}

// String gives FILE:LINE:COLUMN, or FILE alone for a file as a whole.
func (p Place) String() string {
	if p.Line == 0 {
		return p.File
	}
	return p.File + ":" + strconv.Itoa(p.Line) + ":" + strconv.Itoa(p.Column)
}

func sentence(p Place, key, value, text, hint string) string {
	parts := slices.DeleteFunc([]string{p.String(), cut(key, maxShownKey), value, text}, func(s string) bool { return s == "" })
	s := strings.Join(parts, ": ")
	if hint != "" {
		s += "; " + hint
	}
	return s
}

// comparePlaces orders places as a person reads them: by file in the order of files, then by line and column.
func comparePlaces(files []string, a, b Place) int {
	return cmp.Or(
		cmp.Compare(slices.Index(files, a.File), slices.Index(files, b.File)),
		cmp.Compare(a.Line, b.Line),
		cmp.Compare(a.Column, b.Column),
	)
}

// sortByPlace sorts list by the places of its elements; what stands at one place keeps its order. Structs are sorted by
// package sort here: slices.SortFunc is compiled anew for each type, and takes 15 to 35 KB of the program each time.
func sortByPlace[T any](files []string, list []T, place func(T) Place) {
	sort.SliceStable(list, func(i, j int) bool { return comparePlaces(files, place(list[i]), place(list[j])) < 0 })
}

// How many characters of a value and of a key a message repeats. No key that certagent knows is longer.
const (
	maxShown    = 100
	maxShownKey = 200
)

// shown is a value as a message may repeat it: what stands in front of an @ in a URL and the PIN of a PKCS#11 URI are
// taken out, and it is bounded. Values of secret keys never get here.
func shown(n *node) string {
	if n.kind != kindString {
		if n.kind&kindScalar == 0 {
			return ""
		}
		return cut(n.text, maxShown)
	}
	return strconv.Quote(cut(withoutSecrets(n.text), maxShown))
}

func cut(s string, most int) string {
	if utf8.RuneCountInString(s) <= most {
		return s
	}
	return string([]rune(s)[:most]) + "…"
}

// withoutSecrets takes the user information and the query out of what may be meant as a URL, and the PIN out of a PKCS#11
// URI (RFC 7512 section 2.4).
func withoutSecrets(s string) string {
	start := 0
	if i := strings.Index(s, "://"); i >= 0 {
		start = i + 3
	}
	user := strings.LastIndexByte(s, '@')
	if user > start && (start > 0 || strings.Contains(s[:user], ":")) && !strings.HasPrefix(s, "email:") {
		s = s[:start] + redacted + s[user:]
	}
	if query := strings.IndexByte(s, '?'); start > 0 && query > start {
		s = s[:query+1] + redacted
	}
	return withoutPIN(s)
}

func withoutPIN(s string) string {
	const attribute = "pin-value="
	i := strings.Index(s, attribute)
	if i < 0 {
		return s
	}
	i += len(attribute)
	rest := ""
	if j := strings.IndexAny(s[i:], "&;"); j >= 0 {
		rest = s[i+j:]
	}
	return s[:i] + redacted + withoutPIN(rest)
}
