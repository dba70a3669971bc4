package config

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"sort"
	"strings"
	"unicode/utf8"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// kind is the type of a TOML value; a set of them where several are allowed.
type kind uint8

const (
	kindString kind = 1 << iota
	kindInteger
	kindBoolean
	kindOther // floats, dates and times: no key of ours takes one
	kindArray
	kindTable

	kindScalar = kindString | kindInteger | kindBoolean | kindOther
)

// String names the kinds for people.
func (k kind) String() string {
	var names []string
	for _, n := range []struct {
		kind kind
		name string
	}{
		{kindString, "a string"}, {kindInteger, "a whole number"}, {kindBoolean, "true or false"},
		{kindOther, "a fraction, date or time"}, {kindArray, "a list"}, {kindTable, "a table"},
	} {
		if k&n.kind != 0 {
			names = append(names, n.name)
		}
	}
	return strings.Join(names, " or ")
}

// node is one value of a document and the place where it stands.
type node struct {
	kind kind
	key  Place // of the name in front of it; in a list, of the value
	at   Place // of the value
	text string

	names []string // of a table, in the order of the document
	table map[string]*node
	list  []*node

	// How a table came to be decides what may still be added to it (TOML 1.0, "Table").
	closed bool // an inline table, or the value of a key
	header bool // by a [header] of its own
	rows   bool // of a list: by [[headers]]
}

func newTable(key Place) *node {
	return &node{kind: kindTable, key: key, at: key, table: map[string]*node{}}
}

// get returns the value called name; nil if n is nil, no table, or has none.
func (n *node) get(name string) *node {
	if n == nil || n.kind != kindTable {
		return nil
	}
	return n.table[name]
}

func (n *node) set(name string, v *node) {
	if n.table[name] == nil {
		n.names = append(n.names, name)
	}
	n.table[name] = v
}

// isRows reports whether n is a list of tables, however it is written.
func (n *node) isRows() bool {
	return n.kind == kindArray && len(n.list) > 0 &&
		!slices.ContainsFunc(n.list, func(e *node) bool { return e.kind != kindTable })
}

// maxDepth bounds how deep tables and lists are nested, far above what any configuration needs.
const maxDepth = 64

// document turns the text of one file into nodes.
type document struct {
	file  string
	text  []byte
	lines []int    // offsets of their beginnings
	above []string // the table that is open
	whole bool     // the end was reached
	errs  Errors

	counted, column int // the offset that place was last asked for, and its column
}

// parseTOML reads one file. whole is false if a mistake ended the reading; then root is what stands in front of it.
func parseTOML(file string, text []byte) (root *node, whole bool, errs Errors) {
	text = slices.Clip(bytes.TrimPrefix(text, []byte("\ufeff")))
	d := &document{file: file, text: text, lines: []int{0}, column: 1}
	for i, c := range text {
		if c == '\n' {
			d.lines = append(d.lines, i+1)
		}
	}
	root = newTable(Place{File: file})
	if i := otherEncoding(text); i >= 0 {
		return root, false, Errors{{Place: d.place(i), Text: "this is not TOML: it is not in UTF-8", Hint: "save the file as UTF-8"}}
	}
	d.read(root)
	if len(d.errs) == 0 {
		d.confirm()
	}
	return root, d.whole, d.errs
}

// otherEncoding is where text shows that it is in another encoding than UTF-8 (UTF-16 has zeros), or -1.
func otherEncoding(text []byte) int {
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRune(text[i:])
		if r == 0 || r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return -1
}

// place turns an offset into a place; columns count characters. On a line of a megabyte it goes on counting where the
// last call ended: else a long list would take minutes.
func (d *document) place(offset int) Place {
	offset = max(0, min(offset, len(d.text)))
	line := sort.Search(len(d.lines), func(i int) bool { return d.lines[i] > offset }) - 1
	from, column := d.lines[line], 1
	if from <= d.counted && d.counted <= offset {
		from, column = d.counted, d.column
	}
	d.counted, d.column = offset, column+utf8.RuneCount(d.text[from:offset])
	return Place{d.file, line + 1, d.column}
}

func (d *document) read(root *node) {
	var p unstable.Parser
	p.Reset(d.text)
	here, again := root, false
	for p.NextExpression() {
		e := p.Expression()
		if e.Kind == unstable.KeyValue {
			d.keyValue(here, e, again)
			continue
		}
		d.above = nil
		names, places, _ := d.names(e.Key())
		switch {
		case len(names) > maxDepth:
			d.fail(places[0], names[:1], "is nested too deeply", "")
			names, here = names[:1], newTable(places[0]) // for what stands in it
		case e.Kind == unstable.Table:
			here, again = d.header(root, names, places)
		default:
			here, again = d.row(root, names, places), false
		}
		d.above = names
	}
	if err := p.Error(); err != nil {
		d.syntax(err)
		return
	}
	d.whole = true
}

