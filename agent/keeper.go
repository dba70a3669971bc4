package agent

import (
	"context"
	"sync/atomic"
	"time"

	"certagent/agent/config"
	"certagent/agent/status"
	"certagent/renew"
	"certagent/store"
)

// keeper keeps one certificate. Its goroutine (loop) owns everything below the mailboxes and the certificate's directory
// in the store; nothing else writes either. It never blocks: attempts run beside it, one at a time, and so do deliveries and errands
// to the cloud.
type keeper struct {
	agent  *Agent
	id     string
	stored *store.Certificate

	// Mailboxes of one letter each: a sender never waits, and letters that say the same are one. A mailbox costs each keeper some
	// 200 bytes, so that what can be said in a bit is a wish.
	post
	wishes    atomic.Uint32
	configure chan configuration
	// back is what came of what ran beside the keeper: a *result, *handed, tiding or swept, at most one of each.
	back chan any
	// visits run in the keeper's goroutine, which waits for nobody: whoever comes waits for it. What a visit returns runs
	// after the look that follows.
	visits chan func() (after func())

	// read is the fingerprint of the files as last read, for the clock task to compare; nil before the first time.
	read atomic.Pointer[string]
	// watched says that what happens to them is told by the system (Watch).
	watched atomic.Bool

	cfg     *config.Certificate // shared with views, orders and consignments: it never changes
	stamp   string              // of the files that cfg was read from
	retry   store.Retry
	unread  int               // how often retry could not be read from disk, in a row
	live    *store.Generation // the last one read; nil while none verifies
	liveErr error             // why there is none
	looked  bool              // the first look by a credible clock is over
	tried   bool              // an attempt was made, or none is needed; see Agent.holds
	ended   bool              // an attempt has ended since the agent was started
	running bool
	// forcedAgain: a renewal was forced after the running attempt had made its certificate live
	forcedAgain bool
	from        int                // the generation that was live when the running attempt began; 0 for none
	began       time.Time          // when that was
	cancel      context.CancelFunc // ends the running attempt
	awaited     awaited            // what waits for an approval
	saveErr     error              // the retry state could not be written
	reading     <-chan provided    // of files that did not answer in time; nil while none is owed
	why         string             // what the last look planned, for people
	planned     time.Time          // and for when
	attempts    []status.Attempts  // since the agent was started; shared with views: it never changes

	courier courier
	envoy   envoy
}

// configuration is a certificate's part of a configuration that was loaded, with the stamp of the files.
type configuration struct {
	certificate *config.Certificate
	stamp       string
}

func newKeeper(a *Agent, c *config.Certificate, stamp string) (*keeper, error) {
	stored, err := a.o.Store.Certificate(c.ID)
	if err != nil {
		return nil, err
	}
	k := &keeper{
		agent: a, id: c.ID, stored: stored, cfg: c, stamp: stamp,
		post:      newPost("certificate " + c.ID),
		configure: make(chan configuration, 1), back: make(chan any, 4),
		visits:  make(chan func() func()),
		courier: courier{outdated: true, sweep: true}, attempts: []status.Attempts{{Result: status.Issued}},
	}
	return k, nil
}

// configured takes a changed configuration over. Where it makes the certificate due, that waits for its part of the
// spread: a rollout must not bring a whole fleet at one second.
func (k *keeper) configured(l configuration) {
	before, c := k.cfg.Policy, l.certificate
	k.cfg, k.stamp = c, l.stamp
	k.mended()
	if k.live == nil {
		return
	}
	now, leaf := k.agent.o.Now(), *k.leaf()
	if before.Plan(leaf, now).State == renew.Valid && c.Policy.Plan(leaf, now).State == renew.Due {
		k.retry.NextTry = latest(k.retry.NextTry, now.Add(reloadSpread(c.Policy, leaf)))
	}
}

// mended has tried at once what a person who reloads may have mended.
func (k *keeper) mended() {
	k.courier.retryNow()
	k.cloudMended()
}

