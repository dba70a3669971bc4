package store

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"certagent/store/durable"
)

// ensureDir makes dir where it is missing, and checks that it is not in a place where everybody could have put it (walk),
// nor a stranger's to a process of user euid. It gives the path with links resolved and what was found there. Where it is
// missing and cannot be made there is only the path.
func ensureDir(fsys durable.FS, dir string, p durable.Perm, euid int) (string, fs.FileInfo, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", nil, err
	}
	real, info, err := walk(fsys, dir, euid)
	if errors.Is(err, fs.ErrNotExist) {
		if err := durable.MkdirAll(fsys, real, p); err != nil {
			return real, nil, err
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

// strange tells an error that says what a file is, something else, too large, or anybody's, from one of reading it.
func strange(err error) bool {
	_, kind := errors.AsType[*durable.KindError](err)
	return kind || errors.Is(err, durable.ErrTooLarge) || errors.Is(err, ErrUnsafe)
}

// displace sets aside what stands in a file's place, a directory that a backup brought or a link for example, and keeps it
// for a person to look at. A link is moved, not followed.
func (s *Store) displace(path string) error {
	return s.fs.Rename(path, filepath.Join(filepath.Dir(path), "displaced-"+rand.Text()))
}

// mayOwn reports whether a process of user euid keeps keys in a directory of user uid. Root may work for anybody.
func mayOwn(uid, euid int) bool { return uid == 0 || uid == euid || euid == 0 }

func everybodyWrites(info fs.FileInfo) bool { return info.Mode().Perm()&0o002 != 0 }

// walk follows dir (durable.Walk) and refuses as ErrUnsafe what everybody could have put there. That a directory on the
// way belongs to somebody else matters only where everybody could have made it.
func walk(fsys durable.FS, dir string, euid int) (string, fs.FileInfo, error) {
	real, info, err := durable.Walk(fsys, dir, durable.Trust{
		Others: func(info fs.FileInfo) durable.Others {
			if !everybodyWrites(info) {
				return durable.Others{}
			}
			return durable.Others{Who: "everybody", Fix: "chmod o-w", Replace: info.Mode()&fs.ModeSticky == 0}
		},
		Owns: func(uid int) bool { return uid == 0 || uid == euid },
	})
	if e, ok := errors.AsType[*durable.UnsafeError](err); ok {
		err = fmt.Errorf("%w: %w", ErrUnsafe, e)
	}
	return real, info, err
}
