package check

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"certagent/agent/status"
	"certagent/store"
)

// certificate judges what status says of a certificate, and its live generation (nil where there is none).
func (p *probes) certificate(c *status.Certificate, live *store.Generation) []*Result {
	all := []*Result{p.expiry(c), p.schedule(c)}
	if live != nil {
		all = append(all, p.chainOf(c.ID, live))
	}
	for i := range c.Problems {
		problem := &c.Problems[i]
		if slices.Contains([]string{"expired", "not-yet-valid"}, problem.Code) || problem.Text == c.LastError || p.unsafe(problem) {
			continue // told already
		}
		if slices.Contains([]string{"hook-failed", "output-failed", "output-refused", "hooks-waiting"}, problem.Code) {
			continue // by the checks of outputs and hooks
		}
		if problem == c.CloudProblem() {
			continue // by that of the cloud
		}
		all = append(all, problemOf("certificate-problem", c.ID, problem))
	}
	return all
}

// problemOf is a problem of status as a result.
func problemOf(id, subject string, problem *status.Problem) *Result {
	r := failed(id, subject, problem.Code+": "+problem.Text, problem.Hint)
	if problem.Notice {
		r.Verdict = Warning
	}
	return r
}

// expiry judges whether a certificate can be used. When its end is near is told by its renewal: one that is renewed in time
// is near its end every day if it lives for one.
func (p *probes) expiry(c *status.Certificate) *Result {
	const id = "certificate-expiry"
	left := status.Until(c.NotAfter.Sub(p.Now)) + " (" + c.NotAfter.In(p.Now.Location()).Format(time.DateTime) + ")"
	switch c.State {
	case status.Expired:
		return failed(id, c.ID, "it expired "+left, "see what keeps it from being renewed: its last error, and the checks of its server")
	case status.KeyMismatch:
		return failed(id, c.ID, "certificate, key or link is damaged, and no older generation can take its place",
			"nothing by hand: the agent has it issued anew")
	case status.NotYetValid:
		return failed(id, c.ID, "it becomes valid "+status.Until(c.NotBefore.Sub(p.Now)), "compare this device's clock with the CA's")
	case status.Missing:
		if c.Failures == 0 && !p.Snapshot.Running {
			const hint = "start the agent: systemctl start certagent, or certagent run"
			if c.LastTry.IsZero() {
				return warning(id, c.ID, "there is none yet, and no agent runs that would get it", hint)
			}
			return failed(id, c.ID, "there is none any more, and no agent runs that would get it", hint)
		}
		return failed(id, c.ID, "there is none", "see its last error, and the checks of its server")
	case status.Unmanaged:
		return warning(id, c.ID, "it is not in the configuration any more, and nobody renews it: it expires "+left,
			"if nobody needs it, remove its directory below certs in the state directory")
	case status.Overdue:
		return warning(id, c.ID, "its renewal is overdue: it expires "+left, "see its last error, and the checks of its server")
	}
	return ok(id, c.ID, "it expires "+left)
}

// schedule judges when the agent acts next, and how its last try ended.
func (p *probes) schedule(c *status.Certificate) *Result {
	const id = "certificate-schedule"
	next := c.NextWhy
	if !c.NextTry.IsZero() {
		at := "now"
		if c.NextTry.Sub(p.Now) >= time.Second {
			at = status.Until(c.NextTry.Sub(p.Now))
		}
		next = at + ": " + c.NextWhy
	}
	if !p.Snapshot.Running && next != "" {
		next = "when an agent runs: " + next
	}
	switch {
	case c.State == status.Unmanaged:
		return skipped(id, c.ID, "nobody renews it")
	case c.Failures > 0:
		r := failed(id, c.ID, fmt.Sprintf("tries since the last success: %d, all failed, the last one: %s; next try %s",
			c.Failures, c.LastError, next), hintFor(c, c.LastError))
		if c.State == status.Valid || c.State == status.Due {
			r.Verdict = Warning // there is time for more tries
		}
		return r
	case c.Pending:
		return warning(id, c.ID, "the request waits for approval at the server; "+next, "approve it there; certagent renew --discard drops it")
	}
	return ok(id, c.ID, next)
}

// hintFor is what to do about an error that is among the problems of a certificate, as the beginning of one; "" if it is not.
func hintFor(c *status.Certificate, text string) string {
	for _, problem := range c.Problems {
		if text != "" && strings.HasPrefix(problem.Text, text) {
			return problem.Hint
		}
	}
	return ""
}

// chainOf judges whether a live certificate leads to the CA certificates beside it.
func (p *probes) chainOf(id string, live *store.Generation) *Result {
	const check = "certificate-chain"
	if len(live.CAs) == 0 {
		return skipped(check, id, "no CA certificate is known for it")
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range live.CAs {
		roots.AddCert(c)
	}
	for _, c := range live.Chain {
		between.AddCert(c)
	}
	paths, err := live.Leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
		CurrentTime: live.Leaf.NotBefore.Add(time.Second), // its own end is another check's; a CA's shows in that of its server
	})
	switch _, stranger := errors.AsType[x509.UnknownAuthorityError](err); {
	case stranger:
		return failed(check, id, fmt.Sprintf("it does not lead to the CA certificates in %s", live.File("ca.pem")),
			"renew it: certagent renew "+id)
	case err != nil:
		return warning(check, id, err.Error(), "have the CA issue it anew: certagent renew "+id)
	}
	return ok(check, id, "it leads to "+nameOf(paths[0][len(paths[0])-1]))
}