// clockSet ends the back-off of a failure that a wrong clock may have caused: setting it is a repair, as a new credential
// is. What the server asked for stands.
func (k *keeper) clockSet() {
	switch k.retry.LastClass {
	case "untrusted", "bad-response", "no-identity":
		k.repaired()
	}
	k.cloudMended()
}

// awaitsApproval tells whether a request was taken by the server and not decided (202).
func (k *keeper) awaitsApproval(now time.Time) bool {
	return !renew.Obeyed(k.retry.PendingUntil, now, true).IsZero()
}

// look finds out how things are and acts on it. It is idempotent: any number of looks at the same state do no more than one.
func (k *keeper) look(ctx context.Context) {
	if ctx.Err() != nil {
		return
	}
	select {
	case c := <-k.configure: // before anything is done by the old one
		k.configured(c)
	default:
	}
	k.roomAgain()
	q, err := k.question(patience)
	if err != nil {
		k.tried = true // nobody must wait for what cannot be tried
		k.publish(decision{why: "the state directory cannot be used; looking again within a minute"}, err)
		k.schedule(k.agent.o.Now().Add(maxSleep))
		return
	}
	d := decide(q)
	if d.attempt && !k.running {
		k.start(ctx, d)
	}
	if !k.tried && !k.running && q.credible {
		k.tried = true
	}
	k.looked = k.looked || q.credible
	k.retry.RenewAt = d.plan.RenewAt
	if !k.running { // else its outcome is kept soon; what must outlast a crash before that is kept when it comes up
		k.save()
	}
	cloud := k.register(ctx) // before the delivery, which waits for it
	next := k.deliver(ctx)
	k.publish(d, nil)
	k.schedule(d.at, next, cloud)
}

// question reads what decide needs, with so much patience for what a person provides, and repairs on the way what can be repaired
// without the network.
func (k *keeper) question(patience time.Duration) (question, error) {
	a, now := k.agent, k.agent.o.Now()
	if err := k.readRetry(); err != nil {
		return question{}, err
	}
	// What cannot be read for once must not count as gone for good: without its record a certificate has no drift.
	incomplete := k.liveErr != nil || k.live != nil && !k.live.HasMeta
	files := k.stored.Fingerprint()
	unchanged := *k.read.Load() == files
	if awaited := k.running && k.live == nil && unchanged; !awaited { // else nothing is there, and what there will be is on its way
		if incomplete || !unchanged {
			k.readLive()
		}
		if err := k.repair(); err != nil {
			return question{}, err
		}
	}
	given, readable := k.readProvided(patience)
	if readable {
		k.noticeRepair(given.login)
	}
	credible := a.clock.credible()
	if credible {
		k.retry = believed(k.retry, now)
	}
	if err := k.discard(); err != nil {
		return question{}, err
	}
	k.checkPending(files)
	k.noticeClone(credible)
	q := question{
		now: now, credible: credible, policy: k.cfg.Policy, cloned: a.o.Host.cloned(k.live),
		holdForIdentity: a.holds(k.cfg), holdForFiles: !readable,
	}
	if k.live != nil {
		leaf := *k.leaf()
		q.leaf, q.issued = &leaf, k.live.Meta.Issued
		if readable && given.err == nil { // a name that cannot be read now is no change of the name
			k.noticeDrift(&q, leaf, given.want)
		}
		k.resume(q, leaf)
	}
	q.retry = k.retry
	return q, nil
}

// awaited is a pending request that was read, and the files' fingerprint that it was read under.
type awaited struct {
	request *store.Pending // nil where there is none
	files   string
}

// checkPending drops the wait for an approval whose request is gone, or is not what is wanted any more. To read a request is to
// verify it, which takes a signature: it is read once for each fingerprint of the files.
func (k *keeper) checkPending(files string) {
	if k.retry.PendingUntil.IsZero() {
		k.awaited = awaited{}
		return
	}
	if k.awaited.request == nil || k.awaited.files != files {
		request, err := k.stored.Pending()
		if err != nil {
			return // nothing is known of it
		}
		k.awaited = awaited{request, files}
	}
	if p := k.awaited.request; p == nil || p.Accepted.IsZero() || k.agent.o.Host.foreignPending(p, k.live) || !serves(p.Server, k.cfg) ||
		k.cfg.Key != "" && string(p.Key.Algorithm()) != k.cfg.Key || p.Request.ServerKey != k.cfg.ServerKey {
		k.retry.PendingUntil = time.Time{}
	}
}

