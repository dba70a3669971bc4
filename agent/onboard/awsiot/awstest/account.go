package awstest

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// Status is that of a certificate, of a device or of a CA.
type Status string

// The statuses.
const (
	Active            Status = "ACTIVE"
	Inactive          Status = "INACTIVE"
	PendingActivation Status = "PENDING_ACTIVATION"
	Revoked           Status = "REVOKED"
)

// Certificate is what the account has of a device certificate.
type Certificate struct {
	ID         string // SHA-256 of the certificate, lower-case hexadecimal
	CAID       string // of the CA that issued it
	CommonName string
	Status     Status
	Registered int    // how often it was registered; more than once is a mistake
	Thing      string // that it is attached to; "" where provisioning failed, or has not happened
	Policy     bool   // one is attached
	Failure    string // why RegisterThing failed
	Dropped    int    // its connections that were dropped
}

// Thing is what the account has of a device.
type Thing struct {
	Name       string
	Attributes map[string]string
	Principals []string // ids of its certificates, in the order in which they were attached
}

// CA is a registered CA certificate.
type CA struct {
	ID               string
	Status           Status
	AutoRegistration bool
	Config           RegistrationConfig // empty: no template, as JITR has it
}

// ca is a CA with what its connections are checked by.
type ca struct {
	CA
	cert     *x509.Certificate
	template *template
}

// account is the part of an AWS account that concerns IoT, in one region.
type account struct {
	code  string // the registration code
	drops int    // connections dropped while a certificate is provisioned, beyond the first
	now   func() time.Time

	mu        sync.Mutex // guards what follows
	cas       map[string]*ca
	certs     map[string]*Certificate
	things    map[string]*Thing
	throttled bool
}

func newAccount(drops int, now func() time.Time) *account {
	sum := sha256.Sum256([]byte(rand.Text()))
	return &account{
		code: hex.EncodeToString(sum[:]), drops: drops, now: now,
		cas: map[string]*ca{}, certs: map[string]*Certificate{}, things: map[string]*Thing{},
	}
}

func fingerprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return hex.EncodeToString(sum[:])
}

func parsePEM(what string, data []byte) (*x509.Certificate, error) {
	block, rest := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" || strings.TrimSpace(string(rest)) != "" {
		return nil, fmt.Errorf("the %s is not one certificate in PEM", what)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read the %s: %w", what, err)
	}
	return cert, nil
}

// RegistrationCode is the common name of verification certificates, as "aws iot get-registration-code" says it.
func (a *account) RegistrationCode() string { return a.code }

// RegisterCA registers a CA certificate, as "aws iot register-ca-certificate" does, INACTIVE, and returns its id.
// verification is a certificate that the CA signed for the registration code; nil registers it in the mode SNI_ONLY.
func (a *account) RegisterCA(certificate, verification []byte) (id string, err error) {
	cert, err := parsePEM("CA certificate", certificate)
	if err != nil {
		return "", err
	}
	if !cert.BasicConstraintsValid || !cert.IsCA {
		return "", errors.New("InvalidRequestException: the CA certificate is not valid: it has no basicConstraints CA:TRUE")
	}
	if err := kind(cert); err != nil {
		return "", fmt.Errorf("InvalidRequestException: the CA certificate: %w", err)
	}
	if verification != nil {
		v, err := parsePEM("verification certificate", verification)
		if err != nil {
			return "", err
		}
		if v.Subject.CommonName != a.code {
			return "", fmt.Errorf("CertificateValidationException: the verification certificate is for %q, not for the "+
				"registration code", v.Subject.CommonName)
		}
		if err := v.CheckSignatureFrom(cert); err != nil {
			return "", fmt.Errorf("CertificateValidationException: the CA did not sign the verification certificate: %w", err)
		}
		if now := a.now(); now.Before(v.NotBefore) || now.After(v.NotAfter) {
			return "", errors.New("CertificateValidationException: the verification certificate is not valid now")
		}
	}
	id = fingerprint(cert)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.cas[id] != nil {
		return "", errors.New("ResourceAlreadyExistsException: the CA certificate is registered already")
	}
	a.cas[id] = &ca{CA: CA{ID: id, Status: Inactive}, cert: cert}
	return id, nil
}

// UpdateCA changes a registered CA, as "aws iot update-ca-certificate" does. An empty status and nil change nothing.
func (a *account) UpdateCA(id string, status Status, autoRegistration *bool, config *RegistrationConfig) error {
	var t *template
	if config != nil {
		var err error
		if t, err = parseTemplate(*config); err != nil {
			return fmt.Errorf("InvalidRequestException: %w", err)
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.cas[id]
	if c == nil {
		return fmt.Errorf("ResourceNotFoundException: there is no CA certificate %s", id)
	}
	switch status {
	case Active, Inactive:
		c.Status = status
	case "":
	default:
		return fmt.Errorf("InvalidRequestException: a CA certificate is not %s", status)
	}
	if autoRegistration != nil {
		c.AutoRegistration = *autoRegistration
	}
	if config != nil {
		c.Config, c.template = *config, t
	}
	return nil
}

// Provision registers a CA with all that just-in-time provisioning takes: ACTIVE, auto-registration, config. Without a
// config it is just-in-time registration.
func (a *account) Provision(certificate []byte, config *RegistrationConfig) (id string, err error) {
	if id, err = a.RegisterCA(certificate, nil); err != nil {
		return "", err
	}
	yes := true
	return id, a.UpdateCA(id, Active, &yes, config)
}

// CAs are the registered CA certificates, by id.
func (a *account) CAs() (list []CA) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(a.cas)) {
		list = append(list, a.cas[id].CA)
	}
	return list
}

