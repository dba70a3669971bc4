// Package store keeps what must survive a restart, on disk: keys, certificates, pending requests, retry and delivery
// state, fetched CA certificates, what a cloud answered, the last good configuration and the clock mark.
//
// # Layout
//
//	certs/<id>/live -> gen-000007     the generation in use; renaming this link is the one commit point
//	certs/<id>/gen-000007/            0755; written once, never changed
//	    cert.pem chain.pem fullchain.pem ca.pem meta.json    0644
//	    key.pem                       0600, or as the configuration says
//	certs/<id>/pending/               0700; key.pem and request.json (0600), durable before anything is sent
//	certs/<id>/retry.json             0644; no secrets
//	certs/<id>/delivery.json          0644; no secrets; how far the consumers are served
//	trust/<server>.pem                0644; CA certificates fetched from that server over a trusted session
//	trust/<server>.json               0644; when, which of them are TLS anchors, and what else was learned of it
//	onboard/<cloud>.json              0644; no secrets; what the cloud answered, for applications
//	onboard/<cloud>-state.json        0644; no secrets; how far the tries to be known to it are
//	clock.json (0644), last-good.toml (0600), lock (0600)
//	displaced-*                       anywhere: what stood in the place of one of these files, or of the live link, and was
//	                                  something else; kept for a person to look at
//	.certagent-*.tmp                  anywhere: what a crash left unfinished; swept by Open
//
// A directory called gen-* was complete, synced and verified before it got that name; pending/ likewise. So a crash
// leaves one of four states, and [Open] settles each: something temporary (it never counted, and goes); a pending
// request (it stays, and is sent again byte for byte); a generation of the pending request that is not live yet (it is
// made live, for it was verified); a live generation with its pending request still there (the request is finished, and
// goes). Whether a request and a generation belong together is told by a random number that both carry. Deleting files
// costs at most a new issue: nothing here is needed to make what is missing again, but for the key in pending/ and the
// live generation.
//
// The directory belongs to one agent at a time, by flock. The package must not know the network, the configuration or
// the clock, must not overwrite or delete the key in use, and must not undo anything by deleting. What others can change,
// by its mode or its owner, is not believed: a directory of the store is refused by name, a file counts as damaged.
package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
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

// errReadOnly is what writing to a [View] gives.
var errReadOnly = errors.New("the store was opened for reading only")

// errUntaken is until [Open] has tried.
var errUntaken = errors.New("it is being opened")

// Options are what a [Store] may be told. The zero value is right for the real thing.
type Options struct {
	FS        durable.FS    // nil: the real file system, confined to the state directory
	Keys      keys.Provider // nil: keys.Files on FS
	MachineID string        // recorded with each generation, so that a cloned disk is noticed; may be empty
}

// Store is an open state directory. Its methods are safe for concurrent use.
type Store struct {
	dir       string
	fs        durable.FS
	keys      keys.Provider
	machineID string
	euid      int  // who we are
	owner     int  // whose the state directory is
	uid, gid  int  // who owns what is written; -1 is whoever writes
	readOnly  bool // opened by View

	mu   sync.Mutex    // guards lock
	lock *durable.Lock // nil in a View and after Close, and may be while untaken

	// untaken is why the directory could not be taken yet; nil once it was. Until then nothing is written: it may be
	// another agent's.
	untaken atomic.Pointer[error]

	issuers issuers // of the generations and the trust that were read

	trust    sync.Mutex         // held by what changes a server's trust, from reading to writing it
	lessons  sync.Mutex         // guards learning
	learning map[string]*lesson // what is to be written to a server's trust next, by its name

	known    sync.Map // *Certificate by id, so that all who write one wait for each other
	kept     sync.Map // by path: Certificate.stateDigest of what is known to be there
	unsynced sync.Map // bool by path: whether the last write failed, so that what is read back may not be durable
}

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

// writable says why nothing may be written; nil if it may.
func (s *Store) writable() error {
	if s.readOnly {
		return errReadOnly
	}
	if why := s.untaken.Load(); why != nil {
		return fmt.Errorf("the state directory was not to be had at the start and is not yet: %w", *why)
	}
	return nil
}

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

// Foreign tells that dir is there, and that no agent has made it its state directory. Of one that may not be looked into it is not
// known.
func Foreign(dir string) bool {
	if _, err := os.Stat(dir); err != nil {
		return false
	}
	for _, name := range []string{"lock", "certs"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); errors.Is(err, fs.ErrNotExist) {
			return true
		}
	}
	return false
}

// Dir is the absolute path of the state directory, links resolved.
func (s *Store) Dir() string { return s.dir }

