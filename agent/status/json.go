package status

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// WriteJSON writes the Snapshot for machines: the fields in the order of the types, which docs/status-json.md explains. Times
// are in RFC 3339; lists are never null. Characters that a terminal might obey are escaped.
func (s Snapshot) WriteJSON(w io.Writer) error {
	var b bytes.Buffer
	out := json.NewEncoder(&b)
	out.SetEscapeHTML(false)
	out.SetIndent("", "  ")
	if err := out.Encode(s.complete()); err != nil {
		return err
	}
	_, err := w.Write(harmless(b.Bytes()))
	return err
}

// complete is s with empty lists where it has none: another version's agent may not know of one.
func (s Snapshot) complete() Snapshot {
	s.Problems, s.Servers = list(s.Problems), list(s.Servers)
	s.Certificates = list(slices.Clone(s.Certificates))
	for i := range s.Certificates {
		c := &s.Certificates[i]
		c.Outputs, c.Hooks, c.Problems = list(c.Outputs), list(c.Hooks), list(c.Problems)
	}
	return s
}

func list[T any](l []T) []T {
	if l == nil {
		return []T{}
	}
	return l
}

// harmless is JSON in which all that is not printable stands in \u escapes (RFC 8259, section 7): package json leaves those of
// C1 and those that turn the direction of writing as they are. Outside of strings JSON has no such characters.
func harmless(text []byte) []byte {
	out := make([]byte, 0, len(text))
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		switch {
		case r == '\n' || unicode.IsPrint(r):
			out = append(out, text[:n]...)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
		text = text[n:]
	}
	return out
}
