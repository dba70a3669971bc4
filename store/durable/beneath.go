package durable

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// errEscapes says that a link or ".." leads out of a directory that is not to be left.
var errEscapes = errors.New("path leads out of the state directory")

// openBeneath opens directory rel of root, which no link on the way leaves, for calls relative to it. The root is opened
// anew each time, so that it is the directory of now: one that vanished and was made again.
func openBeneath(root, rel string) (dir int, err error) {
	const flags = unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC
	var r int
	err = uninterrupted(func() (err error) { r, err = unix.Open(root, flags, 0); return err })
	if err != nil || rel == "." {
		return r, err
	}
	defer unix.Close(r)
	how := unix.OpenHow{Flags: flags, Resolve: unix.RESOLVE_BENEATH}
	for range 100 { // a rename beside it may interrupt it
		err = uninterrupted(func() (err error) { dir, err = unix.Openat2(r, rel, &how); return err })
		if err != unix.EAGAIN {
			break
		}
	}
	switch err {
	case unix.ENOSYS, unix.EPERM: // before Linux 5.6, or in a sandbox that does not know the call
		return walkBeneath(root, rel)
	case unix.EXDEV:
		err = errEscapes
	}
	return dir, err
}

// walkBeneath is openBeneath one name after the other.
func walkBeneath(root, rel string) (int, error) {
	r, err := os.OpenRoot(root)
	if err != nil {
		return -1, cause(err)
	}
	defer r.Close()
	d, err := r.OpenFile(rel, os.O_RDONLY|Directory, 0)
	if err != nil {
		return -1, cause(err)
	}
	defer d.Close()
	return unix.FcntlInt(d.Fd(), unix.F_DUPFD_CLOEXEC, 0)
}

// uninterrupted repeats a call that a signal interrupted.
func uninterrupted(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}

// fileInfo is what fstatat(2) says, as package os would.
type fileInfo struct {
	name string
	st   syscall.Stat_t
}

func newFileInfo(name string, u *unix.Stat_t) fs.FileInfo {
	i := &fileInfo{name: name}
	i.st.Dev, i.st.Ino, i.st.Nlink, i.st.Mode = u.Dev, u.Ino, u.Nlink, u.Mode
	i.st.Uid, i.st.Gid, i.st.Rdev, i.st.Size = u.Uid, u.Gid, u.Rdev, u.Size
	i.st.Mtim, i.st.Ctim = syscall.Timespec(u.Mtim), syscall.Timespec(u.Ctim)
	return i
}

func (i *fileInfo) Name() string       { return i.name }
func (i *fileInfo) Size() int64        { return i.st.Size }
func (i *fileInfo) ModTime() time.Time { return time.Unix(i.st.Mtim.Unix()) }
func (i *fileInfo) IsDir() bool        { return i.Mode().IsDir() }
func (i *fileInfo) Sys() any           { return &i.st }

// Mode implements [fs.FileInfo].
func (i *fileInfo) Mode() fs.FileMode {
	m := fs.FileMode(i.st.Mode & 0o777)
	switch i.st.Mode & syscall.S_IFMT {
	case syscall.S_IFBLK:
		m |= fs.ModeDevice
	case syscall.S_IFCHR:
		m |= fs.ModeDevice | fs.ModeCharDevice
	case syscall.S_IFDIR:
		m |= fs.ModeDir
	case syscall.S_IFIFO:
		m |= fs.ModeNamedPipe
	case syscall.S_IFLNK:
		m |= fs.ModeSymlink
	case syscall.S_IFSOCK:
		m |= fs.ModeSocket
	}
	if i.st.Mode&syscall.S_ISGID != 0 {
		m |= fs.ModeSetgid
	}
	if i.st.Mode&syscall.S_ISUID != 0 {
		m |= fs.ModeSetuid
	}
	if i.st.Mode&syscall.S_ISVTX != 0 {
		m |= fs.ModeSticky
	}
	return m
}

// SameFile reports whether what [FS.Lstat] and [File.Stat] said is about one file, as [os.SameFile] does for what package os said.
func SameFile(a, b fs.FileInfo) bool {
	x, ok := a.Sys().(*syscall.Stat_t)
	y, also := b.Sys().(*syscall.Stat_t)
	return ok && also && x.Dev == y.Dev && x.Ino == y.Ino
}
