package agent

import (
	"context"
	"errors"
	"net/url"
	"time"

	"github.com/rs/zerolog"

	"certagent/agent/status"
	"certagent/est"
	"certagent/renew"
	"certagent/store"
)

// authorities keeps the CA certificates of every server in the configuration fresh, apart from any renewal (RFC 7030
// section 4.1.2): a certificate that is renewed once a year would else learn of a CA's new key when the old one is gone. Its
// goroutine (run) owns everything below the mailboxes. It never blocks: the servers are asked beside it, one at a time.
type authorities struct {
	agent *Agent
	post
	results chan refreshed

	since     time.Time            // when it began
	notBefore map[string]time.Time // by server, also where the disk cannot be written
	running   bool
}

// refreshed is how a try to fetch a server's CA certificates ended.
type refreshed struct {
	server server
	event  *refreshEvent
	err    error
}

func newAuthorities(a *Agent) *authorities {
	return &authorities{
		agent: a, post: newPost("authorities"), results: make(chan refreshed, 1), since: a.o.Now(), notBefore: map[string]time.Time{},
	}
}

// kicked has the authorities look again: what is known of a server, or which servers there are, may have changed.
func (h *authorities) kicked() { send(h.kick, struct{}{}) }

// run ends with ctx. A panic restarts it after a minute, as with keepers.
func (h *authorities) run(ctx context.Context) {
	for ctx.Err() == nil {
		if crashed := guard(func() { h.loop(ctx) }); crashed != nil {
			h.agent.o.Log.Error().Str("event", "crash").Str("error", clip(crashed.Error())).
				Msg("the refresh of CA certificates crashed; it starts again in a minute")
			h.rest(ctx, time.Minute)
		}
	}
}

func (h *authorities) loop(ctx context.Context) {
	for {
		h.works()
		h.look(ctx)
		h.waits()
		select {
		case <-ctx.Done():
			if h.running {
				h.finish(<-h.results) // ctx has ended the try as well
			}
			return
		case <-h.kick:
		case r := <-h.results:
			h.works()
			h.finish(r)
		}
	}
}

// look finds out which server is due first, and asks it if that is now.
func (h *authorities) look(ctx context.Context) {
	if ctx.Err() != nil {
		return
	}
	if now := h.agent.o.Now(); h.since.After(now) {
		h.since = now // it was read from a clock that ran ahead
	}
	views := h.agent.serverViews(h.since)
	h.agent.publishServers(views)
	h.wakeAt(time.Time{})
	if h.running || !h.agent.clock.credible() {
		return // a result, or a clock that is right again, has it look once more
	}
	var first *serverView
	for i := range views {
		v := &views[i]
		v.at = latest(v.at, h.held(v.server.url))
		if !v.never && (first == nil || v.at.Before(first.at)) {
			first = v
		}
	}
	switch {
	case first == nil:
	case first.at.After(h.agent.o.Now()):
		h.wakeAt(first.at)
	default:
		h.start(ctx, first.server)
	}
	h.agent.wakeSoon(h.post)
}

// held is until when a server is not asked again whatever the disk says.
func (h *authorities) held(u *url.URL) time.Time {
	return sane(h.notBefore[u.String()], h.agent.o.Now())
}

// start asks a server beside the authorities. It ends with ctx, and always with a result.
func (h *authorities) start(ctx context.Context, s server) {
	h.running = true
	go func() {
		r := refreshed{server: s, event: &refreshEvent{ending: ending{began: time.Now()}}}
		r.event.asks(s.url)
		// It is no hurry, and yet must have its turn where attempts at that server go on failing.
		if r.err = h.agent.attempts.wait(ctx, s.url.Host, h.agent.o.Now().Add(refreshAtLeast)); r.err == nil {
			defer h.agent.attempts.done(s.url.Host)
			if crashed := guard(func() { r.err = h.agent.refresh(ctx, s, r.event) }); crashed != nil {
				r.err = crashed
			}
		}
		h.results <- r
	}()
}

// once asks every server that is due, one after the other. It runs instead of run, never beside it.
func (h *authorities) once(ctx context.Context) {
	if !h.agent.clock.credible() {
		return
	}
	for _, v := range h.agent.serverViews(h.since) {
		if !v.never && !v.at.After(h.agent.o.Now()) && ctx.Err() == nil {
			h.start(ctx, v.server)
			h.finish(<-h.results)
		}
	}
}

