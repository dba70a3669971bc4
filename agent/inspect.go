package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/url"
	"slices"
	"time"

	"certagent/agent/config"
	"certagent/est"
	"certagent/renew"
	"certagent/store"
)

// Inspection is what the agent would use for attempts now: credentials and anchors as an attempt reads them, who would log
// in where, and what the clock is judged by. Each file and each server stands in it once.
type Inspection struct {
	Clock       ClockLook
	Credentials []CredentialLook
	Passwords   []PasswordLook
	Anchors     []AnchorLook
	Servers     []ServerLook
	// Cloud is what the device certificate is for; nil where the configuration names no cloud.
	Cloud *CloudLook
	// Live are the live generations by certificate; those of another device, of which this disk is a copy, are not among them.
	Live map[string]*store.Generation
}

// ClockLook is what of the clock is known and what follows from it.
type ClockLook struct {
	Ignored  bool   // [clock] check = false: it is believed whatever it says
	Doubted  string // why it is not credible; "" if it is
	Contrary string // how it contradicts the program's build date although it is believed; "" if it does not
	Synced   bool   // the system says that it is synchronised
	Reached  time.Time
}

// CredentialLook is a certificate that a person provides to log in with, and its key.
type CredentialLook struct {
	Label string // "bootstrap certificate", "EST identity"
	Files config.KeyPair
	Pair  *tls.Certificate // nil where Err says why
	Err   error
}

// PasswordLook is a password file.
type PasswordLook struct {
	File  string
	Empty bool
	// Alone means that no certificate is configured that could log in in its place.
	Alone bool
	Err   error
}

// AnchorLook is a file of trust anchors.
type AnchorLook struct {
	File  string
	Certs []*x509.Certificate
	Err   error
}

// ServerLook is an EST server, and how an attempt there would begin.
type ServerLook struct {
	URL *url.URL
	// Options trust as the first certificate at this server does, and log in as nobody.
	Options est.Options
	// Err is why the server cannot be trusted by anything; nil if it can.
	Err error
	// Fingerprint stands in for the anchors, which Trust then gets; "" normally.
	Fingerprint string
	// Logins are who would log in, in the order of preference. The certificates that are kept are represented by one.
	Logins []LoginLook
	// Password is what the server is told when it asks; nil where none is configured, or PasswordErr says why.
	Password    *est.Login
	PasswordErr error
}

// CloudLook is the cloud that the device certificate is to be known to, and how it would be reached.
type CloudLook struct {
	Name     string // dps
	Endpoint string // as status has it
	// Address is host:port, and Protocols are what is asked for by ALPN (RFC 7301); none mostly.
	Address   string
	Protocols []string
	// Blank means that the configuration has a blank of a tutorial, and nobody is dialled.
	Blank bool
	// Roots verify it; nil means the system's. Err is why they cannot be read.
	Roots *x509.CertPool
	Err   error
}

// LoginLook is a certificate that logs in.
type LoginLook struct {
	Label       string           // as errors name it
	Certificate *tls.Certificate // nil where Why says why it cannot log in
	Why         string
	leaf        *x509.Certificate
}

// Inspect finds out what the agent would use now. It asks nobody and writes nothing. Without a Config only the Clock is looked
// at; the Store may be nil where there is no state directory yet.
func Inspect(o SurveyOptions) Inspection {
	in := Inspection{Live: map[string]*store.Generation{}}
	known := store.Clock{}
	if o.Store != nil {
		known, _ = o.Store.Clock() // what cannot be read is none; the agent says so in its log
	}
	rule := ruleOf(o.Built, known, o.Config != nil && !o.Config.Clock.Check)
	in.Clock = ClockLook{Ignored: rule.Ignore, Contrary: rule.Doubt(o.Now), Synced: systemSynced(o.Now), Reached: reachedOf(rule)}
	_, in.Clock.Doubted = rule.Judge(o.Now)
	if o.Config == nil {
		return in
	}
	for i := range o.Config.Certificates {
		if o.Store == nil {
			break
		}
		id := o.Config.Certificates[i].ID
		stored, err := o.Store.Certificate(id)
		if err != nil {
			continue // the Survey says so
		}
		if g, err := stored.Live(); err == nil && !o.Host.cloned(g) {
			in.Live[id] = g
		}
	}
	for i := range o.Config.Certificates {
		in.credentials(&o.Config.Certificates[i])
	}
	for _, s := range serversOf(o.Config.Certificates, func(id string) *store.Generation { return in.Live[id] }, o.Now) {
		in.Servers = append(in.Servers, in.server(s, o))
	}
	in.Cloud = lookAtCloud(o.Config)
	return in
}

// lookAtCloud finds out how the cloud would be reached; nil where there is none to know the device certificate.
func lookAtCloud(c *config.Config) *CloudLook {
	kept := slices.ContainsFunc(c.Certificates, func(c config.Certificate) bool { return c.Role == config.RoleDevice })
	p := c.Provisioning
	switch to := cloudOf(p); {
	case !kept:
		return nil
	case p.Blank():
		return &CloudLook{Name: p.Source, Endpoint: p.GlobalEndpoint, Blank: true}
	case to == nil:
		return nil
	default:
		look := &CloudLook{Name: to.name()}
		to.aim(p, nil)
		d, _ := to.describe(time.Time{})
		look.Endpoint = d.Endpoint
		look.Address, look.Protocols = to.address()
		look.Roots, look.Err = cloudRoots(p)
		return look
	}
}

