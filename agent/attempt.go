package agent

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
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
	Traffic() est.Traffic
	HangUp()
	Close()
}

// order is what the keeper asks an attempt to do. Nothing in it changes while the attempt runs.
type order struct {
	cert     *config.Certificate
	stored   *store.Certificate
	live     *store.Generation // nil while there is none that verifies
	cloned   *store.Generation // in place of live where that was issued to another device
	estLogin *store.Generation // the EST identity's live generation, nil while there is none
	estWhy   string            // why there is none
	reason   reason
	refusals map[string]int
	// lastClass is the class of the last failure, if that was the last thing that happened.
	lastClass string
	early     bool // before the threshold, for the sake of the spread
	// asBefore: a changed request was not granted; renew what there is, so that something goes on living.
	asBefore bool
	// attempt counts the tries since the last success, this one too; before is what was live when it was made, for the log.
	attempt int
	before  *store.Generation
	// served is called when the attempt needs its server no more.
	served func()
}

// Operations, as RFC 7030 section 3.2.2 names them.
const (
	opEnroll       = "simpleenroll"
	opReenroll     = "simplereenroll"
	opServerKeygen = "serverkeygen"
)

// run makes one attempt, from the choice of an identity to the commit. It logs nothing but what it learned of trust, and
// fills in e as it learns things. What it sends is durable before it is sent, so that it may be ended at any point.
func (a *Agent) run(ctx context.Context, o order, e *event) (*store.Generation, error) {
	want, err := a.want(o, e)
	if err != nil {
		return nil, err
	}
	login, loginErr := readLogin(o.cert.Auth)
	id, err := a.identify(o, loginErr, e)
	if err != nil {
		return nil, err
	}
	op, server := a.operation(o, id, &want)
	e.Identity = string(id.name)
	e.asks(server, op)
	s, err := a.open(ctx, o, e, est.Options{
		URL: server, Certificate: id.cert, Identity: id.label, Login: login, Fresh: fresh(o),
		RedirectHosts: o.cert.RedirectHosts, LinkIdentity: o.cert.LinkIdentity,
	})
	if err != nil {
		return nil, err
	}
	defer s.close()
	p, issued, err := s.exchange(ctx, op, id, want)
	if err != nil {
		return nil, err
	}
	s.client.HangUp()
	// What was issued is stored also when the agent is to stop: this waits for the disk, and for nobody else.
	if err := a.committing.acquire(context.WithoutCancel(ctx)); err != nil {
		return nil, err
	}
	defer a.committing.release()
	o.served() // the next may have the server while this one waits for the disk
	return a.commit(o, e, id, want, p, issued)
}

// operation is what to ask for, and where; it completes what is wanted for a renewal. A certificate that logs in by itself is
// renewed, unless its name changes: RFC 7030 section 4.2.2 wants the same name then.
func (a *Agent) operation(o order, id identity, want *desired) (string, *url.URL) {
	op, server := opEnroll, o.cert.URL
	if id.name == identitySelf {
		if o.cert.RenewURL != nil {
			server = o.cert.RenewURL
		}
		if !driftOf(o.live, want.recorded).name {
			op = opReenroll
			want.template = renewalTemplate(o.live.Leaf, want.template)
		}
	}
	if want.recorded.ServerKey {
		op, want.template.DecryptKey = opServerKeygen, decryptKey(o, id)
	}
	return op, server
}

// session is one attempt's dealings with a server: what it is known to be, and the client that may learn more.
type session struct {
	agent   *Agent
	o       order
	e       *event
	options est.Options // as the client was made
	by      anchoring
	client  Enroller
}

// open finds out whom to trust and what is known, and makes the client. Close must be called on what it returns.
func (a *Agent) open(ctx context.Context, o order, e *event, options est.Options) (*session, error) {
	stored, err := a.o.Store.Trust(options.URL.String())
	if err != nil {
		// What was fetched once can be fetched again; the attempt shows whether it can.
		e.Warnings = append(e.Warnings, fmt.Sprintf("stored CA certificates of %s: %v", options.URL.Host, err))
	}
	by, err := a.anchorsFor(ctx, o.cert, options.URL, stored, e)
	if err != nil {
		return nil, err
	}
	s := &session{agent: a, o: o, e: e, options: a.completed(options, o.cert, by, stored), by: by}
	if s.client, err = a.o.Dial(s.options); err != nil {
		return nil, configurationFailure("est-client", err, hintClient)
	}
	return s, nil
}

// completed are the options of a client for c, trusting by what is given.
func (a *Agent) completed(options est.Options, c *config.Certificate, by anchoring, stored store.Trust) est.Options {
	options.Anchors, options.SystemRoots = by.anchors, by.systemRoots
	options.Known = knownOf(stored, by, a.o.Now())
	options.Now, options.Reached = a.o.Now, a.clock.reached()
	options.Timeout, options.UserAgent = c.Timeout, a.userAgent()
	return options
}

func (a *Agent) userAgent() string { return "certagent/" + a.o.Version }

// close ends the session. What was learned is stored even where the attempt failed: a CA that is about to change its
// key says so to everybody whom it tells its certificates.
func (s *session) close() {
	s.client.Close()
	s.e.Traffic = s.client.Traffic()
	if _, err := s.agent.saveLearned(s.options.URL.String(), s.options.Known, s.client.Known(), s.by); err != nil {
		// The next attempt fetches it again.
		s.e.Warnings = append(s.e.Warnings, fmt.Sprintf("store what was learned of the server: %v", err))
	}
}

