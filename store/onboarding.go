package store

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Onboarding is what is kept of how far a certificate is known to one cloud. Everybody may read it, so it holds no secrets.
// The store keeps bytes of somebody else's form, and draws no conclusions. Its methods are safe for concurrent use, but
// one at a time may save.
type Onboarding struct {
	store *Store
	cloud string
}

// Onboarding is what is kept of a cloud, whose name is a word of letters; nothing is made.
func (s *Store) Onboarding(cloud string) *Onboarding { return &Onboarding{s, cloud} }

// Result gives what the cloud answered last, as [Onboarding.SaveResult] kept it; nil if it never did. What is something else
// than a file, or anybody's, is no result. An error means that it could not be read.
func (o *Onboarding) Result() ([]byte, error) { return o.read(o.ResultFile()) }

// State gives how far the tries are, as [Onboarding.SaveState] kept it; otherwise as Result.
func (o *Onboarding) State() ([]byte, error) { return o.read(o.stateFile()) }

func (o *Onboarding) read(path string) ([]byte, error) {
	err := o.store.checkDir(o.store.onboardDir())
	var data []byte
	if err == nil {
		data, _, err = o.store.read(path)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist), strange(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read what is known of the cloud: %w", err)
	}
	return data, nil
}

// SaveResult keeps what the cloud answered durably, and writes nothing when it is kept already.
func (o *Onboarding) SaveResult(data []byte) error { return o.save(o.ResultFile(), data) }

// SaveState keeps how far the tries are; otherwise as SaveResult.
func (o *Onboarding) SaveState(data []byte) error { return o.save(o.stateFile(), data) }

func (o *Onboarding) save(path string, data []byte) error {
	err := o.store.writable()
	if err == nil {
		err = o.store.mkdir(o.store.onboardDir())
	}
	if err == nil {
		err = o.store.saveIfChanged(path, data, 0o644)
	}
	if err != nil {
		return fmt.Errorf("save what is known of the cloud: %w", err)
	}
	return nil
}

// ResultFile is where the answer stands, for applications too.
func (o *Onboarding) ResultFile() string {
	return filepath.Join(o.store.onboardDir(), o.cloud+".json")
}

func (o *Onboarding) stateFile() string {
	return filepath.Join(o.store.onboardDir(), o.cloud+"-state.json")
}

// Fingerprint changes whenever something is done to the file of the result, by anybody; "" while there is none. As that of a
// [Certificate] it opens nothing.
func (o *Onboarding) Fingerprint() string {
	info, err := os.Lstat(o.ResultFile())
	if err != nil {
		return ""
	}
	h := sha256.New()
	digest(h, o.ResultFile(), info)
	return hex.EncodeToString(h.Sum(nil)[:16])
}

func (s *Store) onboardDir() string { return filepath.Join(s.dir, "onboard") }