// Certificate is that of an id; zero where there is none.
func (a *account) Certificate(id string) Certificate {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.certs[id]; c != nil {
		return *c
	}
	return Certificate{}
}

// SetStatus changes a device certificate, as "aws iot update-certificate" does. Activating one that is pending is one half
// of what a rule does in just-in-time registration; AttachPolicy is the other.
func (a *account) SetStatus(id string, status Status) error {
	return a.change(id, func(c *Certificate) { c.Status = status })
}

// AttachPolicy attaches a policy to a device certificate, as "aws iot attach-policy" does.
func (a *account) AttachPolicy(id string) error {
	return a.change(id, func(c *Certificate) { c.Policy = true })
}

func (a *account) change(id string, change func(*Certificate)) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.certs[id]
	if c == nil {
		return fmt.Errorf("ResourceNotFoundException: there is no certificate %s", id)
	}
	change(c)
	return nil
}

// Thing is that of a name; zero where there is none.
func (a *account) Thing(name string) Thing {
	a.mu.Lock()
	defer a.mu.Unlock()
	t := a.things[name]
	if t == nil {
		return Thing{}
	}
	return Thing{Name: t.Name, Attributes: maps.Clone(t.Attributes), Principals: slices.Clone(t.Principals)}
}

// Throttle has RegisterThing wait from now on, or wait no longer, as where an account's quota for it is used up. Until then
// certificates that are to be provisioned stay PENDING_ACTIVATION, and the connections that they make are dropped.
func (a *account) Throttle(on bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.throttled = on
}

// authorities are the CAs whose certificates may log in.
func (a *account) authorities() *x509.CertPool {
	a.mu.Lock()
	defer a.mu.Unlock()
	pool := x509.NewCertPool()
	for _, c := range a.cas {
		if c.Status == Active {
			pool.AddCert(c.cert)
		}
	}
	return pool
}

// verdict is what becomes of a connection.
type verdict struct {
	admitted bool
	policy   bool
	event    *Registration // of a certificate that was not known before
}

// Registration is the message on $aws/events/certificates/registered/CAID.
type Registration struct {
	CertificateID                    string    `json:"certificateId"`
	CACertificateID                  string    `json:"caCertificateId"`
	CertificateStatus                Status    `json:"certificateStatus"`
	CertificateRegistrationTimestamp time.Time `json:"certificateRegistrationTimestamp"`
}

// meet is a connection with a certificate that verified: leaf, issued by one that is registered.
func (a *account) meet(leaf, issuer *x509.Certificate) verdict {
	a.mu.Lock()
	defer a.mu.Unlock()
	id := fingerprint(leaf)
	c := a.certs[id]
	by := a.cas[fingerprint(issuer)]
	if c == nil {
		if by == nil || !by.AutoRegistration {
			return verdict{}
		}
		c = &Certificate{ID: id, CAID: by.ID, CommonName: leaf.Subject.CommonName, Status: PendingActivation, Registered: 1,
			Dropped: 1}
		a.certs[id] = c
		a.provision(c, by, leaf)
		return verdict{event: &Registration{id, by.ID, PendingActivation, a.now()}}
	}
	a.provision(c, by, leaf) // it may have been throttled until now
	if c.Status == Active {
		return verdict{admitted: true, policy: c.Policy}
	}
	c.Dropped++
	a.provision(c, by, leaf)
	return verdict{}
}

// provision is RegisterThing, for a certificate that waits for it and whose turn has come. a.mu is held.
func (a *account) provision(c *Certificate, by *ca, leaf *x509.Certificate) {
	if c.Status != PendingActivation || c.Failure != "" || c.Dropped <= a.drops || a.throttled ||
		by == nil || by.template == nil { // without a template it is just-in-time registration: somebody else does it
		return
	}
	t := by.template
	values, err := t.values(leaf, c.ID)
	if err != nil {
		c.Failure = "InvalidRequestException: " + err.Error()
		return
	}
	declared := t.resource("Thing")
	attributes, err := declared.attributes(values)
	if err != nil {
		c.Failure = "InvalidRequestException: " + err.Error()
		return
	}
	name := text(declared.Properties["ThingName"], values)
	thing := a.things[name]
	switch {
	case !thingName.MatchString(name):
		c.Failure = fmt.Sprintf("InvalidRequestException: a thing cannot be called %q", name)
		return
	case thing != nil && (len(declared.OverrideSettings) == 0 ||
		slices.Contains(slices.Collect(maps.Values(declared.OverrideSettings)), "FAIL")):
		c.Failure = "ResourceConflictsException: thing " + name + " exists"
		return
	case thing == nil:
		thing = &Thing{Name: name, Attributes: map[string]string{}}
		a.things[name] = thing
	}
	action := declared.OverrideSettings["AttributePayload"]
	if action == "REPLACE" {
		clear(thing.Attributes)
	}
	if action != "DO_NOTHING" || len(thing.Principals) == 0 {
		maps.Copy(thing.Attributes, attributes)
	}
	thing.Principals = append(thing.Principals, c.ID)
	c.Thing, c.Policy = name, t.resource("Policy") != nil
	if c.Status = Active; t.resource("Certificate").Properties["Status"] != nil {
		c.Status = Status(text(t.resource("Certificate").Properties["Status"], values))
	}
}
