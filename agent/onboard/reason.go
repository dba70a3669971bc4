package onboard

// Reason is why a certificate is to be made known; "" where it is not.
type Reason string

// The reasons, the first that holds.
const (
	Unknown Reason = "unknown" // there is no result: never made known, or its file is gone or broken
	Changed Reason = "changed" // the result is about another device, or another place
	Renewed Reason = "renewed" // the certificate is not the one of the result
	Asked   Reason = "asked"   // a person wants it done again
)

// Known is what a stored result says of what is to be made known now.
type Known struct {
	SameDevice bool   // it is about the same device at the same place
	SHA256     string // the thumbprint of its certificate
}

// Due says why the certificate with that thumbprint ("" where there is none) is to be made known, given the last result,
// nil where there is none, and whether a person wants it done again. A boot is no reason, nor is time: it knows neither.
func Due(thumbprint string, last *Known, again bool) Reason {
	switch {
	case thumbprint == "":
		return ""
	case last == nil:
		return Unknown
	case !last.SameDevice:
		return Changed
	case last.SHA256 != thumbprint:
		return Renewed
	case again:
		return Asked
	}
	return ""
}
