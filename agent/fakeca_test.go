package agent

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"certagent/est"
)

// call is one request that reached the CA.
type call struct {
	at       time.Time
	id       string // of the certificate asked for
	op       string
	identity identityName
	csr      []byte
	o        est.Options
}

// fakeCA signs what it is asked for, unless fail says otherwise.
type fakeCA struct {
	key      crypto.Signer
	cert     *x509.Certificate
	lifetime time.Duration
	now      func() time.Time // its clock; set before the first agent

	mu       sync.Mutex // guards what follows
	refuse   func(call) error
	serials  int64
	calls    []call
	cacerts  []cacertsCall
	hidden   func(est.Options) error // why /cacerts does not answer
	wants    *est.Attributes         // what /csrattrs answers
	wantsErr error
	keyOf    crypto.Signer                                    // what /serverkeygen gives
	also     []*x509.Certificate                              // what /cacerts gives beside the CA
	alter    func(*x509.Certificate)                          // changes what is about to be signed
	answer   func(issued *x509.Certificate) *x509.Certificate // what is given in place of it
}

// cacertsCall is one request for /cacerts.
type cacertsCall struct {
	at time.Time
	o  est.Options
}

func newFakeCA(t *testing.T, lifetime time.Duration) *fakeCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &fakeCA{key: key, lifetime: lifetime, serials: 1, now: time.Now}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-day), NotAfter: time.Now().Add(200 * 365 * day), KeyUsage: x509.KeyUsageCertSign,
	}
	ca.cert = ca.sign(t, template, key.Public())
	return ca
}

