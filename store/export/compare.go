package export

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	"certagent/store/durable"
)

// Mark stands for an output that was right and durable: a digest of what it should hold, and the very file that held it
// (its inode and the time of its last change, which nobody can set). It tells nothing that helps to guess a password,
// and one that does not fit any more does no harm. By its mark the agent recognises an output that it may not read, such
// as one with mode 0600 that it gave to another user; kept on disk, marks spare a restart from writing those anew.
type Mark string

func markOf(data []byte, info fs.FileInfo) Mark {
	file := identity(info)
	if file == "" {
		return ""
	}
	return Mark(fmt.Sprintf("%x %s", sha256.Sum256(data), file))
}

// Fits reports whether info, of lstat(2), is of the very file that the mark was taken of, unchanged since. It is cheap, and
// says nothing about whether the file is still what is wanted: [Writer.Check] does.
func (m Mark) Fits(info fs.FileInfo) bool {
	_, file, ok := strings.Cut(string(m), " ")
	return ok && file == identity(info)
}

// identity is the inode of a file and the time of its last change, which nobody can set.
func identity(info fs.FileInfo) string {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	return fmt.Sprintf("%d %d.%09d", st.Ino, st.Ctim.Sec, st.Ctim.Nsec)
}

// compare finds out what is there in the output's place, and how it differs from what should be.
func (f *file) compare(known Mark) error {
	info, err := f.fs.Lstat(f.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		f.drift = "is not there"
		return nil
	case err != nil:
		return f.explain(err)
	case !info.Mode().IsRegular():
		return f.explain(&durable.KindError{Path: f.path, Mode: info.Mode(), Want: "a regular file"})
	}
	fits := known != "" && known == markOf(f.data, info)
	if !fits {
		if f.drift, err = f.content(info); err != nil {
			return f.explain(err)
		}
		f.stale = f.drift != ""
	}
	if f.drift == "" {
		f.drift = permDrift(f.perm, info)
	}
	if f.drift == "" { // info is older than what was read: a change since then makes the mark worthless
		f.proven, f.mark = fits, markOf(f.data, info)
	}
	return nil
}

// content says how what is in the file differs from what should be, empty if it does not.
func (f *file) content(info fs.FileInfo) (string, error) {
	const other = "holds something else"
	if info.Size() != int64(len(f.data)) {
		return other, nil
	}
	data, _, err := durable.ReadFile(f.fs, f.path, info.Size())
	switch {
	case errors.Is(err, fs.ErrPermission):
		return "was changed since it was written, or written when nobody kept account, and may not be read", nil
	case err != nil:
		return "", err
	}
	defer clear(data)
	if !bytes.Equal(data, f.data) {
		return other, nil
	}
	return "", nil
}

// permDrift says how mode, owner or group of a file differ from p, empty if they do not.
func permDrift(p durable.Perm, info fs.FileInfo) string {
	uid, gid := durable.Owner(info)
	mode := info.Mode() &^ fs.ModeType
	switch {
	case mode != p.Mode:
		return fmt.Sprintf("has mode %s, not %s", octal(mode), octal(p.Mode))
	case uid != p.UID:
		return fmt.Sprintf("belongs to %s, not %s", userName(uid), userName(p.UID))
	case gid != p.GID:
		return fmt.Sprintf("belongs to %s, not %s", groupName(gid), groupName(p.GID))
	}
	return ""
}

// octal is a mode as chmod(1) takes it.
func octal(m fs.FileMode) string {
	n := uint32(m.Perm())
	for i, bit := range []fs.FileMode{fs.ModeSticky, fs.ModeSetgid, fs.ModeSetuid} {
		if m&bit != 0 {
			n |= 0o1000 << i
		}
	}
	return fmt.Sprintf("%04o", n)
}
