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
	// itself is followed as usual, and paths that are not below it are used as they are. Below it OpenFile follows no link
	// as the last element, with NoFollow or without.
	Root string
}

// in runs below when path lies below Root, with the directory that it lies in and its name there, and plain otherwise.
// What below gives is told as an error of op on path.
func (o OS) in(op, path string, plain func() error, below func(dir int, name string) error) error {
	rel, ok := o.rel(path)
	if !ok {
		return plain()
	}
	dir, err := openBeneath(o.Root, filepath.Dir(rel))
	if err == nil {
		err = uninterrupted(func() error { return below(dir, filepath.Base(rel)) })
		unix.Close(dir)
	}
	if err != nil {
		return &fs.PathError{Op: op, Path: path, Err: err}
	}
	return nil
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
	err = o.in("open", path,
		func() (err error) { of, err = os.OpenFile(path, flag, mode); return err },
		func(dir int, name string) error {
			fd, err := unix.Openat(dir, name, flag|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_LARGEFILE, uint32(mode.Perm()))
			if err == nil {
				of = os.NewFile(uintptr(fd), path)
			}
			return err
		})
	if err != nil {
		return nil, err
	}
	return of, nil
}

// Mkdir implements [FS].
func (o OS) Mkdir(path string, mode fs.FileMode) error {
	return o.in("mkdir", path,
		func() error { return os.Mkdir(path, mode) },
		func(dir int, name string) error { return unix.Mkdirat(dir, name, uint32(mode.Perm())) })
}

// Rename implements [FS]. Both names must be below Root, or neither.
func (o OS) Rename(from, to string) error {
	return o.in("rename", from,
		func() error { return os.Rename(from, to) },
		func(dir int, name string) error {
			rel, ok := o.rel(to)
			if !ok {
				return syscall.EXDEV
			}
			target := dir
			if filepath.Dir(to) != filepath.Dir(from) {
				var err error
				if target, err = openBeneath(o.Root, filepath.Dir(rel)); err != nil {
					return err
				}
				defer unix.Close(target)
			}
			return unix.Renameat(dir, name, target, filepath.Base(rel))
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
	return o.in("symlink", path,
		func() error { return os.Symlink(target, path) },
		func(dir int, name string) error { return unix.Symlinkat(target, dir, name) })
}

// Readlink implements [FS].
func (o OS) Readlink(path string) (target string, err error) {
	err = o.in("readlink", path,
		func() (err error) { target, err = os.Readlink(path); return err },
		func(dir int, name string) error {
			text := make([]byte, unix.PathMax) // no link is longer
			n, err := unix.Readlinkat(dir, name, text)
			if err == nil {
				target = string(text[:n])
			}
			return err
		})
	return target, err
}

// Lstat implements [FS].
func (o OS) Lstat(path string) (info fs.FileInfo, err error) {
	err = o.in("lstat", path,
		func() (err error) { info, err = os.Lstat(path); return err },
		func(dir int, name string) error {
			var st unix.Stat_t
			err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
			if err == nil {
				info = newFileInfo(name, &st)
			}
			return err
		})
	return info, err
}

// Lchown implements [FS].
func (o OS) Lchown(path string, uid, gid int) error {
	return o.in("lchown", path,
		func() error { return os.Lchown(path, uid, gid) },
		func(dir int, name string) error { return unix.Fchownat(dir, name, uid, gid, unix.AT_SYMLINK_NOFOLLOW) })
}

// Remove implements [FS].
func (o OS) Remove(path string) error {
	return o.in("remove", path,
		func() error { return os.Remove(path) },
		func(dir int, name string) error {
			err := unix.Unlinkat(dir, name, 0)
			if err == nil || err == unix.ENOENT {
				return err
			}
			// Which of the two errors says more depends on what it is, as in os.Remove.
			if rmdir := unix.Unlinkat(dir, name, unix.AT_REMOVEDIR); rmdir != unix.ENOTDIR {
				return rmdir
			}
			return err
		})
}
