package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path/filepath"
	"time"
)

// Clock is what is kept of the true time, as clock.json has it.
type Clock struct {
	// Mark is the newest time that was corroborated; zero if none was.
	Mark time.Time `json:"mark,omitzero"`
	// Refuted is the build date of a program that a synchronised clock has stood before; zero if there is none.
	Refuted time.Time `json:"refuted_build,omitzero"`
}

// clockRecord is clock.json. It is the one file of which a single wrong bit could hold a device for years, so that it carries
// a sum: of what it says, not of its bytes, for other versions of this program may keep more in it.
type clockRecord struct {
	Clock
	Sum uint32 `json:"sum"`
}

func (c Clock) sum() uint32 {
	return crc32.ChecksumIEEE(fmt.Append(nil, c.Mark.Unix(), c.Refuted.Unix()))
}

// Clock gives what was kept, zero if nothing was. A damaged file is an error, and zero as well: it must not keep anybody
// from going on.
func (s *Store) Clock() (Clock, error) {
	path := s.clockFile()
	data, _, err := s.read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Clock{}, nil
	}
	if err != nil {
		return Clock{}, fmt.Errorf("read what is known of the time: %w", err)
	}
	var r clockRecord
	if err = json.Unmarshal(data, &r); err == nil && r.Sum != r.sum() {
		err = errors.New("damaged: its sum is another")
	}
	if err != nil {
		return Clock{}, fmt.Errorf("read what is known of the time: parse %s: %w", path, err)
	}
	return r.Clock, nil
}

// SaveClock keeps c in place of what was kept, in whole seconds.
func (s *Store) SaveClock(c Clock) error {
	c.Mark, c.Refuted = c.Mark.UTC().Truncate(time.Second), c.Refuted.UTC().Truncate(time.Second)
	data, err := encodeJSON(clockRecord{Clock: c, Sum: c.sum()})
	if err == nil {
		err = s.saveIfChanged(s.clockFile(), data, 0o644)
	}
	if err != nil {
		return fmt.Errorf("save what is known of the time: %w", err)
	}
	return nil
}

func (s *Store) clockFile() string { return filepath.Join(s.dir, "clock.json") }

// encodeJSON is the form of all JSON files of the store: indented, as people read them.
func encodeJSON(v any) ([]byte, error) {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return nil, err
	}
	return append(data, '\n'), nil
}
