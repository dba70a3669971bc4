package store

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"syscall"

	"certagent/store/durable"
	"certagent/store/keys"
)

// Issue is an issued certificate, accepted, with what belongs to it.
type Issue struct {
	// Pending is the request it answers, as SavePending or Pending gave it. For a pair that was not asked for it has a
	// Key only.
	Pending *Pending
	// Key is that of the certificate where the server made it (RFC 7030, section 4.4); nil means the request's.
	Key   keys.Key
	Leaf  *x509.Certificate
	Chain []*x509.Certificate // intermediates, in order
	CAs   []*x509.Certificate // what it was verified with
	// Meta needs Issued, First, Warnings and Version; what it lacks otherwise is taken from the certificate and the
	// request.
	Meta Meta
	// KeyPerm is for key.pem; without a Mode it is 0600 and the store's owner. The store's owner also stands for -1. An
	// owner or group that cannot be given is no error: the key is 0600 then, and the generation's Meta.Warnings say so.
	KeyPerm durable.Perm
}

// key is the private key of the certificate.
func (i Issue) key() keys.Key {
	if i.Key != nil {
		return i.Key
	}
	return i.Pending.Key
}

// Commit makes an issued certificate the live generation: it writes a new one, verifies it by reading it back, and
// renames the live link over, which is the commit point. Then it drops the pending request and sweeps what is older
// than the generation that was live before; that tidying is repeated later where it does not succeed, and is no error.
//
// After an error look again at Live: when the last sync failed, the new generation is live already though a crash may
// undo it. An error before that leaves the old one live and the pending request where it is.
func (c *Certificate) Commit(i Issue) (*Generation, error) {
	g, err := c.commit(i)
	if err != nil {
		return nil, fmt.Errorf("commit certificate %s: %w", c.id, err)
	}
	return g, nil
}

func (c *Certificate) commit(i Issue) (*Generation, error) {
	if err := c.store.writable(); err != nil {
		return nil, err
	}
	switch {
	case i.Leaf == nil:
		return nil, errors.New("no certificate given")
	case i.Pending == nil || i.Pending.Key == nil:
		return nil, errors.New("no key given")
	case !keys.Equal(i.key().Public(), i.Leaf.PublicKey):
		return nil, errors.New("the certificate is for another key than the one to keep with it")
	}
	c.write.Lock()
	defer c.write.Unlock()
	if err := c.makeDir(); err != nil {
		return nil, err
	}
	before, err := c.Generations()
	if err != nil {
		return nil, err
	}
	n, previous := 1, 0
	if len(before) > 0 {
		previous = before[len(before)-1]
		n = previous + 1
	}
	if n > lastNumber {
		return nil, fmt.Errorf("%s has the last number there is: move it away", c.genDir(previous))
	}
	if live, err := c.liveNumber(); err == nil && slices.Contains(before, live) {
		previous = live
	}
	g, err := c.build(i, n)
	if err != nil {
		return nil, err
	}
	if err := c.makeLive(n); err != nil {
		return nil, err
	}
	_ = c.tidy(previous) // committed; Pending knows a finished request, and the next Commit or Open tidies again
	return g, nil
}

// build writes generation n and gives it its name, verified.
func (c *Certificate) build(i Issue, n int) (*Generation, error) {
	s := c.store
	stage, err := durable.StageDir(s.fs, c.dir, s.perm(0o755))
	if err != nil {
		return nil, err
	}
	var g *Generation
	if err = s.write(stage, i); err == nil {
		if g, err = s.load(stage, n); err != nil {
			err = fmt.Errorf("verify what was written: %w", err)
		}
	}
	if err == nil {
		err = s.fs.Rename(stage, c.genDir(n))
	}
	if err != nil {
		_ = c.remove(stage) // the first error is the one to tell; what is left is swept at the next start
		return nil, err
	}
	g.Dir = c.genDir(n)
	return g, nil
}

// makeLive is the commit point; the generation's own name is durable before it. Something at the link's place that is no
// link (a backup that was copied with its links followed, for example) is set aside and kept.
func (c *Certificate) makeLive(n int) error {
	if err := c.sync(); err != nil {
		return err
	}
	fsys := c.store.fs
	if info, err := fsys.Lstat(c.liveLink()); err == nil && info.Mode().Type() != fs.ModeSymlink {
		if err := c.store.displace(c.liveLink()); err != nil {
			return err
		}
	}
	return durable.Link(fsys, genName(n), c.liveLink(), c.store.perm(0o777))
}

// tidy drops the pending request and generations older than previous.
func (c *Certificate) tidy(previous int) error {
	errs := []error{c.dropPending()}
	live, err := c.liveNumber() // read again, so that whatever happened, the one in use stays
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	ns, err := c.Generations()
	errs = append(errs, err)
	for _, n := range ns {
		if n < previous && n != live {
			errs = append(errs, c.removeGeneration(n))
		}
	}
	return errors.Join(errs...)
}

// removeGeneration takes the name away first: what is called a generation is one in full.
func (c *Certificate) removeGeneration(n int) error {
	gone, err := c.rename(c.genDir(n))
	if err != nil {
		return err
	}
	return c.remove(gone)
}

// rename gives something that is to be removed a temporary name, and says which. On overlayfs a directory of the image
// below cannot be renamed (EXDEV); it keeps its name, and is removed under it.
func (c *Certificate) rename(path string) (string, error) {
	gone := durable.TempName(path)
	err := c.store.fs.Rename(path, gone)
	if errors.Is(err, syscall.EXDEV) {
		return path, nil
	}
	return gone, err
}

// settle finishes what a crash interrupted; see the package comment for the states. It is called for each certificate at a
// start, so that nothing is opened where one listing shows that there is nothing to finish.
func (c *Certificate) settle() error {
	entries, err := durable.ReadDir(c.store.fs, c.dir)
	errs := []error{err, removeTemps(c.store.fs, c.dir, entries)}
	pending := filepath.Base(c.pendingDir())
	if err == nil && !slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == pending }) {
		return errors.Join(errs...)
	}
	if dirs := existing(c.store.fs, c.pendingDir()); len(dirs) > 0 {
		errs = append(errs, sweepTemps(c.store.fs, dirs[0]))
	}
	p, err := c.readPending()
	switch {
	case errors.Is(err, errTorn):
		errs = append(errs, c.dropPending())
	case err != nil:
		errs = append(errs, err)
	case p != nil:
		errs = append(errs, c.settlePending(p))
	}
	return errors.Join(errs...)
}

// settlePending makes the newest generation live if it is what p asked for: the crash came between the two renames of a
// Commit, after the generation had been verified. Then, or if that generation is live already, p is finished.
func (c *Certificate) settlePending(p *Pending) error {
	ns, err := c.Generations()
	if err != nil || len(ns) == 0 {
		return err
	}
	newest := ns[len(ns)-1]
	if !c.answers(newest, p) {
		return nil
	}
	if live, err := c.liveNumber(); err != nil || live != newest {
		if _, err := c.load(newest); err != nil {
			return err
		}
		if err := c.makeLive(newest); err != nil {
			return err
		}
	}
	return c.dropPending()
}
