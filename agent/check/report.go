// Package check is the doctor: it finds out what is wrong with a gateway, and says what to do about it.
//
// Probes (files, the clock, the network, systemd) gather facts; judgements are pure functions from facts to a [Result]. Nothing
// is changed, nothing is stored, and nothing is asked of an EST server that a CA would act on. What an attempt would use is
// read by package agent, so that the doctor looks at what the agent would.
package check

import (
	"sort"
	"time"
)

// Schema is the version of the JSON form of a [Report]. It is raised when a field changes its meaning or goes away, not when one
// is added, and not when a check is.
const Schema = 1

// Verdict is the outcome of one check, in one word.
type Verdict string

// The verdicts.
const (
	OK      Verdict = "ok"
	Warning Verdict = "warning" // it works, and a person should see to it
	Failed  Verdict = "failed"
	Skipped Verdict = "skipped" // it was not found out, and Text says why
)

// Result is what one check found.
type Result struct {
	// ID is stable, for machines: one of [Catalogue].
	ID   string `json:"id"`
	Area string `json:"area"`
	// Subject is what was looked at: a file, a server, a certificate; "" for the device as a whole.
	Subject string  `json:"subject,omitempty"`
	Verdict Verdict `json:"result"`
	Text    string  `json:"text"`           // what was found, or why it was not
	Hint    string  `json:"hint,omitempty"` // what to do; there is one for most of what is not ok
}

// Report is all that was found out.
type Report struct {
	Schema   int       `json:"schema"`
	Time     time.Time `json:"time"`
	Version  string    `json:"version"` // of the program
	Config   string    `json:"config"`  // the configuration file, right or not
	StateDir string    `json:"state_dir"`
	Checks   []*Result `json:"checks"` // by area, then by subject, in the order of the Catalogue
	Summary  Summary   `json:"summary"`
}

// Summary counts the results.
type Summary struct {
	Checks   int `json:"checks"`
	OK       int `json:"ok"`
	Warnings int `json:"warnings"`
	Failed   int `json:"failed"`
	Skipped  int `json:"skipped"`
}

// Kind is a sort of check.
type Kind struct {
	ID, Area string
	About    string // what it finds out
}

// The areas, in the order in which they are shown.
const (
	areaConfig       = "configuration"
	areaAgent        = "agent"
	areaState        = "state directory"
	areaClock        = "clock"
	areaFiles        = "files"
	areaCredentials  = "credentials"
	areaServers      = "EST servers"
	areaCertificates = "certificates"
	areaDelivery     = "outputs and hooks"
	areaOnboarding   = "onboarding"
)

