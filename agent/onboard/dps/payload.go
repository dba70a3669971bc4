package dps

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// payload is the JSON that goes to the webhook of a custom allocation policy. What it holds is in no error.
func (o Options) payload() (json.RawMessage, error) {
	text, err := o.ReadPayload(o.Payload)
	if err != nil {
		return nil, fmt.Errorf("payload: %w", err)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, text); err != nil {
		where := "it ends too early"
		if e, ok := errors.AsType[*json.SyntaxError](err); ok && e.Offset < int64(len(text)) {
			where = fmt.Sprintf("at byte %d", e.Offset) // its text would quote the byte
		}
		return nil, fmt.Errorf("payload %s is not JSON (%s)", o.Payload, where)
	}
	return compact.Bytes(), nil
}
