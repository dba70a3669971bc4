package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Lock is an exclusive flock(2) on a file. The kernel drops it when the process ends, however it ends. It is not
// inherited by programs the process starts. Its methods are not safe for concurrent use.
type Lock struct {
	fsys FS
	path string
	file File
}

// LockedError says that somebody else holds a lock.
type LockedError struct {
	Path string
	PID  int // of the holder, as it wrote it into the file; 0 if that cannot be read
}

func (e *LockedError) Error() string {
	if e.PID == 0 {
		return e.Path + " is locked by another process"
	}
	return fmt.Sprintf("%s is locked by process %d", e.Path, e.PID)
}

// Acquire takes the lock on path, making the file with p where there is none, and writes the process id into it for
// people to see. Whoever may open the file may lock it: p is best the owner's alone, and a file found with another mode gets
// that of p. It does not wait for a holder: a lock that is held is a [*LockedError]. What is no regular file is a
// [*KindError]. A file with several names (link(2)) is refused, as it may be somebody's.
func Acquire(fsys FS, path string, p Perm) (*Lock, error) {
	for {
		if err := Create(fsys, path, nil, p); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		f, err := fsys.OpenFile(path, os.O_RDWR|NoFollow|NonBlock, 0)
		if errors.Is(err, unix.EROFS) || errors.Is(err, fs.ErrPermission) {
			// A lock needs no right to write, and a read-only disk still wants one agent at a time.
			f, err = fsys.OpenFile(path, os.O_RDONLY|NoFollow|NonBlock, 0)
		}
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed between the two calls
		}
		if err != nil {
			return nil, fmt.Errorf("lock %s: %w", path, cause(err))
		}
		info, err := f.Stat()
		if err == nil {
			err = checkLock(path, info)
		}
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, cause(err))
		}
		if info.Mode().Perm() != p.Mode {
			_ = f.Chmod(p.Mode) // a read-only disk, or somebody else's file: the lock holds as it is
		}
		l := &Lock{fsys: fsys, path: path, file: f}
		if err := l.take(); err != nil {
			f.Close()
			return nil, err
		}
		if l.Held() {
			// Fixed width, so that it covers what the last holder wrote. The id is a courtesy to people; a full disk
			// must not keep an agent from starting, so an error here is none.
			_, _ = fmt.Fprintf(f, "%19d\n", os.Getpid())
			return l, nil
		}
		f.Close() // the file was replaced while we took its lock: take the new one
	}
}

// CheckLock says why [Acquire] would refuse what stands at path; nothing there is no error.
func CheckLock(fsys FS, path string) error {
	info, err := fsys.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = checkLock(path, info)
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", path, cause(err))
	}
	return nil
}

func checkLock(path string, info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		return &KindError{path, info.Mode(), "a regular file"}
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Nlink > 1 {
		return fmt.Errorf("it has %d names, and what is written into it would stand under all of them (remove this one)", st.Nlink)
	}
	return nil
}

// take locks the file. Two that have it pass, and are waited for: somebody who only asks whether it is locked, which takes a
// shared lock for an instant (store.Held) and is told from a holder by asking the same way; and what a holder that was killed
// had just forked, which keeps the lock until it executes its program.
func (l *Lock) take() error {
	pid := 0
	for range 1000 {
		locked, err := l.flock(unix.LOCK_EX)
		if locked || err != nil {
			return err
		}
		shared, err := l.flock(unix.LOCK_SH)
		if err != nil {
			return err
		}
		if shared {
			if err := unix.Flock(int(l.file.Fd()), unix.LOCK_UN); err != nil {
				return fmt.Errorf("lock %s: %w", l.path, err)
			}
		} else if pid = l.holder(); pid == 0 || !errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	return &LockedError{Path: l.path, PID: pid}
}

// holder is the process id that the last one to take the lock wrote down; 0 if that cannot be read.
func (l *Lock) holder() int {
	text := make([]byte, 32)
	n, _ := unix.Pread(int(l.file.Fd()), text, 0)
	pid, _ := strconv.Atoi(strings.TrimSpace(string(text[:max(0, n)])))
	return max(0, pid)
}

// flock tries to get a lock, without waiting for somebody else to give up theirs.
func (l *Lock) flock(how int) (bool, error) {
	for {
		switch err := unix.Flock(int(l.file.Fd()), how|unix.LOCK_NB); err {
		case nil:
			return true, nil
		case unix.EINTR:
		case unix.EWOULDBLOCK:
			return false, nil
		default:
			return false, fmt.Errorf("lock %s: %w", l.path, err)
		}
	}
}

// Held reports whether the lock's path still is the file that is locked: no longer when somebody removed or replaced
// it.
func (l *Lock) Held() bool {
	ours, err := l.file.Stat()
	if err != nil {
		return false
	}
	there, err := l.fsys.Lstat(l.path)
	return err == nil && SameFile(ours, there)
}

// Release gives the lock up. The file stays: removing it would let two processes lock two files of the same name.
func (l *Lock) Release() error {
	// First: a program that is being started has the descriptor until it is executed, and with that the lock (flock(2)).
	err := unix.Flock(int(l.file.Fd()), unix.LOCK_UN)
	return errors.Join(err, l.file.Close())
}
