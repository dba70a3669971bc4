package agent

import (
	"cmp"
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"net"
	"reflect"
	"runtime/debug"
	"slices"
	"strconv"
	"time"

	"certagent/agent/config"
	"certagent/agent/onboard"
	"certagent/agent/onboard/awsiot"
	"certagent/agent/status"
	"certagent/store"
)

// awsCloud is AWS IoT Core.
type awsCloud struct {
	to     config.Provisioning
	live   *store.Generation
	want   awsiot.Registration
	result *awsiot.Result
	state  awsiot.State
}

func (c *awsCloud) name() string { return config.SourceAWS }

func (c *awsCloud) restore(result, state []byte) {
	c.result = awsiot.ParseResult(result)
	if state != nil {
		c.state = awsiot.ParseState(state)
	}
}

func (c *awsCloud) stored() (result, state []byte) {
	if c.result != nil {
		result = c.result.Bytes()
	}
	return result, c.state.Bytes()
}

func (c *awsCloud) aim(p config.Provisioning, live *store.Generation) (changed bool) {
	want := awsiot.Registration{Endpoint: p.Endpoint, Port: p.Port, ClientID: p.ClientID}
	if live != nil {
		want.ClientID = cmp.Or(p.ClientID, live.Leaf.Subject.CommonName)
		want.SHA256 = onboard.Thumbprint(live.Leaf)
	}
	changed = want != c.want || c.to.Source != "" && !reflect.DeepEqual(c.to, p)
	c.to, c.live, c.want = p, live, want
	return changed
}

func (c *awsCloud) next(now time.Time) errand {
	step := awsiot.Next(c.want, c.result, c.state, now)
	return errand{why: string(step.Why), new: step.Why != "" && step.Why != onboard.Asked, at: step.At}
}

func (c *awsCloud) begin(to contact, draw float64, now time.Time) func(context.Context) tiding {
	step := awsiot.Next(c.want, c.result, c.state, now)
	c.state = c.state.Begin(c.want, draw, now)
	want, live, p := c.want, c.live, c.to
	return func(ctx context.Context) tiding {
		err := visitAWS(ctx, want, live, p, to)
		t := tidingOf(err, 0)
		t.record = func(draw float64, now time.Time) bool { return c.record(want, step, err, draw, now) }
		return t
	}
}

// visitAWS connects once. A panic is an error of that: it must not end the agent, and must not be tried again at once.
func visitAWS(ctx context.Context, want awsiot.Registration, live *store.Generation, p config.Provisioning, to contact) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = &awsiot.Error{Target: want, Class: awsiot.ErrDevice, Code: "internal", Hint: hintBug,
				Err: fmt.Errorf("panic: %v\n%s", r, debug.Stack())}
		}
	}()
	roots, err := cloudRoots(p)
	if err != nil {
		return &awsiot.Error{Target: want, Class: awsiot.ErrUntrusted, Code: awsiot.CodeUntrusted, Err: err, Hint: hintCloudRoots}
	}
	certificate := live.TLS()
	certificate.Certificate = nil
	for _, c := range awsiot.AppendIssuer(slices.Concat([]*x509.Certificate{live.Leaf}, live.Chain), live.CAs) {
		certificate.Certificate = append(certificate.Certificate, c.Raw)
	}
	return awsiot.Connect(ctx, awsiot.Options{Registration: want, Certificate: &certificate, Roots: roots, Dialer: to.dialer, Now: to.now})
}

// record takes over what came of a connection. One that was dropped as is expected of a new certificate is no end.
func (c *awsCloud) record(want awsiot.Registration, step awsiot.Step, err error, draw float64, now time.Time) (end bool) {
	state, result := c.state.After(want, step, err, draw, now)
	if c.state = state; result != nil {
		c.result = result
	}
	return state.Problem == nil || !state.Problem.Notice
}

func (c *awsCloud) ask() { c.state = c.state.Ask() }

func (c *awsCloud) retryNow() { c.state.NextTry = time.Time{} }

func (c *awsCloud) describe(now time.Time) (status.Onboarding, []Problem) {
	next, tried := c.next(now), c.state.Of == c.want // else they were about something else
	s := status.Onboarding{Cloud: c.name(), Endpoint: c.want.Endpoint, Ordered: c.state.Again}
	if c.result != nil {
		s.DeviceID, s.Registered, s.SHA256 = c.result.ClientID, c.result.Connected, c.result.SHA256
	}
	if tried {
		s.Failures, s.LastTry = c.state.Dropped+c.state.Failures, c.state.LastTry
	}
	s, problems := described(s, c.want.SHA256 != "", next, tried, c.state.Problem)
	if next.new && c.live != nil { // AWS provisions no certificate that lacks what its template uses, and says nothing of it
		if p := awsiot.CheckSubject(c.live.Leaf, askedSubject(c.live)); p != nil {
			told := problemOfCloud(p)
			told.Since = notAhead(c.live.Meta.Issued, now)
			problems = append(problems, told)
		}
	}
	return s, problems
}

// askedSubject is what of the subject that was asked for a template may use; nothing where that was not recorded.
func askedSubject(g *store.Generation) awsiot.Subject {
	if g.Meta.Request == nil {
		return nil
	}
	var asked pkix.RDNSequence
	if _, err := asn1.Unmarshal(g.Meta.Request.SubjectDER, &asked); err != nil {
		return nil
	}
	return awsiot.SubjectOf(slices.Concat(([]pkix.RelativeDistinguishedNameSET)(asked)...))
}

func (c *awsCloud) address() (string, []string) {
	if c.want.Port == awsiot.PortHTTPS {
		return net.JoinHostPort(c.want.Endpoint, strconv.Itoa(c.want.Port)), []string{awsiot.ALPN}
	}
	return net.JoinHostPort(c.want.Endpoint, strconv.Itoa(c.want.Port)), nil
}

func (c *awsCloud) hangUp() {} // each connection ends with its errand
