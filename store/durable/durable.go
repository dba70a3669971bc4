// Package durable is the one writer of files that must survive a crash.
//
// What it writes is either there in full or not there at all, whatever moment the power goes: a new file gets its mode
// and owner before its first byte, is synced, renamed into place, and the directory is synced after it. The package
// owns no file, knows no layout and keeps no state. It must not decide what is written, nor undo anything by deleting.
//
// Everything goes through [FS], so that a test can make the n-th call fail.
//
// What remains unsafe: a disk that acknowledges a sync and loses the data, and a file system that is mounted so as not
// to honour syncs. After a failed sync nothing is known about the data (Linux marks the pages clean all the same), so
// no call is ever repeated to see whether it works the second time.
package durable

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Perm says who may do what with a file or a directory.
type Perm struct {
	// Mode is the exact mode, whatever the umask. Zero is refused: a file nobody may read is always a mistake.
	Mode fs.FileMode
	// UID and GID are the owner and the group; -1 leaves what the system gave. Note that zero is root.
	UID, GID int
}

// Mode is the Perm with mode m that leaves owner and group alone.
func Mode(m fs.FileMode) Perm { return Perm{Mode: m, UID: -1, GID: -1} }

// ChownError says that a file could not be given to its owner or group, mostly because the process lacks CAP_CHOWN or
// is not a member of the group. Nothing was written.
type ChownError struct {
	Path     string
	UID, GID int // the one that could not be given; the other is -1
	Err      error
}

func (e *ChownError) Error() string {
	return fmt.Sprintf("give %s to owner %s: %v (the agent must be a member of the group, or have CAP_CHOWN)",
		e.Path, owner(e.UID, e.GID), e.Err)
}

// Unwrap gives the system's error.
func (e *ChownError) Unwrap() error { return e.Err }

func owner(uid, gid int) string {
	name := func(id int) string {
		if id < 0 {
			return ""
		}
		return fmt.Sprint(id)
	}
	return name(uid) + ":" + name(gid)
}

// apply sets group, mode and owner, in this order: a group is never let in before it is the right one, and the mode of
// a file that was given away can be set no more without CAP_FOWNER, which a process that has CAP_CHOWN need not have.
// Then it looks whether the mode holds: on a file system without modes (vfat) chmod may say that it worked.
func (p Perm) apply(f File, path string) error {
	if p.Mode == 0 {
		return errors.New("no mode given")
	}
	chown := func(uid, gid int) error {
		if uid < 0 && gid < 0 {
			return nil
		}
		if err := f.Chown(uid, gid); err != nil {
			return &ChownError{Path: path, UID: uid, GID: gid, Err: cause(err)}
		}
		return nil
	}
	if err := chown(-1, p.GID); err != nil {
		return err
	}
	if err := f.Chmod(p.Mode); err != nil {
		return cause(err)
	}
	if err := chown(p.UID, -1); err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return cause(err)
	}
	if got := info.Mode() &^ fs.ModeType; got != p.Mode {
		return fmt.Errorf("the file system gives it mode %04o, not %04o", got.Perm(), p.Mode.Perm())
	}
	return nil
}

// KindError says that something stands where a file of another kind was expected: a link, a directory, a FIFO, a
// device, a socket. Nothing was opened or changed.
type KindError struct {
	Path string
	Mode fs.FileMode // what is there
	Want string      // "a regular file", "a directory", "a symbolic link"
}

func (e *KindError) Error() string { return e.Path + " " + e.Why() }

// Why is the message without the path.
func (e *KindError) Why() string { return "is " + kind(e.Mode) + ", not " + e.Want }

func kind(m fs.FileMode) string {
	switch m.Type() {
	case 0:
		return "a regular file"
	case fs.ModeDir:
		return "a directory"
	case fs.ModeSymlink:
		return "a symbolic link"
	case fs.ModeNamedPipe:
		return "a FIFO"
	case fs.ModeSocket:
		return "a socket"
	}
	return "a device"
}

// Owner gives the owner and group of a file, from what [FS.Lstat] or [File.Stat] said about it.
func Owner(info fs.FileInfo) (uid, gid int) {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid), int(st.Gid)
	}
	return -1, -1
}

const tempPrefix, tempSuffix = ".certagent-", ".tmp"

// TempName is a name beside path that nobody can guess and that [IsTemp] and [IsTempOf] know.
func TempName(path string) string {
	return filepath.Join(filepath.Dir(path), tempPrefix+tempTag(path)+rand.Text()+tempSuffix)
}

// tempTag stands for the last element of path, in the letters of [rand.Text].
func tempTag(path string) string {
	sum := sha256.Sum256([]byte(filepath.Base(path)))
	return base32.StdEncoding.EncodeToString(sum[:10])
}

// IsTemp reports whether name (without directory) was made by [TempName]. Whoever holds the lock of a directory may
// remove such names: they are what a crash left of something that never counted.
func IsTemp(name string) bool {
	rest, ok := strings.CutPrefix(name, tempPrefix)
	rest, end := strings.CutSuffix(rest, tempSuffix)
	return ok && end && len(rest) >= 26 && strings.Trim(rest, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") == ""
}

// IsTempOf reports whether name (without directory) was made by [TempName] for this very path. It is for a directory
// that several writers share: the one writer of path may remove such names, and no others.
func IsTempOf(name, path string) bool {
	return IsTemp(name) && strings.HasPrefix(name, tempPrefix+tempTag(path))
}

// shown is path for people, and the same at each try: what is random in the names of TempName is left out.
func shown(path string) string {
	names := strings.Split(path, "/")
	for i, name := range names {
		if IsTemp(name) {
			names[i] = tempPrefix + "*" + tempSuffix
		}
	}
	return strings.Join(names, "/")
}

// cause drops the operation and path that the system's calls put in front, where the message names a better one.
func cause(err error) error {
	if e, ok := errors.AsType[*ChownError](err); ok {
		return e
	}
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	if e, ok := errors.AsType[*os.LinkError](err); ok {
		return e.Err
	}
	return err
}
