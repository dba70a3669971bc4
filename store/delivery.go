package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Delivery is how far the consumers of one certificate are served, over restarts: delivery.json. Everybody may read it, so
// it holds no secrets. The store keeps it and draws no conclusions.
type Delivery struct {
	Version int `json:"version"`
	// Generation, SHA256 (of the certificate, lower-case hexadecimal) and CAs (a digest of the set of CA certificates) say
	// what all else is about; SHA256 is empty where nothing was delivered yet.
	Generation int    `json:"generation"`
	SHA256     string `json:"sha256"`
	CAs        string `json:"cas"`
	Reason     string `json:"reason,omitempty"` // what hooks are told

	// Outputs and Hooks are in the order of the configuration.
	Outputs []DeliveredOutput `json:"outputs"`
	Hooks   []DeliveredHook   `json:"hooks"`

	// Former are the paths of outputs that are none any more, for as long as a crash may have left something beside them.
	Former []string `json:"former,omitempty"`

	Failures int       `json:"failures"`          // tries to write the outputs, in a row, that left one unwritten
	NextTry  time.Time `json:"next_try,omitzero"` // of those
}

// Progress is how far one step of a delivery has come.
type Progress string

// What a step of a delivery can be.
const (
	StepPending Progress = "pending" // to be done, or begun and not known to have ended
	StepOK      Progress = "ok"
	StepFailed  Progress = "failed" // to be tried again
)

// DeliveredOutput is one file for a consumer.
type DeliveredOutput struct {
	Path   string   `json:"path"`
	Format string   `json:"format"`
	State  Progress `json:"state"`
	// Mark is what package export recognises the file by.
	Mark    string    `json:"mark,omitempty"`
	Written time.Time `json:"written,omitzero"` // when the agent last replaced the file

	Error   string    `json:"error,omitempty"` // why it is not written
	Hint    string    `json:"hint,omitempty"`
	Refused bool      `json:"refused,omitempty"` // it will not be before somebody has done something
	Since   time.Time `json:"since,omitzero"`    // the first failure in a row
}

// DeliveredHook is one program that was run, or one unit that was told. Equal ones are told apart by their order.
type DeliveredHook struct {
	Hook    string    `json:"hook"` // in words
	State   Progress  `json:"state"`
	Tries   int       `json:"tries"` // for what Delivery is about; counted before each is made
	LastTry time.Time `json:"last_try,omitzero"`
	NextTry time.Time `json:"next_try,omitzero"`

	Output  string    `json:"output,omitempty"`  // the end of what the last try wrote
	Skipped string    `json:"skipped,omitempty"` // why there was nobody to tell
	Class   string    `json:"class,omitempty"`   // of Error
	Error   string    `json:"error,omitempty"`
	Hint    string    `json:"hint,omitempty"`
	Since   time.Time `json:"since,omitzero"` // the first failure in a row
}

// deliveryVersion is that of delivery.json. A file of another one counts as none.
const deliveryVersion = 1

// Delivery gives the state of delivery, zero if there is none. A damaged file is none: hooks then run once more than they
// had to. An error means that the file could not be read.
func (c *Certificate) Delivery() (Delivery, error) {
	if err := c.checkPlace(); err != nil {
		return Delivery{}, fmt.Errorf("delivery state of %s: %w", c.id, err)
	}
	data, _, err := c.store.read(c.deliveryFile())
	if errors.Is(err, fs.ErrNotExist) || strange(err) {
		return Delivery{}, nil
	}
	if err != nil {
		return Delivery{}, fmt.Errorf("delivery state of %s: %w", c.id, err)
	}
	return parseDelivery(data), nil
}

func parseDelivery(data []byte) Delivery {
	var d Delivery
	if json.Unmarshal(data, &d) != nil || d.Version != deliveryVersion {
		return Delivery{}
	}
	return d
}

// SaveDelivery keeps the state of delivery durably, and writes nothing when it is kept already.
func (c *Certificate) SaveDelivery(d Delivery) error {
	d.Version = deliveryVersion
	data, err := encodeJSON(d)
	if err == nil {
		err = c.saveState(c.deliveryFile(), data)
	}
	if err != nil {
		return fmt.Errorf("save delivery state of %s: %w", c.id, err)
	}
	return nil
}

func (c *Certificate) deliveryFile() string { return filepath.Join(c.dir, "delivery.json") }

// Owner is the user and group to whom belongs what is written: those of the state directory where root works for
// somebody else, otherwise the process's.
func (s *Store) Owner() (uid, gid int) {
	uid, gid = s.uid, s.gid
	if uid < 0 {
		uid = s.euid
	}
	if gid < 0 {
		gid = os.Getegid()
	}
	return uid, gid
}
