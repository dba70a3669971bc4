package man

import (
	"strings"
	"testing"
)

// body is what stands in a page behind the section NAME.
func body(p *Page) string {
	_, after, _ := strings.Cut(string(p.Bytes()), "x \\- y\n")
	return after
}

// What roff would take for a command of its own is printed as it stands.
func TestTextIsPrintedAsItStands(t *testing.T) {
	for text, want := range map[string]string{
		"--flag":             `\-\-flag`,
		`C:\dir`:             `C:\edir`,
		"it's `so`":          "it\\(aqs \\(gaso\\(ga",
		"~/x^2":              `\(ti/x\(ha2`,
		"gen…":               `gen...`,
		"größer":             `gr\[u00F6]\[u00DF]er`,
		".TH":                `\&.TH`,
		"a " + Bold(".TH"):   `a \fB.TH\fR`,
		"'quote":             `\(aqquote`,
		Bold("a") + ", b":    `\fBa\fR, b`,
		"One. Two: three.":   "One.\nTwo: three.",
		Italic("FILE") + ".": `\fIFILE\fR.`,
	} {
		p := New("x", 8, "y")
		p.Lines(text)
		if got := strings.TrimSuffix(body(p), "\n"); got != want {
			t.Errorf("%q is written %q, want %q", text, got, want)
		}
	}
}

// Lines of the source are short, and none begins as a request of roff's.
func TestLinesAreShort(t *testing.T) {
	p := New("x", 8, "y")
	p.Paragraph(strings.Repeat("word .dot ", 100) + strings.Repeat("a", 100) + " end")
	for line := range strings.Lines(body(p)) {
		if len(line) > lineLimit+1 && strings.Contains(line, " ") {
			t.Errorf("%d bytes: %s", len(line), line)
		}
		if strings.HasPrefix(line, ".") && line != ".PP\n" {
			t.Errorf("a request: %s", line)
		}
	}
}

func TestMarkdown(t *testing.T) {
	const document = "# Title\n\n<!-- a comment -->\nText with `code`, *a word* and [a link](https://example.com/).\nMore.\n\n" +
		"## First part\n\n- one\n  goes on\n- two\n\n### Below\n\n| key | type | meaning |\n| --- | --- | --- |\n" +
		"| `a`, `b` | string | What it is |\n| `c` | | Nothing |\n\n    [table]\n    key = 1\n\n```toml\nkey = \"-\"\n```\nEnd.\n"
	const want = `.PP
Text with \fBcode\fR, \fIa word\fR and a link (https://example.com/).
More.
.SH "FIRST PART"
.IP \(bu 2
one goes on
.IP \(bu 2
two
.SS Below
.TP
\fBa\fR, \fBb\fR
What it is
.br
[type: string]
.TP
\fBc\fR
Nothing
.PP
.RS 4
.nf
[table]
key = 1
.fi
.RE
.PP
.RS 4
.nf
key = "\-"
.fi
.RE
.PP
End.
`
	p := New("x", 5, "y")
	p.Markdown(document)
	if got := body(p); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}
