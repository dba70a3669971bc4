package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"
)

// clockFile is the content of clock.json.
type clockFile struct {
	Mark time.Time `json:"mark"`
}

// ClockMark gives the newest time that was corroborated, before which a clock is not credible; zero if none was kept. A
// damaged file is an error, and zero as well: it must not keep anybody from going on.
func (s *Store) ClockMark() (time.Time, error) {
	path := s.clockFile()
	data, _, err := s.read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("clock mark: %w", err)
	}
	var c clockFile
	if err := json.Unmarshal(data, &c); err != nil {
		return time.Time{}, fmt.Errorf("clock mark: parse %s: %w", path, err)
	}
	return c.Mark, nil
}

// SaveClockMark keeps a corroborated time, in whole seconds; an earlier one than is kept lowers the mark.
func (s *Store) SaveClockMark(t time.Time) error {
	data, err := encodeJSON(clockFile{t.UTC().Truncate(time.Second)})
	if err == nil {
		err = s.saveIfChanged(s.clockFile(), data, 0o644)
	}
	if err != nil {
		return fmt.Errorf("save clock mark: %w", err)
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
