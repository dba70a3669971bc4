package config

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// writeTOML writes a table as a document that reads back as the same table.
func writeTOML(root *node) []byte {
	var b bytes.Buffer
	writeTable(&b, root, nil)
	return b.Bytes()
}

func writeTable(b *bytes.Buffer, t *node, path []string) {
	for _, name := range t.names {
		if v := t.table[name]; v.kind != kindTable && !v.isRows() {
			b.WriteString(dotted([]string{name}) + " = ")
			writeValue(b, v)
			b.WriteByte('\n')
		}
	}
	for _, name := range t.names {
		v, at := t.table[name], append(slices.Clone(path), name)
		switch {
		case v.kind == kindTable:
			writeHeader(b, "[", at, "]", v)
			writeTable(b, v, at)
		case v.isRows():
			for _, row := range v.list {
				writeHeader(b, "[[", at, "]]", nil)
				writeTable(b, row, at)
			}
		}
	}
}

// writeHeader leaves out the header of a table that holds nothing but tables: theirs imply it.
func writeHeader(b *bytes.Buffer, opening string, path []string, closing string, t *node) {
	if t != nil && len(t.names) > 0 &&
		!slices.ContainsFunc(t.names, func(name string) bool { return t.table[name].kind != kindTable }) {
		return
	}
	if b.Len() > 0 {
		b.WriteByte('\n')
	}
	b.WriteString(opening + dotted(path) + closing + "\n")
}

func writeValue(b *bytes.Buffer, v *node) {
	switch v.kind {
	case kindString:
		b.WriteString(quoted(v.text))
	case kindArray:
		b.WriteByte('[')
		for i, e := range v.list {
			if i > 0 {
				b.WriteString(", ")
			}
			writeValue(b, e)
		}
		b.WriteByte(']')
	case kindTable:
		b.WriteByte('{')
		for i, name := range v.names {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(" " + dotted([]string{name}) + " = ")
			writeValue(b, v.table[name])
		}
		b.WriteString(" }")
	default:
		b.WriteString(v.text)
	}
}

// quoted writes a basic string of TOML.
func quoted(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
