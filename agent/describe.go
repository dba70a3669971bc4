package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sort"
	"strings"
	"time"

	"certagent/agent/config"
	"certagent/agent/status"
	"certagent/renew"
	"certagent/store"
)

// view is all that is known of one certificate at one time, from a keeper or from the disk.
type view struct {
	id       string
	cfg      *config.Certificate // nil when the configuration does not have it or could not be read
	live     *store.Generation
	liveErr  error
	retry    store.Retry
	delivery store.Delivery
	host     Host
	now      time.Time
	decision decision
	running  bool // an attempt is under way
	attempts []status.Attempts
	problems []Problem // of the keeper itself
	// onboarding is how far the cloud knows the certificate; nil while there is none to be told.
	onboarding         *status.Onboarding
	onboardingProblems []Problem
}

// describe says it for people and machines.
func describe(v view) status.Certificate {
	s := status.Certificate{
		ID: v.id, NextTry: v.decision.at, NextWhy: v.decision.why,
		Failures: v.retry.Failures, LastTry: v.retry.LastTry, LastSuccess: v.retry.LastSuccess,
		LastIdentity: v.retry.LastIdentity, LastClass: v.retry.LastClass, LastError: v.retry.LastError,
		Pending: !v.retry.PendingUntil.IsZero(), Ordered: v.retry.Ordered, Attempts: v.attempts, Problems: []Problem{}, Outputs: []status.Output{}, Hooks: []status.Hook{},
	}
	if v.cfg != nil {
		s.Role = string(v.cfg.Role)
		for _, p := range v.cfg.Problems {
			s.Problems = append(s.Problems, Problem{Code: p.Code, Text: p.Text, Hint: p.Hint})
		}
	}
	if v.running {
		s.NextTry, s.NextWhy = v.now, "an attempt is under way"
	} else if s.NextTry.IsZero() && v.decision.reason != "" {
		s.NextTry = v.now
	}
	for _, p := range v.retry.Problems {
		s.Problems = append(s.Problems, Problem{Code: p.Code, Text: p.Text, Hint: p.Hint, Notice: p.Notice, Since: p.Since})
	}
	if v.retry.Drift.Failures > 0 {
		s.Problems = append(s.Problems, Problem{
			Code: "drift", Text: "the configuration asks for another name, key or usage than the certificate has, and the server has not granted the change",
			Hint:  "have the CA allow the change, or put the old values back; until then the certificate is renewed as it was",
			Since: v.retry.Drift.Since,
		})
	}
	s.Problems = append(s.Problems, v.problems...)
	s.Problems = append(s.Problems, v.onboardingProblems...)
	describeDelivery(&s, v)
	if v.onboarding != nil {
		s.Onboarding = new(*v.onboarding)
		if !s.Undelivered() {
			s.Onboarding.HoldsUntil = time.Time{}
		}
	}
	if v.live == nil {
		s.State = status.Missing
		if _, broken := errors.AsType[*store.BrokenError](v.liveErr); broken {
			s.State = status.KeyMismatch
			s.Problems = append(s.Problems, Problem{
				Code: "broken", Text: v.liveErr.Error(), Hint: "nothing by hand: it is issued anew; if it cannot be, another problem says why",
			})
		}
		return s
	}
	g := v.live
	if v.host.cloned(g) {
		s.Problems = append(s.Problems, Problem{
			Code: "cloned-state", Text: "the certificate and its key were issued to another device, of which this disk is a copy",
			Hint: "nothing by hand, if a bootstrap credential works: a new key and certificate are being got. Make images for " +
				"other devices without the state directory. If this is that device, with another machine-id than before, remove " +
				g.File("meta.json"),
			Since: v.retry.Cloned,
		})
	}
	s.Generation, s.Directory, s.Subject = g.Number, g.Dir, g.Leaf.Subject.String()
	s.Serial, s.SHA256 = g.Serial(), thumbprint(g.Leaf)
	s.Imported = g.Meta.Reason == string(reasonImported)
	s.NotBefore, s.NotAfter = g.Leaf.NotBefore, g.Leaf.NotAfter
	policy := renew.DefaultPolicy()
	if v.cfg != nil {
		policy = v.cfg.Policy
	}
	plan := policy.Plan(leafOf(g, v.retry), v.now)
	if v.cfg == nil && !v.retry.RenewAt.IsZero() {
		// Without the configuration, what the agent planned last is what is known.
		plan.RenewAt, plan.Threshold = v.retry.RenewAt, time.Time{}
		if plan.State == renew.Valid || plan.State == renew.Due {
			plan.State = renew.Valid
			if !plan.RenewAt.After(v.now) {
				plan.State = renew.Due
			}
		}
	}
	s.Threshold, s.RenewAt = plan.Threshold, plan.RenewAt
	issued := notAhead(g.Meta.Issued, v.now)
	switch plan.State {
	case renew.Expired:
		s.State = status.Expired
		hint := "while an agent runs it goes on trying; the problem of the last try says why it was not renewed"
		if !policy.Enabled {
			hint = "it is not renewed by itself (auto_renew.enabled = false): certagent renew " + v.id
		}
		s.Problems = append(s.Problems, Problem{
			Code: "expired", Text: fmt.Sprintf("the certificate expired %s", status.Until(g.Leaf.NotAfter.Sub(v.now))),
			Hint: hint, Since: g.Leaf.NotAfter,
		})
	case renew.NotYetValid:
		s.State = status.NotYetValid
		s.Problems = append(s.Problems, Problem{
			Code: "not-yet-valid", Text: fmt.Sprintf("the certificate becomes valid %s", status.Until(g.Leaf.NotBefore.Sub(v.now))),
			Hint: "nothing by hand if both clocks are right; else set that of this device, or the CA's", Since: issued,
		})
	case renew.Due:
		s.State = status.Due
		if retry := policy.Retry.Of(g.Leaf.NotAfter.Sub(g.Leaf.NotBefore)); v.now.Sub(plan.RenewAt) > retry {
			s.State = status.Overdue
		}
	default:
		s.State = status.Valid
	}
	switch {
	case plan.BornDue, !issued.IsZero() && policy.Plan(leafOf(g, v.retry), issued).State == renew.Due:
		s.Problems = append(s.Problems, Problem{
			Code: "born-due", Text: fmt.Sprintf("the certificate, issued for %s, was due for renewal when it arrived (threshold %s)",
				status.Span(g.Leaf.NotAfter.Sub(g.Leaf.NotBefore)), policy.Threshold),
			Hint: "lower the threshold below the lifetime, or have the CA issue for longer", Since: issued,
		})
	case v.cfg != nil && policy.Enabled && !plan.RetryFits:
		s.Problems = append(s.Problems, Problem{
			Code: "retry-does-not-fit", Text: fmt.Sprintf("a retry of %s is longer than what is left of this certificate (%s) at its threshold (%s); tries come sooner than that",
				policy.Retry, status.Span(g.Leaf.NotAfter.Sub(g.Leaf.NotBefore)), policy.Threshold),
			Hint: "lower retry or the threshold", Notice: true,
		})
	}
	if held := renew.Ration(v.retry.Spent, v.now); held.After(v.now) {
		s.Problems = append(s.Problems, Problem{
			Code: "renewed-too-often", Text: fmt.Sprintf("the certificate, issued for %s, has used up its ration of renewals; "+
				"until the CA issues for longer it is renewed once a minute", status.Span(g.Leaf.NotAfter.Sub(g.Leaf.NotBefore))),
			Hint: "have the CA issue for two minutes at least",
		})
	}
	if len(g.Meta.Warnings) > 0 {
		s.Problems = append(s.Problems, Problem{
			Code: "altered-by-ca", Text: strings.Join(g.Meta.Warnings, "; "),
			Hint: "only if a consumer misses it: have the CA copy it from requests", Notice: true, Since: issued,
		})
	}
	return s
}

