package status

import "strings"

// Look says how a table is written, and to what. The zero Look is for whatever is not known to be a terminal: 80 columns of ASCII.
type Look struct {
	// Columns is the width of the terminal. Less than 80 counts as 80, more than 160 as 160: longer lines are hard to read.
	Columns int
	// Colour allows escape sequences (ECMA-48, SGR) around states and problem codes.
	Colour bool
	// Unicode tells that UTF-8 is understood.
	Unicode bool
	// Each has every certificate and every problem told in full, however many there are.
	Each bool
}

const (
	leastColumns = 80
	mostColumns  = 160
)

// page is a text in the making, no line of which is longer than it has columns.
type page struct {
	strings.Builder
	look    Look
	columns int
}

func newPage(look Look) *page {
	return &page{look: look, columns: min(max(look.Columns, leastColumns), mostColumns)}
}

// clean is text as it may be shown.
func (p *page) clean(text string) string {
	text = Printable(text)
	if !p.look.Unicode {
		text = inASCII(text)
	}
	return text
}

// The colours, as parameters of SGR. They say no more than the words do.
type colour string

const (
	plain  colour = ""
	red    colour = "31"
	green  colour = "32"
	yellow colour = "33"
	cyan   colour = "36"
)

// paint is text in a colour.
func (p *page) paint(text string, c colour) string {
	if c == plain || !p.look.Colour {
		return text
	}
	return "\x1b[" + string(c) + "m" + text + "\x1b[0m"
}

// word is what is not broken while a line has room for it.
type word struct {
	text   string // printable
	colour colour
	ends   bool // the line ends before it
}

// words are those of a text, whose lines stay lines.
func (p *page) words(text string) (all []word) {
	for line := range strings.Lines(text) {
		ends := len(all) > 0
		for text := range strings.FieldsSeq(p.clean(line)) {
			all = append(all, word{text: text, ends: ends})
			ends = false
		}
	}
	return all
}

// say writes first and the words, in lines that begin with indent.
func (p *page) say(first, indent string, words ...word) {
	used, begun := columnsOf(first), false
	p.WriteString(first)
	for _, w := range words {
		need := columnsOf(w.text)
		if begun {
			need++
		}
		switch {
		case used+need > p.columns && used > len(indent) || w.ends:
			p.WriteString("\n" + indent)
			used = len(indent)
		case begun:
			p.WriteByte(' ')
			used++
		}
		for used+columnsOf(w.text) > p.columns {
			line, rest := split(w.text, p.columns-used)
			p.WriteString(p.paint(line, w.colour) + "\n" + indent)
			w.text, used = rest, len(indent)
		}
		p.WriteString(p.paint(w.text, w.colour))
		used, begun = used+columnsOf(w.text), true
	}
	p.WriteByte('\n')
}

// Wrap writes first and text to b, in lines as wide as l says of which all but the first begin with indent. A word is broken only
// where it is longer than a line. What a terminal could obey is replaced.
func (l Look) Wrap(b *strings.Builder, first, indent, text string) {
	p := newPage(l)
	p.say(first, indent, p.words(text)...)
	b.WriteString(p.String())
}
