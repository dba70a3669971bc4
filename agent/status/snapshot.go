// Package status is what certagent says about itself: one [Snapshot] and its faces (a table for people, JSON for
// machines, one line for systemd, an exit code for scripts). All faces are made from the same Snapshot, so they cannot
// disagree. The package decides nothing: what is in a Snapshot was found out by package agent.
package status

import "time"

// Schema is the version of the JSON form. It is raised when a field changes its meaning or goes away, not when one is
// added.
const Schema = 1

// Snapshot is the state of the agent and of its certificates at one time.
type Snapshot struct {
	Schema int       `json:"schema"`
	Time   time.Time `json:"time"`
	// Version is that of the program which made the Snapshot.
	Version  string `json:"version"`
	Config   string `json:"config,omitempty"` // the configuration file, "" when it could not be read
	StateDir string `json:"state_dir"`
	// Running tells whether an agent held the state directory's lock at Time.
	Running bool `json:"running"`
	// Started is when the agent was started that made the Snapshot; zero where none did.
	Started time.Time `json:"started,omitzero"`
	// PID is the process id of that agent; 0 where none made the Snapshot, or one that did not tell.
	PID int `json:"pid,omitempty"`
	// Problems are those of the agent as a whole; those of one certificate stand there.
	Problems     []Problem     `json:"problems"`
	Certificates []Certificate `json:"certificates"`
	// Servers are the EST servers of the configuration.
	Servers []Server `json:"servers"`
}

// Server is what is known of one EST server.
type Server struct {
	URL string `json:"url"`
	// Fetched is when its CA certificates were last fetched, CAs how many there are, and NextRefresh when they will be
	// asked for anew, unless a renewal does so before.
	Fetched     time.Time `json:"fetched,omitzero"`
	CAs         int       `json:"cas"`
	NextRefresh time.Time `json:"next_refresh,omitzero"`
	// Failures counts the tries to refresh them since the last success.
	Failures int `json:"failures"`
}

// State is the one word about a certificate.
type State string

// The states, each with what it means for somebody who wants to use the certificate.
const (
	Valid       State = "valid"         // usable, renewal is not due
	Due         State = "due"           // usable, renewal has begun
	Overdue     State = "overdue"       // usable, and due for longer than one retry
	Expired     State = "expired"       // not usable any more
	NotYetValid State = "not-yet-valid" // not usable yet by this device's clock
	Missing     State = "missing"       // none was issued, or it is gone
	KeyMismatch State = "key-mismatch"  // certificate, key or link is damaged and nothing older can take its place
	Unmanaged   State = "unmanaged"     // not in the configuration any more; its files are kept, nobody renews them
)

// Certificate is the state of one certificate.
type Certificate struct {
	ID    string `json:"id"`
	Role  string `json:"role,omitempty"`
	State State  `json:"state"`

	// Of the live generation; absent while there is none.
	Generation int       `json:"generation,omitempty"`
	Directory  string    `json:"directory,omitempty"`
	Subject    string    `json:"subject,omitempty"`
	Serial     string    `json:"serial,omitempty"`
	SHA256     string    `json:"sha256,omitempty"`
	NotBefore  time.Time `json:"not_before,omitzero"`
	NotAfter   time.Time `json:"not_after,omitzero"`
	// Threshold is the configured start of renewal, RenewAt is Threshold plus this certificate's own spread.
	Threshold time.Time `json:"threshold,omitzero"`
	RenewAt   time.Time `json:"renew_at,omitzero"`

	// NextTry is when the agent will act next, and NextWhy why then; absent when nothing is planned.
	NextTry time.Time `json:"next_try,omitzero"`
	NextWhy string    `json:"next_why,omitempty"`

	Failures     int       `json:"failures"`
	LastTry      time.Time `json:"last_try,omitzero"`
	LastSuccess  time.Time `json:"last_success,omitzero"`
	LastClass    string    `json:"last_error_class,omitempty"`
	LastError    string    `json:"last_error,omitempty"`
	LastIdentity string    `json:"last_identity,omitempty"`
	// Imported says that the live generation was not issued to the agent, but brought by a person.
	Imported bool `json:"imported,omitempty"`
	// Pending says that a request waits for approval at the server (202).
	Pending bool `json:"pending"`
	// Ordered says that a renewal was asked for and has not come to an end yet. It ends with the first attempt that was made
	// for it, whatever came of that.
	Ordered bool `json:"ordered,omitempty"`
	// Attempts counts those that have ended since the agent was started, by result and error class, in that order; none
	// where no agent says it.
	Attempts []Attempts `json:"attempts,omitempty"`

	// Outputs and Hooks are in the order of the configuration. OutputsNextTry is when those outputs are tried again that
	// could not be written.
	Outputs        []Output  `json:"outputs"`
	OutputsNextTry time.Time `json:"outputs_next_try,omitzero"`
	Hooks          []Hook    `json:"hooks"`
	// Onboarding is how far the cloud that this certificate is for knows it; nil where there is no such cloud.
	Onboarding *Onboarding `json:"onboarding,omitempty"`

	Problems []Problem `json:"problems"`
}

