package durable

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

// WriteFile puts a file with data at path, replacing one that is there. Readers see the old file or the new one. When
// it returns nil the file survives a crash; on an error either the old or the new one is there in full, and the
// temporary file is gone unless the process or the disk died. A path that is a link, a directory or anything else but a
// regular file is a [*KindError].
//
// The calls of a good day: lstat(path), open(directory), open(temporary, O_CREAT|O_EXCL|O_NOFOLLOW), fchown (group),
// fchmod, fchown (owner), fstat, write, fsync, close, rename, fsync(directory).
func WriteFile(fsys FS, path string, data []byte, p Perm) error {
	switch info, err := fsys.Lstat(path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fmt.Errorf("write %s: %w", path, cause(err))
	case !info.Mode().IsRegular():
		return fmt.Errorf("write %s: %w", path, &KindError{path, info.Mode(), "a regular file"})
	}
	tmp := TempName(path)
	return replace(fsys, path, tmp, func() error { return Create(fsys, tmp, data, p) })
}

// replace lets make put something at tmp and renames it to path. The directory is opened first: after the rename
// nothing is left to do that could fail for want of a file descriptor.
func replace(fsys FS, path, tmp string, make func() error) error {
	dir, err := fsys.OpenFile(filepath.Dir(path), os.O_RDONLY|Directory, 0)
	if err != nil {
		return fmt.Errorf("write %s: open its directory: %w", path, cause(err))
	}
	defer dir.Close()
	if err := make(); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := fsys.Rename(tmp, path); err != nil {
		_ = fsys.Remove(tmp) // the rename's error is the one to tell; the name is swept at the next start
		return fmt.Errorf("write %s: rename into place: %w", path, cause(err))
	}
	if err := dir.Sync(); err != nil {
		return fmt.Errorf("write %s: sync its directory: %w", path, cause(err))
	}
	return nil
}

// Create makes a new file with data and syncs it, but not the directory: for files of a directory that does not count
// yet, which its maker syncs when it is complete ([SyncDir]). A name that is taken is fs.ErrExist and left alone; on
// any other error the file is removed.
func Create(fsys FS, path string, data []byte, p Perm) error {
	return CreateAll(fsys, New{path, data, p})
}

// New is a file to make.
type New struct {
	Path string
	Data []byte
	Perm Perm
}

// CreateAll makes several files as [Create] does, and syncs them side by side: a file system that keeps a journal writes it
// once for all who wait. On an error those that were made are removed, and where several fail it tells of the first.
func CreateAll(fsys FS, files ...New) error {
	opened, errs := make([]File, 0, len(files)), make([]error, len(files))
	var failed error
	for i, n := range files {
		f, err := fsys.OpenFile(n.Path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|NoFollow, 0o600)
		if errors.Is(err, fs.ErrExist) {
			failed = err
			break
		}
		if err != nil {
			// Nothing is removed here: running out of descriptors is told before the kernel looks whether the name is
			// taken, and then it would be somebody else's file.
			failed = fmt.Errorf("create %s: %w", shown(n.Path), cause(err))
			break
		}
		opened = append(opened, f)
		if errs[i] = n.Perm.apply(f, n.Path); errs[i] == nil {
			_, errs[i] = f.Write(n.Data)
		}
		if errs[i] != nil {
			break
		}
	}
	var syncs sync.WaitGroup
	if failed == nil && errors.Join(errs...) == nil {
		for i, f := range opened[1:] { // each ends with its sync, and is waited for
			syncs.Go(func() { errs[i+1] = f.Sync() })
		}
		errs[0] = opened[0].Sync()
		syncs.Wait()
	}
	for i, f := range opened {
		if errs[i] = errors.Join(errs[i], f.Close()); errs[i] != nil && failed == nil {
			failed = fmt.Errorf("create %s: %w", shown(files[i].Path), cause(errs[i]))
		}
	}
	if failed != nil {
		for i := range opened {
			_ = fsys.Remove(files[i].Path) // the first error is the one to tell; what is left is swept at the next start
		}
	}
	return failed
}

// ErrTooLarge says that a file is larger than it may be.
var ErrTooLarge = errors.New("too large")

// ReadFile reads a regular file of at most limit bytes (else [ErrTooLarge]), without following a link and without waiting on a FIFO, and
// gives what fstat said about the very file that was read. A wrong kind of file is a [*KindError], an absent one
// fs.ErrNotExist.
func ReadFile(fsys FS, path string, limit int64) ([]byte, fs.FileInfo, error) {
	// The look before the open is for devices, whose opening alone may do something.
	if info, err := fsys.Lstat(path); err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", path, cause(err))
	} else if !info.Mode().IsRegular() {
		return nil, nil, &KindError{path, info.Mode(), "a regular file"}
	}
	f, err := fsys.OpenFile(path, os.O_RDONLY|NoFollow|NonBlock, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", path, cause(err))
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", path, cause(err))
	}
	if !info.Mode().IsRegular() {
		return nil, nil, &KindError{path, info.Mode(), "a regular file"}
	}
	data, err := readAll(f, info.Size(), limit)
	if err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", path, cause(err))
	}
	if int64(len(data)) > limit {
		return nil, nil, fmt.Errorf("read %s: %w: more than %d bytes", path, ErrTooLarge, limit)
	}
	return data, info, nil
}

// readAll reads to the end of r, and one byte more than limit at most, of what has size bytes unless it grows meanwhile.
func readAll(r io.Reader, size, limit int64) ([]byte, error) {
	data := bytes.NewBuffer(make([]byte, 0, min(size, limit)+bytes.MinRead))
	_, err := data.ReadFrom(io.LimitReader(r, limit+1))
	return data.Bytes(), err
}

// Link makes path a symbolic link to target, replacing a link that is there, in one step that survives a crash.
// Anything but a link at path is a [*KindError]. Of p only owner and group are used: a link has no mode.
func Link(fsys FS, target, path string, p Perm) error {
	switch info, err := fsys.Lstat(path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fmt.Errorf("link %s: %w", path, cause(err))
	case info.Mode().Type() != fs.ModeSymlink:
		return fmt.Errorf("link %s: %w", path, &KindError{path, info.Mode(), "a symbolic link"})
	}
	tmp := TempName(path)
	return replace(fsys, path, tmp, func() error {
		err := fsys.Symlink(target, tmp)
		if err == nil && (p.UID >= 0 || p.GID >= 0) {
			if err = fsys.Lchown(tmp, p.UID, p.GID); err != nil {
				err = &ChownError{Path: path, UID: p.UID, GID: p.GID, Err: cause(err)}
			}
		}
		if err != nil {
			_ = fsys.Remove(tmp) // the first error is the one to tell; the name is swept at the next start
		}
		return err
	})
}
