package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"
)

// Retry is what one certificate's tries have taught, over restarts: retry.json. Everybody may read it, so it holds no
// secrets. The store keeps it and draws no conclusions.
type Retry struct {
	Failures    int       `json:"failures"` // in a row
	LastTry     time.Time `json:"last_try,omitzero"`
	LastSuccess time.Time `json:"last_success,omitzero"`
	NextTry     time.Time `json:"next_try,omitzero"`
	// RetryAfter is until when to wait because the server asked for it (RFC 9110, section 10.2.3).
	RetryAfter time.Time `json:"retry_after,omitzero"`
	// PendingUntil is when to ask again for a request that the server accepted with 202 (RFC 7030, section 4.2.3).
	PendingUntil time.Time `json:"pending_until,omitzero"`

	LastError    string         `json:"last_error,omitempty"`
	LastClass    string         `json:"last_class,omitempty"` // of LastError
	LastIdentity string         `json:"last_identity,omitempty"`
	Refusals     map[string]int `json:"refusals,omitempty"` // in a row, by name of the identity

	// SpreadRefused says that the server refused to renew the first certificate before its threshold
	// (first_renewal = "spread"): it has the threshold's turn.
	SpreadRefused bool `json:"spread_refused,omitempty"`

	// Losses counts how often in a row the live generation was lost soon after it was issued.
	Losses int `json:"losses,omitempty"`

	// Begun is when a try began whose end was not recorded, and Interrupted how many such tries there were in a row.
	Begun       time.Time `json:"begun,omitzero"`
	Interrupted int       `json:"interrupted,omitempty"`
	// Repairs counts how often the back-off was void since the last success, because Login had changed.
	Repairs int `json:"repairs,omitempty"`
	// Resumed counts the starts of the agent since the last try that gave a turn to what had come due meanwhile.
	Resumed int `json:"resumed,omitempty"`
	// Spent is until when the ration of renewals is used up; see renew.Spend.
	Spent time.Time `json:"spent,omitzero"`

	// Drift is about a changed request that the server has not granted yet. It has tries of its own, so that the
	// certificate goes on being renewed as it was.
	Drift Drift `json:"drift,omitzero"`

	// Reissue is why the certificate must be issued anew though a live generation verifies: missing, broken, cloned, forced,
	// new-key. Whoever calls Commit clears it.
	Reissue string `json:"reissue,omitempty"`
	// Cloned is since when the live generation is known to be another device's; zero where it is not.
	Cloned time.Time `json:"cloned,omitzero"`
	// Discard says that the pending request is to be dropped before the next try.
	Discard bool `json:"discard,omitempty"`
	// Ordered says that a person asked for Reissue, and that no attempt made for it has come to an end.
	Ordered bool `json:"ordered,omitempty"`
	// Login is a hash of what the back-off belongs to: URL, login, anchors. When it changes the back-off is void.
	Login string `json:"login,omitempty"`
	// RenewAt is the schedule as last planned, for those who show it without knowing the configuration.
	RenewAt  time.Time `json:"renew_at,omitzero"`
	Problems []Problem `json:"problems,omitempty"`

	// Damaged reports that there was a file that does not parse; all else is zero then. It is not written.
	Damaged bool `json:"-"`
}

// Drift is a request that the configuration asks for and the live generation was not issued for.
type Drift struct {
	Wanted   string         `json:"wanted,omitempty"`   // hash of the request
	Failures int            `json:"failures,omitempty"` // refused so often, in a row
	Since    time.Time      `json:"since,omitzero"`     // the first of these
	NextTry  time.Time      `json:"next_try,omitzero"`
	Refusals map[string]int `json:"refusals,omitempty"` // in a row, by name of the identity
}

// Problem is something wrong with a certificate.
type Problem struct {
	Code string `json:"code"` // for machines, stable
	Text string `json:"text"` // for people: what is wrong
	Hint string `json:"hint,omitempty"`
	// Notice marks what is worth knowing and is no fault.
	Notice bool      `json:"notice,omitempty"`
	Since  time.Time `json:"since,omitzero"`
}

// Retry gives the retry state, zero if there is none. A damaged file is no error, as it must not stop anything: see
// [Retry.Damaged]. An error means that the file could not be read.
func (c *Certificate) Retry() (Retry, error) {
	if err := c.checkPlace(); err != nil {
		return Retry{}, fmt.Errorf("retry state of %s: %w", c.id, err)
	}
	data, _, err := c.store.read(c.retryFile())
	if errors.Is(err, fs.ErrNotExist) {
		return Retry{}, nil
	}
	if strange(err) {
		return Retry{Damaged: true}, nil
	}
	if err != nil {
		return Retry{}, fmt.Errorf("retry state of %s: %w", c.id, err)
	}
	return parseRetry(data), nil
}

func parseRetry(data []byte) Retry {
	var r Retry
	if json.Unmarshal(data, &r) != nil {
		return Retry{Damaged: true}
	}
	return r
}

// SaveRetry keeps the retry state, and writes nothing when it is kept already.
func (c *Certificate) SaveRetry(r Retry) error {
	data, err := encodeJSON(r)
	if err == nil {
		err = c.saveState(c.retryFile(), data)
	}
	if err != nil {
		return fmt.Errorf("save retry state of %s: %w", c.id, err)
	}
	return nil
}

func (c *Certificate) retryFile() string { return filepath.Join(c.dir, "retry.json") }