// Attempts are how many attempts ended in one way.
type Attempts struct {
	Result string `json:"result"`
	Class  string `json:"error_class,omitempty"` // "" where there was no error
	Count  int    `json:"count"`
}

// The results of attempts.
const (
	Issued  = "issued"  // there is a new certificate
	Failed  = "failed"  // there is none
	Waiting = "waiting" // the request waits for approval at the server (202)
	Early   = "early"   // refused before the threshold, which is no failure (first_renewal)
)

// Output is one file that is kept for a consumer.
type Output struct {
	Path   string `json:"path"`
	Format string `json:"format"`
	// State is pending (not written for the live generation yet), ok, or failed.
	State   string    `json:"state"`
	Written time.Time `json:"written,omitzero"` // when it was last replaced
	Error   string    `json:"error,omitempty"`
}

// Hook is a program that is run, or a unit that is told, after a renewal.
type Hook struct {
	Hook string `json:"hook"`
	// State is pending (not run, or not to its end, for the live generation), ok, or failed.
	State   string    `json:"state"`
	Tries   int       `json:"tries"` // for the live generation
	LastTry time.Time `json:"last_try,omitzero"`
	NextTry time.Time `json:"next_try,omitzero"`
	Output  string    `json:"output,omitempty"`  // the end of what it wrote
	Skipped string    `json:"skipped,omitempty"` // why there was nobody to tell
	Class   string    `json:"error_class,omitempty"`
	Error   string    `json:"error,omitempty"`
}

// Onboarding is how far a cloud knows a certificate.
type Onboarding struct {
	Cloud string `json:"cloud"` // dps, aws
	// State is registered (the cloud knows the certificate that is live), pending (it is being told, or will be), or failed (the
	// last try to tell it).
	State    string `json:"state"`
	Endpoint string `json:"endpoint"`
	// Hub and DeviceID are what the cloud answered last, Registered is when it did, and SHA256 which certificate it knows
	// since then, which in the state pending or failed is another than the live one.
	Hub        string    `json:"hub,omitempty"`
	DeviceID   string    `json:"device_id,omitempty"`
	Registered time.Time `json:"registered,omitzero"`
	SHA256     string    `json:"sha256,omitempty"`
	File       string    `json:"file,omitempty"` // where all that stands for applications
	// Why is why the cloud is told: unknown, changed, renewed or asked.
	Why     string `json:"why,omitempty"`
	Ordered bool   `json:"ordered,omitempty"` // somebody asked for it, and no try since has come to an end
	// HoldsUntil is until when outputs and hooks wait for the cloud at most; zero if they do not.
	HoldsUntil time.Time `json:"holds_until,omitzero"`
	Failures   int       `json:"failures"` // in a row
	LastTry    time.Time `json:"last_try,omitzero"`
	NextTry    time.Time `json:"next_try,omitzero"`
}

// How far a cloud knows a certificate.
const (
	Registered = "registered"
	Pending    = "pending"
)

// Problem is something that a person should know, with what to do about it.
type Problem struct {
	// Code is stable, for machines; docs/operations.md lists them.
	Code string `json:"code"`
	Text string `json:"text"`           // what is wrong, to what, and why
	Hint string `json:"hint,omitempty"` // what to do
	// Since is when it was first noticed; zero when that was not kept.
	Since time.Time `json:"since,omitzero"`
	// Notice is a problem that changes no exit code: the certificate and what belongs to it are well.
	Notice bool `json:"notice,omitempty"`
}

// Exit codes of the status command (docs/operations.md).
const (
	ExitOK          = 0
	ExitExpired     = 3
	ExitOverdue     = 4
	ExitKeyMismatch = 5
	ExitNotYetValid = 6
	ExitMissing     = 7
	ExitDegraded    = 8
)

// ExitCode is the worst of all certificates: expired, key mismatch, missing, not yet valid, overdue, degraded.
func (s Snapshot) ExitCode() int {
	severity := []int{ExitExpired, ExitKeyMismatch, ExitMissing, ExitNotYetValid, ExitOverdue, ExitDegraded}
	found := map[int]bool{}
	degraded := func(problems []Problem) {
		for _, p := range problems {
			found[ExitDegraded] = found[ExitDegraded] || !p.Notice
		}
	}
	degraded(s.Problems)
	for _, c := range s.Certificates {
		switch c.State {
		case Expired:
			found[ExitExpired] = true
		case KeyMismatch:
			found[ExitKeyMismatch] = true
		case Missing:
			found[ExitMissing] = true
		case NotYetValid:
			found[ExitNotYetValid] = true
		case Overdue:
			found[ExitOverdue] = true
		case Unmanaged:
			continue
		case Valid, Due:
		default: // another version's; this one does not know that it is well
			found[ExitDegraded] = true
		}
		degraded(c.Problems)
	}
	for _, code := range severity {
		if found[code] {
			return code
		}
	}
	return ExitOK
}
