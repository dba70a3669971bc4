package store

import (
	"fmt"
	"path/filepath"
)

// LastGood gives the configuration that loaded last, as it was saved; fs.ErrNotExist if none was. It may
// hold secrets. One that others could have written is ErrUnsafe.
func (s *Store) LastGood() ([]byte, error) {
	err := s.checkDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("last good configuration: %w", err)
	}
	data, _, err := s.read(s.lastGoodFile())
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
