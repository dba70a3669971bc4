package store

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"
	"time"

	"certagent/store/durable"
	"certagent/store/keys"
)

// Pending is a request that was sent, or is about to be.
type Pending struct {
	// ID is a random number that tells this request from all others, even from one with the same bytes: a key that
	// signs without randomness makes the same CSR at each renewal. SavePending sets it where it is empty; a copy of a
	// Pending that is saved again keeps it.
	ID        string  `json:"id"`
	Operation string  `json:"operation"` // simpleenroll, simplereenroll, serverkeygen (RFC 7030, section 3.2.2)
	Server    string  `json:"server"`    // URL
	Request   Request `json:"request"`
	CSR       []byte  `json:"csr"` // DER (RFC 2986)
	// Unlinked is the request that CSR was made from where CSR is linked to one TLS session (RFC 7030, section 3.5),
	// which it is good for and no other; nil where it is not.
	Unlinked []byte    `json:"unlinked,omitempty"`
	Created  time.Time `json:"created,omitzero"`
	Identity string    `json:"identity,omitempty"` // name of the identity that logs in
	Reason   string    `json:"reason,omitempty"`   // why it is asked for
	Key      keys.Key  `json:"-"`                  // pending/key.pem
	Accepted time.Time `json:"accepted,omitzero"`  // 202 seen (RFC 7030, section 4.2.3)
	// MachineID is that of the machine which made it (machine-id(5)). SavePending sets it where it is empty.
	MachineID string `json:"machine_id,omitempty"`
}

const requestFile = "request.json"

// errTorn says that a pending request is not all there.
var errTorn = errors.New("incomplete pending request")

// Pending gives the request on its way; nil without an error if there is none. One that is damaged, or whose
// certificate is live already, counts as none. An error means that it could not be read just now; if that stays so the
// request is lost, and SavePending replaces it. An error beside a request means that a power cut may take it away.
func (c *Certificate) Pending() (*Pending, error) {
	p, err := c.readPending()
	if errors.Is(err, errTorn) {
		return nil, nil
	}
	if err == nil && (p == nil || c.finished(p)) {
		return nil, nil
	}
	if err == nil && !c.store.readOnly {
		c.write.Lock()
		defer c.write.Unlock()
		err = c.syncPending()
	}
	if err != nil {
		err = fmt.Errorf("pending request of %s: %w", c.id, err)
	}
	return p, err
}

// syncPending makes the request that is there durable, unless it is known to be: it may have got its name, or its last
// form, just before a crash or a sync that failed. c.write is held.
func (c *Certificate) syncPending() error {
	if failed, known := c.store.unsynced.Load(c.pendingDir()); known && failed == false {
		return nil
	}
	err := durable.SyncDir(c.store.fs, c.pendingDir())
	if err == nil {
		err = c.sync()
	}
	c.store.unsynced.Store(c.pendingDir(), err != nil)
	return err
}

// finished reports whether p has led to the live generation.
func (c *Certificate) finished(p *Pending) bool {
	n, err := c.liveNumber()
	return err == nil && c.answers(n, p)
}

// answers reports whether generation n was issued for p.
func (c *Certificate) answers(n int, p *Pending) bool {
	m, err := c.store.readMeta(c.genDir(n))
	return err == nil && m.RequestID == p.ID
}

// readPending gives what pending/ holds: nil if there is nothing, errTorn if it is not all there or does not fit
// together.
func (c *Certificate) readPending() (*Pending, error) {
	if _, err := c.store.fs.Lstat(c.pendingDir()); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err := c.store.checkDir(c.pendingDir()); err != nil {
		return nil, torn(err)
	}
	data, _, err := c.store.read(filepath.Join(c.pendingDir(), requestFile))
	if err != nil {
		return nil, torn(err)
	}
	p, err := parsePending(data)
	if err != nil {
		return nil, err
	}
	if p.Key, err = c.store.keys.Load(c.pendingDir()); err != nil {
		return nil, torn(err)
	}
	if checkCSR(p.CSR, p.Key) != nil {
		return nil, errTorn
	}
	return p, nil
}

func parsePending(data []byte) (*Pending, error) {
	p := new(Pending)
	if err := json.Unmarshal(data, p); err != nil || p.ID == "" {
		return nil, errTorn
	}
	return p, nil
}