// Snapshot is the state of a running agent. It waits until Run or Once has read what is kept of the certificates.
func (a *Agent) Snapshot() status.Snapshot {
	<-a.read
	_, why := a.clock.judge()
	a.mu.Lock()
	defer a.mu.Unlock()
	s := status.Snapshot{
		Schema: status.Schema, Time: a.o.Now(), Version: a.o.Version, Config: a.cfg.File, StateDir: a.o.Store.Dir(), Running: true,
		Started: a.started, PID: os.Getpid(),
		Problems: agentProblems(why, a.clock.doubt(), a.configErr, a.configSince), Certificates: []status.Certificate{},
		Servers: slices.Clone(a.servers),
	}
	s.Problems = append(s.Problems, a.serverWoes...)
	if a.placeErr != nil {
		s.Problems = append(s.Problems, storeProblem(a.placeErr))
	}
	if a.socketErr != nil {
		s.Problems = append(s.Problems, socketProblem(a.socketErr))
	}
	s.Problems = append(s.Problems, metricsProblems(a.textfileErr, a.listenErr)...)
	for _, v := range a.views {
		v.view.now = s.Time
		s.Certificates = append(s.Certificates, describe(v.view))
	}
	for _, v := range a.unmanaged {
		if _, managed := a.views[v.id]; managed { // a reload just took it in
			continue
		}
		v.now = s.Time
		s.Certificates = append(s.Certificates, describeUnmanaged(v))
	}
	sortCertificates(s.Certificates)
	a.noticed = a.noticed.date(&s)
	return s
}

