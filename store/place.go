package store

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"certagent/store/durable"
)

// ensureDir makes dir where it is missing, and checks that it is not in a place where everybody could have put it (walk),
// nor a stranger's to a process of user euid. It gives the path with links resolved and what was found there.
func ensureDir(fsys durable.FS, dir string, p durable.Perm, euid int) (string, fs.FileInfo, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", nil, err
	}
	real, info, err := walk(fsys, dir, euid)
	if errors.Is(err, fs.ErrNotExist) {
		if err := durable.MkdirAll(fsys, real, p); err != nil {
			return "", nil, err
		}
		real, info, err = walk(fsys, dir, euid)
	}
	if err != nil {
		return "", nil, err
	}
	if everybodyWrites(info) {
		return "", nil, fmt.Errorf("%w: everybody may write %s (chmod o-w)", ErrUnsafe, real)
	}
	if uid, _ := durable.Owner(info); !mayOwn(uid, euid) {
		return "", nil, fmt.Errorf("%w: %s belongs to user %d, not to the agent's user %d or root",
			ErrUnsafe, real, uid, euid)
	}
	return real, info, nil
}

// checkDir refuses a directory of the store that is something else, or that others can change: one that everybody may write,
// or a stranger's. One that is not there is no error.
func (s *Store) checkDir(path string) error {
	info, err := s.fs.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return &durable.KindError{Path: path, Mode: info.Mode(), Want: "a directory"}
	}
	return s.checkSafe(path, info)
}

// checkSafe refuses what others can change.
func (s *Store) checkSafe(path string, info fs.FileInfo) error {
	if everybodyWrites(info) {
		return fmt.Errorf("%w: everybody may write %s (chmod o-w)", ErrUnsafe, path)
	}
	if uid, _ := durable.Owner(info); uid != 0 && uid != s.euid && uid != s.owner {
		return fmt.Errorf("%w: %s belongs to user %d, who is neither the agent nor the state directory's owner",
			ErrUnsafe, path, uid)
	}
	return nil
}

// read gives a file of the store's, unless it is a link, no regular file, or others can change it.
func (s *Store) read(path string) ([]byte, fs.FileInfo, error) {
	data, info, err := durable.ReadFile(s.fs, path, maxFile)
	if err == nil {
		err = s.checkSafe(path, info)
	}
	if err != nil {
		return nil, nil, err
	}
	return data, info, nil
}

// strange tells an error that says that something stands in a file's place, or could be anybody's, from one of reading it.
func strange(err error) bool {
	_, kind := errors.AsType[*durable.KindError](err)
	return kind || errors.Is(err, ErrUnsafe)
}

// displace sets aside what stands in a file's place, a directory that a backup brought or a link for example, and keeps it
// for a person to look at. A link is moved, not followed.
func (s *Store) displace(path string) error {
	return s.fs.Rename(path, filepath.Join(filepath.Dir(path), "displaced-"+rand.Text()))
}

// mayOwn reports whether a process of user euid keeps keys in a directory of user uid. Root may work for anybody.
func mayOwn(uid, euid int) bool { return uid == 0 || uid == euid || euid == 0 }

func everybodyWrites(info fs.FileInfo) bool { return info.Mode().Perm()&0o002 != 0 }

// walk follows dir as the kernel would, one name after the other, and refuses a step that anybody could have prepared:
// any name in a directory that everybody may write, unless the sticky bit protects it; and even then a link, and a
// directory that belongs to neither root nor euid. A name that is not there is fs.ErrNotExist, with the path as far as
// links are resolved.
func walk(fsys durable.FS, dir string, euid int) (string, fs.FileInfo, error) {
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
		open := everybodyWrites(info)
		if open && info.Mode()&fs.ModeSticky == 0 {
			return "", nil, fmt.Errorf("%w: everybody may write %s, where it lies (chmod o-w, or choose another place)",
				ErrUnsafe, at)
		}
		next := filepath.Join(at, name) // ".." too: at has no links
		there, err := fsys.Lstat(next)
		if err != nil {
			return filepath.Join(append([]string{next}, todo...)...), nil, err
		}
		switch {
		case there.Mode().Type() == fs.ModeSymlink && open:
			return "", nil, fmt.Errorf("%w: %s is a link in a directory that everybody may write", ErrUnsafe, next)
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
			return "", nil, &durable.KindError{Path: next, Mode: there.Mode(), Want: "a directory"}
		default:
			if uid, _ := durable.Owner(there); open && uid != 0 && uid != euid {
				return "", nil, fmt.Errorf("%w: %s belongs to user %d and lies in a directory that everybody may write",
					ErrUnsafe, next, uid)
			}
			at, info = next, there
		}
	}
	return at, info, nil
}
