package onboard

import (
	"bytes"
	"encoding/json"
)

// Encode is the file of v, which is made of strings, numbers and times of this era: indented JSON with a newline at its end.
func Encode(v any) []byte {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		panic(err) // it is made of something else
	}
	return append(b, '\n')
}

// maxFile bounds what is read back, in bytes: what is written stays far below it.
const maxFile = 64 << 10

// Decode reads a file of [Encode] into v, and reports whether it is one. Where it is not v may be half filled.
func Decode(file []byte, v any) bool {
	if len(file) > maxFile {
		return false
	}
	d := json.NewDecoder(bytes.NewReader(file))
	return d.Decode(v) == nil && !d.More()
}
