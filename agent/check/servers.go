package check

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"sync"

	"certagent/agent"
	"certagent/est"
)

// The checks of one server, as they follow each other.
const (
	idResolve  = "est-resolve"
	idTCP      = "est-tcp"
	idTLS      = "est-tls"
	idTrust    = "est-trust"
	idServer   = "est-server-expiry"
	idCACerts  = "est-cacerts"
	idLogin    = "est-login"
	idPassword = "est-password"
)

// server asks one server for its CA certificates, then shows it each login, side by side. The password goes with one of them
// alone, so that a wrong one is tried once.
func (p *probes) server(ctx context.Context, look *agent.ServerLook) []*Result {
	subject := look.URL.String()
	if p.Offline {
		return skipServer(look, idResolve, "--offline asks no server")
	}
	o, err := look.Trust(ctx)
	if err != nil {
		return p.untrusting(look, err)
	}
	o.Timeout = p.each(o.Timeout)
	shown := login{}
	for _, l := range look.Logins {
		if l.Certificate != nil {
			shown = login{label: l.Label, certificate: l.Certificate}
			break
		}
	}
	contact, cas, err := fetch(ctx, o, shown)
	if errors.Is(err, est.ErrUnauthorized) && shown.certificate != nil { // whether that login is refused is another check's
		if c, certs, err2 := fetch(ctx, o, login{}); !errors.Is(err2, est.ErrUnauthorized) {
			contact, cas, err = c, certs, err2
		}
	}
	if _, is := errors.AsType[*est.Error](err); err != nil && !is { // nobody was asked
		return p.untrusting(look, err)
	}
	all := p.reached(look, contact, cas, err)
	if !contact.Trusted || !contact.Secured {
		return append(all, skipLogins(look, "the server was not reached")...)
	}
	if p.clock.Doubted != "" {
		return append(all, skipLogins(look, "the clock is not credible, and the agent logs in nowhere")...)
	}
	return append(all, p.logins(ctx, subject, look, o)...)
}

// login is what is shown to a server: any of the two may be missing.
type login struct {
	label       string
	certificate *tls.Certificate
	password    *est.Login
}

func (l login) in(o est.Options) est.Options {
	o.Certificate, o.Identity, o.Login = l.certificate, l.label, l.password
	return o
}

// fetch asks for /cacerts.
func fetch(ctx context.Context, o est.Options, l login) (*est.Contact, []*x509.Certificate, error) {
	client, err := est.New(l.in(o))
	if err != nil {
		return &est.Contact{}, nil, err
	}
	defer client.Close()
	cas, err := client.CACerts(ctx)
	contact := client.Contact()
	return &contact, cas, err
}

// untrusting is a server that there is no trust in to begin with.
func (p *probes) untrusting(look *agent.ServerLook, err error) []*Result {
	subject := look.URL.String()
	if r, is := unseen(idTrust, subject, err); is {
		return append([]*Result{r}, skipLogins(look, "the trust anchors cannot be read")...)
	}
	all := []*Result{failed(idTrust, subject, explain(err), agent.Advice(err))}
	return append(all, skipLogins(look, "there is no trust in the server")...)
}

// explain is an error without what stands beside it anyway: which server it is about.
func explain(err error) string {
	e, is := errors.AsType[*est.Error](err)
	if !is {
		return err.Error()
	}
	text := e.Class.Error()
	if e.Status != 0 {
		text += fmt.Sprintf(" (HTTP %d)", e.Status)
	}
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	if e.Detail != "" {
		text += fmt.Sprintf(": %q", shorten(e.Detail, 200))
	}
	return text
}

func shorten(text string, most int) string {
	if r := []rune(text); len(r) > most {
		return string(r[:most]) + "…"
	}
	return text
}

