package dps_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync"
	"testing"
	"time"

	"certagent/agent/onboard"
	"certagent/agent/onboard/dps"
	"certagent/agent/onboard/dps/dpstest"
	"certagent/est"
)

// clock is the time of a device and of the service, which moves when the test has it move.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

// reach moves the clock to t, unless it is there already.
func (c *clock) reach(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.After(c.t) {
		c.t = t
	}
}

func (c *clock) pass(d time.Duration) { c.reach(c.Now().Add(d)) }

// ca is a CA for devices.
type ca struct {
	t     *testing.T
	now   func() time.Time
	cert  *x509.Certificate
	key   *ecdsa.PrivateKey
	above *ca
}

func newCA(t *testing.T, now func() time.Time, name string, above *ca) *ca {
	c := &ca{t: t, now: now, above: above}
	c.key = newKey(t)
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: now().Add(-time.Hour), NotAfter: now().AddDate(10, 0, 0),
	}
	signer := above
	if above == nil {
		c.cert, signer = template, c
	}
	c.cert = signer.sign(template, &c.key.PublicKey)
	return c
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (c *ca) sign(template *x509.Certificate, public crypto.PublicKey) *x509.Certificate {
	c.t.Helper()
	template.SerialNumber, _ = rand.Int(rand.Reader, big.NewInt(1<<62))
	der, err := x509.CreateCertificate(rand.Reader, template, c.cert, public, c.key)
	if err != nil {
		c.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		c.t.Fatal(err)
	}
	return cert
}

// issue makes a device certificate of a month, with the CAs above it but for the root.
func (c *ca) issue(name string) *tls.Certificate { return c.issueFor(name, newKey(c.t)) }

func (c *ca) issueFor(name string, key crypto.Signer) *tls.Certificate {
	c.t.Helper()
	leaf := c.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: c.now().Add(-time.Minute), NotAfter: c.now().AddDate(0, 1, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, key.Public())
	pair := &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
	for above := c; above.above != nil; above = above.above {
		pair.Certificate = append(pair.Certificate, above.cert.Raw)
	}
	return pair
}

// rig is a device that keeps what it must on a disk, and the service.
type rig struct {
	*testing.T
	clock  *clock
	ca     *ca // enrolled as a group by whoever wants that
	server *dpstest.Server
	dialer onboard.Dialer
	o      dps.Options
	draw   float64

	client *dps.Client
	result []byte // the disk
	state  []byte
	begun  []byte // what the state was while the last step was done
}

// newRig has a device "gw-17" with a certificate of an intermediate CA, whose root has a group enrolment.
func newRig(t *testing.T, o dpstest.Options) *rig {
	r := &rig{T: t, clock: newClock()}
	o.Now = r.clock.Now
	r.server = dpstest.New(t, o)
	root := newCA(t, r.clock.Now, "device root", nil)
	r.ca = newCA(t, r.clock.Now, "device issuing", root)
	r.server.EnrolGroup(root.cert, dpstest.Enrolment{})
	r.dialer = &est.Dialer{Proxy: func(*http.Request) (*url.URL, error) { return nil, nil }, Now: r.clock.Now}
	r.o = dps.Options{
		Registration: dps.Registration{Endpoint: r.server.URL(), IDScope: r.server.IDScope(), RegistrationID: "gw-17"},
		Roots:        pool(r.server.Root), Dialer: r.dialer, ReadPayload: os.ReadFile, UserAgent: "certagent/test", Now: r.clock.Now,
	}
	r.holds(r.ca.issue("gw-17"))
	t.Cleanup(func() { r.client.Close() })
	return r
}

func pool(certificates ...*x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range certificates {
		p.AddCert(c)
	}
	return p
}

// holds gives the device another certificate.
func (r *rig) holds(c *tls.Certificate) {
	r.o.Certificate = c
	r.o.Registration.SHA256 = onboard.Thumbprint(c.Leaf)
	r.restart()
}

