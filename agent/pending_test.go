package agent

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certagent/est"
	"certagent/store"
	"certagent/store/keys"
)

// TestKindOfKey: the configuration decides, then an accepted request, then the server, then the key that there is.
func TestKindOfKey(t *testing.T) {
	asks := func(algorithm string, bits int) advice {
		return advice{known: &est.Attributes{Algorithm: algorithm, Bits: bits}}
	}
	for _, c := range []struct {
		name           string
		configured     string
		asked          advice
		accepted, live keys.Algorithm
		want           keys.Algorithm
		allowed        bool
	}{
		{"nobody says anything", "", advice{}, "", "", keys.ECP256, true},
		{"a renewal keeps the kind", "", advice{}, "", keys.RSA3072, keys.RSA3072, true},
		{"the server asks", "", asks("ec", 384), "", "", keys.ECP384, true},
		{"the server asks for another one", "", asks("rsa", 4096), "", keys.ECP256, keys.RSA4096, true},
		{"any RSA will do", "", asks("rsa", 0), "", "", keys.RSA2048, true},
		{"and there is one", "", asks("rsa", 0), "", keys.RSA3072, keys.RSA3072, true},
		{"any EC will do", "", asks("ec", 0), "", keys.RSA3072, keys.ECP256, true},
		{"Ed25519", "", asks("ed25519", 0), "", "", keys.Ed25519, true},
		{"RSA of a size that we do not make", "", asks("rsa", 1024), "", "", keys.RSA2048, true},
		{"nor make, with one at hand", "", asks("rsa", 512), "", keys.RSA3072, keys.RSA3072, true},
		{"what we do not know", "", asks("dsa", 1024), "", keys.ECP384, keys.ECP384, false},
		{"what we do not know, at first", "", asks("dsa", 1024), "", "", keys.ECP256, false},
		{"the configuration decides", "ed25519", asks("rsa", 2048), "", keys.ECP256, keys.Ed25519, false},
		{"what was accepted stays", "", asks("rsa", 2048), keys.ECP384, keys.ECP256, keys.ECP384, false},
	} {
		got := keyKind(c.configured, c.asked, c.accepted, c.live)
		if got != c.want || c.asked.allows(got) != c.allowed {
			t.Errorf("%s: %s, allowed %v; want %s, %v", c.name, got, c.asked.allows(got), c.want, c.allowed)
		}
	}
}

// TestDriftOfKey: a key that is left to the server does not drift by what the server says.
func TestDriftOfKey(t *testing.T) {
	key, err := keys.Files{}.Generate(keys.ECP384)
	if err != nil {
		t.Fatal(err)
	}
	live := func(was *store.Request) *store.Generation {
		return &store.Generation{Leaf: &x509.Certificate{PublicKey: key.Public()}, Meta: store.Meta{Request: was}}
	}
	for _, c := range []struct {
		name    string
		was, is store.Request
		want    bool
	}{
		{"left to the server", store.Request{}, store.Request{}, false},
		{"recorded by an older version, not configured", store.Request{Key: "ec-p256"}, store.Request{}, false},
		{"configured as it is", store.Request{}, store.Request{Key: "ec-p384"}, false},
		{"configured otherwise", store.Request{}, store.Request{Key: "ec-p256"}, true},
		{"another one configured", store.Request{Key: "ec-p384"}, store.Request{Key: "rsa-2048"}, true},
		{"the server is to make it", store.Request{}, store.Request{ServerKey: true}, true},
	} {
		if got := driftOf(live(&c.was), c.is); got.key != c.want || got.name {
			t.Errorf("%s: %+v, want key %v", c.name, got, c.want)
		}
	}
	if driftOf(live(nil), store.Request{Key: "ed25519", ServerKey: true}).any() {
		t.Error("without a record there is drift")
	}
}

