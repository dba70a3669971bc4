package dps

import (
	"strings"
	"time"

	"certagent/agent/onboard"
)

// resultVersion is the version of the result's form. It is raised when a field changes its meaning or goes away, not
// when one is added.
const resultVersion = 1

// Result is what DPS answered at the end of a registration: which hub knows the device, and by which certificate. Its
// file is for applications and for everybody to read (docs/onboarding.md describes it); nothing in it is secret. What a
// webhook answered beside it (payload) is not kept, since that may be.
type Result struct {
	Version int `json:"version"`
	// Hub is the host name of the IoT hub, DeviceID the device's name there, which an individual enrolment may have
	// chosen.
	Hub      string `json:"hub"`
	DeviceID string `json:"device_id"`
	// Substatus is how the hub came by the device: initialAssignment, deviceDataMigrated, deviceDataReset,
	// reprovisionedToInitialAssignment, or what DPS has invented since; "" where it did not say.
	Substatus string `json:"substatus,omitempty"`

	Registration        // of which certificate, where
	SHA1         string `json:"sha1"` // of the certificate, as the portal shows it

	// Registered is when the answer came, by this device's clock; Created and Updated are by the service's.
	Registered time.Time `json:"registered"`
	Created    time.Time `json:"created,omitzero"`
	Updated    time.Time `json:"updated,omitzero"`
}

// Bytes is the file of r: indented JSON with a newline at its end.
func (r Result) Bytes() []byte { return onboard.Encode(r) }

// ParseResult reads a file of [Result.Bytes]. What is damaged, of another version or incomplete is no result: nil. The
// device then registers once more, which does no harm, and believes nothing that it would not have written itself.
func ParseResult(file []byte) *Result {
	var r Result
	if !onboard.Decode(file, &r) || r.Version != resultVersion || !onboard.IsHost(r.Hub) || !isDeviceID(r.DeviceID) || r.SHA256 == "" {
		return nil
	}
	if _, err := r.check(); err != nil {
		return nil
	}
	return &r
}

func notLetterOrDigit(r rune) bool { return notIdentifier(r) || strings.ContainsRune("-._:", r) }

// isDeviceID reports whether s can be the name of a device at a hub: at most 128 characters of those that the identity
// registry of IoT Hub takes.
func isDeviceID(s string) bool {
	return s != "" && len(s) <= maxIdentifier && !strings.ContainsFunc(s, func(r rune) bool {
		return notLetterOrDigit(r) && !strings.ContainsRune("-.%_*?!(),:=@$'+#", r)
	})
}
