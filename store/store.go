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
	"path/filepath"
	"sync"
	"sync/atomic"

	"certagent/store/durable"
	"certagent/store/keys"
)

// errReadOnly is what writing to a [View] gives.
var errReadOnly = errors.New("the store was opened for reading only")

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

// Dir is the absolute path of the state directory, links resolved.
func (s *Store) Dir() string { return s.dir }

// WatchDirs are the directories, existing ones only, in which certificates and the lock come and go: the state
// directory and the one of all certificates. See also [Certificate.WatchDirs].
func (s *Store) WatchDirs() []string {
	return existing(s.fs, s.dir, s.certsDir())
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
