package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"reflect"
	"runtime/debug"
	"time"

	"certagent/agent/config"
	"certagent/agent/onboard"
	"certagent/agent/onboard/dps"
	"certagent/agent/status"
	"certagent/store"
)

// dpsCloud is Azure's Device Provisioning Service.
type dpsCloud struct {
	to     config.Provisioning
	live   *store.Generation
	want   dps.Registration
	result *dps.Result
	state  dps.State
	link   *dpsLink
}

// dpsLink is the client of a registration that goes on. The errand under way uses it, and nobody else meanwhile.
type dpsLink struct{ client *dps.Client }

func (l *dpsLink) close() {
	if l != nil && l.client != nil {
		l.client.Close()
		l.client = nil
	}
}

func (d *dpsCloud) name() string { return config.SourceDPS }

func (d *dpsCloud) restore(result, state []byte) {
	d.result = dps.ParseResult(result)
	if state != nil {
		d.state = dps.ParseState(state)
	}
}

func (d *dpsCloud) stored() (result, state []byte) {
	if d.result != nil {
		result = d.result.Bytes()
	}
	return result, d.state.Bytes()
}

func (d *dpsCloud) aim(p config.Provisioning, live *store.Generation) (changed bool) {
	want := dps.Registration{Endpoint: p.GlobalEndpoint, IDScope: p.IDScope, RegistrationID: p.RegistrationID}
	if live != nil {
		want.RegistrationID = cmp.Or(p.RegistrationID, live.Leaf.Subject.CommonName)
		want.SHA256 = onboard.Thumbprint(live.Leaf)
	}
	mended := d.to.Source != "" && !reflect.DeepEqual(d.to, p)
	changed = want != d.want || mended
	d.to, d.live, d.want = p, live, want
	if mended {
		d.retryNow() // what was sent along may be what the webhook did not take
	}
	return changed
}

func (d *dpsCloud) next(now time.Time) errand {
	step := dps.Next(d.want, d.result, d.state, now)
	return errand{why: string(step.Why), new: step.Why != "" && step.Why != onboard.Asked, at: step.At, held: step.Held}
}

func (d *dpsCloud) begin(to contact, draw float64, now time.Time) func(context.Context) tiding {
	step := dps.Next(d.want, d.result, d.state, now)
	d.state = d.state.Begin(d.want, step, draw, now)
	if d.link == nil {
		d.link = &dpsLink{}
	}
	link, want, live, p := d.link, d.want, d.live, d.to
	return func(ctx context.Context) tiding {
		answer, err := link.exchange(ctx, want, live, p, to, step)
		code := answer.HTTP
		if e, failed := errors.AsType[*dps.Error](err); failed {
			code = e.Status
		}
		t := tidingOf(err, code)
		t.record = func(draw float64, now time.Time) bool { return d.record(link, want, step, answer, err, draw, now) }
		return t
	}
}

// exchange makes the client where there is none, and has it do step. A panic is an error of the registration: it must not end
// the agent, and must not be tried again at once.
func (l *dpsLink) exchange(ctx context.Context, want dps.Registration, live *store.Generation, p config.Provisioning, to contact,
	step dps.Step) (answer dps.Answer, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = &dps.Error{Do: step.Do, Target: want, Class: dps.ErrDevice, Code: "internal", Hint: hintBug,
				Err: fmt.Errorf("panic: %v\n%s", r, debug.Stack())}
		}
	}()
	if l.client == nil {
		roots, err := cloudRoots(p)
		if err != nil {
			return answer, &dps.Error{Do: step.Do, Target: want, Class: dps.ErrUntrusted, Code: dps.CodeUntrusted, Err: err,
				Hint: hintCloudRoots}
		}
		certificate := live.TLS()
		l.client = dps.New(dps.Options{
			Registration: want, Certificate: &certificate, Roots: roots, Payload: p.Payload,
			ReadPayload: func(name string) ([]byte, error) { return readPayload(name, to.trust) },
			Dialer:      to.dialer, UserAgent: to.userAgent, Now: to.now,
		})
	}
	return l.client.Exchange(ctx, step)
}

// record takes over what came of step. While DPS has not decided, the connection stays for the next look; nor is it the end
// that DPS is at a registration which was begun before.
func (d *dpsCloud) record(link *dpsLink, want dps.Registration, step dps.Step, answer dps.Answer, err error, draw float64,
	now time.Time) (end bool) {
	state, result := d.state.After(want, step, answer, err, draw, now)
	if d.state = state; result != nil {
		d.result = result
	}
	expected := state.Problem != nil && state.Problem.Notice
	end = !expected && (result != nil || err != nil || state.Operation == nil && !state.AskedSince())
	if end || err != nil || d.want != want {
		link.close()
	}
	return end
}

func (d *dpsCloud) ask() { d.state = d.state.Ask() }

func (d *dpsCloud) retryNow() { d.state.NextTry = d.state.RetryAfter }

func (d *dpsCloud) describe(now time.Time) (status.Onboarding, []Problem) {
	tried := d.state.Of == d.want // else they were about something else
	s := status.Onboarding{Cloud: d.name(), Endpoint: d.want.Endpoint, Ordered: d.state.Again}
	if d.result != nil {
		s.Hub, s.DeviceID, s.Registered, s.SHA256 = d.result.Hub, d.result.DeviceID, d.result.Registered, d.result.SHA256
	}
	if tried {
		s.Failures, s.LastTry = d.state.Failures, d.state.LastTry
	}
	return described(s, d.want.SHA256 != "", d.next(now), tried, d.state.Problem)
}

func (d *dpsCloud) address() (string, []string) {
	u, err := url.Parse(d.want.Endpoint)
	if err != nil {
		return "", nil // it was checked when the configuration was read
	}
	return net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "443")), nil
}

func (d *dpsCloud) hangUp() {
	d.link.close()
	d.link = nil
}