// serves tells whether c is still asked for at that server.
func serves(server string, c *config.Certificate) bool {
	return server == c.URL.String() || c.RenewURL != nil && server == c.RenewURL.String()
}

// noticeDrift compares the configured request with the recorded one and gives a new difference its time.
func (k *keeper) noticeDrift(q *question, leaf renew.Leaf, want desired) {
	q.drift = driftOf(k.live, want.recorded)
	if !q.drift.any() {
		if k.retry.Drift.Failures > 0 && k.retry.Failures == 0 {
			k.retry.Problems = nil // they were about a change that nobody asks for any more
		}
		k.retry.Drift = store.Drift{}
		return
	}
	if wanted := fingerprintOf(want.recorded); wanted != k.retry.Drift.Wanted {
		k.retry.Drift = store.Drift{Wanted: wanted, NextTry: q.now.Add(reloadSpread(k.cfg.Policy, leaf))}
	}
}

// resume spreads what came due while the agent was not running. A try that ended with the agent had its turn.
func (k *keeper) resume(q question, leaf renew.Leaf) {
	if k.looked || !q.credible || k.retry.Reissue != "" || k.retry.Interrupted > 0 {
		return
	}
	keepTries(&k.retry, k.cfg.Policy.Resumed(leaf, triesOf(k.retry), k.agent.o.Rand(), q.now))
}

// leafOf is what the rules of time need to know of a generation.
func leafOf(g *store.Generation, r store.Retry) renew.Leaf {
	return renew.LeafOf(g.Leaf, g.Meta.First && !r.SpreadRefused)
}

func (k *keeper) leaf() *renew.Leaf {
	if k.live == nil {
		return nil
	}
	return new(leafOf(k.live, k.retry))
}

// schedule sets when to look again: for the sake of the certificate, and of those whom it is for.
func (k *keeper) schedule(at time.Time, others ...time.Time) {
	if k.reading != nil || k.retry.Failures > 0 || len(k.retry.Problems) > 0 || k.saveErr != nil || k.courier.saveErr != nil || k.envoy.saveErr != nil {
		// Somebody may repair a credential or an anchor, or make room on the disk, which no event tells.
		if soon := k.agent.o.Now().Add(maxSleep); at.IsZero() || at.After(soon) {
			at = soon
		}
	}
	if k.running {
		at = time.Time{}
	}
	for _, other := range others {
		if at.IsZero() || !other.IsZero() && other.Before(at) {
			at = other
		}
	}
	k.wakeAt(at)
	k.agent.wakeSoon(k.post)
}

// publish makes the keeper's view of its certificate visible to status and to the other keepers.
func (k *keeper) publish(d decision, lookErr error) {
	if k.running && k.achieved() && lookErr == nil {
		return // it is told of with what came of the attempt: until then it was issued at no time, and by no login
	}
	v := view{cfg: k.cfg, id: k.id, live: k.live, liveErr: k.liveErr, retry: k.retry, decision: d, running: k.running,
		delivery: k.courier.shown(), host: k.agent.o.Host}
	v.onboarding, v.onboardingProblems = k.shownOnboarding()
	for _, err := range []error{lookErr, k.saveErr, k.courier.saveErr, k.courier.readErr, k.envoy.saveErr, k.envoy.readErr} {
		if err != nil {
			v.problems = append(v.problems, storeProblem(err))
		}
	}
	if k.reading != nil {
		v.problems = append(v.problems, Problem{
			Code: "files-hang", Text: "the files that this certificate's login, trust or name is read from do not answer",
			Hint: "see to the file system that they lie on, or keep them on this device; they are looked at each minute",
		})
	}
	if !d.attempt && (d.why != k.why || !d.at.Equal(k.planned)) {
		k.logPlan(d)
	}
	v.attempts, k.why, k.planned = k.attempts, d.why, d.at
	k.agent.published(k, v)
}