// TestAttributesChooseTheKey: what a server asks for by /csrattrs holds where the configuration leaves it open, and a
// restart or a later answer is no drift.
func TestAttributesChooseTheKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, day, oneCertificate+"\n[cert_issuance.certs.mqtt]\nmethod = \"est\"\ncommon_name = \"mqtt\"\nkey = \"ed25519\"\n")
		d.ca.want(&est.Attributes{Algorithm: "ec", Bits: 384}, nil)
		_, stop := d.boot()
		settle()
		if g := d.live("device-id"); g.Key.Algorithm() != keys.ECP384 || g.Meta.Request.Key != "" {
			t.Errorf("a key of kind %s, recorded as %q", g.Key.Algorithm(), g.Meta.Request.Key)
		}
		if g := d.live("mqtt"); g.Key.Algorithm() != keys.Ed25519 {
			t.Errorf("the configured kind is ed25519, and there is a key of kind %s", g.Key.Algorithm())
		}
		if !strings.Contains(d.logs.String(), "another kind of key (ec, 384 bits) than ed25519") {
			t.Error("that the server asks for another kind of key is not in the log")
		}
		stop()
		d.ca.want(nil, &est.Error{Op: "csrattrs", Class: est.ErrBadResponse, Status: 200})
		_, stop = d.boot()
		defer stop()
		time.Sleep(time.Hour)
		if n := len(d.ca.seen()); n != 2 {
			t.Errorf("%d requests: the answer of the server made a drift", n)
		}
		time.Sleep(day)
		settle()
		if g := d.live("device-id"); g.Number != 2 || g.Key.Algorithm() != keys.ECP384 {
			t.Errorf("generation %d has a key of kind %s", g.Number, g.Key.Algorithm())
		}
	})
}

// TestAttributesThatEndAnAttempt: what is about the server as a whole is not tried a second time; all else is a warning.
func TestAttributesThatEndAnAttempt(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		err  error
		ends bool
	}{
		"not trusted":         {&est.Error{Class: est.ErrUntrusted}, true},
		"not there":           {&est.Error{Class: est.ErrUnavailable}, true},
		"not this identity":   {&est.Error{Class: est.ErrUnauthorized, Refusal: true}, true},
		"asked for a login":   {&est.Error{Class: est.ErrUnauthorized, Status: 401, Refusal: true}, false},
		"an error of its own": {&est.Error{Class: est.ErrUnavailable, Status: 500}, false},
		"nonsense":            {&est.Error{Class: est.ErrBadResponse, Status: 200}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := newDevice(t, day, oneCertificate)
				d.ca.want(nil, c.err)
				_, stop := d.boot()
				defer stop()
				settle()
				if n := len(d.ca.seen()); (n == 0) != c.ends {
					t.Errorf("%d requests", n)
				}
			})
		})
	}
}

// TestAttributesCanBeLeftAlone: csrattrs = false is for a server whose answer does harm.
func TestAttributesCanBeLeftAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, day, strings.Replace(oneCertificate, "[cert_issuance.est]", "[cert_issuance.est]\ncsrattrs = false", 1))
		d.ca.want(nil, &est.Error{Class: est.ErrUnavailable})
		_, stop := d.boot()
		defer stop()
		settle()
		d.live("device-id")
	})
}

// TestAcceptedRequestIsRepeated: byte for byte while the server wants the same, and while what it wants cannot be had.
func TestAcceptedRequestIsRepeated(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, day, oneCertificate)
		d.ca.want(&est.Attributes{Algorithm: "ec", Bits: 384}, nil)
		d.ca.fail(func(c call) error {
			return &est.Error{Op: c.op, Class: est.ErrPending, Status: 202, RetryAfter: time.Hour}
		})
		_, stop := d.boot()
		time.Sleep(90 * time.Minute)
		stop()
		d.ca.want(nil, &est.Error{Class: est.ErrUnavailable, Status: 500})
		_, stop = d.boot()
		defer stop()
		time.Sleep(time.Hour)
		d.ca.want(&est.Attributes{Algorithm: "rsa", Bits: 2048}, nil) // too late for this request
		time.Sleep(time.Hour)
		d.ca.fail(nil)
		time.Sleep(time.Hour)
		settle()
		calls := d.ca.seen()
		if len(calls) < 4 {
			t.Fatalf("%d requests", len(calls))
		}
		for i, c := range calls {
			if !bytes.Equal(c.csr, calls[0].csr) {
				t.Errorf("request %d is not the first one repeated", i+1)
			}
		}
		d.live("device-id")
	})
}

