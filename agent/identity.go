package agent

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"certagent/agent/config"
)

// identityName is a kind of login, as it stands in logs, in retry.json and in status.
type identityName string

// The identities in the order in which they are tried: what proves most about the device comes first.
const (
	identitySelf      identityName = "certificate"           // the certificate being renewed
	identityEST       identityName = "est-identity"          // the certificate kept only to log in
	identityBootstrap identityName = "bootstrap-certificate" // what the device was born with
	identityPassword  identityName = "password"              // user name and password without a certificate
	identityNone      identityName = "none"                  // nothing is configured: the server must do without
)

// identity is one way to log in at an attempt. Either it can be used, or why says why not.
type identity struct {
	name identityName
	// label names it in errors: "certificate mqtt", "bootstrap certificate /etc/…/idevid.pem".
	label string
	cert  *tls.Certificate
	// why is empty for an identity that can be used.
	why string
	// problem is set where why is something that a person must mend; an identity that simply does not exist yet has none.
	problem *Problem
}

func (i identity) usable() bool { return i.why == "" }

// chooseIdentity picks the identity for the next attempt, from those in order, by how often the server has refused each
// since the last success. An identity refused twice is passed over, the next is tried once, and so on; when all have been
// refused they alternate. ok is false when none can be used.
func chooseIdentity(order []identity, refusals map[string]int) (chosen identity, ok bool) {
	first := true
	best := 0
	for _, i := range order {
		if !i.usable() {
			continue
		}
		n := refusals[string(i.name)]
		if first {
			// Two refusals before the first is passed over: one may be the server's mistake.
			n = max(0, n-1)
		}
		if first || n < best {
			chosen, best, ok = i, n, true
		}
		first = false
	}
	return chosen, ok
}

// checkLeaf says why a certificate cannot log in now: "" if it can. Checked before dialling, since under TLS 1.3 a server's
// refusal shows as anything.
func checkLeaf(cert *tls.Certificate, now time.Time) string {
	leaf := cert.Leaf
	switch {
	case now.Before(leaf.NotBefore):
		return fmt.Sprintf("is not valid before %s", leaf.NotBefore.UTC().Format(time.RFC3339))
	case !now.Before(leaf.NotAfter):
		return fmt.Sprintf("expired at %s", leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	return ""
}

// forClients tells whether a certificate's extended key usage lets it log in as a TLS client (RFC 5280 section 4.2.1.12).
func forClients(leaf *x509.Certificate) bool {
	return len(leaf.ExtKeyUsage)+len(leaf.UnknownExtKeyUsage) == 0 ||
		slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageClientAuth) || slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageAny)
}

// identify reads the credentials, in the order of the design, and chooses one. Everything is read at each attempt: a
// credential that a person repairs works at the next try.
func (a *Agent) identify(o order, loginErr error, e *event) (identity, error) {
	order := a.identities(o, loginErr)
	for _, i := range order {
		if i.problem != nil {
			e.Problems = append(e.Problems, *i.problem)
		}
	}
	id, ok := chooseIdentity(order, o.refusals)
	if !ok {
		return identity{}, noIdentity(order)
	}
	return id, nil
}

// identities lists what may log in for o, in order, with what keeps each from being used.
func (a *Agent) identities(o order, loginErr error) []identity {
	now := a.o.Now()
	c := o.cert
	var order []identity
	self := identity{name: identitySelf, label: "certificate " + c.ID}
	switch {
	case o.cloned != nil:
		self.why = "was issued to another device, of which this disk is a copy"
	case o.live == nil:
		self.why = "there is none"
	case c.Role == config.RoleEdgeCA || c.CA:
		self.why = "is a CA certificate, which is no login"
	default:
		cert := o.live.TLS()
		self.cert, self.why = &cert, checkLeaf(&cert, now)
	}
	var byEST []identity
	if c.ESTIdentity != "" && c.ESTIdentity != c.ID {
		i := identity{name: identityEST, label: "EST identity " + c.ESTIdentity, why: o.estWhy}
		if o.estLogin != nil {
			cert := o.estLogin.TLS()
			i.cert, i.why = &cert, checkLeaf(&cert, now)
		}
		byEST = append(byEST, i)
	}
	if c.Auth.Identity != nil && c.Role != config.RoleESTIdentity {
		byEST = append(byEST, fromFiles(identityEST, "EST identity", "est-identity", *c.Auth.Identity, now))
	}
	forServers := self.usable() && !forClients(self.cert.Leaf)
	switch {
	case forServers:
		order = byEST
	case c.RenewWith == "est":
		order = append(byEST, self)
	default:
		order = append([]identity{self}, byEST...)
	}
	if c.Auth.Bootstrap != nil {
		order = append(order, fromFiles(identityBootstrap, "bootstrap certificate", "bootstrap", *c.Auth.Bootstrap, now))
	}
	switch {
	case c.Auth.HasPassword:
		order = append(order, passwordIdentity(c.Auth.Username, loginErr))
	case c.Auth.Bootstrap == nil && c.Auth.Identity == nil && c.ESTIdentity == "":
		order = append(order, identity{name: identityNone, label: "nobody"})
	}
	if forServers {
		order = append(order, self) // a server may yet take it, but most refuse: it comes last
	}
	return order
}

// passwordIdentity is the login by password alone; err is why the password cannot be read. A password that a person took
// away after it had served is no trouble as long as a certificate logs in.
func passwordIdentity(user string, err error) identity {
	i := identity{name: identityPassword, label: fmt.Sprintf("user %q", user)}
	if err != nil {
		i.why = fmt.Sprintf("the password cannot be read: %v", err)
		i.problem = &Problem{
			Code: "credential-unreadable", Text: fmt.Sprintf("read the EST password: %v", err), Notice: true,
			Hint: "put the password there (password_file), readable for the agent and for nobody else, unless it has served its time",
		}
	}
	return i
}

// fromFiles reads an identity that a person provides.
func fromFiles(name identityName, label, code string, files config.KeyPair, now time.Time) identity {
	i := identity{name: name, label: label + " " + files.Cert}
	cert, err := readKeyPair(files)
	if err != nil {
		i.why = err.Error()
		i.problem = &Problem{
			Code: code + "-unreadable", Text: fmt.Sprintf("the %s cannot be used: %v", label, err),
			Hint: "put certificate and matching key there, readable for the agent",
		}
		return i
	}
	i.cert = cert
	if i.why = checkLeaf(cert, now); i.why != "" {
		state := "-expired"
		if now.Before(cert.Leaf.NotBefore) {
			state = "-not-yet-valid"
		}
		i.problem = &Problem{
			Code: code + state, Text: fmt.Sprintf("the %s %s", i.label, i.why),
			Hint: "the device cannot come back by itself once its certificates have expired: provide a new " + label,
		}
	}
	return i
}

// noIdentity says why nothing can log in, naming each identity and what is wrong with it.
func noIdentity(order []identity) error {
	var whys []string
	for _, i := range order {
		whys = append(whys, i.label+": "+i.why)
	}
	return &failure{
		class:   "no-identity",
		problem: Problem{Code: "no-identity", Hint: "provide a bootstrap certificate or a password that works, in [cert_issuance.est.auth]"},
		err:     errors.New("nothing can log in to EST: " + strings.Join(whys, "; ")),
	}
}