// finish records how a try ended, and logs it: once.
func (h *authorities) finish(r refreshed) {
	h.running = false
	a, name, now := h.agent, r.server.url.String(), h.agent.o.Now()
	e := r.event
	e.took = time.Since(e.began)
	if r.err == nil {
		h.notBefore[name] = now.Add(refreshAtLeast)
		level := zerolog.DebugLevel // most of the time there is nothing new
		if e.Changed {
			level = zerolog.InfoLevel
		}
		e.Result = resultFetched
		a.o.Log.WithLevel(level).EmbedObject(e).Msg("CA certificates fetched")
		return
	}
	v := judge(r.err)
	if v.canceled {
		return
	}
	var state store.Refresh
	draw := a.o.Rand()
	wait, _ := renew.CapRetryAfter(v.retryAfter, false)
	var delay time.Duration
	fail := func(t store.Trust) store.Trust {
		state = store.Refresh{Failures: t.Refresh.Failures + 1, Since: since(t.Refresh.Since, now), LastTry: now, LastError: clip(r.err.Error())}
		delay = refreshDelay(state.Failures, draw, lastsFor(t, now))
		state.NextTry = now.Add(max(wait, delay))
		t.Refresh = state
		return t
	}
	if err := a.o.Store.UpdateTrust(name, fail); err != nil {
		fail(store.Trust{})
		a.o.Log.Error().Str("event", "disk").Str("server", name).Str("error", clip(err.Error())).
			Msg("a failed refresh of CA certificates not recorded; a restart would forget it")
	}
	h.notBefore[name] = state.NextTry
	e.Result, e.Class, e.Error, e.Hint = status.Failed, v.class, r.err.Error(), v.problem.Hint
	e.Failures, e.NextTry, e.NextWhy = state.Failures, state.NextTry, whyNext(wait > delay)
	a.o.Log.Warn().EmbedObject(e).Msg("CA certificates not fetched")
}

const opCACerts = "cacerts"

// refresh fetches the CA certificates of a server and stores them. It shows the server one of the certificates that are
// renewed there, if one can log in; a server that does not take that is asked once more without. A password is never given.
func (a *Agent) refresh(ctx context.Context, s server, e *refreshEvent) error {
	stored, err := a.o.Store.Trust(s.url.String())
	if err != nil {
		a.o.Log.Warn().Str("event", "disk").Str("server", s.url.String()).Str("error", clip(err.Error())).
			Msg("stored CA certificates not read; they are fetched anew")
	}
	by, unmet, _, err := configuredAnchors(&s.cert, stored)
	if err != nil {
		return err
	}
	if unmet {
		return configurationFailure("anchors-unreadable", errors.New("the trust anchor taken by its fingerprint is gone"),
			"nothing by hand: the next renewal takes it again")
	}
	options := a.completed(est.Options{URL: s.url, RedirectHosts: s.cert.RedirectHosts}, &s.cert, by, stored)
	if s.login != nil {
		own := s.login.TLS()
		options.Certificate, options.Identity = &own, "certificate "+s.cert.ID
		e.Identity = identitySelf
	}
	err = a.fetch(ctx, options, by, e)
	if refused, ok := errors.AsType[*est.Error](err); ok && options.Certificate != nil && refused.Class == est.ErrUnauthorized {
		options.Certificate, options.Identity = nil, ""
		e.Identity = identityNone
		err = a.fetch(ctx, options, by, e)
	}
	return err
}

// fetch asks for /cacerts and stores the answer.
func (a *Agent) fetch(ctx context.Context, o est.Options, by anchoring, e *refreshEvent) error {
	client, err := a.o.Dial(o)
	if err != nil {
		return configurationFailure("est-client", err, hintClient)
	}
	defer func() {
		client.Close()
		e.add(client.Traffic())
	}()
	if _, err := client.CACerts(ctx); err != nil {
		return err
	}
	if e.Changed, err = a.saveLearned(o.URL.String(), o.Known, client.Known(), by); err != nil {
		return storeFailure("store CA certificates", err)
	}
	return nil
}

// publishServers makes what the authorities see visible to status.
func (a *Agent) publishServers(views []serverView) {
	servers, problems := describeServers(views, a.o.Now())
	a.mu.Lock()
	a.servers, a.serverWoes = servers, problems
	a.mu.Unlock()
	send(a.changed, struct{}{})
}