func agentProblems(clock, doubt string, configErr error, since time.Time) []Problem {
	problems := []Problem{}
	if clock != "" {
		problems = append(problems, Problem{
			Code: "clock-not-credible", Text: clock,
			Hint: "set the clock or have it synchronised; where there is no time source, [clock] check = false; where it is right all " +
				"the same, stop the agent, delete clock.json in the state directory, and start it",
		})
	}
	if doubt != "" {
		problems = append(problems, Problem{
			Code: "build-date", Text: doubt, Notice: true,
			Hint: "compare the clock with another; if it is right, have the program built by a machine whose clock is right",
		})
	}
	if configErr != nil {
		hint := "mend the file; certagent config check says when it is right"
		if errors.Is(configErr, fs.ErrPermission) {
			hint = "let the agent's user read it, and its directory (chgrp certagent, chmod g+r); root may, so that certagent config check " +
				"has no complaint; then certagent reload"
		}
		problems = append(problems, Problem{
			Code: "config-invalid", Text: fmt.Sprintf("the configuration on disk is not in force: %v", configErr), Hint: hint, Since: since,
		})
	}
	return problems
}

func sortCertificates(all []status.Certificate) {
	sort.Slice(all, func(i, j int) bool { // not slices.SortFunc, which is 35 KB for a struct of this size
		a, b := &all[i], &all[j]
		if unmanaged := a.State == status.Unmanaged; unmanaged != (b.State == status.Unmanaged) {
			return !unmanaged
		}
		if identity := a.Role == string(config.RoleESTIdentity); identity != (b.Role == string(config.RoleESTIdentity)) {
			return identity
		}
		return a.ID < b.ID
	})
}

// SurveyOptions are what [Survey] looks at.
type SurveyOptions struct {
	// Config is nil when the files could not be read or are wrong; ConfigError says why.
	Config      *config.Config
	ConfigError error
	Store       *store.Store // opened by store.View
	Running     bool         // an agent holds the state directory
	Version     string
	Built       time.Time
	Host        Host
	Now         time.Time
}

