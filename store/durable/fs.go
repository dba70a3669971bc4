package durable

import (
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// FS is the few calls on a file system that certagent's state needs. All paths are absolute. [OS] is the real one; a
// test wraps it. Implementations are safe for concurrent use.
type FS interface {
	// OpenFile opens path as open(2) does. With [NoFollow] in flag a symbolic link as the last element is refused.
	OpenFile(path string, flag int, mode fs.FileMode) (File, error)
	Mkdir(path string, mode fs.FileMode) error
	Rename(from, to string) error
	// Exchange swaps two names of the same directory in one step. The error is errors.ErrUnsupported where the file
	// system cannot (renameat2(2), RENAME_EXCHANGE).
	Exchange(a, b string) error
	Symlink(target, path string) error
	Readlink(path string) (string, error)
	Lstat(path string) (fs.FileInfo, error)
	Lchown(path string, uid, gid int) error
	Remove(path string) error
}

// File is an open file or directory of an [FS]; [*os.File] is one.
type File interface {
	io.ReadWriteCloser
	Stat() (fs.FileInfo, error)
	ReadDir(n int) ([]fs.DirEntry, error)
	Chmod(mode fs.FileMode) error
	Chown(uid, gid int) error
	Sync() error
	Fd() uintptr
}

// Flags for [FS.OpenFile], beside those of package os.
const (
	NoFollow  = syscall.O_NOFOLLOW  // refuse a symbolic link
	NonBlock  = syscall.O_NONBLOCK  // do not wait for the other end of a FIFO
	Directory = syscall.O_DIRECTORY // refuse what is not a directory
)

// OS is the real file system.
type OS struct {
	// Root, if not empty, is an absolute directory that no path below it leaves through a symbolic link or "..". This
	// is for a process with more rights than the directory's owner, who could plant such a link. The path of Root
	// itself is followed as usual, and paths that are not below it are used as they are.
	Root string
}

// in runs below when path lies below Root, with the opened root and the path relative to it, and plain otherwise.
func (o OS) in(path string, plain func() error, below func(r *os.Root, rel string) error) error {
	rel, ok := o.rel(path)
	if !ok {
		return plain()
	}
	// The root is opened anew each time, so that it is the directory of now: one that vanished and was made again.
	r, err := os.OpenRoot(o.Root)
	if err != nil {
		return err
	}
	defer r.Close()
	err = below(r, rel)
	if e, ok := err.(*fs.PathError); ok {
		e.Path = path
	}
	return err
}

func (o OS) rel(path string) (string, bool) {
	if o.Root == "" {
		return "", false
	}
	rel, ok := strings.CutPrefix(filepath.Clean(path), filepath.Clean(o.Root)+"/")
	return rel, ok
}

// OpenFile implements [FS].
func (o OS) OpenFile(path string, flag int, mode fs.FileMode) (f File, err error) {
	var of *os.File
	err = o.in(path,
		func() (err error) { of, err = os.OpenFile(path, flag, mode); return err },
		func(r *os.Root, rel string) (err error) {
			// os.Root follows a link that stays inside, NoFollow or not. A link put there after this look still
			// cannot lead out.
			if flag&NoFollow != 0 {
				if info, err := r.Lstat(rel); err == nil && info.Mode().Type() == fs.ModeSymlink {
					return &fs.PathError{Op: "open", Path: path, Err: syscall.ELOOP}
				}
			}
			of, err = r.OpenFile(rel, flag, mode)
			return err
		})
	if err != nil {
		return nil, err
	}
	return of, nil
}

// Mkdir implements [FS].
func (o OS) Mkdir(path string, mode fs.FileMode) error {
	return o.in(path,
		func() error { return os.Mkdir(path, mode) },
		func(r *os.Root, rel string) error { return r.Mkdir(rel, mode) })
}

// Rename implements [FS]. Both names must be below Root, or neither.
func (o OS) Rename(from, to string) error {
	return o.in(from,
		func() error { return os.Rename(from, to) },
		func(r *os.Root, rel string) error {
			target, ok := o.rel(to)
			if !ok {
				return &os.LinkError{Op: "rename", Old: from, New: to, Err: syscall.EXDEV}
			}
			return r.Rename(rel, target)
		})
}

// Exchange implements [FS].
func (o OS) Exchange(a, b string) error {
	if filepath.Dir(a) != filepath.Dir(b) {
		return &os.LinkError{Op: "exchange", Old: a, New: b, Err: syscall.EXDEV}
	}
	d, err := o.OpenFile(filepath.Dir(a), os.O_RDONLY|Directory, 0)
	if err != nil {
		return err
	}
	defer d.Close()
	fd := int(d.Fd())
	err = unix.Renameat2(fd, filepath.Base(a), fd, filepath.Base(b), unix.RENAME_EXCHANGE)
	if err == unix.EINVAL { // what a file system says that does not know the flag
		err = unix.ENOTSUP
	}
	if err != nil {
		return &os.LinkError{Op: "exchange", Old: a, New: b, Err: err}
	}
	return nil
}

// Symlink implements [FS].
func (o OS) Symlink(target, path string) error {
	return o.in(path,
		func() error { return os.Symlink(target, path) },
		func(r *os.Root, rel string) error { return r.Symlink(target, rel) })
}

// Readlink implements [FS].
func (o OS) Readlink(path string) (target string, err error) {
	err = o.in(path,
		func() (err error) { target, err = os.Readlink(path); return err },
		func(r *os.Root, rel string) (err error) { target, err = r.Readlink(rel); return err })
	return target, err
}

// Lstat implements [FS].
func (o OS) Lstat(path string) (info fs.FileInfo, err error) {
	err = o.in(path,
		func() (err error) { info, err = os.Lstat(path); return err },
		func(r *os.Root, rel string) (err error) { info, err = r.Lstat(rel); return err })
	return info, err
}

// Lchown implements [FS].
func (o OS) Lchown(path string, uid, gid int) error {
	return o.in(path,
		func() error { return os.Lchown(path, uid, gid) },
		func(r *os.Root, rel string) error { return r.Lchown(rel, uid, gid) })
}

// Remove implements [FS].
func (o OS) Remove(path string) error {
	return o.in(path,
		func() error { return os.Remove(path) },
		func(r *os.Root, rel string) error { return r.Remove(rel) })
}