// reached judges how far a connection came, one check for each step; err is how /cacerts ended.
func (p *probes) reached(look *agent.ServerLook, c *est.Contact, cas []*x509.Certificate, err error) []*Result {
	subject, hint := look.URL.String(), agent.Advice(err)
	through := ""
	if c.Proxy != "" {
		through = " through the proxy " + c.Proxy
	}
	var all []*Result
	broken := false // a step failed, and those behind it were not made
	step := func(id string, good bool, fine, gone string) {
		switch {
		case broken:
			all = append(all, skipped(id, subject, gone))
		case good:
			all = append(all, ok(id, subject, fine))
		default:
			broken = true
			all = append(all, failed(id, subject, explain(err), hint))
		}
	}
	const notReached = "the server was not reached"
	switch {
	case c.Connected && c.Proxy == "":
		step(idResolve, true, look.URL.Hostname()+" leads to "+c.Peer, "")
	case c.Proxy == est.UnusableProxy:
		all = append(all, skipped(idResolve, subject, "the proxy that is set cannot be used"))
		through = ""
	case c.Proxy != "" && !c.Unresolved:
		all = append(all, skipped(idResolve, subject, "the proxy "+c.Proxy+" looks the name up"))
	default:
		step(idResolve, !c.Unresolved, "the name was found", "")
	}
	step(idTCP, c.Connected, "connected to "+c.Peer+through, notReached)
	step(idTLS, c.Secured || len(c.Shown) > 0 && !c.Trusted, tlsText(c), notReached)
	switch {
	case c.Trusted && !broken:
		step(idTrust, true, "its certificate, "+nameOf(c.Shown[0])+", verifies"+byWhat(look), "")
		all = append(all, p.validity(idServer, subject, "its certificate", c.Shown[0], "whoever runs the server must renew it"))
	case !broken && p.clock.Doubted != "":
		broken = true
		all = append(all, skipped(idTrust, subject, "the clock is not credible, and certificates are judged by it"))
	default:
		step(idTrust, c.Trusted, "its certificate verifies", notReached)
	}
	if e, is := errors.AsType[*est.Error](err); !broken && is && e.Status == http.StatusUnauthorized && look.Password != nil {
		return append(all, skipped(idCACerts, subject, "it asks for the password, which goes to /csrattrs alone; the agent gives it"))
	}
	step(idCACerts, err == nil, "it has "+counted(len(cas), "CA certificate"), "the server was not asked")
	return all
}

func byWhat(look *agent.ServerLook) string {
	switch {
	case look.Fingerprint != "":
		return " under what bootstrap_fingerprint names"
	case len(look.Options.Anchors) > 0:
		return ""
	}
	return " by the system's roots"
}

func tlsText(c *est.Contact) string {
	if !c.Secured {
		return "the server speaks TLS"
	}
	return tls.VersionName(c.Version)
}

// logins shows a server who would log in.
func (p *probes) logins(ctx context.Context, subject string, look *agent.ServerLook, o est.Options) []*Result {
	var shown []login
	var all []*Result
	for _, l := range look.Logins {
		if l.Certificate == nil {
			all = append(all, skipped(idLogin, subject, l.Label+" "+l.Why))
			continue
		}
		shown = append(shown, login{label: l.Label, certificate: l.Certificate})
	}
	if look.Password != nil {
		if len(shown) == 0 {
			shown = append(shown, login{})
		}
		shown[0].password = look.Password
	}
	results := make([][]*Result, len(shown))
	var asked sync.WaitGroup
	for i, l := range shown {
		asked.Go(func() { results[i] = p.present(ctx, subject, look, o, l) })
	}
	asked.Wait()
	for _, r := range results {
		all = append(all, r...)
	}
	if look.PasswordErr != nil {
		all = append(all, skipped(idPassword, subject, "it cannot be read"))
	}
	return all
}

// present shows a server one login.
func (p *probes) present(ctx context.Context, subject string, look *agent.ServerLook, o est.Options, l login) []*Result {
	client, err := est.New(l.in(o))
	if err != nil {
		return []*Result{failed(idLogin, subject, err.Error(), "")}
	}
	defer client.Close()
	status, err := client.Present(ctx)
	contact := client.Contact()
	return presented(subject, look, l, &contact, status, err)
}

