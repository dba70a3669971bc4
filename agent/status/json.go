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
func (s Snapshot) WriteJSON(w io.Writer) error { return WriteJSON(w, s.complete()) }

// WriteJSON writes v as all commands write JSON: indented, and harmless to a terminal.
func WriteJSON(w io.Writer, v any) error {
	var b bytes.Buffer
	out := json.NewEncoder(&b)
	out.SetEscapeHTML(false)
	out.SetIndent("", "  ")
	if err := out.Encode(v); err != nil {
		return err
	}
	_, err := w.Write(HarmlessJSON(b.Bytes()))
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

// HarmlessJSON is JSON in which all that is not printable stands in \u escapes (RFC 8259, section 7), so that it can neither move
// a terminal's cursor nor turn the direction of writing: those who make JSON escape no more than they must. Outside of strings JSON
// has no such characters but line breaks.
func HarmlessJSON(text []byte) []byte {
	if !slices.ContainsFunc(text, func(b byte) bool { return b >= 0x7f }) {
		return text
	}
	out := make([]byte, 0, len(text)+32)
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		switch {
		case r == '\n' || unicode.IsPrint(r) && r != utf8.RuneError:
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
