package agent

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"certagent/agent/config"
	"certagent/est"
	"certagent/store"
	"certagent/store/keys"
)

// Enroller is what an attempt needs of an EST client; [est.Client] is one. It serves one attempt and is closed after it.
type Enroller interface {
	Enroll(ctx context.Context, csr []byte, want est.Want) (*est.Issued, error)
	Reenroll(ctx context.Context, csr []byte, want est.Want) (*est.Issued, error)
	Attributes(ctx context.Context) (*est.Attributes, error)
	CACerts(ctx context.Context) ([]*x509.Certificate, error)
	ServerKeygen(ctx context.Context, csr []byte, want est.Want, unwrap crypto.Decrypter) (*est.Issued, error)
	Known() est.Known
	Close()
}

// order is what the keeper asks an attempt to do. Nothing in it changes while the attempt runs.
type order struct {
	cert     *config.Certificate
	stored   *store.Certificate
	live     *store.Generation // nil while there is none that verifies
	estLogin *store.Generation // the EST identity's live generation, nil while there is none
	estWhy   string            // why there is none
	reason   reason
	refusals map[string]int
	// lastClass is the class of the last failure, if that was the last thing that happened.
	lastClass string
	early     bool // before the threshold, for the sake of the spread
	// asBefore: a changed request was not granted; renew what there is, so that something goes on living.
	asBefore bool
}

// Operations, as RFC 7030 section 3.2.2 names them.
const (
	opEnroll   = "simpleenroll"
	opReenroll = "simplereenroll"
)

// run makes one attempt, from the choice of an identity to the commit. It logs nothing and fills in e as it learns things.
// What it sends is durable before it is sent, so that it may be ended at any point.
func (a *Agent) run(ctx context.Context, o order, e *event) (*store.Generation, error) {
	c := o.cert
	want, err := a.want(o, e)
	if err != nil {
		return nil, err
	}
	anchors, err := readAnchors(c.Trust.Files)
	if err != nil {
		return nil, configurationFailure("anchors-unreadable", fmt.Errorf("read the trust anchors: %w", err),
			"put the CA certificate of the EST server there (trusted_certs), readable for the agent")
	}
	login, loginErr := readLogin(c.Auth)
	id, err := a.identify(o, loginErr, e)
	if err != nil {
		return nil, err
	}
	e.Identity = string(id.name)

	op, server := opEnroll, c.URL
	if id.name == identitySelf {
		if c.RenewURL != nil {
			server = c.RenewURL
		}
		if !driftOf(o.live.Meta.Request, want.recorded).name {
			op = opReenroll
			want.template = renewalTemplate(o.live.Leaf, want.template)
		}
	}
	e.Operation, e.Server = op, server.String()

	p, err := a.pend(ctx, o, store.Pending{
		Operation: op, Server: server.String(), Request: want.recorded, Identity: string(id.name), Reason: string(o.reason),
	}, want.template)
	if err != nil {
		return nil, err
	}

	stored, err := a.o.Store.Trust(server.String())
	if err != nil {
		// What was fetched once can be fetched again; the attempt shows whether it can.
		e.Warnings = append(e.Warnings, fmt.Sprintf("stored CA certificates of %s: %v", server.Host, err))
	}
	client, err := a.o.Dial(est.Options{
		URL: server, Anchors: anchors, SystemRoots: c.Trust.SystemRoots, Known: est.Known{CAs: stored},
		Certificate: id.cert, Identity: id.label, Login: login,
		Now: a.o.Now, Timeout: c.Timeout, UserAgent: "certagent/" + a.o.Version,
	})
	if err != nil {
		return nil, configurationFailure("est-client", err, "")
	}
	defer client.Close()
	do := client.Enroll
	if op == opReenroll {
		do = client.Reenroll
	}
	issued, err := do(ctx, p.CSR, est.Want{CA: c.CA})
	if err != nil {
		if errors.Is(err, est.ErrPending) && p.Accepted.IsZero() {
			p.Accepted = a.o.Now()
			if _, err2 := o.stored.SavePending(p.Key, *p); err2 != nil {
				return nil, storeFailure("record the pending request", err2)
			}
		}
		return nil, err
	}
	a.clock.issued(issued.Leaf.NotBefore)
	e.PasswordSent, e.Connections = issued.PasswordSent, issued.Connections
	e.Warnings = append(e.Warnings, issued.Warnings...)

	perm, problem := keyPerm(c)
	if problem != nil {
		e.Problems = append(e.Problems, *problem)
	}
	g, err := o.stored.Commit(store.Issue{
		Pending: p, Leaf: issued.Leaf, Chain: issued.Chain, CAs: issued.CAs, KeyPerm: perm,
		Meta: store.Meta{
			Issued: a.o.Now(), Operation: op, Identity: string(id.name), Server: server.String(), Reason: string(o.reason),
			First:   o.live == nil || id.name == identityBootstrap || id.name == identityPassword || id.name == identityNone,
			Request: &want.recorded, MachineID: a.o.Host.MachineID, Warnings: issued.Warnings, Version: a.o.Version,
		},
	})
	if err != nil {
		// The last step of a commit may fail after the one that counts: what is live decides.
		live, err2 := o.stored.Live()
		if err2 != nil || !bytes.Equal(live.Leaf.Raw, issued.Leaf.Raw) {
			return nil, storeFailure("store the issued certificate", err)
		}
		e.Warnings = append(e.Warnings, fmt.Sprintf("the certificate is live, but: %v", err))
		g = live
	}
	if known := client.Known(); !known.Fetched.IsZero() {
		if err := a.o.Store.SaveTrust(server.String(), known.CAs); err != nil {
			// The certificate is committed; the next attempt fetches them again.
			e.Warnings = append(e.Warnings, fmt.Sprintf("store CA certificates: %v", err))
		}
	}
	return g, nil
}