// Catalogue is every check there is, in the order in which results are shown. docs/check.md has the same table.
func Catalogue() []Kind {
	return []Kind{
		{"config-valid", areaConfig, "the configuration loads; each mistake is a result of its own"},
		{"config-warning", areaConfig, "something in the configuration that a person should know (only where there is)"},
		{"config-permissions", areaConfig, "the agent's user can read the file, nobody else can change it, nor read a password in it"},
		{"agent-user", areaAgent, "which user the agent works as, and with which groups: what all that follows is judged for"},
		{"agent-running", areaAgent, "an agent runs, answers, and is this program's version"},
		{"agent-problem", areaAgent, "what `status` reports of the agent as a whole (only where there is)"},
		{"state-permissions", areaState, "the agent's user can change the state directory and what is in it, and nobody else can"},
		{"state-space", areaState, "its file system can be written and has room"},
		{"key-permissions", areaState, "the private key of a certificate is for its owner, and the configured group, alone"},
		{"clock-credible", areaClock, "the clock is believed: not before the build date, nor before the newest corroborated time"},
		{"clock-synchronised", areaClock, "the system keeps the clock right"},
		{"file-readable", areaFiles, "a file that the configuration names is there, and the agent's user can read it, along every directory"},
		{"file-private", areaFiles, "a private key or password cannot be read by everybody"},
		{"file-protected", areaFiles, "nobody but root and the agent's user can change it, or a directory on the way to it"},
		{"anchor-readable", areaCredentials, "a file of trust anchors holds certificates"},
		{"anchor-expiry", areaCredentials, "they have not expired, and do not soon"},
		{"credential-key-match", areaCredentials, "a certificate to log in with and its key can be read and belong together"},
		{"credential-chain", areaCredentials, "the certificates behind it in its file lead upwards from it"},
		{"credential-usage", areaCredentials, "it may log in: no CA certificate, no extended key usage that leaves clients out"},
		{"credential-expiry", areaCredentials, "it is valid, and does not expire soon"},
		{"password-readable", areaCredentials, "a password file can be read and is not empty"},
		{"est-resolve", areaServers, "the server's name is found"},
		{"est-tcp", areaServers, "it can be connected to, through the proxy if one is set"},
		{"est-tls", areaServers, "the TLS handshake is done"},
		{"est-trust", areaServers, "the server's certificate verifies, by the anchors and for the name in the URL"},
		{"est-server-expiry", areaServers, "the server's certificate does not expire soon"},
		{"est-cacerts", areaServers, "/cacerts answers with CA certificates"},
		{"est-login", areaServers, "the server does not refuse a client certificate that is shown at /csrattrs; one result for each"},
		{"est-password", areaServers, "the server takes the password, if it asks for it at /csrattrs"},
		{"certificate-expiry", areaCertificates, "the certificate is there and valid"},
		{"certificate-chain", areaCertificates, "it leads to the CA certificates that it is delivered with"},
		{"certificate-schedule", areaCertificates, "when the agent acts next; the last try did not fail"},
		{"certificate-problem", areaCertificates, "what `status` reports of the certificate besides (only where there is)"},
		{"output-place", areaDelivery, "the output's directory is there and safe, owner and group exist, the agent's user can write there, and replaces no more than a file"},
		{"output-state", areaDelivery, "the output is what it should be"},
		{"hook-program", areaDelivery, "a hook's program is there with its interpreter, the agent's user can execute it, nobody else can change it"},
		{"hook-unit", areaDelivery, "systemd runs, and knows a hook's unit"},
		{"hook-state", areaDelivery, "the hook's last run did not fail"},
		{"onboard-resolve", areaOnboarding, "the name of the cloud's endpoint is found"},
		{"onboard-tcp", areaOnboarding, "it can be connected to, through the proxy if one is set"},
		{"onboard-tls", areaOnboarding, "it speaks TLS; no certificate is shown to it, so that nothing is registered"},
		{"onboard-trust", areaOnboarding, "its certificate verifies, by the system's roots or `[provisioning] trusted_certs`"},
		{"onboard-state", areaOnboarding, "the cloud knows the live certificate, as far as the agent has told it"},
	}
}

// assemble puts results in order and counts them.
func (r *Report) assemble(results []*Result) {
	rank, area := map[string]int{}, map[string]int{}
	for i, k := range Catalogue() {
		rank[k.ID] = i
		if _, known := area[k.Area]; !known {
			area[k.Area] = i
		}
	}
	for i := range results {
		results[i].Area = Catalogue()[rank[results[i].ID]].Area
	}
	sort.SliceStable(results, func(i, j int) bool {
		a, b := results[i], results[j]
		if a.Area != b.Area {
			return area[a.Area] < area[b.Area]
		}
		if a.Subject != b.Subject {
			return a.Subject < b.Subject
		}
		return rank[a.ID] < rank[b.ID]
	})
	r.Checks = results
	r.Summary = Summary{Checks: len(results)}
	for _, c := range results {
		switch c.Verdict {
		case OK:
			r.Summary.OK++
		case Warning:
			r.Summary.Warnings++
		case Failed:
			r.Summary.Failed++
		case Skipped:
			r.Summary.Skipped++
		}
	}
}

// Short forms, for judgements. Inlined into each of them they would be 30 KB of the program.

//go:noinline
func ok(id, subject, text string) *Result {
	return &Result{ID: id, Subject: subject, Verdict: OK, Text: text}
}

//go:noinline
func warning(id, subject, text, hint string) *Result {
	return &Result{ID: id, Subject: subject, Verdict: Warning, Text: text, Hint: hint}
}

//go:noinline
func failed(id, subject, text, hint string) *Result {
	return &Result{ID: id, Subject: subject, Verdict: Failed, Text: text, Hint: hint}
}

//go:noinline
func skipped(id, subject, why string) *Result {
	return &Result{ID: id, Subject: subject, Verdict: Skipped, Text: why}
}
