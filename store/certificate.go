package store

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"certagent/store/durable"
	"certagent/store/keys"
)

// ErrMissing says that a certificate has no live generation: no link, nothing behind it, or nothing to restore.
var ErrMissing = errors.New("no live generation")

// Certificate is what the store keeps of one certificate. Its methods are safe for concurrent use: a keeper may repair and
// write its retry state while an attempt commits.
type Certificate struct {
	store *Store
	id    string
	dir   string
	write sync.Mutex // held by what moves the live link, generations or the pending request
}

// Dir is the absolute path of the certificate's directory, which may not exist yet.
func (c *Certificate) Dir() string { return c.dir }

func (c *Certificate) liveLink() string        { return filepath.Join(c.dir, "live") }
func (c *Certificate) genDir(n int) string     { return filepath.Join(c.dir, genName(n)) }
func (c *Certificate) sync() error             { return durable.SyncDir(c.store.fs, c.dir) }
func (c *Certificate) remove(dir string) error { return durable.RemoveTree(c.store.fs, dir) }

// makeDir makes the certificate's directory where it is missing.
func (c *Certificate) makeDir() error {
	if err := c.store.writable(); err != nil {
		return err
	}
	if err := c.checkPlace(); err != nil {
		return err
	}
	return c.store.mkdir(c.dir)
}

// checkPlace refuses to keep or find keys where others could have put them.
func (c *Certificate) checkPlace() error {
	for _, dir := range []string{c.store.dir, c.store.certsDir(), c.dir} {
		if err := c.store.checkDir(dir); err != nil {
			return err
		}
	}
	return nil
}

// Live gives the live generation, verified: everything parses and the key is the certificate's. The error is
// ErrMissing, or a [*BrokenError] that says what is wrong. Any other error says nothing about the certificate: it is the
// process's or the system's (no file descriptors, no memory), or one of the directories above is not safe.
func (c *Certificate) Live() (*Generation, error) {
	if err := c.checkPlace(); err != nil {
		return nil, fmt.Errorf("look for certificate %s: %w", c.id, err)
	}
	n, err := c.liveNumber()
	if err != nil {
		return nil, err
	}
	for {
		g, err := c.load(n)
		if err == nil {
			return g, nil
		}
		// A reader beside a running agent may have followed a link that has moved on twice since, so that what it named
		// is swept. Numbers only grow, but for a Restore, so this ends.
		now, nowErr := c.liveNumber()
		if nowErr != nil || now == n {
			return nil, err
		}
		n = now
	}
}

// liveNumber reads the live link. Nothing but a generation beside it is accepted.
func (c *Certificate) liveNumber() (int, error) {
	info, err := c.store.fs.Lstat(c.liveLink())
	if errors.Is(err, fs.ErrNotExist) {
		return 0, ErrMissing
	}
	if err != nil {
		return 0, broken(0, "live", err)
	}
	if info.Mode().Type() != fs.ModeSymlink {
		return 0, broken(0, "live", &durable.KindError{Path: c.liveLink(), Mode: info.Mode(), Want: "a symbolic link"})
	}
	target, err := c.store.fs.Readlink(c.liveLink())
	if err != nil {
		return 0, broken(0, "live", err)
	}
	n := genNumber(target)
	if n == 0 {
		return 0, &BrokenError{File: "live", Why: fmt.Sprintf("points to %q, which is no generation beside it", target)}
	}
	return n, nil
}

// load reads and verifies generation n; ErrMissing if there is none.
func (c *Certificate) load(n int) (*Generation, error) {
	_, err := c.store.fs.Lstat(c.genDir(n))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrMissing
	}
	if err == nil {
		err = c.store.checkDir(c.genDir(n))
	}
	if err != nil {
		return nil, broken(n, "its directory", err)
	}
	return c.store.load(c.genDir(n), n)
}

// Generations are the numbers of all generations on disk, verified or not, ascending.
func (c *Certificate) Generations() ([]int, error) {
	entries, err := durable.ReadDir(c.store.fs, c.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list generations of %s: %w", c.id, err)
	}
	var ns []int
	for _, e := range entries {
		// Whatever has such a name takes its number, so that it is never in the way of a new generation.
		if n := genNumber(e.Name()); n > 0 {
			ns = append(ns, n)
		}
	}
	slices.Sort(ns)
	return ns, nil
}