// torn is errTorn for what is wrong with the files, and err itself when they could not be read.
func torn(err error) error {
	_, unusable := errors.AsType[*keys.UnusableError](err)
	if unusable || strange(err) || errors.Is(err, fs.ErrNotExist) {
		return errTorn
	}
	return err
}

// checkCSR reports whether csr is a request for k, signed with it.
func checkCSR(csr []byte, k keys.Key) error {
	r, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return fmt.Errorf("parse CSR: %w", err)
	}
	if !keys.Equal(k.Public(), r.PublicKey) {
		return errors.New("the CSR is for another key")
	}
	if err := r.CheckSignature(); err != nil {
		return fmt.Errorf("verify CSR: %w", err)
	}
	return nil
}

// SavePending makes r, with its private key, the pending request, in one step and durably before it returns; it
// replaces an older one. The CSR must be for k and signed with it. What it gives is r with Key and ID set. After an
// error the older request or the new one is there.
//
// On a file system that cannot exchange two names, a crash while the request for one key is replaced by that for
// another may leave none: the older one was being given up and the new one was not sent.
func (c *Certificate) SavePending(k keys.Key, r Pending) (*Pending, error) {
	if err := c.savePending(k, &r); err != nil {
		return nil, fmt.Errorf("save pending request of %s: %w", c.id, err)
	}
	return &r, nil
}

func (c *Certificate) savePending(k keys.Key, r *Pending) error {
	if err := c.store.writable(); err != nil {
		return err
	}
	if k == nil {
		return errors.New("no key given")
	}
	if err := checkCSR(r.CSR, k); err != nil {
		return err
	}
	r.Key = k
	r.Request = r.Request.recorded()
	if r.ID == "" {
		r.ID = rand.Text()
	}
	if r.MachineID == "" {
		r.MachineID = c.store.machineID
	}
	data, err := encodeJSON(r)
	if err != nil {
		return err
	}
	c.write.Lock()
	defer c.write.Unlock()
	c.store.unsynced.Store(c.pendingDir(), true) // until it is
	old, err := c.readPending()
	if err == nil && old != nil && keys.Equal(k.Public(), old.Key.Public()) {
		err := c.store.saveIfChanged(filepath.Join(c.pendingDir(), requestFile), data, 0o600)
		if err == nil {
			err = c.syncPending()
		}
		return err
	}
	if err := c.makeDir(); err != nil {
		return err
	}
	stage, err := durable.StageDir(c.store.fs, c.dir, c.store.perm(0o700))
	if err != nil {
		return err
	}
	err = c.store.keys.Save(stage, k, c.store.perm(0o600))
	if err == nil {
		err = durable.Create(c.store.fs, filepath.Join(stage, requestFile), data, c.store.perm(0o600))
	}
	if err == nil {
		err = durable.SyncDir(c.store.fs, stage)
	}
	if err != nil {
		_ = c.remove(stage) // the first error is the one to tell; what is left is swept at the next start
		return err
	}
	if err := c.install(stage); err != nil {
		return err
	}
	c.store.unsynced.Store(c.pendingDir(), false)
	_ = c.remove(stage) // what was replaced; it counts no more, and what is left is swept at the next start
	return nil
}

// install gives stage the name pending, durably. What had it has stage's name then, or is gone.
func (c *Certificate) install(stage string) error {
	fsys := c.store.fs
	_, err := fsys.Lstat(c.pendingDir())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = fsys.Rename(stage, c.pendingDir())
	case err == nil:
		err = fsys.Exchange(stage, c.pendingDir())
		if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, syscall.EXDEV) {
			if err = c.dropPending(); err == nil {
				err = fsys.Rename(stage, c.pendingDir())
			}
		}
	}
	if err != nil {
		return err
	}
	return c.sync()
}

// DropPending forgets the pending request and its key; none is no error.
func (c *Certificate) DropPending() error {
	if err := c.store.writable(); err != nil {
		return err
	}
	c.write.Lock()
	defer c.write.Unlock()
	if err := c.dropPending(); err != nil {
		return fmt.Errorf("drop pending request of %s: %w", c.id, err)
	}
	return nil
}

func (c *Certificate) dropPending() error {
	gone, err := c.rename(c.pendingDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := c.sync(); err != nil {
		return err
	}
	return c.remove(gone)
}

func (c *Certificate) pendingDir() string { return filepath.Join(c.dir, "pending") }
