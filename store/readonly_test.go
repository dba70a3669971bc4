package store_test

import (
	"io/fs"
	"os"
	"syscall"

	"certagent/store/durable"
)

// readOnly is a file system that was mounted for reading.
type readOnly struct{ durable.FS }

func (r readOnly) OpenFile(path string, flag int, m fs.FileMode) (durable.File, error) {
	if flag&(os.O_WRONLY|os.O_RDWR) != 0 {
		if _, err := r.FS.Lstat(path); err == nil && flag&os.O_EXCL != 0 {
			return nil, &fs.PathError{Op: "open", Path: path, Err: syscall.EEXIST}
		}
		return nil, erofs(path)
	}
	return r.FS.OpenFile(path, flag, m)
}

func erofs(path string) error { return &fs.PathError{Op: "open", Path: path, Err: syscall.EROFS} }

func (readOnly) Mkdir(path string, _ fs.FileMode) error { return erofs(path) }
func (readOnly) Rename(from, _ string) error            { return erofs(from) }
func (readOnly) Exchange(a, _ string) error             { return erofs(a) }
func (readOnly) Symlink(_, path string) error           { return erofs(path) }
func (readOnly) Remove(path string) error               { return erofs(path) }
