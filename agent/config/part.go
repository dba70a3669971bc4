package config

import (
	"slices"
	"strings"
)

// part is one table of the document, and the way to it. A table that is not there has a nil node and no values.
type part struct {
	r    *reading
	path []string
	n    *node
}

// sub is the table called name below p.
func (p part) sub(name string) part {
	n := p.n.get(name)
	if n != nil && n.kind != kindTable {
		n = nil
	}
	return part{p.r, append(slices.Clone(p.path), name), n}
}

// rows are the tables of a list called name.
func (p part) rows(name string) (parts []part) {
	if n := p.n.get(name); n != nil && n.kind == kindArray {
		for _, e := range n.list {
			if e.kind == kindTable {
				parts = append(parts, part{p.r, append(slices.Clone(p.path), name), e})
			}
		}
	}
	return parts
}

func (p part) there() bool { return p.n != nil }

// has reports whether a key is there, of whatever type.
func (p part) has(name string) bool { return p.n.get(name) != nil }

// lacks reports whether a key is missing, and not merely misspelt.
func (p part) lacks(name string) bool { return !p.has(name) && !p.r.meant[p.key(name)] }

func (p part) key(name string) string { return dotted(append(slices.Clone(p.path), name)) }

// str is the string called name; ok is false if it is missing, or of another type (which check has reported).
func (p part) str(name string) (s string, ok bool) {
	if n := p.n.get(name); n != nil && n.kind == kindString {
		return n.text, true
	}
	return "", false
}

// flag is the boolean called name, or otherwise.
func (p part) flag(name string, otherwise bool) bool {
	if n := p.n.get(name); n != nil && n.kind == kindBoolean {
		return n.text == "true"
	}
	return otherwise
}

// strs are the strings of the list called name; anything else in it is reported.
func (p part) strs(name string) []*node {
	n := p.n.get(name)
	if n == nil || n.kind != kindArray {
		return nil
	}
	var strs []*node
	for _, e := range n.list {
		if e.kind != kindString {
			p.failAt(e, name, "is "+e.kind.String()+", and must be a string", "")
			continue
		}
		strs = append(strs, e)
	}
	return strs
}

// place is where a key's value stands, or else where its table begins.
func (p part) place(name string) Place {
	if n := p.n.get(name); n != nil {
		return n.at
	}
	if p.n != nil {
		return p.n.key
	}
	return Place{}
}

// fail reports a mistake in the value of a key, or that the key is missing.
func (p part) fail(name, text, hint string) {
	e := Error{Place: p.place(name), Key: p.key(name), Text: text, Hint: hint}
	if n := p.n.get(name); n != nil && !isSecret(name) {
		e.Value = shown(n)
	}
	p.r.errs = append(p.r.errs, e)
}

// failAt reports a mistake in one value of the list called name.
func (p part) failAt(n *node, name, text, hint string) {
	p.r.errs = append(p.r.errs, Error{Place: n.at, Key: p.key(name), Value: shown(n), Text: text, Hint: hint})
}

// oneOf is the string called name, which must be one of the words; the first is the default.
func (p part) oneOf(name string, words ...string) string {
	s, ok := p.str(name)
	if !ok {
		return words[0]
	}
	if !slices.Contains(words, s) {
		p.fail(name, "is none of the words allowed here", oneOfHint(s, words))
		return words[0]
	}
	return s
}

func oneOfHint(s string, words []string) string {
	if near := Nearest(s, words); near != "" {
		return "did you mean " + quoted(near) + "?"
	}
	quotedWords := make([]string, 0, len(words))
	for _, w := range words {
		if w != "" {
			quotedWords = append(quotedWords, quoted(w))
		}
	}
	return "write one of " + strings.Join(quotedWords, ", ")
}

// warn adds a warning about a key; id is the certificate concerned, or "".
func (p part) warn(name, id, text, hint string) {
	p.r.warns = append(p.r.warns, Warning{
		Place: p.place(name), Key: p.key(name), Certificate: id, Text: text, Hint: hint,
	})
}

// warnTable adds a warning about a table as a whole.
func (p part) warnTable(id, text, hint string) {
	p.r.warns = append(p.r.warns, Warning{
		Place: p.n.key, Key: dotted(p.path), Certificate: id, Text: text, Hint: hint,
	})
}
