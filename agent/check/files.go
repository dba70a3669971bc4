package check

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"golang.org/x/sys/unix"

	"certagent/store/durable"
	"certagent/store/export"
)

const needsRoot = "this needs root, or the agent's user with all its groups"

// unseen is the result of a check whose facts this process may not have; ok is false for any other error.
func unseen(id, subject string, err error) (*Result, bool) {
	if !errors.Is(err, fs.ErrPermission) {
		return nil, false
	}
	return skipped(id, subject, needsRoot), true
}

// readable judges whether the agent's user can read what a way leads to; err is why there is none.
func (u User) readable(id, subject string, w Way, err error) *Result {
	if r, blocked := u.entered(id, subject, w); blocked {
		return r
	}
	if r, is := unseen(id, subject, err); is {
		return r
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return failed(id, subject, "it does not exist", "put it there, or correct the configuration; it is read at each attempt")
	case err != nil:
		return failed(id, subject, err.Error(), "correct the path in the configuration")
	case !w.End.Mode.IsRegular():
		return failed(id, subject, fmt.Sprintf("%s is no regular file", w.End), "name a file")
	case !u.may(w.End, Read):
		return failed(id, subject, fmt.Sprintf("user %s may not read %s", u.Name, w.End), u.toRead(w.End))
	}
	return ok(id, subject, fmt.Sprintf("user %s can read it", u.Name))
}

// entered judges whether u can go through every directory of a way.
func (u User) entered(id, subject string, w Way) (*Result, bool) {
	for _, d := range w.Dirs {
		if !u.may(d, Enter) {
			return failed(id, subject, fmt.Sprintf("user %s may not enter %s", u.Name, d),
				fmt.Sprintf("chgrp %s %s and chmod g+x %[2]s, or setfacl -m u:%s:x %[2]s", u.group(), d.Path, u.Name)), true
		}
	}
	return nil, false
}

// trusted are root and u, for people.
func (u User) trusted() string {
	if u.UID == 0 {
		return "root"
	}
	return "root and user " + u.Name
}

// group is u's own group for people.
func (u User) group() string {
	if len(u.GIDs) == 0 {
		return u.Name
	}
	return groupName(u.GIDs[0])
}

// toRead is what lets u read f, which stays closed to others.
func (u User) toRead(f File) string {
	return fmt.Sprintf("chgrp %s %s and chmod 0640 %[2]s", u.group(), f.Path)
}

// private judges whether a secret is one: everybody, or a group of strangers, that can read it is too many.
func (u User) private(id, subject string, w Way) *Result {
	group := u.group()
	shared := -1
	if f := w.End; f.UID != u.UID && slices.Contains(u.GIDs, f.GID) { // so it is how u gets at it
		group, shared = groupName(f.GID), f.GID
	}
	switch who := u.others(w.End, Read, shared); {
	case who == "":
		return ok(id, subject, "only "+u.trusted()+" and group "+group+" could read it")
	case Right(w.End.Mode.Perm())&Read != 0:
		return failed(id, subject, fmt.Sprintf("%s may read %s", who, w.End), "chmod o= "+w.End.Path+", and replace what may have been read")
	default:
		return warning(id, subject, fmt.Sprintf("%s may read %s", who, w.End),
			"unless that is meant: chmod g= "+w.End.Path+", or setfacl -b "+w.End.Path)
	}
}

// protected judges whether nobody else can change what a way leads to, nor put something in its place; err is of the
// directories, as export.Writer.Preflight tells.
func (u User) protected(id, subject string, w Way, err error) *Result {
	if r, is := unseen(id, subject, err); is {
		return r
	}
	if refused, is := errors.AsType[*export.RefusedError](err); is {
		return failed(id, subject, refused.Why, refused.Hint)
	}
	if err != nil {
		return skipped(id, subject, err.Error())
	}
	for _, f := range append(w.Dirs[:len(w.Dirs):len(w.Dirs)], w.End) {
		sticky := f.Dir && f.Mode&fs.ModeSticky != 0 // judged along with the links in it already
		here := f
		if mounted(f.Path, unix.ST_RDONLY) {
			here.Mode, here.ACL = sealed(f.Mode), nil
		}
		if who := u.others(here, Write, -1); who != "" && !sticky {
			return failed(id, subject, fmt.Sprintf("%s may write %s", who, f),
				"chown root "+f.Path+" and chmod go-w "+f.Path+"; setfacl -b "+f.Path+" if it has an access control list")
		}
	}
	return ok(id, subject, "only "+u.trusted()+" can change it")
}

// safePlace says who else could change the way to a path, as the agent judges the places of its outputs.
func (u User) safePlace(path string) error {
	gid := 0
	if len(u.GIDs) > 0 {
		gid = u.GIDs[0]
	}
	return export.Writer{FS: mounts{durable.OS{}}, UID: u.UID, GID: gid}.Preflight(export.Output{Path: path, Mode: 0o600})
}

// sealed is the mode of what lies on a file system or mount that is read-only: it grants nobody to write. So it is with the volumes
// of a ConfigMap, whose directories have mode 0777. Owners are judged all the same, since they can write where it is mounted
// otherwise. Only who looks from outside may go by this: to the agent in its unit's sandbox nearly everything is
// read-only that others can write, so that it does not itself.
func sealed(mode fs.FileMode) fs.FileMode { return mode &^ 0o222 }

// mounts is a file system with the modes of what is mounted read-only sealed.
type mounts struct{ durable.FS }

func (m mounts) Lstat(path string) (fs.FileInfo, error) {
	info, err := m.FS.Lstat(path)
	if err == nil && info.IsDir() && mounted(path, unix.ST_RDONLY) {
		return sealedInfo{info}, nil
	}
	return info, err
}

type sealedInfo struct{ fs.FileInfo }

func (i sealedInfo) Mode() fs.FileMode { return sealed(i.FileInfo.Mode()) }
