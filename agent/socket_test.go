package agent

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The directory of the socket is made where it is missing, and is none where others could put a socket of theirs.
func TestRunDir(t *testing.T) {
	for name, c := range map[string]struct {
		dir     string // below a directory of the test's
		prepare func(dir string) error
		says    string // "" means that it will do
	}{
		"there":                     {"run", func(dir string) error { return os.Mkdir(dir, 0o755) }, ""},
		"missing":                   {"run", func(string) error { return nil }, ""},
		"missing with those above":  {"a/b/run", func(string) error { return nil }, ""},
		"sticky":                    {"run", func(dir string) error { return openDir(dir, fs.ModeSticky|0o777) }, ""},
		"everybody's":               {"run", func(dir string) error { return openDir(dir, 0o777) }, "everybody may write"},
		"in a place of everybody's": {"a/run", func(dir string) error { return openDir(filepath.Dir(dir), 0o777) }, "everybody may write"},
		"a file":                    {"run", func(dir string) error { return os.WriteFile(dir, nil, 0o600) }, "not a directory"},
		"a link of root's or ours":  {"run", func(dir string) error { return os.Symlink(t.TempDir(), dir) }, ""},
		"a link in a sticky place": {"a/run", func(dir string) error {
			if err := openDir(filepath.Dir(dir), fs.ModeSticky|0o777); err != nil {
				return err
			}
			return os.Symlink(t.TempDir(), dir)
		}, "is a link in a directory that everybody may write"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), c.dir)
			if err := c.prepare(dir); err != nil {
				t.Fatal(err)
			}
			err := ensureRunDir(dir, -1, -1)
			if c.says != "" {
				if err == nil || !strings.Contains(err.Error(), c.says) {
					t.Errorf("%v, want %q", err, c.says)
				}
				return
			}
			if info, statErr := os.Stat(dir); err != nil || statErr != nil || !info.IsDir() {
				t.Errorf("%v, %v", err, statErr)
			}
		})
	}
}

// openDir makes a directory with a mode that no umask takes anything from.
func openDir(dir string, mode fs.FileMode) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	return os.Chmod(dir, mode)
}
