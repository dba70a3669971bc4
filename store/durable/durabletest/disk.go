package durabletest

import (
	"io/fs"
	"os"
	"sync/atomic"

	"certagent/store/durable"
)

// Disk is a file system on which nothing new can be made while it is shut, as on one that is full or was mounted for reading
// only. What there is can be read. Set FS and Err before it is used.
type Disk struct {
	durable.FS
	Err  error // what making something gives
	Shut atomic.Bool
}

func (d *Disk) bar(op, path string) error {
	if d.Shut.Load() {
		return &fs.PathError{Op: op, Path: path, Err: d.Err}
	}
	return nil
}

// OpenFile implements [durable.FS].
func (d *Disk) OpenFile(path string, flag int, mode fs.FileMode) (durable.File, error) {
	if flag&os.O_CREATE != 0 {
		if _, err := d.FS.Lstat(path); err != nil { // what is there is found first
			if err := d.bar("create", path); err != nil {
				return nil, err
			}
		}
	}
	return d.FS.OpenFile(path, flag, mode)
}

// Mkdir implements [durable.FS].
func (d *Disk) Mkdir(path string, mode fs.FileMode) error {
	if err := d.bar("mkdir", path); err != nil {
		return err
	}
	return d.FS.Mkdir(path, mode)
}