// want is what to ask for, and notes in e whether that is a change of what there is.
func (a *Agent) want(o order, e *event) (desired, error) {
	want, err := desire(o.cert, a.o.Host)
	switch {
	case o.live == nil && err != nil:
		return want, configurationFailure("request", err, "make it readable for the agent, or write common_name into the configuration")
	case err != nil:
		// A renewal needs no configured name: the certificate has one.
		e.Problems = append(e.Problems, Problem{
			Code: "request", Text: err.Error(), Hint: "make it readable for the agent, or write common_name into the configuration",
		})
		return asBefore(o.cert, o.live), nil
	case o.live == nil:
		return want, nil
	}
	if e.changes = driftOf(o.live.Meta.Request, want.recorded).any(); e.changes && o.asBefore {
		e.changes = false
		return asBefore(o.cert, o.live), nil
	}
	return want, nil
}

// renewalTemplate is the request for a renewal: the name is that of the certificate being renewed, byte for byte (RFC 7030
// section 4.2.2); usages are what the configuration says now.
func renewalTemplate(leaf *x509.Certificate, configured est.Template) est.Template {
	t := est.RenewalTemplate(leaf)
	t.Usages, t.CA = configured.Usages, configured.CA
	return t
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
	var err error
	for _, i := range order {
		err = errors.Join(err, fmt.Errorf("%s: %s", i.label, i.why))
	}
	return &failure{
		class:   "no-identity",
		problem: Problem{Code: "no-identity", Hint: "provide a bootstrap credential that works: [cert_issuance.est.auth]"},
		err:     fmt.Errorf("nothing can log in to EST: %w", err),
	}
}

// pend makes the request durable before anything is sent: an unchanged one is repeated byte for byte, one for another
// operation or name is signed anew with the same key.
func (a *Agent) pend(ctx context.Context, o order, p store.Pending, t est.Template) (*store.Pending, error) {
	old, err := o.stored.Pending()
	if err != nil && o.lastClass != classStore {
		// A disk may recover. One bad sector must not stop this certificate for ever: the second time it counts as none, and
		// is replaced.
		return nil, storeFailure("read the pending request", err)
	}
	if old != nil && string(old.Key.Algorithm()) != p.Request.Key {
		old = nil // another kind of key is asked for
	}
	key, err := a.key(ctx, o, p.Request.Key, old)
	if err != nil {
		return nil, err
	}
	same := old != nil && keys.Equal(old.Key.Public(), key.Public())
	if same && old.Operation == p.Operation && old.Server == p.Server && sameRequest(old.Request, p.Request) &&
		(p.Operation != opReenroll || renews(old.CSR, o.live.Leaf)) {
		return old, nil
	}
	p.CSR, err = est.CreateRequest(key, t)
	if err != nil {
		return nil, configurationFailure("request", fmt.Errorf("make the certificate request: %w", err), "")
	}
	p.Created = a.o.Now()
	saved, err := o.stored.SavePending(key, p)
	if err != nil {
		return nil, storeFailure("store the request before sending it", err)
	}
	return saved, nil
}

// key picks the private key of the next certificate: the live one where rotate_key is false, whichever identity logs in;
// else the one already pending; else a new one.
func (a *Agent) key(ctx context.Context, o order, kind string, old *store.Pending) (keys.Key, error) {
	if old != nil && !old.Accepted.IsZero() {
		return old.Key, nil // the server knows this request and may approve it yet
	}
	if !o.cert.RotateKey && o.live != nil && string(o.live.Key.Algorithm()) == kind {
		return o.live.Key, nil
	}
	if old != nil && (o.live == nil || !keys.Equal(old.Key.Public(), o.live.Key.Public())) {
		return old.Key, nil
	}
	return a.generate(ctx, keys.Algorithm(kind))
}

// generate makes a key. RSA on an old device takes minutes and cannot be interrupted, so that it is left behind when ctx
// ends: it touches nothing but the processor, and ends by itself.
func (a *Agent) generate(ctx context.Context, kind keys.Algorithm) (keys.Key, error) {
	type made struct {
		key keys.Key
		err error
	}
	done := make(chan made, 1)
	go func() {
		k, err := a.o.Keys.Generate(kind)
		done <- made{k, err}
	}()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case m := <-done:
		if m.err != nil {
			return nil, &failure{
				class:   "key",
				problem: Problem{Code: "key-generation", Hint: "choose another kind of key (key = …)"},
				err:     fmt.Errorf("generate a key (%s): %w", kind, m.err),
			}
		}
		return m.key, nil
	}
}
