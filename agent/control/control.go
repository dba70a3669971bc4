// Package control is how a running agent is asked and told things from outside: HTTP/1.1 (RFC 9112) and JSON over a unix
// socket, as docs/control-api.md describes it. [Server] is the agent's side, [Client] the other.
//
// Everybody may read. Changes are for root, for the user that the agent runs as, and for members of the socket's group;
// who is at the other end is told by the kernel. Nothing that a client does or leaves undone is waited for by anybody but
// the goroutine that serves it: requests are bounded in size, in time and in number.
//
// The package must not know how anything is done: that is an [Agent]'s part. No private key travels through it.
package control

import (
	"context"
	"time"

	"certagent/agent/status"
)

// Paths of the API. Their first element is its version: what changes its meaning gets another one, what is added does not.
const (
	pathStatus = "/v1/status"
	pathRenew  = "/v1/renew"
	pathReload = "/v1/reload"
	pathCloud  = "/v1/onboard"
	pathImport = "/v1/import"
	// pathMetrics has no version: what the names of metrics mean is a contract of its own.
	pathMetrics = "/metrics"
)

// MaxWait is the longest that a client may have an answer about the status held back for news.
const MaxWait = 30 * time.Second

// Agent is what a [Server] speaks for. Its methods are called from many goroutines at once, and end with their context.
// An error that is an [*Error] is passed on as it is, another one as a failure of the agent.
type Agent interface {
	// Snapshot is the state as far as the agent has published it.
	Snapshot() status.Snapshot
	// Metrics is the same for Prometheus, in the format of [status.MetricsType].
	Metrics() []byte
	// CatchUp returns when all that has happened so far is published, or ctx ends.
	CatchUp(ctx context.Context)
	// News names what is published now, for as long as the agent runs and no other agent, and gives a channel that is closed
	// when that changes.
	News() (revision string, changed <-chan struct{})
	// Renew has certificates issued anew, now. It waits until that was begun, not until it came to an end.
	Renew(ctx context.Context, r Renewal) ([]Renewed, error)
	// ReloadNow has the configuration read again, and waits for it. The error says what is wrong with the files.
	ReloadNow(ctx context.Context) error
	// Onboard has the device certificate made known to its cloud, now. It waits until that was begun, not until it came to
	// an end: that is when the status has no "ordered" in its "onboarding" any more.
	Onboard(ctx context.Context, o Onboarding) (Onboarded, error)
	// Import takes over a certificate and its key from a file.
	Import(ctx context.Context, i Import) (Imported, error)
}

// Renewal asks for certificates to be issued anew.
type Renewal struct {
	IDs []string `json:"ids"` // none means all
	// NewKey asks for a key that did not exist before, whatever rotate_key says. It includes Discard.
	NewKey bool `json:"new_key,omitempty"`
	// Discard drops a request that is on its way or waits for approval at the server (202), and an older wish for a new key.
	Discard bool `json:"discard,omitempty"`
}

// Renewed is what became of a [Renewal] for one certificate, as far as that is known at once. The end of it is when the
// status of the certificate does not say ordered any more.
type Renewed struct {
	ID         string `json:"id"`
	Generation int    `json:"generation,omitempty"` // the live one when it was asked for; 0 for none
	Refused    string `json:"refused,omitempty"`    // why nothing is done
	Hint       string `json:"hint,omitempty"`       // what to do about that
	Waits      string `json:"waits,omitempty"`      // why it is not tried at once
}

// Onboarding asks to make the device certificate known to its cloud.
type Onboarding struct {
	// Again does so also where the cloud knows it already.
	Again bool `json:"again,omitempty"`
}

// Onboarded is what became of an [Onboarding], as far as that is known at once.
type Onboarded struct {
	ID    string `json:"id"`
	Known bool   `json:"known,omitempty"` // the cloud knows it already, and nothing is done
	Waits string `json:"waits,omitempty"` // why it is not tried at once
}

// Import asks to take over a certificate and its key. The file is the key and the certificates in PEM. It lies in the
// directory of the socket and belongs to root or to the agent's user; the agent removes it.
type Import struct {
	ID      string `json:"id"`
	File    string `json:"file"`              // name in that directory
	Replace bool   `json:"replace,omitempty"` // also where there is a live generation
}

// Imported is a certificate that was taken over.
type Imported struct {
	Generation int      `json:"generation"`
	Directory  string   `json:"directory"`
	Warnings   []string `json:"warnings,omitempty"`
}

// Error is a refusal or a failure, as it travels.
type Error struct {
	Status int    `json:"-"`     // of RFC 9110
	Text   string `json:"error"` // may have several lines
	Hint   string `json:"hint,omitempty"`
}

func (e *Error) Error() string { return e.Text }

// renewals is the answer to a [Renewal].
type renewals struct {
	Certificates []Renewed `json:"certificates"`
}
