package check

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"certagent/agent"
	"certagent/agent/status"
)

// soon tells whether a certificate is near its end: in the last tenth of its lifetime, and in its last sixty days. So a
// certificate of a day has its warning in its last hours, and one of ten years two months ahead.
func soon(c *x509.Certificate, now time.Time) bool {
	return c.NotAfter.Sub(now) < min(c.NotAfter.Sub(c.NotBefore)/10, 60*24*time.Hour)
}

// validity judges the dates of a certificate; what is its name. A clock that is not credible judges nothing.
func (p *probes) validity(id, subject, what string, c *x509.Certificate, hint string) *Result {
	until := status.Until(c.NotAfter.Sub(p.Now))
	date := c.NotAfter.In(p.Now.Location()).Format(time.DateOnly)
	switch {
	case p.clock.Doubted != "":
		return skipped(id, subject, "the clock is not credible")
	case p.Now.After(c.NotAfter):
		return failed(id, subject, fmt.Sprintf("%s expired %s (%s)", what, until, date), hint)
	case p.Now.Before(c.NotBefore):
		return failed(id, subject, fmt.Sprintf("%s is not valid before %s (%s)", what, c.NotBefore.In(p.Now.Location()).Format(time.DateTime),
			status.Until(c.NotBefore.Sub(p.Now))), "compare the clock of this device with another")
	case soon(c, p.Now):
		return warning(id, subject, fmt.Sprintf("%s expires %s (%s)", what, until, date), hint)
	}
	return ok(id, subject, fmt.Sprintf("%s expires %s (%s)", what, until, date))
}

// nameOf is a certificate for people: its subject, or a part of it.
func nameOf(c *x509.Certificate) string {
	const most = 100
	name := []rune(c.Subject.String())
	if len(name) == 0 {
		return "a certificate without a subject"
	}
	if len(name) > most {
		return string(name[:most]) + "…"
	}
	return string(name)
}

// anchors judges a file of trust anchors.
func (p *probes) anchors(a *agent.AnchorLook) []*Result {
	const readable, expiry = "anchor-readable", "anchor-expiry"
	if r, is := unseen(readable, a.File, a.Err); is {
		return []*Result{r}
	}
	if a.Err != nil {
		return []*Result{failed(readable, a.File, a.Err.Error(),
			"put the CA certificate of the EST server there, in PEM; certagent cacerts fetches it")}
	}
	all := []*Result{ok(readable, a.File, counted(len(a.Certs), "certificate"))}
	// The one to tell of: what has expired while another holds is no more than a warning.
	const hint = "add the CA's new certificate to trusted_certs before then; certagent cacerts fetches it"
	var worst *Result
	usable := slices.ContainsFunc(a.Certs, func(c *x509.Certificate) bool { return !p.Now.Before(c.NotBefore) && !p.Now.After(c.NotAfter) })
	for i, c := range a.Certs {
		r := p.validity(expiry, a.File, nameOf(c), c, hint)
		if r.Verdict == Failed && usable {
			r.Verdict, r.Hint = Warning, "take it out of trusted_certs once nothing needs it any more"
		}
		if i == 0 || r.Verdict.worse(worst.Verdict) {
			worst = r
		}
	}
	return append(all, worst)
}

// worse orders verdicts.
func (v Verdict) worse(than Verdict) bool {
	order := []Verdict{OK, Skipped, Warning, Failed}
	return slices.Index(order, v) > slices.Index(order, than)
}

func counted(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// credential judges a certificate that a person provides to log in with.
func (p *probes) credential(k *agent.CredentialLook) []*Result {
	const match, chain, usage, expiry = "credential-key-match", "credential-chain", "credential-usage", "credential-expiry"
	subject := k.Files.Cert
	if r, is := unseen(match, subject, k.Err); is {
		return []*Result{r}
	}
	switch {
	case k.Err != nil && !p.HandedOver && strings.HasPrefix(k.Files.Cert+k.Files.Key, "credential:"):
		return []*Result{skipped(match, subject, "systemd hands it over to the service alone")}
	case errors.Is(k.Err, fs.ErrNotExist):
		return []*Result{failed(match, subject, fmt.Sprintf("the %s cannot be used: %v", k.Label, k.Err), "put certificate and matching key there")}
	case k.Err != nil:
		return []*Result{failed(match, subject, fmt.Sprintf("the %s cannot be used: %v", k.Label, k.Err),
			"put a certificate and the key that belongs to it there, both in PEM")}
	}
	leaf := k.Pair.Leaf
	return []*Result{
		ok(match, subject, fmt.Sprintf("the key of the %s, %s, belongs to it", k.Label, nameOf(leaf))),
		chained(chain, subject, k.Pair.Certificate),
		usageOf(usage, subject, leaf),
		p.validity(expiry, subject, "it", leaf,
			"the device cannot come back by itself once its certificates have expired: provide a new "+k.Label),
	}
}

// chained judges whether each certificate of a list was issued by the next.
func chained(id, subject string, raw [][]byte) *Result {
	var list []*x509.Certificate
	for _, der := range raw {
		c, err := x509.ParseCertificate(der)
		if err != nil { // cannot be: it was made from one
			return failed(id, subject, err.Error(), "")
		}
		list = append(list, c)
	}
	for i, c := range list[1:] {
		if below := list[i]; !bytes.Equal(below.RawIssuer, c.RawSubject) || below.CheckSignatureFrom(c) != nil {
			return warning(id, subject, fmt.Sprintf("%s was not issued by %s, which follows it in the file", nameOf(below), nameOf(c)),
				"put the certificates behind the first one in order, from its issuer upwards: servers take them as they come")
		}
	}
	top := list[len(list)-1]
	if len(list) == 1 {
		return ok(id, subject, "it stands alone; its issuer is "+top.Issuer.String())
	}
	return ok(id, subject, fmt.Sprintf("%s lead upwards to %s", counted(len(list), "certificate"), nameOf(top)))
}

// usageOf judges whether a certificate may log in.
func usageOf(id, subject string, leaf *x509.Certificate) *Result {
	switch {
	case leaf.IsCA:
		return warning(id, subject, "it is a CA certificate, which most servers do not take for a login", "provide an end entity's certificate")
	case !agent.ForClients(leaf):
		return warning(id, subject, "its extended key usage leaves out clientAuth: most servers refuse it",
			"have it issued with the extended key usage clientAuth")
	}
	return ok(id, subject, "it may log in")
}

// password judges a password file.
func (p *probes) password(l *agent.PasswordLook) *Result {
	const id = "password-readable"
	if r, is := unseen(id, l.File, l.Err); is {
		return r
	}
	bad := func(text, hint string) *Result {
		if !l.Alone { // a certificate logs in, and passwords are often for once
			return warning(id, l.File, text, hint)
		}
		return failed(id, l.File, text, hint)
	}
	switch {
	case l.Err != nil && !p.HandedOver && strings.HasPrefix(l.File, "credential:"):
		return skipped(id, l.File, "systemd hands it over to the service alone")
	case l.Err != nil:
		return bad(l.Err.Error(), "put the password there, readable for the agent and for nobody else, unless it has served its time")
	case l.Empty:
		return bad("its first line is empty", "write the password into its first line")
	}
	return ok(id, l.File, "there is a password in it")
}
