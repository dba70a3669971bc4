package agent

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"certagent/agent/status"
	"certagent/est"
	"certagent/store"
)

// astray is a device whose wall clock is wrong by what the test says, beside a monotonic one that is always right (the
// bubble's), and a CA with a clock of its own. The CA's clients judge validity as est.Client does.
type astray struct {
	*device
	off    atomic.Int64 // by how much the device's clock is ahead of the true time, which is the bubble's
	caOff  atomic.Int64 // the same of the CA's
	synced atomic.Bool  // what the system says of its clock
	slept  atomic.Int64 // for how long the system was suspended
	built  time.Time
}

const year = 365 * day

// to1970 takes the bubble's clock, which begins in 2000, to 1970.
const to1970 = -30 * year

func newAstray(t *testing.T, lifetime time.Duration, text string) *astray {
	a := &astray{device: newDevice(t, lifetime, text), built: time.Now().Add(-30 * day)}
	a.ca.now = func() time.Time { return time.Now().Add(time.Duration(a.caOff.Load())) }
	a.change = func(o *Options) {
		o.Now, o.Built, o.Synced = a.now, a.built, a.synced.Load
		o.Suspended = func() time.Duration { return time.Duration(a.slept.Load()) }
		o.Dial = func(eo est.Options) (Enroller, error) {
			return &datedClient{fakeClient: &fakeClient{ca: a.ca, o: eo, known: eo.Known}}, nil
		}
	}
	return a
}

func (a *astray) now() time.Time           { return time.Now().Add(time.Duration(a.off.Load())) }
func (a *astray) set(ahead time.Duration)  { a.off.Store(int64(ahead)) }
func (a *astray) both(ahead time.Duration) { a.set(ahead); a.caOff.Store(int64(ahead)) }

// sleep suspends the device: the world's clock moves on, and the monotonic one stands still.
func (a *astray) sleep(d time.Duration) {
	a.both(time.Duration(a.off.Load()) + d)
	a.slept.Add(int64(d))
}

// mark is what clock.json says.
func (a *astray) mark() time.Time {
	a.t.Helper()
	data, err := os.ReadFile(filepath.Join(a.dir, "state", "clock.json"))
	if os.IsNotExist(err) {
		return time.Time{}
	}
	if err != nil {
		a.t.Fatal(err)
	}
	var c store.Clock
	if json.Unmarshal(data, &c) != nil {
		return time.Time{} // the test damaged it
	}
	return c.Mark
}

// retryFile is the certificate's retry state on disk.
func (a *astray) retryFile() store.Retry {
	a.t.Helper()
	var r store.Retry
	data, err := os.ReadFile(filepath.Join(a.dir, "state", "certs", "device-id", "retry.json"))
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	if err != nil {
		a.t.Fatal(err)
	}
	return r
}

// works fails the test unless the live certificate is valid by the device's clock, and everything that is stored of when to
// act lies no further ahead than the rules put it.
func (a *astray) works(when string) {
	a.t.Helper()
	now, leaf, r := a.now(), a.live("device-id").Leaf, a.retryFile()
	if now.Before(leaf.NotBefore) || !now.Before(leaf.NotAfter) {
		a.t.Errorf("%s: at %v the live certificate is valid from %v to %v", when, now, leaf.NotBefore, leaf.NotAfter)
	}
	for name, at := range map[string]time.Time{
		"next try": r.NextTry, "Retry-After": r.RetryAfter, "approval": r.PendingUntil, "last try": r.LastTry,
	} {
		if at.Sub(now) > 7*day {
			a.t.Errorf("%s: at %v the %s is %v", when, now, name, at)
		}
	}
	if mark := a.mark(); mark.After(now) {
		a.t.Errorf("%s: at %v the newest corroborated time is %v", when, now, mark)
	}
}

// datedClient adds what est.Client says of validity: of the server's own certificate, which lasts from a month ago for four
// years, and of what is issued.
type datedClient struct{ *fakeClient }

func (c *datedClient) checkServer(op string) error {
	from := c.ca.now().Add(-30 * day)
	if now := c.o.Now(); now.Before(from) || now.After(from.Add(4*year)) {
		return &est.Error{Op: op, Class: est.ErrUntrusted, Hint: "check the clock of this device and of the server"}
	}
	return nil
}

func (c *datedClient) CACerts(ctx context.Context) ([]*x509.Certificate, error) {
	if err := c.checkServer(opCACerts); err != nil {
		return nil, err
	}
	return c.fakeClient.CACerts(ctx)
}

func (c *datedClient) Attributes(ctx context.Context) (*est.Attributes, error) {
	if err := c.checkServer("csrattrs"); err != nil {
		return nil, err
	}
	return c.fakeClient.Attributes(ctx)
}

func (c *datedClient) checkIssued(op string, i *est.Issued, err error) (*est.Issued, error) {
	if err != nil {
		return nil, err
	}
	if now := c.o.Now(); now.After(i.Leaf.NotAfter) || i.Leaf.NotBefore.After(now.Add(5*time.Minute)) {
		return nil, &est.Error{Op: op, Class: est.ErrBadResponse, Hint: "check the clock of this device and of the server"}
	}
	return i, nil
}

func (c *datedClient) Enroll(ctx context.Context, csr []byte, want est.Want) (*est.Issued, error) {
	i, err := c.fakeClient.Enroll(ctx, csr, want)
	return c.checkIssued(opEnroll, i, err)
}

func (c *datedClient) Reenroll(ctx context.Context, csr []byte, want est.Want) (*est.Issued, error) {
	i, err := c.fakeClient.Reenroll(ctx, csr, want)
	return c.checkIssued(opReenroll, i, err)
}

// problems are the codes of all problems that status shows.
func problems(s status.Snapshot) (codes []string) {
	for _, p := range s.Problems {
		codes = append(codes, p.Code)
	}
	for _, c := range s.Certificates {
		for _, p := range c.Problems {
			codes = append(codes, p.Code)
		}
	}
	return codes
}

func (a *astray) saveRetry(r store.Retry) {
	a.t.Helper()
	data, err := json.Marshal(r)
	if err != nil {
		a.t.Fatal(err)
	}
	writeFile(a.t, filepath.Join(a.dir, "state", "certs", "device-id", "retry.json"), data)
}

// survey is what status says without an agent.
func (a *astray) survey() status.Snapshot {
	a.t.Helper()
	s, err := store.View(filepath.Join(a.dir, "state"))
	if err != nil {
		a.t.Fatal(err)
	}
	defer s.Close()
	cfg, err := a.load()
	if err != nil {
		a.t.Fatal(err)
	}
	snapshot, err := Survey(SurveyOptions{Config: cfg, Store: s, Built: a.built, Now: a.now(), Host: Host{MachineID: "test"}})
	if err != nil {
		a.t.Fatal(err)
	}
	return snapshot
}
