// Package man makes manual pages from help texts and Markdown, in the language of man(7), so that no text stands in two
// places. The pages are beside it. Only tests use it, run by make docs: nothing of it is in a program.
package man

import (
	"fmt"
	"slices"
	"strings"
)

// edition is the date in the foot of every page. A release raises it.
const edition = "2026-11-22"

// lineLimit is how long a line of a page's source is at most, in bytes (mandoc(1), "input text line longer than 80 bytes").
const lineLimit = 80

// longWord is after how many characters a word may be broken, without a hyphen: a fingerprint is wider than a terminal.
const longWord = 40

// Text may hold these, made by Bold and Italic.
const (
	bold   = '\x01'
	italic = '\x02'
	roman  = '\x03'
)

// Bold is text to be typed as it stands.
func Bold(text string) string { return string(bold) + text + string(roman) }

// Italic is text to be replaced by something, and the name of a file.
func Italic(text string) string { return string(italic) + text + string(roman) }

// Page is a manual page that is being written. Its methods append to it.
type Page struct {
	name, title string
	section     int
	source      strings.Builder
}

// New begins a page with its section NAME. title is what apropos(1) shows beside the name.
func New(name string, section int, title string) *Page {
	p := &Page{name: name, section: section, title: title}
	fmt.Fprintf(&p.source, ".\\\" Made by make docs; a change here is lost.\n")
	fmt.Fprintf(&p.source, ".TH %s %d %s certagent \"certagent manual\"\n.nh\n.ad l\n", argument(strings.ToUpper(name)), section, edition)
	p.Section("NAME")
	p.Lines(name + " - " + title)
	return p
}

// File is the name of the page's file.
func (p *Page) File() string { return fmt.Sprintf("%s.%d", p.name, p.section) }

// Bytes is the page as far as it is written.
func (p *Page) Bytes() []byte { return []byte(p.source.String()) }

// Section begins a section.
func (p *Page) Section(name string) {
	p.source.WriteString(".SH " + argument(strings.ToUpper(name)) + "\n")
}

// Subsection begins a part of a section.
func (p *Page) Subsection(name string) { p.source.WriteString(".SS " + argument(name) + "\n") }

// Paragraph writes text that flows.
func (p *Page) Paragraph(text string) {
	if !p.justBegun() {
		p.source.WriteString(".PP\n")
	}
	p.Lines(text)
}

// Item writes an entry of a list of terms, with paragraphs that say what the term means.
func (p *Page) Item(term string, paragraphs ...string) {
	p.source.WriteString(".TP\n" + escaped(term) + "\n")
	p.indented(paragraphs)
}

// Point writes an entry of a list.
func (p *Page) Point(paragraphs ...string) {
	p.source.WriteString(".IP \\(bu 2\n")
	p.indented(paragraphs)
}

func (p *Page) indented(paragraphs []string) {
	for i, text := range paragraphs {
		if i > 0 {
			p.Break()
		}
		p.Lines(text)
	}
}

// Code writes lines that stay as they are.
func (p *Page) Code(lines ...string) {
	if !p.justBegun() {
		p.source.WriteString(".PP\n")
	}
	p.source.WriteString(".RS 4\n.nf\n")
	for _, line := range lines {
		p.source.WriteString(escaped(line) + "\n")
	}
	p.source.WriteString(".fi\n.RE\n")
}

// justBegun reports whether a heading is all that stands in front: there .PP would do nothing.
func (p *Page) justBegun() bool {
	source := strings.TrimSuffix(p.source.String(), "\n")
	last := source[strings.LastIndexByte(source, '\n')+1:]
	return strings.HasPrefix(last, ".SH ") || strings.HasPrefix(last, ".SS ")
}

// Break begins a new line.
func (p *Page) Break() { p.source.WriteString(".br\n") }

// Lines writes text that flows behind what stands there. Each sentence has lines of its own, as roff likes it.
func (p *Page) Lines(text string) {
	length := 0
	for word := range strings.FieldsSeq(text) {
		var pieces []string
		for piece := range slices.Chunk([]rune(word), longWord) {
			pieces = append(pieces, escaped(string(piece)))
		}
		source := strings.Join(pieces, `\:`)
		if length > 0 && length+1+len(source) > lineLimit {
			p.source.WriteByte('\n')
			length = 0
		}
		switch {
		case length > 0:
			p.source.WriteByte(' ')
			length++
		case strings.HasPrefix(source, "."), strings.HasPrefix(source, "'"):
			source = `\&` + source
		}
		p.source.WriteString(source)
		length += len(source)
		if strings.HasSuffix(word, ".") || strings.HasSuffix(word, ".)") {
			p.source.WriteByte('\n')
			length = 0
		}
	}
	if length > 0 {
		p.source.WriteByte('\n')
	}
}

// argument is text as an argument of a macro.
func argument(text string) string {
	text = strings.ReplaceAll(escaped(text), `"`, `\(dq`)
	if strings.Contains(text, " ") {
		return `"` + text + `"`
	}
	return text
}

// escaped is text that roff prints as it stands, with its characters and not with what typographers make of them.
func escaped(text string) string {
	var b strings.Builder
	for i, r := range text {
		switch r {
		case bold:
			b.WriteString(`\fB`)
		case italic:
			b.WriteString(`\fI`)
		case roman:
			b.WriteString(`\fR`)
		case '\\':
			b.WriteString(`\e`)
		case '-':
			b.WriteString(`\-`)
		case '\'':
			b.WriteString(`\(aq`)
		case '`':
			b.WriteString(`\(ga`)
		case '^':
			b.WriteString(`\(ha`)
		case '~':
			b.WriteString(`\(ti`)
		case '\u2026': // an ASCII terminal has no glyph for it
			if i == 0 {
				b.WriteString(`\&`)
			}
			b.WriteString("...")
		case '.':
			if i == 0 {
				b.WriteString(`\&`)
			}
			b.WriteByte('.')
		default:
			if r < 0x80 {
				b.WriteRune(r)
			} else {
				fmt.Fprintf(&b, `\[u%04X]`, r)
			}
		}
	}
	return b.String()
}
