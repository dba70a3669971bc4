package dps

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
)

// payloadLimit bounds the payload file, in bytes. DPS has a lower limit of its own, which may change.
const payloadLimit = 64 << 10

// readPayload reads the file whose JSON goes to the webhook of a custom allocation policy. It is read at each
// registration, so that a change of it needs no restart. What it holds is in no error.
func readPayload(name string) (json.RawMessage, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a named pipe must not hold us up (fifo(7))
	if err != nil {
		return nil, fmt.Errorf("open payload: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("look at payload: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("payload %s is not a regular file", name)
	}
	text, err := io.ReadAll(io.LimitReader(f, payloadLimit+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read payload: %w", err)
	case len(text) > payloadLimit:
		return nil, fmt.Errorf("payload %s has more than %d bytes", name, payloadLimit)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, text); err != nil {
		where := "it ends too early"
		if e, ok := errors.AsType[*json.SyntaxError](err); ok && e.Offset < int64(len(text)) {
			where = fmt.Sprintf("at byte %d", e.Offset) // its text would quote the byte
		}
		return nil, fmt.Errorf("payload %s is not JSON (%s)", name, where)
	}
	return compact.Bytes(), nil
}
