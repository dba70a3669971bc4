package awsiot

import (
	"encoding/hex"
	"time"

	"certagent/agent/onboard"
)

// resultVersion is the version of the result's form. It is raised when a field changes its meaning or goes away, not
// when one is added.
const resultVersion = 1

// Result is that AWS IoT took a certificate. Its file is for applications and for everybody to read
// (docs/onboarding.md describes it); nothing in it is secret.
type Result struct {
	Version int `json:"version"`
	Registration
	// Connected is when AWS IoT said yes, and Began when this certificate was first shown to it, both by this device's
	// clock. Tries is how many connections that took; 2 is usual.
	Connected time.Time `json:"connected"`
	Began     time.Time `json:"began"`
	Tries     int       `json:"tries"`
}

// Bytes is the file of r: indented JSON with a newline at its end.
func (r Result) Bytes() []byte { return onboard.Encode(r) }

// ParseResult reads a file of [Result.Bytes]. What is damaged, of another version or incomplete is no result: nil. The
// device then connects once more, which does no harm.
func ParseResult(file []byte) *Result {
	var r Result
	if !onboard.Decode(file, &r) || r.Version != resultVersion || r.check() != nil || !isThumbprint(r.SHA256) || r.Tries < 1 ||
		r.Connected.IsZero() {
		return nil
	}
	return &r
}

func isThumbprint(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == 32 && hex.EncodeToString(b) == s
}
