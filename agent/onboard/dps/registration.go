package dps

import (
	"crypto/sha1"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"certagent/agent/onboard"
)

// Registration says what is registered, and where. Two are of one device if they differ in SHA256 alone.
type Registration struct {
	Endpoint       string `json:"endpoint"`        // https://host[:port], without a path
	IDScope        string `json:"id_scope"`        // of the DPS instance
	RegistrationID string `json:"registration_id"` // the common name of the certificate
	SHA256         string `json:"sha256"`          // of the certificate, lower-case hexadecimal; "" where there is none
}

// sameDevice reports whether a and b speak of one device at one service. Registration ids do not tell upper from lower
// case.
func (a Registration) sameDevice(b Registration) bool {
	return a.Endpoint == b.Endpoint && a.IDScope == b.IDScope && strings.EqualFold(a.RegistrationID, b.RegistrationID)
}

// same reports whether a and b are the same device with the same certificate.
func (a Registration) same(b Registration) bool { return a.sameDevice(b) && a.SHA256 == b.SHA256 }

// place is the endpoint as it may stand in an error: what is no endpoint may hold a login.
func (a Registration) place() string {
	u, err := url.Parse(a.Endpoint)
	if err != nil {
		return "an endpoint that is no URL"
	}
	return onboard.Printable(u.Scheme + "://" + u.Host)
}

// check says what no service would take, else where the endpoint is.
func (a Registration) check() (*url.URL, error) {
	u, err := url.Parse(a.Endpoint)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || strings.Trim(u.Path, "/") != "" ||
		u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("the endpoint must be https://host[:port], without a path") // not quoted: it may hold a login
	}
	if !isSegment(a.IDScope) {
		return nil, fmt.Errorf("%s is no ID scope: it is letters and digits, as in 0ne00A1B2C3", onboard.Quote(a.IDScope))
	}
	return u, CheckRegistrationID(a.RegistrationID)
}

// maxIdentifier is how many characters a registration id may have, and, as we bound it, any other identifier.
const maxIdentifier = 128

// CheckRegistrationID says what is wrong with a registration id: it has 1 to 128 of the letters and digits of ASCII and
// "-._:", and ends with a letter, a digit or a dash (Azure DPS, terminology). It must also be the certificate's common
// name, which RFC 5280 (appendix A.1, ub-common-name) holds to 64 characters.
func CheckRegistrationID(id string) error {
	switch {
	case id == "":
		return errors.New("the registration id is empty")
	case len(id) > maxIdentifier:
		return fmt.Errorf("the registration id has %d characters; DPS takes at most %d", len(id), maxIdentifier)
	case strings.ContainsFunc(id, notIdentifier):
		return fmt.Errorf("the registration id %s has a character that is no letter, digit, dash, dot, underscore or colon",
			onboard.Quote(id))
	case strings.ContainsRune("._:", rune(id[len(id)-1])):
		return fmt.Errorf("the registration id %s ends with %q; DPS wants a letter, a digit or a dash there", onboard.Quote(id),
			id[len(id)-1])
	}
	return nil
}

// notIdentifier reports whether a character has no place in a registration id, nor in what DPS calls an operation.
func notIdentifier(r rune) bool {
	letter := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
	return !letter && !strings.ContainsRune("-._:", r)
}

// sha1Of is how the portal shows a thumbprint, too.
func sha1Of(leaf *x509.Certificate) string {
	sum := sha1.Sum(leaf.Raw)
	return hex.EncodeToString(sum[:])
}

// fits says why the certificate leaf cannot be registered as want at now, before anybody dials.
func (want Registration) fits(leaf *x509.Certificate, now time.Time) *Error {
	if !strings.EqualFold(leaf.Subject.CommonName, want.RegistrationID) {
		return &Error{
			Code: CodeRegistrationID, Class: ErrDevice,
			Err: fmt.Errorf("the certificate's common name is %s: DPS knows a device by that, and takes no other "+
				"registration id", onboard.Quote(leaf.Subject.CommonName)),
			Hint: "have a certificate issued for the registration id (certagent does so by itself where the EST " +
				"server lets it), or set registration_id to the common name",
		}
	}
	if err := onboard.Valid(leaf, now); err != nil {
		return &Error{
			Code: CodeCertificate, Class: ErrDevice, Err: err, Hint: "it is registered as soon as a valid one was issued",
		}
	}
	return nil
}

// Due says why want is to be registered, given the last result (nil where there is none) and the state.
func Due(want Registration, result *Result, s State) onboard.Reason {
	if result == nil {
		return onboard.Due(want.SHA256, nil, s.Again)
	}
	return onboard.Due(want.SHA256, &onboard.Known{SameDevice: want.sameDevice(result.Registration), SHA256: result.SHA256}, s.Again)
}
