package check

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"certagent/agent"
	"certagent/agent/config"
	"certagent/agent/hook"
	"certagent/agent/status"
	"certagent/store"
)

// Options are what is looked at, and how.
type Options struct {
	// File is the configuration file. Config is what it says, or what loaded last where ConfigError says why it does not
	// load; nil where there is neither.
	File        string
	Config      *config.Config
	ConfigError error
	StateDir    string
	// Store is open for reading; nil where StoreError says why not (fs.ErrNotExist: an agent has never run; os.ErrDeadlineExceeded:
	// its file system hangs, and of Snapshot and User there is only what can be known without it).
	Store      *store.Store
	StoreError error
	// Snapshot is what status shows; Asked tells that a running agent said it.
	Snapshot status.Snapshot
	Asked    bool
	User     User // that the agent works as
	Version  string
	Built    time.Time
	Host     agent.Host
	Now      time.Time // in the zone in which dates are shown
	// Offline asks no server. Timeout bounds all that is asked of others, in whatever order; more than 0.
	Offline bool
	Timeout time.Duration
	// HandedOver tells that this process has the systemd credentials of the agent's unit (systemd.exec(5)).
	HandedOver bool
	// Progress, if not nil, is told how many of all the probes have ended. One call at a time.
	Progress func(ended, all int)
}

// probes are Options with what was read of credentials and clock.
type probes struct {
	Options
	clock agent.ClockLook
	look  agent.Inspection
}

// job is one probe with what it is about, should it not end in time.
type job struct {
	id, subject string
	run         func(context.Context) []*Result
}

// Run looks at everything. Probes run side by side; it returns when all have ended, and shortly after Options.Timeout at the
// latest: what hangs by then (a network file system) is a failed result, and its goroutine ends when that does. What hangs while
// credentials are read has half of that time, so that there is some left to find out which file it is.
func Run(ctx context.Context, o Options) Report {
	cause := fmt.Errorf("nothing more came within %v, which is all the time there is", o.Timeout)
	ctx, cancel := context.WithTimeoutCause(ctx, o.Timeout, cause)
	defer cancel()
	p := &probes{Options: o}
	jobs := p.jobs()
	look, read := within(o.Timeout/2, func() agent.Inspection {
		return agent.Inspect(agent.SurveyOptions{
			Config: o.Config, Store: o.Store, Version: o.Version, Built: o.Built, Host: o.Host, Now: o.Now,
		})
	})
	if read {
		p.look, p.clock = look, look.Clock
		jobs = append(jobs, p.lookedJobs()...)
	} else {
		jobs = append(jobs, job{"file-readable", "", func(context.Context) []*Result { return []*Result{unread(o.Timeout / 2)} }})
	}
	r := Report{Schema: Schema, Time: o.Now, Version: o.Version, Config: o.File, StateDir: o.StateDir}
	r.assemble(collect(ctx, o.Timeout, jobs, o.Progress))
	return r
}

// within gives what do does, if that ends in time; else do goes on alone.
func within[T any](most time.Duration, do func() T) (done T, inTime bool) {
	ended := make(chan T, 1) // so that one that comes too late ends as well
	go func() { ended <- do() }()
	select {
	case done = <-ended:
		return done, true
	case <-time.After(most):
		return done, false
	}
}

// findHanging is what to do about a file that is not read in time.
const findHanging = "find out what hangs: a network file system or a disk, perhaps"

// unread is the result of all that needs credentials, anchors or the state directory, where reading them hangs.
func unread(waited time.Duration) *Result {
	return failed("file-readable", "", fmt.Sprintf("credentials, anchors and state could not be read within %v: "+
		"clock, credentials and EST servers were not looked at", waited), findHanging)
}

// grace is what a probe that obeys its context may take to say so.
const grace = 2 * time.Second

