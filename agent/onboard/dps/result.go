package dps

import (
	"bytes"
	"encoding/json"
	"strings"
	"time"
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
func (r Result) Bytes() []byte { return encoded(r) }

func encoded(v any) []byte {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		panic(err) // it is made of strings, numbers and times of this era
	}
	return append(b, '\n')
}

// ParseResult reads a file of [Result.Bytes]. What is damaged, of another version or incomplete is no result: nil. The
// device then registers once more, which does no harm, and believes nothing that it would not have written itself.
func ParseResult(file []byte) *Result {
	var r Result
	if !decoded(file, &r) || r.Version != resultVersion || !isHost(r.Hub) || !isDeviceID(r.DeviceID) || r.SHA256 == "" ||
		r.check() != nil {
		return nil
	}
	return &r
}

// maxFile bounds what is read back: what we write stays far below it.
const maxFile = 64 << 10

func decoded(file []byte, v any) bool {
	if len(file) > maxFile {
		return false
	}
	d := json.NewDecoder(bytes.NewReader(file))
	return d.Decode(v) == nil && !d.More()
}

// isHost reports whether s can be the name of a hub: letters, digits, dashes and dots (RFC 1123 2.1). Applications
// connect to it, so nothing that could be read as a URL, a path or an option may pass for one.
func isHost(s string) bool {
	if len(s) > 253 || !strings.Contains(s, ".") {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' ||
			strings.ContainsFunc(label, func(r rune) bool { return r != '-' && notLetterOrDigit(r) }) {
			return false
		}
	}
	return true
}

func notLetterOrDigit(r rune) bool { return notIdentifier(r) || strings.ContainsRune("-._:", r) }

// isDeviceID reports whether s can be the name of a device at a hub: at most 128 characters of those that the identity
// registry of IoT Hub takes.
func isDeviceID(s string) bool {
	return s != "" && len(s) <= maxIdentifier && !strings.ContainsFunc(s, func(r rune) bool {
		return notLetterOrDigit(r) && !strings.ContainsRune("-.%_*?!(),:=@$'+#", r)
	})
}