// maxIdle is for how long a connection is left alone before it is not trusted to be there still. libest gives up after ten
// seconds, and holds one of its five workers until then.
const maxIdle = 5 * time.Second

// exchange asks what the server wants to see, makes the request durable, and sends it.
func (s *session) exchange(ctx context.Context, op string, id identity, want desired) (*store.Pending, *est.Issued, error) {
	asked, err := s.attributes(ctx)
	if err != nil {
		return nil, nil, err
	}
	began := time.Now()
	template, unmet := asked.known.Apply(want.template)
	s.e.Warnings = append(s.e.Warnings, unmet...)
	want.template = template
	p, err := s.agent.pend(ctx, s.o, s.e, store.Pending{
		Operation: op, Server: s.options.URL.String(), Request: want.recorded, Identity: string(id.name), Reason: string(s.o.reason),
	}, want.template, asked)
	if err != nil {
		return nil, nil, err
	}
	if time.Since(began) > maxIdle { // a key took its time
		s.client.HangUp()
	}
	s.e.Key = string(p.Key.Algorithm())
	s.e.NewKey = s.o.live == nil || !keys.Equal(p.Key.Public(), s.o.live.Key.Public())
	issued, err := s.send(ctx, op, id, p, want.template)
	if errors.Is(err, est.ErrPending) && p.Accepted.IsZero() {
		p.Accepted = s.agent.o.Now()
		if _, err := s.o.stored.SavePending(p.Key, *p); err != nil {
			return nil, nil, storeFailure("record the pending request", err)
		}
	}
	return p, issued, err
}

// send sends the pending request. Where it is to be linked to the connection, it is signed anew for each, and is
// durable before it is sent; p is kept up to date.
func (s *session) send(ctx context.Context, op string, id identity, p *store.Pending, t est.Template) (*est.Issued, error) {
	csr := p.CSR
	want := est.Want{CA: s.o.cert.CA, Link: func(b est.Binding) ([]byte, error) {
		t.Binding = &b
		linked, err := est.CreateRequest(p.Key, t)
		if err != nil {
			return nil, fmt.Errorf("make the certificate request: %w", err)
		}
		p.CSR, p.Unlinked = linked, csr
		if _, err := s.o.stored.SavePending(p.Key, *p); err != nil {
			return nil, storeFailure("store the request before sending it", err)
		}
		return linked, nil
	}}
	switch op {
	case opReenroll:
		return s.client.Reenroll(ctx, csr, want)
	case opServerKeygen:
		var unwrap crypto.Decrypter
		if t.DecryptKey != nil {
			unwrap = keys.Decrypter(id.cert.PrivateKey)
		}
		return s.client.ServerKeygen(ctx, csr, want, unwrap)
	}
	return s.client.Enroll(ctx, csr, want)
}

// commit makes what was issued the live generation.
func (a *Agent) commit(
	o order, e *event, id identity, want desired, p *store.Pending, issued *est.Issued,
) (*store.Generation, error) {
	if o.live != nil && bytes.Equal(issued.Leaf.RawTBSCertificate, o.live.Leaf.RawTBSCertificate) {
		// Taken for a renewal it would be one that brings nothing, for the consumers too, as often as the guard allows.
		return nil, &est.Error{
			Op: p.Operation, Server: p.Server, Identity: id.label, Class: est.ErrBadResponse, Status: http.StatusOK,
			Err:  fmt.Errorf("the answer is the certificate that is live already (serial %s)", o.live.Meta.Serial),
			Hint: "have the server issue a new certificate at each renewal, also for the same key; or set rotate_key = true",
		}
	}
	if id.name == identitySelf && o.reason == reasonThreshold {
		a.clock.renewed(o.live.Leaf.NotBefore)
	}
	e.Warnings = append(e.Warnings, issued.Warnings...)
	perm, problem := keyPerm(o.cert)
	if problem != nil {
		e.Problems = append(e.Problems, *problem)
	}
	issue := store.Issue{
		Pending: p, Leaf: issued.Leaf, Chain: issued.Chain, CAs: issued.CAs, KeyPerm: perm,
		Meta: store.Meta{
			Issued: a.o.Now(), Operation: p.Operation, Identity: string(id.name), Server: p.Server, Reason: string(o.reason),
			First:   o.live == nil || id.name == identityBootstrap || id.name == identityPassword || id.name == identityNone,
			Request: &want.recorded, MachineID: a.o.Host.LastingID(), Warnings: issued.Warnings, Version: a.o.Version,
		},
	}
	if p.Operation == opServerKeygen {
		key, err := serverKey(issued)
		if err != nil {
			return nil, err
		}
		issue.Key, issue.Meta.KeyEncrypted = key, want.template.DecryptKey != nil
		e.Key, e.NewKey = string(key.Algorithm()), true
		if kind := want.recorded.Key; kind != "" && kind != string(key.Algorithm()) {
			w := fmt.Sprintf("the server made a key of kind %s, not %s", key.Algorithm(), kind)
			e.Warnings, issue.Meta.Warnings = append(e.Warnings, w), append(issue.Meta.Warnings, w)
		}
	}
	g, err := o.stored.Commit(issue)
	if err != nil {
		// The last step of a commit may fail after the one that counts: what is live decides.
		live, err2 := o.stored.Live()
		if err2 != nil || !bytes.Equal(live.Leaf.Raw, issued.Leaf.Raw) {
			return nil, storeFailure("store the issued certificate", err)
		}
		e.Warnings = append(e.Warnings, fmt.Sprintf("the certificate is live, but: %v", err))
		g = live
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
	if e.changes = driftOf(o.live, want.recorded).any(); e.changes && o.asBefore {
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
