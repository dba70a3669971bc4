package durable

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
)

// Trust is a rule about who may have a hand in the directories on the way to a file.
type Trust struct {
	// Others says who, beside those that are trusted, may put names into a directory.
	Others func(dir fs.FileInfo) Others
	// Owns reports whether a directory of user uid may be gone through although it lies where others may put names.
	Owns func(uid int) bool
}

// Others are those who may put names into a directory and are not trusted. The zero value is nobody.
type Others struct {
	Who     string // "everybody", "group staff"; empty is nobody
	Fix     string // what shuts them out: "chmod o-w"
	Replace bool   // whether they may also replace the names of others: no sticky bit prevents it
}

// UnsafeError says that somebody else could have prepared the way to a file, or could take it over. Nothing was
// changed.
type UnsafeError struct {
	Why string // names the place and who could
	Fix string // what to do, may be empty
}

func (e *UnsafeError) Error() string {
	if e.Fix == "" {
		return e.Why
	}
	return e.Why + " (" + e.Fix + ")"
}

// Walk follows dir, an absolute path, as the kernel would, one name after the other, and refuses with an [*UnsafeError]
// a step that somebody else could have prepared: any name in a directory where others may replace names; and, where
// others may only add them, a link, and a directory that Owns does not know. It gives the path with links resolved and
// what is there; the directory itself is not judged. A name that is not there is fs.ErrNotExist, with the path as far
// as links are resolved. What is no directory is a [*KindError].
func Walk(fsys FS, dir string, t Trust) (string, fs.FileInfo, error) {
	at, todo := "/", strings.Split(dir, "/")
	info, err := fsys.Lstat(at)
	if err != nil {
		return "", nil, err
	}
	for links := 0; len(todo) > 0; {
		name := todo[0]
		todo = todo[1:]
		if name == "" || name == "." {
			continue
		}
		others := t.Others(info)
		if others.Replace {
			return "", nil, &UnsafeError{
				Why: fmt.Sprintf("%s may write %s, where it lies", others.Who, at),
				Fix: others.Fix + ", or choose another place",
			}
		}
		shared := others.Who != ""
		next := filepath.Join(at, name) // ".." too: at has no links
		there, err := fsys.Lstat(next)
		if err != nil {
			return filepath.Join(append([]string{next}, todo...)...), nil, err
		}
		switch {
		case there.Mode().Type() == fs.ModeSymlink && shared:
			return "", nil, &UnsafeError{Why: fmt.Sprintf("%s is a link in a directory that %s may write", next, others.Who)}
		case there.Mode().Type() == fs.ModeSymlink:
			if links++; links > 40 {
				return "", nil, fmt.Errorf("%s: too many links", dir)
			}
			target, err := fsys.Readlink(next)
			if err != nil {
				return "", nil, err
			}
			if filepath.IsAbs(target) {
				at = "/"
				if info, err = fsys.Lstat(at); err != nil {
					return "", nil, err
				}
			}
			todo = append(strings.Split(target, "/"), todo...)
		case !there.IsDir():
			return "", nil, &KindError{Path: next, Mode: there.Mode(), Want: "a directory"}
		default:
			if uid, _ := Owner(there); shared && !t.Owns(uid) {
				return "", nil, &UnsafeError{Why: fmt.Sprintf(
					"%s belongs to user %d and lies in a directory that %s may write", next, uid, others.Who)}
			}
			at, info = next, there
		}
	}
	return at, info, nil
}
