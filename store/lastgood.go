package store

import (
	"fmt"
	"path/filepath"

	"certagent/store/durable"
)

// LastGood gives the configuration that loaded last, as it was saved; fs.ErrNotExist if none was. It may hold secrets.
func (s *Store) LastGood() ([]byte, error) {
	data, _, err := durable.ReadFile(s.fs, s.lastGoodFile(), maxFile)
	if err != nil {
		return nil, fmt.Errorf("last good configuration: %w", err)
	}
	return data, nil
}

// SaveLastGood keeps a configuration that loaded, with mode 0600, and writes nothing when it is kept already.
func (s *Store) SaveLastGood(doc []byte) error {
	if err := s.saveIfChanged(s.lastGoodFile(), doc, 0o600); err != nil {
		return fmt.Errorf("save last good configuration: %w", err)
	}
	return nil
}

func (s *Store) lastGoodFile() string { return filepath.Join(s.dir, "last-good.toml") }