func (ca *fakeCA) sign(t *testing.T, template *x509.Certificate, pub any) *x509.Certificate {
	parent := ca.cert
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func (ca *fakeCA) writeBootstrap(t *testing.T, dir string, lifetime time.Duration) {
	t.Helper()
	ca.writeBootstrapFrom(t, dir, time.Now(), lifetime)
}

func (ca *fakeCA) writeBootstrapFrom(t *testing.T, dir string, from time.Time, lifetime time.Duration) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := ca.sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "bootstrap"},
		NotBefore: from, NotAfter: from.Add(lifetime),
	}, key.Public())
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "bootstrap.pem"), pemOf(cert.Raw))
	writeFile(t, filepath.Join(dir, "bootstrap.key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// fail has every request judged by refuse; nil lets all pass.
func (ca *fakeCA) fail(refuse func(call) error) {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	ca.refuse = refuse
}

func unavailable(c call) error { return &est.Error{Op: c.op, Class: est.ErrUnavailable} }

// lastSerial is that of the newest certificate.
func (ca *fakeCA) lastSerial() int64 {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	return ca.serials
}

func (ca *fakeCA) seen() []call {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	return slices.Clone(ca.calls)
}

func (ca *fakeCA) since(t time.Time) []call {
	return slices.DeleteFunc(ca.seen(), func(c call) bool { return c.at.Before(t) })
}

// issue has certificates altered before they are signed, and others given in their place; nil leaves it.
func (ca *fakeCA) issue(alter func(*x509.Certificate), answer func(*x509.Certificate) *x509.Certificate) {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	ca.alter, ca.answer = alter, answer
}

// hide has /cacerts answer with what why says; nil lets it answer.
func (ca *fakeCA) hide(why func(est.Options) error) {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	ca.hidden = why
}

// want is what /csrattrs answers from now on.
func (ca *fakeCA) want(a *est.Attributes, err error) {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	ca.wants, ca.wantsErr = a, err
}

// add has /cacerts give one certificate more.
func (ca *fakeCA) add(c *x509.Certificate) {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	ca.also = append(ca.also, c)
}

// fetches are the requests for /cacerts so far.
func (ca *fakeCA) fetches() []cacertsCall {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	return slices.Clone(ca.cacerts)
}

func (ca *fakeCA) dial(o est.Options) (Enroller, error) {
	return &fakeClient{ca: ca, o: o, known: o.Known}, nil
}

// fakeClient does what est.Client does, without a network.
type fakeClient struct {
	ca    *fakeCA
	o     est.Options
	known est.Known
}

func (c *fakeClient) HangUp() {}

func (c *fakeClient) Close() {}

func (c *fakeClient) Known() est.Known { return c.known }

func (c *fakeClient) Traffic() est.Traffic { return est.Traffic{} }

func (c *fakeClient) Attributes(context.Context) (*est.Attributes, error) {
	c.ca.mu.Lock()
	defer c.ca.mu.Unlock()
	return c.ca.wants, c.ca.wantsErr
}

func (c *fakeClient) CACerts(context.Context) ([]*x509.Certificate, error) {
	c.ca.mu.Lock()
	defer c.ca.mu.Unlock()
	now := c.o.Now()
	c.ca.cacerts = append(c.ca.cacerts, cacertsCall{time.Now(), c.o})
	if c.ca.hidden != nil {
		if err := c.ca.hidden(c.o); err != nil {
			return nil, err
		}
	}
	c.known.CAs, c.known.TLSAnchors, c.known.Fetched = append([]*x509.Certificate{c.ca.cert}, c.ca.also...), []*x509.Certificate{c.ca.cert}, now
	return c.known.CAs, nil
}

func (c *fakeClient) Enroll(ctx context.Context, csr []byte, want est.Want) (*est.Issued, error) {
	return c.issue(ctx, opEnroll, csr, want)
}

func (c *fakeClient) Reenroll(ctx context.Context, csr []byte, want est.Want) (*est.Issued, error) {
	return c.issue(ctx, opReenroll, csr, want)
}

func (c *fakeClient) ServerKeygen(ctx context.Context, csr []byte, want est.Want, _ crypto.Decrypter) (*est.Issued, error) {
	return c.issue(ctx, opServerKeygen, csr, want)
}

func (c *fakeClient) issue(ctx context.Context, op string, csr []byte, want est.Want) (*est.Issued, error) {
	if age := c.o.Now().Sub(c.known.Fetched); c.known.Fetched.IsZero() || age >= c.o.Fresh {
		_, _ = c.CACerts(ctx) // a warning to est.Client
	}
	c.ca.mu.Lock()
	wants := c.ca.wants
	c.ca.mu.Unlock()
	if wants != nil && wants.Link {
		linked, err := want.Link(est.Binding{Attribute: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 7}, Value: rand.Text()})
		if err != nil {
			return nil, err
		}
		csr = linked
	}
	request, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return nil, err
	}
	who := call{at: time.Now(), op: op, csr: csr, id: "device-id", identity: identityPassword, o: c.o}
	if cn := request.Subject.CommonName; cn == "mqtt" || cn == "est-id" {
		who.id = cn
	}
	if c.o.Certificate != nil {
		switch label := c.o.Identity; {
		case strings.HasPrefix(label, "certificate "):
			who.identity, who.id = identitySelf, strings.TrimPrefix(label, "certificate ")
		case strings.HasPrefix(label, "EST identity"):
			who.identity = identityEST
		default:
			who.identity = identityBootstrap
		}
	}
	c.ca.mu.Lock()
	defer c.ca.mu.Unlock()
	c.ca.calls = append(c.ca.calls, who)
	if c.ca.refuse != nil {
		if err := c.ca.refuse(who); err != nil {
			return nil, err
		}
	}
	issued := &est.Issued{CAs: []*x509.Certificate{c.ca.cert}}
	public := request.PublicKey
	if op == opServerKeygen {
		if issued.Key = c.ca.keyOf; issued.Key != nil {
			public = issued.Key.Public()
		}
	}
	c.ca.serials++
	template := &x509.Certificate{
		SerialNumber: big.NewInt(c.ca.serials), RawSubject: request.RawSubject,
		NotBefore: c.ca.now(), NotAfter: c.ca.now().Add(c.ca.lifetime), ExtraExtensions: request.Extensions,
	}
	if c.ca.alter != nil {
		c.ca.alter(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, c.ca.cert, public, c.ca.key)
	if err != nil {
		return nil, err
	}
	if issued.Leaf, err = x509.ParseCertificate(der); err == nil && c.ca.answer != nil {
		issued.Leaf = c.ca.answer(issued.Leaf)
	}
	return issued, err
}

// hangs never answers to /cacerts that is asked for apart from a renewal.
type hangs struct{ Enroller }

func (hangs) CACerts(ctx context.Context) ([]*x509.Certificate, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}