// names returns the parts of a dotted key, their places, and the offset behind the last one.
func (d *document) names(it unstable.Iterator) (names []string, places []Place, end int) {
	for it.Next() {
		k := it.Node()
		names = append(names, string(k.Data))
		places = append(places, d.place(int(k.Raw.Offset)))
		end = int(k.Raw.Offset + k.Raw.Length)
	}
	return names, places, end
}

// descend walks to the table that holds the last name, making tables on the way. It returns nil after reporting that
// something else is in the way.
func (d *document) descend(from *node, names []string, places []Place) *node {
	for i, name := range names[:len(names)-1] {
		next := from.get(name)
		switch {
		case next == nil:
			next = newTable(places[i])
			from.set(name, next)
		case next.kind == kindArray && next.rows:
			next = next.list[len(next.list)-1]
		case next.kind != kindTable || next.closed:
			d.fail(places[i], names[:i+1],
				"is set to a value at "+next.key.String()+" and cannot be extended here", "keep one of the two")
			return nil
		}
		from = next
	}
	return from
}

// header opens the table of a [header]. again is true for a table that was opened before.
func (d *document) header(root *node, names []string, places []Place) (t *node, again bool) {
	last := len(names) - 1
	parent := d.descend(root, names, places)
	if parent == nil {
		return newTable(places[last]), false
	}
	t = parent.get(names[last])
	switch {
	case t == nil:
		t = newTable(places[last])
		parent.set(names[last], t)
	case t.kind != kindTable || t.closed:
		d.fail(places[last], names, "is already set at "+t.key.String(), "keep one of the two")
		return newTable(places[last]), false
	case t.header:
		d.fail(places[last], names, "this table is already opened at "+t.key.String(), "join the two")
		return t, true
	}
	t.header = true
	t.key, t.at = places[last], places[last]
	return t, false
}

// row adds a table to the list of a [[header]].
func (d *document) row(root *node, names []string, places []Place) *node {
	last := len(names) - 1
	t := newTable(places[last])
	t.header = true
	parent := d.descend(root, names, places)
	if parent == nil {
		return t
	}
	rows := parent.get(names[last])
	switch {
	case rows == nil:
		rows = &node{kind: kindArray, key: places[last], at: places[last], rows: true}
		parent.set(names[last], rows)
	case !rows.rows:
		d.fail(places[last], names, "is already set at "+rows.key.String(), "keep one of the two")
		return t
	}
	rows.list = append(rows.list, t)
	return t
}

// keyValue sets one key. In a table that is opened again (which is reported already) a key that is there is passed
// over in silence.
func (d *document) keyValue(here *node, e *unstable.Node, again bool) {
	names, places, end := d.names(e.Key())
	if len(d.above)+len(names) > maxDepth {
		d.fail(places[0], names[:1], "is nested too deeply", "")
		return
	}
	last := len(names) - 1
	above := d.above
	d.above = append(slices.Clone(above), names...)
	v := d.value(e.Value(), d.valueOffset(end), len(d.above))
	d.above = above
	v.key = places[last]
	v.closed = true
	parent := d.descend(here, names, places)
	if parent == nil {
		return
	}
	if old := parent.get(names[last]); old != nil {
		if !again {
			d.fail(places[last], names, "is already set at "+old.key.String(), "keep one of the two")
		}
		return
	}
	parent.set(names[last], v)
}

// valueOffset is where the value begins whose key ends at end.
func (d *document) valueOffset(end int) int {
	for end < len(d.text) && bytes.IndexByte([]byte(" \t="), d.text[end]) >= 0 {
		end++
	}
	return end
}

func (d *document) value(v *unstable.Node, offset, depth int) *node {
	if v.Raw.Length > 0 {
		offset = int(v.Raw.Offset)
	}
	n := &node{at: d.place(offset)}
	n.key = n.at
	if depth > maxDepth {
		d.fail(n.at, nil, "is nested too deeply", "")
		n.kind = kindOther
		return n
	}
	switch v.Kind {
	case unstable.String:
		n.kind, n.text = kindString, string(v.Data)
	case unstable.Integer:
		n.kind, n.text = kindInteger, string(v.Data)
	case unstable.Bool:
		n.kind, n.text = kindBoolean, string(v.Data)
	case unstable.Array:
		n.kind = kindArray
		for it := v.Children(); it.Next(); {
			// The parser keeps no place for a list inside a list: it gets the one of the list around it.
			n.list = append(n.list, d.value(it.Node(), offset, depth+1))
		}
	case unstable.InlineTable:
		n.kind, n.closed, n.table = kindTable, true, map[string]*node{}
		for it := v.Children(); it.Next(); {
			d.keyValue(n, it.Node(), false)
		}
	default:
		n.kind, n.text = kindOther, string(v.Data)
	}
	return n
}