// TestLinkedRequests: each connection gets a request of its own with the same key, durable before it is sent, and the wait
// for an approval survives that (RFC 7030 section 3.5 and 4.2.3).
func TestLinkedRequests(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, day, oneCertificate)
		d.ca.want(&est.Attributes{Link: true}, nil)
		d.ca.fail(func(c call) error {
			v, err := store.View(filepath.Join(d.dir, "state"))
			if err != nil {
				t.Error(err)
				return nil
			}
			stored, err := v.Certificate("device-id")
			if err != nil {
				t.Error(err)
				return nil
			}
			p, err := stored.Pending()
			if err != nil || p == nil || !bytes.Equal(p.CSR, c.csr) || bytes.Equal(p.Unlinked, c.csr) || p.Unlinked == nil {
				t.Errorf("what is sent is not what is on disk: %v, %v", p, err)
			}
			return &est.Error{Op: c.op, Class: est.ErrPending, Status: 202, RetryAfter: time.Hour}
		})
		_, stop := d.boot()
		time.Sleep(90 * time.Minute)
		stop()
		a, stop := d.boot()
		defer stop()
		settle()
		if c := a.Snapshot().Certificates[0]; !c.Pending {
			t.Errorf("status does not show the pending request: %+v", c)
		}
		d.ca.fail(nil)
		time.Sleep(time.Hour)
		settle()
		calls := d.ca.seen()
		if len(calls) != 3 {
			t.Fatalf("%d requests, want 3", len(calls))
		}
		var public []any
		for i, c := range calls {
			r, err := x509.ParseCertificateRequest(c.csr)
			if err != nil {
				t.Fatal(err)
			}
			public = append(public, r.PublicKey)
			if i > 0 && bytes.Equal(c.csr, calls[i-1].csr) {
				t.Errorf("request %d is linked to the connection of the one before", i+1)
			}
			if !keys.Equal(public[0], r.PublicKey) {
				t.Errorf("request %d has another key", i+1)
			}
		}
		d.live("device-id")
	})
}

// TestLinkOnDemandOfTheConfiguration: link_identity reaches the client.
func TestLinkOnDemandOfTheConfiguration(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, day, strings.Replace(oneCertificate, "[cert_issuance.est]",
			"[cert_issuance.est]\nlink_identity = true\nredirect_hosts = [\"other.example\"]", 1))
		_, stop := d.boot()
		defer stop()
		settle()
		if o := d.ca.seen()[0].o; !o.LinkIdentity || !slices.Equal(o.RedirectHosts, []string{"other.example"}) {
			t.Errorf("options of the client: link %v, redirects to %v", o.LinkIdentity, o.RedirectHosts)
		}
	})
}

// TestServerMakesTheKey: the key that the server gives is the certificate's, at a renewal too; an answer without one leaves
// everything as it was.
func TestServerMakesTheKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, day, strings.Replace(oneCertificate, `common_name = "gateway"`, "common_name = \"gateway\"\nserver_key = true", 1))
		made := func() crypto.Signer {
			k, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			d.ca.mu.Lock()
			d.ca.keyOf = k
			d.ca.mu.Unlock()
			return k
		}
		first := made()
		a, stop := d.boot()
		defer stop()
		settle()
		g := d.live("device-id")
		if !keys.Equal(g.Key.Public(), first.Public()) || g.Meta.Operation != opServerKeygen {
			t.Errorf("the live key is not the server's; operation %s", g.Meta.Operation)
		}
		second := made()
		time.Sleep(20 * time.Hour)
		settle()
		calls := d.ca.seen()
		if c := calls[len(calls)-1]; len(calls) != 2 || c.op != opServerKeygen || c.identity != identitySelf {
			t.Fatalf("%d requests, the last %s by %s", len(calls), c.op, c.identity)
		}
		if r, err := x509.ParseCertificateRequest(calls[1].csr); err != nil || !bytes.Equal(r.RawSubject, g.Leaf.RawSubject) ||
			keys.Equal(r.PublicKey, g.Key.Public()) {
			t.Errorf("the renewal asks for %v, or with the server's key", r.Subject)
		}
		if g := d.live("device-id"); !keys.Equal(g.Key.Public(), second.Public()) {
			t.Error("the renewed key is not the server's second")
		}

		d.ca.mu.Lock()
		d.ca.keyOf = nil // an answer without a key
		d.ca.mu.Unlock()
		a.RenewAll()
		settle()
		if c := a.Snapshot().Certificates[0]; !hasProblem(c.Problems, "server-key") || c.Generation != 2 {
			t.Errorf("without a key in the answer: generation %d, problems %+v", c.Generation, c.Problems)
		}
	})
}