// WatchDirs are the directories, existing ones only, in which certificates and the lock come and go: the state
// directory and the one of all certificates. See also [Certificate.WatchDirs].
func (s *Store) WatchDirs() []string {
	return existing(s.fs, s.dir, s.certsDir())
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

// Safe says what an agent would refuse to work with: the state directory or a part of its skeleton that is something else, or
// that others can change. It is for those who look from outside, as [Open] refuses by itself.
func (s *Store) Safe() error {
	for _, dir := range []string{s.dir, s.certsDir(), s.trustDir(), s.onboardDir()} {
		if err := s.checkDir(dir); err != nil {
			return err
		}
	}
	return durable.CheckLock(s.fs, s.lockFile())
}

func (s *Store) lockFile() string { return filepath.Join(s.dir, "lock") }

// acquire takes the lock. Its file is nobody else's to open, as whoever may read a file may lock it.
func (s *Store) acquire() (*durable.Lock, error) {
	lock, err := durable.Acquire(s.fs, s.lockFile(), s.perm(0o600))
	if e, ok := errors.AsType[*durable.LockedError](err); ok {
		return nil, fmt.Errorf("%w: %w", ErrLocked, e)
	}
	return lock, err
}

func (s *Store) makeSkeleton() error {
	return errors.Join(s.mkdir(s.certsDir()), s.mkdir(s.trustDir()))
}

func (s *Store) mkdir(dir string) error {
	if s.readOnly {
		return errReadOnly
	}
	failed, _ := s.unsynced.Load(dir)
	err := durable.MkdirAll(s.fs, dir, s.perm(0o755))
	if err == nil {
		err = s.checkDir(dir)
	}
	if err == nil && failed == true { // it is there, perhaps not for good
		err = durable.SyncDir(s.fs, filepath.Dir(dir))
	}
	s.unsynced.Store(dir, err != nil)
	return err
}

func (s *Store) certsDir() string { return filepath.Join(s.dir, "certs") }
func (s *Store) trustDir() string { return filepath.Join(s.dir, "trust") }

// perm is the mode with the owner of the store.
func (s *Store) perm(mode fs.FileMode) durable.Perm {
	return durable.Perm{Mode: mode, UID: s.uid, GID: s.gid}
}

// IDs are the ids of all certificates that have a directory, sorted; some may be without a live generation, or no
// longer in the configuration.
func (s *Store) IDs() ([]string, error) {
	if err := s.checkDir(s.certsDir()); err != nil {
		return nil, fmt.Errorf("list certificates: %w", err)
	}
	entries, err := durable.ReadDir(s.fs, s.certsDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list certificates: %w", err)
	}
	var ids []string
	for _, e := range entries {
		if e.IsDir() && checkID(e.Name()) == nil {
			ids = append(ids, e.Name())
		}
	}
	return ids, nil
}

// Certificate is the certificate called id, always the same value, whether there is anything of it on disk or not; nothing
// is made. An error means that the id is not one: 1 to 64 letters, digits, '-', '_' and '.', not beginning with a dot.
func (s *Store) Certificate(id string) (*Certificate, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	c, _ := s.known.LoadOrStore(id, &Certificate{store: s, id: id, dir: filepath.Join(s.certsDir(), id)})
	return c.(*Certificate), nil
}

func checkID(id string) error {
	ok := len(id) >= 1 && len(id) <= 64 && id[0] != '.'
	for _, c := range []byte(id) {
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		ok = ok && (letter || c == '-' || c == '_' || c == '.')
	}
	if !ok {
		return fmt.Errorf("%q is no certificate id: 1 to 64 letters, digits, '-', '_' and '.', "+
			"not beginning with a dot", id)
	}
	return nil
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
	var errs []error
	for _, e := range entries {
		if durable.IsTemp(e.Name()) {
			errs = append(errs, durable.RemoveTree(fsys, filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// existing are those of dirs that are directories.
func existing(fsys durable.FS, dirs ...string) []string {
	var found []string
	for _, dir := range dirs {
		if info, err := fsys.Lstat(dir); err == nil && info.IsDir() {
			found = append(found, dir)
		}
	}
	return found
}

// saveIfChanged writes a file unless it holds data, with that mode, already and durably. What is no file there is set aside.
func (s *Store) saveIfChanged(path string, data []byte, mode fs.FileMode) error {
	if err := s.writable(); err != nil {
		return err
	}
	old, info, err := s.read(path)
	if failed, _ := s.unsynced.Load(path); failed != true && err == nil && bytes.Equal(old, data) && info.Mode() == mode {
		return nil
	}
	if _, kind := errors.AsType[*durable.KindError](err); kind {
		if err := s.displace(path); err != nil {
			return err
		}
	}
	err = durable.WriteFile(s.fs, path, data, s.perm(mode))
	s.unsynced.Store(path, err != nil)
	return err
}

// maxFile bounds each file of the store in memory, in bytes. The largest are bundles of CA certificates.
const maxFile = 4 << 20
