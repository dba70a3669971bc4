package certagent_test

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// The size of a cell of the drawn terminal, and the space around all cells, in units of the picture.
const (
	cellWidth, cellHeight, margin = 8.4, 18.0, 16.0
	pictureColumns                = 80
)

// pictureStyle gives each colour of a terminal one for light surroundings and one for dark ones.
const pictureStyle = `text { font: 14px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: #1f2328 }
rect { fill: #ffffff; stroke: #d0d7de }
.bold { font-weight: 700 } .dim { opacity: .65 } .underline { text-decoration: underline }
.c30, .c90 { fill: #59636e } .c31, .c91 { fill: #c4202b } .c32, .c92 { fill: #187733 } .c33, .c93 { fill: #8a5a00 }
.c34, .c94 { fill: #0757ba } .c35, .c95 { fill: #7d3fc4 } .c36, .c96 { fill: #0f6e78 } .c37, .c97 { fill: #1f2328 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } rect { fill: #0d1117; stroke: #30363d }
.c30, .c90 { fill: #9198a1 } .c31, .c91 { fill: #ff7b72 } .c32, .c92 { fill: #56d364 } .c33, .c93 { fill: #e3b341 }
.c34, .c94 { fill: #79c0ff } .c35, .c95 { fill: #d2a8ff } .c36, .c96 { fill: #56d4dd } .c37, .c97 { fill: #e6edf3 }
}
`

// sgr is a control sequence that chooses how what follows is shown (ECMA-48 section 8.3.117, console_codes(4)).
var sgr = regexp.MustCompile("\x1b\\[([0-9;]*)m")

// together is text in which no two spaces follow each other: SVG makes one of them.
var together = regexp.MustCompile(`[^ ]+(?: [^ ]+)*`)

// typed are the lines of a prompt and what a person typed.
func typed(command string) []string { return []string{"\x1b[1m$ " + command + "\x1b[0m"} }

// plain is what is shown, without colours.
func plain(lines []string) string { return sgr.ReplaceAllString(strings.Join(lines, "\n"), "") }

// drawTerminal draws lines as a terminal shows them, with their colours, as SVG.
func drawTerminal(lines []string) []byte {
	width, height := pictureColumns*cellWidth+2*margin, float64(len(lines))*cellHeight+2*margin
	var b bytes.Buffer
	fmt.Fprintf(&b, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" viewBox=\"0 0 %.0f %.0f\" role=\"img\">\n",
		width, height, width, height)
	fmt.Fprintf(&b, "<style>\n%s</style>\n", pictureStyle)
	fmt.Fprintf(&b, "<rect x=\"0.5\" y=\"0.5\" width=\"%.0f\" height=\"%.0f\" rx=\"6\"/>\n", width-1, height-1)
	var classes []string
	for i, line := range lines {
		y, column := margin+float64(i)*cellHeight+14, 0
		draw := func(text string) {
			for _, m := range together.FindAllStringIndex(text, -1) {
				piece, x := text[m[0]:m[1]], column+utf8.RuneCountInString(text[:m[0]])
				fmt.Fprintf(&b, "<text x=\"%.1f\" y=\"%.0f\" textLength=\"%.1f\"",
					margin+float64(x)*cellWidth, y, float64(utf8.RuneCountInString(piece))*cellWidth)
				if len(classes) > 0 {
					fmt.Fprintf(&b, " class=%q", strings.Join(classes, " "))
				}
				b.WriteString(">")
				_ = xml.EscapeText(&b, []byte(piece)) // a Buffer takes everything
				b.WriteString("</text>\n")
			}
			column += utf8.RuneCountInString(text)
		}
		at := 0
		for _, m := range sgr.FindAllStringSubmatchIndex(line, -1) {
			draw(line[at:m[0]])
			classes = choose(classes, line[m[2]:m[3]])
			at = m[1]
		}
		draw(line[at:])
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

// choose is what classes become by a control sequence with these parameters. One that means nothing here is kept, so that it is
// seen in the picture's text.
func choose(classes []string, parameters string) []string {
	colour := func(class string) bool { return strings.HasPrefix(class, "c") }
	for p := range strings.SplitSeq(parameters, ";") {
		switch {
		case p == "" || p == "0":
			classes = nil
		case p == "1":
			classes = append(classes, "bold")
		case p == "2":
			classes = append(classes, "dim")
		case p == "4":
			classes = append(classes, "underline")
		case p == "22":
			classes = slices.DeleteFunc(classes, func(c string) bool { return c == "bold" || c == "dim" })
		case p == "24":
			classes = slices.DeleteFunc(classes, func(c string) bool { return c == "underline" })
		case p == "39":
			classes = slices.DeleteFunc(classes, colour)
		default:
			classes = append(slices.DeleteFunc(classes, colour), "c"+p)
		}
	}
	return classes
}

// TestDrawTerminal: text is escaped, stands in its column, and keeps its colours over the end of a line until they are changed.
func TestDrawTerminal(t *testing.T) {
	picture := string(drawTerminal([]string{"a \x1b[1;31m<b> & c\x1b[0m  d", "\x1b[32m  e", "f\x1b[m g"}))
	for _, want := range []string{
		`<text x="16.0" y="30" textLength="8.4">a</text>`,
		`<text x="32.8" y="30" textLength="58.8" class="bold c31">&lt;b&gt; &amp; c</text>`,
		`<text x="108.4" y="30" textLength="8.4">d</text>`,
		`<text x="32.8" y="48" textLength="8.4" class="c32">e</text>`,
		`<text x="16.0" y="66" textLength="8.4" class="c32">f</text>`,
		`<text x="32.8" y="66" textLength="8.4">g</text>`,
	} {
		if !strings.Contains(picture, want) {
			t.Errorf("the picture lacks %s:\n%s", want, picture)
		}
	}
	if err := xml.Unmarshal([]byte(picture), new(struct{})); err != nil {
		t.Error(err)
	}
	for class := range strings.SplitSeq("c30 c31 c32 c33 c34 c35 c36 c37 c90 c97 bold dim underline", " ") {
		if !strings.Contains(pictureStyle, "."+class) {
			t.Errorf("nothing says how %s looks", class)
		}
	}
}