// Survey makes a Snapshot from what is on disk: what a stopped agent left, or what a running one wrote last. Without the
// configuration it tells what the agent noted in the state directory.
func Survey(o SurveyOptions) (status.Snapshot, error) {
	known, _ := o.Store.Clock() // what cannot be read is none; the agent says so in its log
	rule := ruleOf(o.Built, known, o.Config != nil && !o.Config.Clock.Check)
	credible, why := rule.Judge(o.Now)
	s := status.Snapshot{
		Schema: status.Schema, Time: o.Now, Version: o.Version, StateDir: o.Store.Dir(), Running: o.Running,
		Problems: agentProblems(why, rule.Doubt(o.Now), o.ConfigError, time.Time{}), Certificates: []status.Certificate{}, Servers: []status.Server{},
	}
	unsafe := o.Store.Safe()
	if unsafe != nil {
		s.Problems = append(s.Problems, storeProblem(unsafe))
	}
	stored, err := o.Store.IDs()
	if err != nil {
		return s, err
	}
	configured := map[string]*config.Certificate{}
	if o.Config != nil {
		s.Config = o.Config.File
		for i := range o.Config.Certificates {
			configured[o.Config.Certificates[i].ID] = &o.Config.Certificates[i]
		}
	}
	lives := map[string]*store.Generation{}
	ids := slices.Clone(stored)
	for id := range configured {
		if !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	for _, id := range ids {
		v := view{id: id, cfg: configured[id], now: o.Now, host: o.Host}
		note := func(err error) {
			// That the state directory as a whole is unsafe was said already.
			if err != nil && (unsafe == nil || !errors.Is(err, store.ErrUnsafe)) {
				v.problems = append(v.problems, storeProblem(err))
			}
		}
		c, err := o.Store.Certificate(id)
		if err != nil {
			// Somebody else's directory among ours; the others are no worse for it.
			note(err)
			s.Certificates = append(s.Certificates, describe(v))
			continue
		}
		v.retry, err = c.Retry()
		note(err)
		if credible {
			v.retry = believed(v.retry, o.Now)
		}
		if o.Config == nil || v.cfg != nil { // else nobody is served any more
			v.delivery, err = c.Delivery()
			note(err)
		}
		if v.live, v.liveErr = c.Live(); v.liveErr != nil && !lost(v.liveErr) {
			note(v.liveErr)
		}
		lives[id] = o.Host.own(v.live)
		if v.cfg != nil && v.cfg.Role == config.RoleDevice {
			v.onboarding, v.onboardingProblems, err = surveyCloud(o.Config.Provisioning, o.Store, presentable(lives[id], o.Now), o.Now)
			note(err)
		}
		q := question{
			now: o.Now, credible: credible, policy: renew.DefaultPolicy(), retry: v.retry, cloned: o.Host.cloned(v.live),
		}
		if v.cfg != nil {
			q.policy = v.cfg.Policy
		}
		if v.live != nil {
			leaf := leafOf(v.live, v.retry)
			q.leaf, q.issued = &leaf, v.live.Meta.Issued
			if v.cfg != nil {
				if want, err := desire(v.cfg, o.Host); err == nil {
					q.drift = driftOf(v.live, want.recorded)
				}
			}
		}
		v.decision = decide(q)
		if o.Config != nil && v.cfg == nil {
			s.Certificates = append(s.Certificates, describeUnmanaged(v))
			continue
		}
		cert := describe(v)
		if v.cfg == nil && v.live != nil && (v.decision.reason == "" || v.decision.reason == reasonThreshold) {
			// The agent knows the configured threshold, and noted what comes of it.
			cert.NextTry = latest(v.retry.RenewAt, v.retry.NextTry)
		}
		s.Certificates = append(s.Certificates, cert)
	}
	sortCertificates(s.Certificates)
	if o.Config != nil {
		servers := serversOf(o.Config.Certificates, func(id string) *store.Generation { return lives[id] }, o.Now)
		var problems []Problem
		s.Servers, problems = describeServers(viewServers(servers, o.Store, o.Host, o.Now, o.Now), o.Now)
		s.Problems = append(s.Problems, problems...)
	}
	return s, nil
}
