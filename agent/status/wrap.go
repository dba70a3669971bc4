package status

import "strings"

// Wrap writes first and text to b, whose words are broken into lines of at most 80 columns that begin with indent; a word that is
// longer stays in one piece, to be copied. What could move a terminal's cursor is replaced.
func Wrap(b *strings.Builder, first, indent, text string) { wrap(b, first, indent, text) }
