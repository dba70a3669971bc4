package status

import (
	"encoding/json"
	"io"
)

// WriteJSON writes the Snapshot for machines: the fields in the order of the types, which docs/operations.md lists. Times
// are in RFC 3339.
func (s Snapshot) WriteJSON(w io.Writer) error {
	out := json.NewEncoder(w)
	out.SetEscapeHTML(false)
	out.SetIndent("", "  ")
	return out.Encode(s)
}