// restart is a new process on the same disk.
func (r *rig) restart() {
	if r.client != nil {
		r.client.Close()
	}
	r.client = dps.New(r.o)
}

// next is what the device would do now.
func (r *rig) next() dps.Step {
	return dps.Next(r.o.Registration, dps.ParseResult(r.result), dps.ParseState(r.state), r.clock.Now())
}

// step waits for what is next, and does it.
func (r *rig) step() (done dps.Action, err error) {
	r.Helper()
	step := r.next()
	if step.Do == dps.Nothing {
		return step.Do, nil
	}
	r.clock.reach(step.At)
	want := r.o.Registration
	state := dps.ParseState(r.state).Begin(want, step, r.draw, r.clock.Now())
	r.state = state.Bytes()
	r.begun = r.state
	answer, err := r.client.Exchange(r.Context(), step)
	state, result := state.After(want, step, answer, err, r.draw, r.clock.Now())
	if result != nil {
		r.result = result.Bytes()
	}
	r.state = state.Bytes()
	return step.Do, err
}

// settle does everything that there is to do, and gives the last result and the failures on the way.
func (r *rig) settle() (*dps.Result, []*dps.Error) {
	r.Helper()
	var failures []*dps.Error
	for range 500 {
		did, err := r.step()
		if did == dps.Nothing {
			return dps.ParseResult(r.result), failures
		}
		if err != nil {
			failures = append(failures, r.failure(err))
		}
	}
	r.Fatalf("no end after 500 steps; the state is %s", r.state)
	return nil, nil
}

func (r *rig) failure(err error) *dps.Error {
	r.Helper()
	e, ok := errors.AsType[*dps.Error](err)
	if !ok {
		r.Fatalf("%T %v, want a *dps.Error", err, err)
	}
	return e
}

// registered settles without a failure.
func (r *rig) registered() *dps.Result {
	r.Helper()
	result, failures := r.settle()
	if result == nil || len(failures) > 0 {
		r.Fatalf("result %v, failures %v", result, failures)
	}
	return result
}

// fails expects the next step to fail with a code.
func (r *rig) fails(code string) *dps.Error {
	r.Helper()
	_, err := r.step()
	if err == nil {
		r.Fatalf("no error, want %s", code)
	}
	e := r.failure(err)
	if e.Code != code {
		r.Fatalf("code %s, want %s: %v", e.Code, code, e)
	}
	return e
}

// send sends a message to the hub with the certificate that the device holds, as an application would.
func (r *rig) send(hub, deviceID string) int {
	r.Helper()
	transport := &http.Transport{
		TLSClientConfig: r.dialer.TLSConfig(pool(r.server.Root), r.o.Certificate),
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) { // no resolver knows the hub
			return r.dialer.DialContext(ctx, network, r.server.Addr())
		},
	}
	defer transport.CloseIdleConnections()
	target := r.server.HubURL(hub) + "/devices/" + deviceID + "/messages/events?api-version=2020-03-13"
	request, err := http.NewRequestWithContext(r.Context(), http.MethodPost, target, http.NoBody)
	if err != nil {
		r.Fatal(err)
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		r.Fatal(err)
	}
	response.Body.Close()
	return response.StatusCode
}

// known checks that the hub of the result takes the device with the certificate that it holds.
func (r *rig) known(result *dps.Result) {
	r.Helper()
	if got := r.server.Thumbprint(result.Hub, result.DeviceID); got != r.o.Registration.SHA256 {
		r.Errorf("the hub knows the thumbprint %q, the device holds %q", got, r.o.Registration.SHA256)
	}
	before := r.server.Messages(result.Hub, result.DeviceID)
	status := r.send(result.Hub, result.DeviceID)
	if status != http.StatusNoContent || r.server.Messages(result.Hub, result.DeviceID) != before+1 {
		r.Errorf("the hub answers %d to a message, want 204", status)
	}
}

// count is how many requests of an operation came.
func (r *rig) count(op string) (n int) {
	for _, q := range r.server.Requests() {
		if q.Op == op {
			n++
		}
	}
	return n
}

func canceled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}
