package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Mkdir makes a directory with exactly p and syncs its parent. A name that is taken is fs.ErrExist. The directory gets
// its mode under a temporary name first, so that a crash cannot leave it half made.
func Mkdir(fsys FS, path string, p Perm) error {
	if _, err := fsys.Lstat(path); err == nil {
		return &fs.PathError{Op: "mkdir", Path: path, Err: fs.ErrExist}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("make directory %s: %w", path, cause(err))
	}
	tmp, err := StageDir(fsys, filepath.Dir(path), p)
	if err != nil {
		return fmt.Errorf("make directory %s: %w", path, err)
	}
	if err = SyncDir(fsys, tmp); err == nil {
		err = fsys.Rename(tmp, path)
	}
	if err != nil {
		_ = fsys.Remove(tmp) // the error is the one to tell; the name is swept at the next start
		if errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, fs.ErrExist) {
			return &fs.PathError{Op: "mkdir", Path: path, Err: fs.ErrExist}
		}
		return fmt.Errorf("make directory %s: %w", path, cause(err))
	}
	return SyncDir(fsys, filepath.Dir(path))
}

// MkdirAll makes a directory and those above it that are missing, all with p. One that exists is left as it is.
func MkdirAll(fsys FS, path string, p Perm) error {
	_, err := fsys.Lstat(path)
	if err == nil {
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("make directory %s: %w", path, cause(err))
	}
	if err := MkdirAll(fsys, filepath.Dir(path), p); err != nil {
		return err
	}
	if err := Mkdir(fsys, path, p); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// StageDir makes a directory with exactly p under a temporary name in parent, for its maker to fill, sync and rename.
// The parent is not synced: until the rename nothing is lost with it.
func StageDir(fsys FS, parent string, p Perm) (string, error) {
	path := TempName(filepath.Join(parent, "x"))
	err := fsys.Mkdir(path, 0o700)
	if err == nil {
		err = withDir(fsys, path, NoFollow, func(d File) error { return p.apply(d, path) })
	}
	if err != nil {
		_ = fsys.Remove(path) // the first error is the one to tell; the name is swept at the next start
		return "", fmt.Errorf("make %s: %w", shown(path), cause(err))
	}
	return path, nil
}

// SyncDir makes the names in a directory survive a crash (fsync(2) on the directory).
func SyncDir(fsys FS, path string) error {
	if err := withDir(fsys, path, 0, func(d File) error { return d.Sync() }); err != nil {
		return fmt.Errorf("sync directory %s: %w", shown(path), cause(err))
	}
	return nil
}

// ReadDir lists a directory in order of names. The path may not be a link.
func ReadDir(fsys FS, path string) ([]fs.DirEntry, error) {
	var entries []fs.DirEntry
	err := withDir(fsys, path, NoFollow, func(d File) (err error) { entries, err = d.ReadDir(-1); return err })
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", path, cause(err))
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return entries, nil
}

// RemoveTree removes path and all below it, following no link. What is not there is no error.
func RemoveTree(fsys FS, path string) error {
	info, err := fsys.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", path, cause(err))
	}
	if info.IsDir() {
		entries, err := ReadDir(fsys, path)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := RemoveTree(fsys, filepath.Join(path, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := fsys.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", path, cause(err))
	}
	return nil
}

// withDir opens a directory for do.
func withDir(fsys FS, path string, flag int, do func(File) error) error {
	d, err := fsys.OpenFile(path, os.O_RDONLY|Directory|flag, 0)
	if err != nil {
		return err
	}
	return errors.Join(do(d), d.Close())
}