// collect runs jobs side by side and gathers their results. ctx ends after timeout at the latest.
func collect(ctx context.Context, timeout time.Duration, jobs []job, progress func(ended, all int)) []*Result {
	type outcome struct {
		job     int
		results []*Result
	}
	outcomes := make(chan outcome, len(jobs)) // so that one that comes too late ends as well
	for i, j := range jobs {
		go func() { outcomes <- outcome{i, j.run(ctx)} }()
	}
	over := ctx.Done()
	var late <-chan time.Time
	open := make(map[int]bool, len(jobs))
	for i := range jobs {
		open[i] = true
	}
	all := make([][]*Result, len(jobs))
	for len(open) > 0 {
		if progress != nil {
			progress(len(jobs)-len(open), len(jobs))
		}
		select {
		case o := <-outcomes:
			all[o.job] = o.results
			delete(open, o.job)
		case <-over:
			over, late = nil, time.After(grace)
		case <-late:
			for i := range open {
				all[i] = []*Result{failed(jobs[i].id, jobs[i].subject, fmt.Sprintf("it did not answer within %v", timeout), findHanging)}
			}
			return slices.Concat(all...)
		}
	}
	if progress != nil {
		progress(len(jobs), len(jobs))
	}
	return slices.Concat(all...)
}

// each bounds one request so that there is time left for what follows it.
func (p *probes) each(configured time.Duration) time.Duration {
	return min(cmp.Or(configured, time.Minute), (p.Timeout * 2 / 3).Round(time.Millisecond))
}

// local is a probe of what asks nobody.
func local(id, subject string, run func() []*Result) job {
	return job{id, subject, func(context.Context) []*Result { return run() }}
}

// jobs are the probes that need nothing that was read of credentials and clock.
func (p *probes) jobs() []job {
	var all []job
	local := func(id, subject string, run func() []*Result) { all = append(all, local(id, subject, run)) }
	local("config-valid", p.File, p.configuration)
	local("agent-user", "", func() []*Result { return []*Result{p.user(), p.running()} })
	for i := range p.Snapshot.Problems {
		problem := &p.Snapshot.Problems[i]
		told := []string{ // by checks of their own
			"clock-not-credible", "build-date", "config-invalid", "config-unreadable", "control-socket", "agent-not-running",
		}
		if !slices.Contains(told, problem.Code) && !p.unsafe(problem) {
			local("agent-problem", "", func() []*Result { return []*Result{problemOf("agent-problem", "", problem)} })
		}
	}
	local("state-permissions", p.StateDir, p.state)
	for i := range p.Snapshot.Certificates {
		c := &p.Snapshot.Certificates[i]
		local("certificate-expiry", c.ID, func() []*Result { return p.certificate(c, p.look.Live[c.ID]) })
	}
	if p.Config == nil {
		return all
	}
	for _, f := range p.Config.Files {
		local("config-permissions", f, func() []*Result { return []*Result{p.configFile(f)} })
	}
	named := p.Config.NamedFiles()
	for i := range named {
		if f := &named[i]; !f.Config {
			local("file-readable", f.Path, func() []*Result { return p.namedFile(f) })
		}
	}
	for i := range p.Config.Certificates {
		all = append(all, p.deliveryJobs(&p.Config.Certificates[i])...)
	}
	return all
}

// lookedJobs are the probes of what was read of credentials and clock.
func (p *probes) lookedJobs() []job {
	var all []job
	local := func(id, subject string, run func() []*Result) { all = append(all, local(id, subject, run)) }
	local("clock-credible", "", func() []*Result { return clock(p.clock) })
	for i := range p.look.Anchors {
		a := &p.look.Anchors[i]
		local("anchor-readable", a.File, func() []*Result { return p.anchors(a) })
	}
	for i := range p.look.Credentials {
		k := &p.look.Credentials[i]
		local("credential-key-match", k.Files.Cert, func() []*Result { return p.credential(k) })
	}
	for i := range p.look.Passwords {
		l := &p.look.Passwords[i]
		local("password-readable", l.File, func() []*Result { return []*Result{p.password(l)} })
	}
	for i := range p.look.Servers {
		s := &p.look.Servers[i]
		all = append(all, job{idTCP, s.URL.String(), func(ctx context.Context) []*Result { return p.server(ctx, s) }})
	}
	if p.Config == nil {
		return all
	}
	for i := range p.Config.Certificates {
		c := &p.Config.Certificates[i]
		if live := p.look.Live[c.ID]; live != nil {
			key := live.File("key.pem")
			local("key-permissions", key, func() []*Result { return []*Result{p.key(key, c.Group)} })
		}
	}
	if c := p.look.Cloud; c != nil {
		all = append(all, job{idCloudTCP, c.Endpoint, func(ctx context.Context) []*Result { return p.cloud(ctx, c) }})
	}
	for i := range p.Snapshot.Certificates {
		if c := &p.Snapshot.Certificates[i]; c.Onboarding != nil {
			local(idCloudKnows, c.Onboarding.Endpoint, func() []*Result { return []*Result{p.known(c)} })
		}
	}
	return all
}

