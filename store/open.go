package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"certagent/store/durable"
	"certagent/store/keys"
)

// Errors of [Open].
var (
	// ErrLocked says that another agent holds the state directory.
	ErrLocked = errors.New("another agent holds the state directory")
	// ErrUnsafe says that the state directory is in a place where others could take it over.
	ErrUnsafe = errors.New("unsafe state directory")
)

// Open opens the state directory dir, making it (0755) where it is missing, takes its lock and settles what a crash
// left: see the package comment. What cannot be settled now, on a full disk for example, is left for the next write and
// does not keep the store from opening. The error is ErrLocked when another agent holds the directory.
//
// Nor does a disk that takes nothing at all just now, because it is full or read-only, so that not even the lock can
// be had: then there is a store from which can be read what there is, and which writes nothing until [Store.Present] has
// made up for it.
//
// A directory that others could take over is ErrUnsafe: one that everybody may write, that belongs to somebody else but
// root, or that is reached through a link or somebody else's directory in a place where everybody may write. A sticky
// directory such as /tmp is fine as a place. When root opens a directory that belongs to another user, that user owns what is written.
func Open(dir string, o Options) (*Store, error) {
	return open(dir, o, os.Geteuid())
}

func open(dir string, o Options, euid int) (*Store, error) {
	s, err := openDir(dir, o, euid)
	if err == nil {
		err = s.take()
	}
	switch {
	case err == nil:
	case s != nil && takesNothing(err):
		s.untaken.Store(&err)
	case s != nil:
		return nil, errors.Join(fmt.Errorf("open state directory: %w", err), s.Close())
	default:
		return nil, fmt.Errorf("open state directory: %w", err)
	}
	return s, nil
}

// take makes the store the one that may write: the lock, the directories, and an end to what a crash interrupted.
func (s *Store) take() error {
	anew := s.lock == nil || !s.lock.Held()
	if anew {
		lock, err := s.acquire()
		if err != nil {
			return err
		}
		if s.lock != nil {
			_ = s.lock.Release() // of a file that nobody can reach any more
		}
		s.lock = lock
	}
	if err := s.makeSkeleton(); err != nil {
		return err
	}
	switch {
	case s.untaken.Load() != nil:
		s.settle()
		s.untaken.Store(nil)
	case anew:
		s.syncSkeleton()
	}
	return nil
}

// takesNothing tells an error of a disk on which nothing can be written now, and perhaps later.
func takesNothing(err error) bool {
	for _, e := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// errUntaken is until [Open] has tried.
var errUntaken = errors.New("it is being opened")

// openDir finds or makes the directory, checks it, and learns whom it belongs to. Where it could only not be made there is a
// store beside the error.
func openDir(dir string, o Options, euid int) (*Store, error) {
	fsys := o.FS
	if fsys == nil {
		fsys = durable.OS{}
	}
	dir, info, err := ensureDir(fsys, dir, durable.Mode(0o755), euid)
	if dir == "" {
		return nil, err
	}
	s := newStore(dir, o)
	s.euid, s.owner = euid, euid
	s.untaken.Store(new(errUntaken))
	if err != nil {
		return s, err
	}
	uid, gid := durable.Owner(info)
	if s.owner = uid; euid == 0 && uid > 0 {
		s.uid, s.gid = uid, gid
	}
	return s, nil
}

func newStore(dir string, o Options) *Store {
	s := &Store{dir: dir, fs: o.FS, keys: o.Keys, machineID: o.MachineID, euid: os.Geteuid(), uid: -1, gid: -1}
	if s.fs == nil {
		s.fs = durable.OS{Root: dir}
	}
	if s.keys == nil {
		s.keys = keys.Files{FS: s.fs}
	}
	return s
}

// View opens an existing state directory for reading only, without taking the lock and without writing, so that status
// can be shown while an agent runs. A missing directory is fs.ErrNotExist. Where the viewer may not read keys,
// generations come without, and pending requests are fs.ErrPermission.
func View(dir string) (*Store, error) {
	real, err := filepath.Abs(dir)
	if err == nil {
		real, err = filepath.EvalSymlinks(real)
	}
	if err != nil {
		return nil, fmt.Errorf("view state directory: %w", err)
	}
	s := newStore(real, Options{})
	s.readOnly = true
	info, err := os.Lstat(real)
	if err != nil {
		return nil, fmt.Errorf("view state directory: %w", err)
	}
	s.owner, _ = durable.Owner(info)
	if _, err := durable.ReadDir(s.fs, s.dir); err != nil {
		return nil, fmt.Errorf("view state directory: %w", err)
	}
	return s, nil
}

// Close gives the lock up. The store must not be used afterwards.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lock == nil {
		return nil
	}
	lock := s.lock
	s.lock = nil
	return lock.Release()
}

// Present looks whether the state directory is still the one that was opened. Where it, or a part of its skeleton, has
// vanished it is made again, empty; where the lock file is no longer the one we hold, the lock is taken anew, which is
// ErrLocked when another agent was faster. An error means that nothing can be stored now; the next call tries again.
func (s *Store) Present() error {
	if s.readOnly {
		return errReadOnly
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, _, err := ensureDir(s.fs, s.dir, s.perm(0o755), s.euid); err != nil {
		return fmt.Errorf("find state directory: %w", err)
	}
	if err := s.take(); err != nil {
		return fmt.Errorf("find state directory: %w", err)
	}
	return nil
}

// acquire takes the lock. Its file is nobody else's to open, as whoever may read a file may lock it.
func (s *Store) acquire() (*durable.Lock, error) {
	lock, err := durable.Acquire(s.fs, s.lockFile(), s.perm(0o600))
	if e, ok := errors.AsType[*durable.LockedError](err); ok {
		return nil, fmt.Errorf("%w: %w", ErrLocked, e)
	}
	return lock, err
}

// settle finishes for every certificate what a crash interrupted, and sweeps temporary names. What it cannot do it
// leaves, and errors are dropped: nothing depends on it but tidiness and one needless request to the CA, and the next
// Commit tidies as well.
func (s *Store) settle() {
	for _, dir := range []string{s.dir, s.certsDir(), s.trustDir(), s.onboardDir()} {
		_ = sweepTemps(s.fs, dir)
	}
	s.syncSkeleton()
	ids, _ := s.IDs()
	for _, id := range ids {
		if c, err := s.Certificate(id); err == nil {
			_ = c.settle()
		}
	}
}

// syncSkeleton makes directories durable that were made just before a crash, or before a sync that failed.
func (s *Store) syncSkeleton() {
	for _, dir := range []string{filepath.Dir(s.dir), s.dir, s.certsDir()} {
		_ = durable.SyncDir(s.fs, dir) // nobody could do more about it, and most often there is nothing to sync
	}
}

// sweepTemps removes what was begun in dir and never counted.
func sweepTemps(fsys durable.FS, dir string) error {
	entries, err := durable.ReadDir(fsys, dir)
	if err != nil {
		return err
	}
	return removeTemps(fsys, dir, entries)
}

// removeTemps removes those of the entries of dir.
func removeTemps(fsys durable.FS, dir string, entries []fs.DirEntry) error {
	var errs []error
	for _, e := range entries {
		if durable.IsTemp(e.Name()) {
			errs = append(errs, durable.RemoveTree(fsys, filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}