// Generation gives the generation of that number, verified as [Certificate.Live] does, whether it is live or not. The error
// is ErrMissing if there is none.
func (c *Certificate) Generation(n int) (*Generation, error) {
	if err := c.checkPlace(); err != nil {
		return nil, fmt.Errorf("look for certificate %s: %w", c.id, err)
	}
	return c.load(n)
}

// Restore makes the newest generation that verifies live, and gives it; ErrMissing if none does. The generation that
// was live stays on disk. It writes nothing when that generation is live already.
func (c *Certificate) Restore() (*Generation, error) {
	if err := c.store.writable(); err != nil {
		return nil, err
	}
	if err := c.checkPlace(); err != nil {
		return nil, fmt.Errorf("look for certificate %s: %w", c.id, err)
	}
	c.write.Lock()
	defer c.write.Unlock()
	ns, err := c.Generations()
	if err != nil {
		return nil, err
	}
	for _, n := range slices.Backward(ns) {
		g, err := c.load(n)
		if _, bad := errors.AsType[*BrokenError](err); bad || errors.Is(err, ErrMissing) {
			continue
		}
		if err == nil {
			if live, liveErr := c.liveNumber(); liveErr != nil || live != n {
				err = c.makeLive(n)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("restore generation %d of %s: %w", n, c.id, err)
		}
		return g, nil
	}
	return nil, ErrMissing
}

// Fingerprint changes whenever something is done to the live link, to a file behind it or to the pending request, by
// anybody: it is made of what lstat(2) says about each. It is empty when there is neither a live link nor a pending
// request. It is taken every minute, so it opens nothing: it looks past the store's file system, which would open every
// directory on the way to be sure of it. That is safe, because what it sees goes into a hash and nowhere else.
func (c *Certificate) Fingerprint() string {
	h, found := sha256.New(), false
	look := func(path string) {
		if info, err := os.Lstat(path); err == nil {
			found = true
			digest(h, path, info)
		}
	}
	look(c.liveLink())
	if target, err := os.Readlink(c.liveLink()); err == nil && genNumber(target) > 0 {
		dir := filepath.Join(c.dir, target)
		look(dir)
		for _, name := range []string{certFile, chainFile, fullchainFile, caFile, keys.FileName, metaFile} {
			look(filepath.Join(dir, name))
		}
	}
	look(c.pendingDir())
	look(filepath.Join(c.pendingDir(), requestFile))
	look(filepath.Join(c.pendingDir(), keys.FileName))
	if !found {
		return ""
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// saveState keeps a file of the certificate's directory. It is called at each look of a keeper, so that it asks the store's
// file system only where something changed since it was last kept: the data, the file, or whose the directories are.
func (c *Certificate) saveState(path string, data []byte) error {
	if kept, ok := c.store.kept.Load(path); ok && kept == c.stateDigest(path, data) {
		return nil
	}
	c.store.kept.Delete(path)
	if err := c.makeDir(); err != nil {
		return err
	}
	if err := c.store.saveIfChanged(path, data, 0o644); err != nil {
		return err
	}
	c.store.kept.Store(path, c.stateDigest(path, data))
	return nil
}

// stateDigest is made of data, what lstat(2) says about the file, and what it says about the directories above that makes
// them safe.
func (c *Certificate) stateDigest(path string, data []byte) [sha256.Size]byte {
	h := sha256.New()
	for _, dir := range []string{c.store.dir, c.store.certsDir(), c.dir} {
		if info, err := os.Lstat(dir); err == nil {
			uid, _ := durable.Owner(info)
			fmt.Fprintln(h, uint32(info.Mode()), uid)
		}
	}
	if info, err := os.Lstat(path); err == nil {
		digest(h, path, info)
	}
	h.Write(data)
	return [sha256.Size]byte(h.Sum(nil))
}

func digest(h hash.Hash, path string, info fs.FileInfo) {
	fmt.Fprintln(h, path, uint32(info.Mode()), info.Size(), info.ModTime().UnixNano())
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		fmt.Fprintln(h, st.Ino, st.Uid, st.Gid, st.Ctim.Nano())
	}
}

// WatchDirs are the directories whose changes matter, existing ones only: the certificate's own and the live
// generation's.
func (c *Certificate) WatchDirs() []string {
	dirs := []string{c.dir}
	if n, err := c.liveNumber(); err == nil {
		dirs = append(dirs, c.genDir(n))
	}
	return existing(c.store.fs, dirs...)
}
