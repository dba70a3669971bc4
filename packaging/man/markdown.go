package man

import (
	"regexp"
	"strings"
)

// Markdown appends a document: headings of the second and third level, paragraphs, lists, tables, and code, indented or
// fenced. A heading of the first level is left out, as are comments. Of a table the first column is a term, and the column
// "meaning", or the second where there is none, says what it means; each other one is a line that begins with its heading.
func (p *Page) Markdown(document string) {
	lines := strings.Split(document, "\n")
	for len(lines) > 0 {
		line := lines[0]
		n := 1
		switch {
		case strings.TrimSpace(line) == "", strings.HasPrefix(line, "# "), strings.HasPrefix(line, "<!--"):
		case strings.HasPrefix(line, "## "):
			p.Section(line[3:])
		case strings.HasPrefix(line, "### "):
			p.Subsection(line[4:])
		case strings.HasPrefix(line, "```"):
			n += until(lines[1:], func(l string) bool { return strings.HasPrefix(l, "```") })
			p.Code(lines[1:n]...)
			n++ // the closing fence
		case strings.HasPrefix(line, "    "):
			n = until(lines, func(l string) bool { return !strings.HasPrefix(l, "    ") })
			code := make([]string, n)
			for i, l := range lines[:n] {
				code[i] = l[4:]
			}
			p.Code(code...)
		case strings.HasPrefix(line, "|"):
			n = until(lines, func(l string) bool { return !strings.HasPrefix(l, "|") })
			p.table(lines[:n])
		case strings.HasPrefix(line, "- "):
			n += until(lines[1:], func(l string) bool { return !strings.HasPrefix(l, "  ") })
			p.Point(Inline(line[2:] + " " + strings.Join(lines[1:n], " ")))
		default:
			n = until(lines, func(l string) bool {
				return l == "" || strings.HasPrefix(l, "- ") || strings.HasPrefix(l, "|") || strings.HasPrefix(l, "#")
			})
			p.Paragraph(Inline(strings.Join(lines[:n], " ")))
		}
		lines = lines[min(n, len(lines)):]
	}
}

// until counts the lines in front of the first one for which stop holds.
func until(lines []string, stop func(string) bool) int {
	for i, l := range lines {
		if stop(l) {
			return i
		}
	}
	return len(lines)
}

func (p *Page) table(rows []string) {
	heads := cells(rows[0])
	meaning := 1
	for i, head := range heads {
		if head == "meaning" {
			meaning = i
		}
	}
	for _, row := range rows[min(2, len(rows)):] {
		row := cells(row)
		said := []string{Inline(row[meaning])}
		var more []string
		for i, cell := range row {
			if i != 0 && i != meaning && cell != "" {
				more = append(more, heads[i]+": "+Inline(cell))
			}
		}
		if more != nil {
			said = append(said, "["+strings.Join(more, "; ")+"]")
		}
		p.Item(Inline(row[0]), said...)
	}
}

// cells are those of one line of a table.
func cells(row string) []string {
	parts := strings.Split(strings.Trim(strings.TrimSpace(row), "|"), "|")
	for i, part := range parts {
		parts[i] = strings.TrimSpace(part)
	}
	return parts
}

var marks = regexp.MustCompile("`([^`]+)`" + `|\*\*([^*]+)\*\*|\*([^* ][^*]*)\*|\[([^]]+)\]\(([^)]+)\)`)

// Inline turns the marks inside a paragraph of Markdown into bold and italic; of links it leaves text and address.
func Inline(text string) string {
	return marks.ReplaceAllStringFunc(text, func(mark string) string {
		m := marks.FindStringSubmatch(mark)
		switch {
		case m[1] != "":
			return Bold(m[1])
		case m[2] != "":
			return Bold(m[2])
		case m[3] != "":
			return Italic(m[3])
		case m[5] == m[4] || !strings.Contains(m[5], "://"):
			return m[4]
		}
		return m[4] + " (" + m[5] + ")"
	})
}