// fail reports a mistake about a key of the table that is open.
func (d *document) fail(at Place, names []string, text, hint string) {
	key := dotted(append(slices.Clone(d.above), names...))
	d.errs = append(d.errs, Error{Place: at, Key: key, Text: text, Hint: hint})
}

// syntax reports what ended the reading.
func (d *document) syntax(err error) {
	offset, why := len(d.text), err.Error()
	if e, ok := errors.AsType[*unstable.ParserError](err); ok {
		offset = cap(d.text) - cap(e.Highlight)
	}
	if r, n := utf8.DecodeRune(d.text[offset:]); n > 1 {
		why = firstByte.ReplaceAllLiteralString(why, fmt.Sprintf("%#U", r))
	}
	d.notTOML(d.place(offset), why)
}

// firstByte is how the library names a character beyond ASCII: by its first byte, as if that were all of it.
var firstByte = regexp.MustCompile(`U\+00[89A-F][0-9A-F]( '.')?`)

// confirm has the library judge the finer rules of TOML that the walk does not look at (numbers, dates, tables that
// dotted keys may not extend).
func (d *document) confirm() {
	var all map[string]any
	err := toml.Unmarshal(d.text, &all)
	if err == nil {
		return
	}
	at := Place{File: d.file}
	if e, ok := errors.AsType[*toml.DecodeError](err); ok {
		line, column := e.Position()
		at = d.place(d.lines[max(1, min(line, len(d.lines)))-1] + column - 1)
	}
	d.notTOML(at, strings.TrimPrefix(err.Error(), "toml: "))
}

// notTOML reports text that is not TOML. The library's words may repeat characters of a value, so they are left out
// where a password stands.
func (d *document) notTOML(at Place, why string) {
	if strings.Contains(strings.ToLower(d.around(at)), "password") {
		d.errs = append(d.errs, Error{Place: at, Text: "this is not TOML, near a password", Hint: inQuotes("password")})
		return
	}
	hint := ""
	switch bare := unquoted.FindStringSubmatch(d.line(at)); {
	case bare == nil:
	case strings.EqualFold(bare[2], "true") || strings.EqualFold(bare[2], "false"):
		hint = "write " + strings.ToLower(bare[2])
	default:
		hint = inQuotes(cut(bare[1], maxShownKey))
	}
	d.errs = append(d.errs, Error{Place: at, Text: "this is not TOML: " + why, Hint: hint})
}

func inQuotes(name string) string { return "values stand in quotes: " + name + ` = "…"` }

var (
	assignment = regexp.MustCompile(`(?m)^[^\n#=]*=`)
	// unquoted is a line whose value begins as none does but numbers and dates, true and false.
	unquoted = regexp.MustCompile(`^[ \t]*([^\s#="'\[]+)[ \t]*=[ \t]*([^\s#="'\[{,]+)`)
)

// line is the line of at.
func (d *document) line(at Place) string {
	line, _, _ := bytes.Cut(d.text[d.lines[max(1, at.Line)-1]:], []byte("\n"))
	return string(line)
}

// around is the text from the last line with a key in front of at to the end of the line of at, as far as a broken
// document tells.
func (d *document) around(at Place) string {
	end := len(d.text)
	if at.Line < len(d.lines) {
		end = d.lines[at.Line]
	}
	start := 0
	if found := assignment.FindAllIndex(d.text[:end], -1); len(found) > 0 {
		start = found[len(found)-1][0]
	}
	return string(d.text[start:end])
}

// isSecret reports whether the values of a key are never repeated.
func isSecret(name string) bool {
	return strings.Contains(strings.ToLower(name), "password") && !strings.HasSuffix(name, "_file")
}

var bareKey = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// dotted writes a key as TOML does.
func dotted(names []string) string {
	parts := make([]string, len(names))
	for i, name := range names {
		parts[i] = name
		if !bareKey.MatchString(name) {
			parts[i] = quoted(name)
		}
	}
	return strings.Join(parts, ".")
}