// reachedOf is a time that has come by what the clock is judged by; zero where the clock is believed anyway.
func reachedOf(rule renew.Clock) time.Time {
	if rule.Ignore {
		return time.Time{}
	}
	return rule.Reached()
}

// credentials adds what a person provides for c.
func (in *Inspection) credentials(c *config.Certificate) {
	for _, p := range providedBy(c) {
		if slices.ContainsFunc(in.Credentials, func(k CredentialLook) bool { return k.Files == p.Files }) {
			continue
		}
		p.Pair, p.Err = readKeyPair(p.Files)
		in.Credentials = append(in.Credentials, p)
	}
	alone := c.Auth.Bootstrap == nil && c.Auth.Identity == nil
	file := c.Auth.PasswordFile
	switch i := slices.IndexFunc(in.Passwords, func(p PasswordLook) bool { return p.File == file }); {
	case file == "":
	case i >= 0:
		in.Passwords[i].Alone = in.Passwords[i].Alone || alone
	default:
		text, err := readPassword(file)
		in.Passwords = append(in.Passwords, PasswordLook{File: file, Empty: text == "", Alone: alone, Err: err})
	}
	for _, f := range c.Trust.Files {
		if !slices.ContainsFunc(in.Anchors, func(a AnchorLook) bool { return a.File == f }) {
			certs, err := readAnchors([]string{f})
			in.Anchors = append(in.Anchors, AnchorLook{File: f, Certs: certs, Err: err})
		}
	}
}

// providedBy are the pairs that a person provides for c, in the order in which they log in.
func providedBy(c *config.Certificate) (all []CredentialLook) {
	if c.Auth.Identity != nil {
		all = append(all, CredentialLook{Label: "EST identity", Files: *c.Auth.Identity})
	}
	if c.Auth.Bootstrap != nil {
		all = append(all, CredentialLook{Label: "bootstrap certificate", Files: *c.Auth.Bootstrap})
	}
	return all
}

// server finds out how an attempt at s would begin.
func (in *Inspection) server(s server, o SurveyOptions) ServerLook {
	look := ServerLook{URL: s.url}
	stored := store.Trust{}
	if o.Store != nil {
		stored, _ = o.Store.Trust(s.url.String()) // what was fetched once can be fetched again
	}
	by, unmet, _, err := configuredAnchors(&s.cert, stored)
	look.Err = err
	if unmet {
		look.Fingerprint = s.cert.Trust.Fingerprint
	}
	look.Options = est.Options{
		URL: s.url, Anchors: by.anchors, SystemRoots: by.systemRoots, Known: knownOf(stored, by, o.Now), Reached: in.Clock.Reached,
		Timeout: s.cert.Timeout, UserAgent: "certagent/" + o.Version, RedirectHosts: s.cert.RedirectHosts,
	}
	if s.login != nil {
		own := s.login.TLS()
		look.login("certificate "+s.cert.ID, &own, o.Now)
	}
	asked := false
	for i := range o.Config.Certificates {
		c := &o.Config.Certificates[i]
		if c.URL == nil || c.URL.String() != s.url.String() {
			continue
		}
		if g := in.Live[c.ESTIdentity]; c.ESTIdentity != "" && c.ESTIdentity != c.ID && g != nil {
			own := g.TLS()
			look.login("EST identity "+c.ESTIdentity, &own, o.Now)
		}
		for _, p := range providedBy(c) {
			k := in.Credentials[slices.IndexFunc(in.Credentials, func(k CredentialLook) bool { return k.Files == p.Files })]
			if k.Err == nil {
				look.login(k.Label+" "+k.Files.Cert, k.Pair, o.Now)
			}
		}
		if c.Auth.HasPassword && !asked {
			asked = true
			look.Password, look.PasswordErr = readLogin(c.Auth)
		}
	}
	return look
}

// login adds a certificate that logs in, unless it is there already.
func (s *ServerLook) login(label string, cert *tls.Certificate, now time.Time) {
	if slices.ContainsFunc(s.Logins, func(l LoginLook) bool { return l.leaf.Equal(cert.Leaf) }) {
		return
	}
	l := LoginLook{Label: label, Certificate: cert, Why: checkLeaf(cert, now), leaf: cert.Leaf}
	if l.Why == "" && cert.PrivateKey == nil {
		l.Why = "has a key that may not be read: this needs root or the agent's user"
	}
	if l.Why != "" {
		l.Certificate = nil
	}
	s.Logins = append(s.Logins, l)
}

// Trust are the Options with the anchor that Fingerprint names, taken from the server as the agent takes it at the first
// contact (RFC 7030 section 4.1.1) and not kept. Without a Fingerprint they are Options.
func (s *ServerLook) Trust(ctx context.Context) (est.Options, error) {
	o := s.Options
	if s.Fingerprint == "" {
		return o, s.Err
	}
	shown, err := est.Provisional(ctx, o)
	if err != nil {
		return o, err
	}
	if o.Anchors = covered(shown, s.Fingerprint); len(o.Anchors) == 0 {
		return o, mismatch(s.URL, s.Fingerprint, shown)
	}
	return o, nil
}

// Advice is what to do about an error of the agent's or of EST; "" where nobody knows.
func Advice(err error) string { return judge(err).problem.Hint }

// ForClients tells whether a certificate's extended key usage lets it log in as a TLS client (RFC 5280 section 4.2.1.12).
func ForClients(leaf *x509.Certificate) bool { return forClients(leaf) }
