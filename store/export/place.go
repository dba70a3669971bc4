package export

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"certagent/store/durable"
)

// place finds the directory of an output, following links as the kernel would, and judges it and the way there:
//
//   - each directory on the way belongs to root or the agent, and nobody else may write it: no group but root's and the
//     agent's, and not everybody. One with a sticky bit, such as /tmp, may be gone through to a directory of root's or
//     the agent's;
//   - for the directory of the output itself the sticky bit excuses nothing: a stranger could put a file there while
//     the output is missing.
//
// The agent's group is trusted because its members may command the agent anyway.
//
// The file system that f uses from here on does not leave, below the first directory in which anybody but root may
// change names, that directory: a path that is turned into a link after this look leads nowhere else.
func (w Writer) place(f *file) error {
	path := filepath.Clean(f.out.Path)
	if !filepath.IsAbs(path) {
		return fmt.Errorf("write %s: not an absolute path", f.out.Path)
	}
	dir, info, err := durable.Walk(f.fs, filepath.Dir(path), w.Trust())
	if errors.Is(err, fs.ErrNotExist) {
		return refuseMissing(f, filepath.Dir(path))
	}
	if at, ok := errors.AsType[*fs.PathError](err); ok && errors.Is(err, fs.ErrPermission) {
		return refuseEntry(f, filepath.Dir(at.Path), err)
	}
	if err != nil {
		return f.explain(err)
	}
	f.path = filepath.Join(dir, filepath.Base(path))
	if o := w.others(info); o.Who != "" {
		return f.explain(&durable.UnsafeError{
			Why: fmt.Sprintf("%s may write %s, where it lies", o.Who, dir), Fix: o.Fix + ", or choose another place",
		})
	}
	if w.FS == nil {
		root, err := firstShared(f.fs, dir)
		if err != nil {
			return f.explain(err)
		}
		f.fs = durable.OS{Root: root}
	}
	return nil
}

// Trust is who may have a hand in the directories that lead to an output. What is no output, and others must not have
// written either, is held to it too.
func (w Writer) Trust() durable.Trust { return durable.Trust{Others: w.others, Owns: w.trusts} }

// trusts reports whether uid is trusted with directories.
func (w Writer) trusts(uid int) bool { return uid == 0 || uid == w.UID }

// others are those who may put names into a directory beside root and the agent. What an access control list (acl(5))
// grants to others shows in the bits of the group.
func (w Writer) others(info fs.FileInfo) durable.Others {
	uid, gid := durable.Owner(info)
	sticky := info.Mode()&fs.ModeSticky != 0
	switch {
	case !w.trusts(uid): // the sticky bit does not bind the owner
		return durable.Others{Who: userName(uid), Fix: "chown root", Replace: true}
	case info.Mode().Perm()&0o002 != 0:
		return durable.Others{Who: "everybody", Fix: "chmod o-w", Replace: !sticky}
	case info.Mode().Perm()&0o020 != 0 && gid != 0 && gid != w.GID:
		return durable.Others{Who: groupName(gid), Fix: "chmod g-w", Replace: !sticky}
	}
	return durable.Others{}
}

// firstShared is the topmost directory on the way to dir, a path without links, in which others than root may change
// names; empty if there is none.
func firstShared(fsys durable.FS, dir string) (string, error) {
	at := "/"
	for _, name := range strings.Split(dir, "/") {
		at = filepath.Join(at, name)
		info, err := fsys.Lstat(at)
		if err != nil {
			return "", err
		}
		if o := (Writer{}).others(info); o.Who != "" { // the rule for which nobody but root is trusted
			return at, nil
		}
	}
	return "", nil
}