// presented judges how a server took a login.
func presented(subject string, look *agent.ServerLook, l login, c *est.Contact, status int, err error) []*Result {
	var all []*Result
	e, _ := errors.AsType[*est.Error](err)
	unauthorised := errors.Is(err, est.ErrUnauthorized)
	passwordRefused := unauthorised && c.PasswordSent
	if l.certificate != nil {
		all = append(all, certificateShown(subject, look, l, c, status, err))
	}
	if l.password == nil {
		return all
	}
	user := fmt.Sprintf("user %q", l.password.Username)
	switch {
	case passwordRefused:
		all = append(all, failed(idPassword, subject, user+": "+explain(err), agent.Advice(err)))
	case c.PasswordSent && err == nil:
		all = append(all, ok(idPassword, subject, "/csrattrs asked for it, and took that of "+user+answered(status)))
	case l.certificate == nil && unauthorised:
		all = append(all, failed(idPassword, subject, user+": "+explain(err), agent.Advice(err)))
	case e != nil:
		all = append(all, skipped(idPassword, subject, "/csrattrs was not answered: "+explain(err)))
	case err != nil:
		all = append(all, skipped(idPassword, subject, err.Error()))
	default:
		all = append(all, skipped(idPassword, subject, "asked only when enrolling: /csrattrs did not ask for the password of "+user+
			", and nothing else is tried"))
	}
	return all
}

// certificateShown judges how a server took a client certificate.
func certificateShown(subject string, look *agent.ServerLook, l login, c *est.Contact, status int, err error) *Result {
	unauthorised := errors.Is(err, est.ErrUnauthorized)
	e, _ := errors.AsType[*est.Error](err)
	switch {
	case unauthorised && c.PasswordSent:
		return skipped(idLogin, subject, l.label+": the password that the server asked for beside it was refused")
	case unauthorised && e != nil && e.Status == http.StatusUnauthorized && look.Password != nil && l.password == nil:
		return skipped(idLogin, subject, l.label+": the server asks for the password as well, which was sent once already")
	case unauthorised:
		return failed(idLogin, subject, l.label+": "+explain(err), agent.Advice(err))
	case err != nil:
		return failed(idLogin, subject, l.label+": /csrattrs: "+explain(err), agent.Advice(err))
	case !c.Asked:
		return warning(idLogin, subject, l.label+": the server did not ask for a client certificate, so that nothing was shown to it",
			"if a proxy ends TLS in front of the EST server, it takes the login by certificate away: have it pass TLS through, "+
				"or set renew_url to an address where the EST server itself answers")
	case !c.Offered:
		return warning(idLogin, subject, l.label+": the server does not take a key of this kind, and was shown nothing",
			"use an identity with a key that the server can verify (EC P-256, RSA)")
	case c.PasswordSent:
		return ok(idLogin, subject, l.label+" was shown, with the password that it asked for"+answered(status))
	}
	return ok(idLogin, subject, l.label+" was shown, and not refused"+answered(status))
}

func answered(status int) string { return fmt.Sprintf(" (HTTP %d to /csrattrs)", status) }

// skipServer skips every check of a server from the one called first on.
func skipServer(look *agent.ServerLook, first, why string) []*Result {
	var all []*Result
	for _, k := range Catalogue() {
		if k.Area != areaServers || k.ID == idLogin || k.ID == idPassword || len(all) == 0 && k.ID != first {
			continue
		}
		all = append(all, skipped(k.ID, look.URL.String(), why))
	}
	return append(all, skipLogins(look, why)...)
}

// skipLogins skips showing the logins to a server.
func skipLogins(look *agent.ServerLook, why string) []*Result {
	var all []*Result
	for _, l := range look.Logins {
		all = append(all, skipped(idLogin, look.URL.String(), l.Label+": "+why))
	}
	if look.Password != nil || look.PasswordErr != nil {
		all = append(all, skipped(idPassword, look.URL.String(), why))
	}
	return all
}
