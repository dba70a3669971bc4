package dps_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certagent/agent/onboard"
	"certagent/agent/onboard/dps"
	"certagent/agent/onboard/dps/dpstest"
	"certagent/est"
)

// pipes is a network in memory, so that all that waits for it waits in fake time: a listener, and the dialer that
// reaches it.
type pipes struct {
	est.Dialer // its TLS settings
	accept     chan net.Conn
	closed     chan struct{}
	deaf       bool // who connects waits for ever
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.accept:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	close(p.closed)
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 443} }

func (p *pipes) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	near, far := net.Pipe()
	accept := p.accept
	if p.deaf {
		accept = nil
	}
	select {
	case accept <- far:
		return near, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// scene is a test with a service, the way to it, and a client whose next step is step.
type scene func(t *testing.T, s *dpstest.Server, p *pipes, client *dps.Client, step dps.Step)

// bubble runs test with a device and a service in fake time.
func bubble(t *testing.T, o dpstest.Options, test scene) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := &pipes{accept: make(chan net.Conn), closed: make(chan struct{})}
		o.Listener = p
		s := dpstest.New(t, o)
		issuer := newCA(t, time.Now, "device root", nil)
		s.EnrolGroup(issuer.cert, dpstest.Enrolment{})
		certificate := issuer.issue("gw-17")
		want := dps.Registration{
			Endpoint: s.URL(), IDScope: s.IDScope(), RegistrationID: "gw-17", SHA256: onboard.Thumbprint(certificate.Leaf),
		}
		client := dps.New(dps.Options{
			Registration: want, Certificate: certificate, Roots: pool(s.Root), Dialer: p, Timeout: 20 * time.Second,
		})
		defer client.Close()
		test(t, s, p, client, dps.Next(want, nil, dps.State{}, time.Now()))
	})
}

// An endpoint that does not answer, answers half, or is not there costs the time limit, to the second, and nothing
// lingers: the bubble ends only when all its goroutines have.
func TestSlowEndpoint(t *testing.T) {
	for name, fault := range map[string]dpstest.Fault{
		"no answer": dpstest.Hang(context.Background()), "half an answer": dpstest.StopHalfway, "nobody accepts": nil,
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, dpstest.Options{}, func(t *testing.T, s *dpstest.Server, p *pipes, client *dps.Client, step dps.Step) {
				if p.deaf = fault == nil; !p.deaf {
					s.Next("", fault)
				}
				began := time.Now()
				_, err := client.Exchange(t.Context(), step)
				if took := time.Since(began); took != 20*time.Second {
					t.Errorf("it took %v", took)
				}
				e, ok := errors.AsType[*dps.Error](err)
				if !ok || e.Code != dps.CodeUnavailable || !strings.Contains(e.Error(), "no answer in time") {
					t.Errorf("error %v", err)
				}
				p.deaf = false
				if a, err := client.Exchange(t.Context(), step); a.Operation == "" || err != nil {
					t.Errorf("after that %+v, %v", a, err)
				}
			})
		})
	}
}

// A step ends when its context does.
func TestStepEndsWithItsContext(t *testing.T) {
	bubble(t, dpstest.Options{}, func(t *testing.T, s *dpstest.Server, _ *pipes, client *dps.Client, step dps.Step) {
		s.Next("", dpstest.Hang(t.Context()))
		ctx, cancel := context.WithCancel(t.Context())
		come := s.Changed()
		go func() { // ends when the request has come
			<-come
			time.Sleep(5 * time.Second)
			cancel()
		}()
		began := time.Now()
		_, err := client.Exchange(ctx, step)
		if !errors.Is(err, context.Canceled) || time.Since(began) != 5*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

// A connection that lay idle for long is not used again: the service may have closed it.
func TestIdleConnection(t *testing.T) {
	bubble(t, dpstest.Options{Takes: time.Hour}, func(t *testing.T, s *dpstest.Server, _ *pipes, client *dps.Client, step dps.Step) {
		a, err := client.Exchange(t.Context(), step)
		if err != nil {
			t.Fatal(err)
		}
		poll := dps.Step{Do: dps.Poll, Why: step.Why, Operation: a.Operation}
		for _, pause := range []time.Duration{3 * time.Second, 20 * time.Second, 40 * time.Second} {
			time.Sleep(pause)
			if _, err := client.Exchange(t.Context(), poll); err != nil {
				t.Fatal(err)
			}
		}
		if n := s.Connections(); n != 2 {
			t.Errorf("%d connections, want one before the long pause and one after", n)
		}
	})
}
