package awsiot

import (
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"certagent/agent/onboard"
)

// The ports on which AWS IoT speaks MQTT with client certificates. At 443 that takes [ALPN].
const (
	PortMQTT  = 8883
	PortHTTPS = 443
)

// ALPN is the protocol to ask for at [PortHTTPS] (AWS IoT developer guide, "Device communication protocols").
const ALPN = "x-amzn-mqtt-ca"

// Registration says which certificate is made known, where, and under which name.
type Registration struct {
	Endpoint string `json:"endpoint"`  // complete host name, as "aws iot describe-endpoint" says it
	Port     int    `json:"port"`      // PortMQTT or PortHTTPS: two ways to the same place
	ClientID string `json:"client_id"` // of MQTT; by convention the common name, which is the thing's name
	SHA256   string `json:"sha256"`    // of the certificate, lower-case hexadecimal; "" where there is none
}

// sameDevice reports whether a and b speak of one device at one endpoint.
func (a Registration) sameDevice(b Registration) bool {
	return strings.EqualFold(a.Endpoint, b.Endpoint) && a.ClientID == b.ClientID
}

// same reports whether a and b are the same device with the same certificate on the same way.
func (a Registration) same(b Registration) bool {
	return a.sameDevice(b) && a.SHA256 == b.SHA256 && a.Port == b.Port
}

// maxClientID is how many bytes a client id may have at AWS IoT (service quotas).
const maxClientID = 128

// check says what cannot be used.
func (a Registration) check() error {
	switch {
	case !onboard.IsHost(a.Endpoint):
		return fmt.Errorf("the endpoint %s is no complete host name", onboard.Quote(a.Endpoint))
	case a.Port < 1 || a.Port > 65535:
		return fmt.Errorf("there is no port %d", a.Port)
	case a.ClientID == "":
		return errors.New("the client id is empty: the certificate has no common name, and client_id is not set")
	case len(a.ClientID) > maxClientID:
		return fmt.Errorf("the client id has %d bytes; AWS IoT takes at most %d", len(a.ClientID), maxClientID)
	case !utf8.ValidString(a.ClientID) || strings.ContainsFunc(a.ClientID, unicode.IsControl):
		return fmt.Errorf("the client id %s has a character that MQTT does not take", onboard.Quote(a.ClientID))
	}
	return nil
}

// Due says why want is to be made known, given the last result (nil where there is none) and the state. Another port is no
// reason.
func Due(want Registration, result *Result, s State) onboard.Reason {
	if result == nil {
		return onboard.Due(want.SHA256, nil, s.Again)
	}
	return onboard.Due(want.SHA256, &onboard.Known{SameDevice: want.sameDevice(result.Registration), SHA256: result.SHA256}, s.Again)
}

// AppendIssuer returns chain, a device certificate and those that came with it, with the CA that issued it behind it
// where that is missing and among cas. AWS finds the account by that CA where there is no SNI, and asks for no more than
// these two. chain is not changed.
func AppendIssuer(chain, cas []*x509.Certificate) []*x509.Certificate {
	if len(chain) != 1 || chain[0].CheckSignatureFrom(chain[0]) == nil {
		return chain
	}
	for _, ca := range cas {
		if chain[0].CheckSignatureFrom(ca) == nil {
			return []*x509.Certificate{chain[0], ca}
		}
	}
	return chain
}