// deliveryJobs are the probes of the outputs and hooks of a certificate.
func (p *probes) deliveryJobs(c *config.Certificate) (all []job) {
	said := &status.Certificate{}
	for i := range p.Snapshot.Certificates {
		if s := &p.Snapshot.Certificates[i]; s.ID == c.ID {
			said = s
		}
	}
	for i := range c.Outputs {
		o := &c.Outputs[i]
		state := stateOf(said.Outputs, func(s *status.Output) bool { return s.Path == o.Path })
		all = append(all, local("output-place", o.Path, func() []*Result { return p.output(o, state, said) }))
	}
	hooks := hook.List(c.OnRenew.Exec, c.OnRenew.Reload, c.OnRenew.Restart, c.OnRenew.Timeout)
	for i := range hooks {
		h := &hooks[i]
		state := stateOf(said.Hooks, func(s *status.Hook) bool { return s.Hook == h.String() })
		subject := c.ID + ": " + shorten(h.String(), 200)
		all = append(all, job{"hook-state", subject, func(ctx context.Context) []*Result { return p.hookOf(ctx, h, subject, state, said) }})
	}
	return all
}

// user says whom everything is judged for.
func (p *probes) user() *Result {
	var groups []string
	for _, gid := range p.User.GIDs {
		groups = append(groups, groupName(gid))
	}
	slices.Sort(groups)
	return ok("agent-user", "", fmt.Sprintf("user %s (uid %d), in %s", p.User.Name, p.User.UID, listed("group", slices.Compact(groups))))
}

func listed(noun string, names []string) string {
	text := noun
	if len(names) != 1 {
		text += "s"
	}
	for i, n := range names {
		if i > 0 {
			text += ","
		}
		text += " " + n
	}
	return text
}

// running judges whether an agent runs and answers.
func (p *probes) running() *Result {
	const id = "agent-running"
	silent := stateOf(p.Snapshot.Problems, func(q *status.Problem) bool { return q.Code == "control-socket" })
	switch {
	case errors.Is(p.StoreError, os.ErrDeadlineExceeded):
		return skipped(id, "", "whether one runs stands in the state directory, which hangs")
	case p.Asked && p.Snapshot.Version != p.Version:
		return warning(id, "", fmt.Sprintf("an agent of version %s runs, and this program is %s", p.Snapshot.Version, p.Version),
			"restart it: systemctl restart certagent")
	case p.Asked && p.invalid() != nil:
		return problemOf(id, "", p.invalid())
	case p.Asked:
		return ok(id, "", fmt.Sprintf("it answers, and has since %s", p.Snapshot.Started.In(p.Now.Location()).Format(time.DateTime)))
	case silent != nil:
		return problemOf(id, "", silent)
	case p.Snapshot.Running:
		return warning(id, "", "an agent runs, and was not asked", "its log says why (journalctl -u certagent)")
	}
	return warning(id, "", "no agent runs", "start it: systemctl start certagent, or certagent run")
}

// invalid is what the agent says of a configuration that it does not take; nil if it takes it.
func (p *probes) invalid() *status.Problem {
	return stateOf(p.Snapshot.Problems, func(q *status.Problem) bool { return q.Code == "config-invalid" })
}
