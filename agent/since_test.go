package agent

import (
	"crypto/x509"
	"math/big"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certagent/agent/status"
	"certagent/est"
	"certagent/store"
)

// TestSinceOutlastsARestart: since when a problem is there is not forgotten by an agent that is started anew.
func TestSinceOutlastsARestart(t *testing.T) {
	t.Parallel()
	for code, trouble := range map[string]func(d *device){
		"drift": func(d *device) {
			d.ca.fail(func(c call) error {
				r, err := x509.ParseCertificateRequest(c.csr)
				if err == nil && r.Subject.CommonName != "gateway" {
					err = &est.Error{Op: c.op, Class: est.ErrUnauthorized, Status: 403, Refusal: true}
				}
				return err
			})
			d.text = strings.Replace(d.text, `common_name = "gateway"`, `common_name = "other"`, 1)
		},
		"cloned-state": func(d *device) {
			d.ca.fail(unavailable)
			d.on("another")
		},
		"cacerts-stale": func(d *device) {
			d.ca.hide(func(o est.Options) error { return &est.Error{Op: opCACerts, Class: est.ErrUnavailable, Status: 503} })
		},
	} {
		t.Run(code, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := newDevice(t, longLife, oneCertificate)
				_, stop := d.boot()
				time.Sleep(time.Hour)
				stop()
				trouble(d)
				a, stop := d.boot()
				time.Sleep(8 * day)
				settle()
				first := sinceOf(t, a.Snapshot(), code)
				stop()
				time.Sleep(time.Hour)
				a, stop = d.boot()
				defer stop()
				for range 3 {
					settle()
					if now := sinceOf(t, a.Snapshot(), code); !now.Equal(first) || now.After(time.Now().Add(-time.Hour)) {
						t.Errorf("%s is there since %v, and was since %v before the restart", code, now, first)
					}
					time.Sleep(12 * time.Hour)
				}
			})
		})
	}
}

// sinceOf is since when the one problem with that code is there.
func sinceOf(t *testing.T, s status.Snapshot, code string) time.Time {
	t.Helper()
	all := slices.Concat(s.Problems, s.Certificates[0].Problems)
	i := slices.IndexFunc(all, func(p Problem) bool { return p.Code == code })
	if i < 0 {
		t.Fatalf("problems %+v, want %s", all, code)
	}
	return all[i].Since
}

// TestNotYetValidSinceItCame: a certificate that is yet to begin has been so since it came.
func TestNotYetValidSinceItCame(t *testing.T) {
	ca := newFakeCA(t, day)
	now := time.Now()
	leaf := ca.sign(t, &x509.Certificate{SerialNumber: big.NewInt(7), NotBefore: now.Add(time.Hour), NotAfter: now.Add(day)}, ca.key.Public())
	came := now.Add(-time.Hour)
	c := describe(view{id: "mqtt", live: &store.Generation{Number: 1, Leaf: leaf, HasMeta: true, Meta: store.Meta{Issued: came}}, now: now})
	if got := sinceOf(t, status.Snapshot{Certificates: []status.Certificate{c}}, "not-yet-valid"); !got.Equal(came) {
		t.Errorf("not yet valid since %v, want %v", got, came)
	}
}

// TestSinceIsOfACredibleClock: a copied disk comes to a device whose clock is not set yet. What that clock says is not kept as
// since when there is a problem.
func TestSinceIsOfACredibleClock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, longLife, oneCertificate)
		d.mustTurn()
		d.on("another")
		d.ca.fail(unavailable)
		built := time.Now().Add(day)
		change := d.change
		d.change = func(o *Options) {
			change(o)
			o.Built = built
		}
		a, stop := d.boot()
		defer stop()
		time.Sleep(day + 2*time.Minute)
		settle()
		if got := sinceOf(t, a.Snapshot(), "cloned-state"); got.Before(built) {
			t.Errorf("the disk is a copy since %v, when the clock was not credible before %v", got, built)
		}
	})
}
