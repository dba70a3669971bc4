package agent

import (
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"certagent/agent/status"
	"certagent/est"
)

// What people, clocks, disks and CAs do to a gateway. In each of these the certificate must outlive it.

// TestChangeThatIsNotGranted: whatever a CA has against a change of name or key, and whatever else happens meanwhile, the
// certificate is renewed as it was.
func TestChangeThatIsNotGranted(t *testing.T) {
	t.Parallel()
	changes := map[string]struct{ from, to string }{
		"name": {`common_name = "gateway"`, `common_name = "other"`},
		"key":  {`common_name = "gateway"`, "common_name = \"gateway\"\nkey = \"ed25519\""},
	}
	answers := map[string]*est.Error{
		"403":             {Class: est.ErrUnauthorized, Status: 403, Refusal: true},
		"400":             {Class: est.ErrRejected, Status: 400},
		"500":             {Class: est.ErrUnavailable, Status: 500},
		"waits for years": {Class: est.ErrPending, Status: 202, RetryAfter: 4 * time.Hour},
	}
	meanwhile := map[string]func(d *device, a *Agent){
		"nothing": func(*device, *Agent) {},
		"forced":  func(_ *device, a *Agent) { a.RenewAll() },
		"deleted": func(d *device, _ *Agent) { remove(d.t, filepath.Join(d.dir, "state/certs/device-id/live")) },
	}
	stories := storiesOf(t)
	for change, text := range changes {
		for status, answer := range answers {
			for event, happen := range meanwhile {
				stories.play(change+"/"+status+"/"+event, func(t *testing.T) {
					t.Parallel()
					synctest.Test(t, func(t *testing.T) {
						d := newDevice(t, 12*time.Hour, oneCertificate)
						a, stop := d.boot()
						defer stop()
						time.Sleep(6 * time.Hour)
						d.ca.fail(func(c call) error {
							r, err := x509.ParseCertificateRequest(c.csr)
							if err != nil {
								return err
							}
							if r.Subject.CommonName == "gateway" && r.PublicKeyAlgorithm == x509.ECDSA {
								return nil
							}
							e := *answer
							return &e
						})
						d.text = strings.Replace(d.text, text.from, text.to, 1)
						a.Reload()
						time.Sleep(15 * time.Minute)
						settle()
						happen(d, a)
						time.Sleep(18 * time.Hour)
						settle()
						if left := time.Until(d.live("device-id").Leaf.NotAfter); left <= 0 {
							t.Errorf("dead for %v", -left)
						}
						if p := a.Snapshot().Certificates[0].Problems; !hasProblem(p, "drift") {
							t.Errorf("the change is no problem in status: %+v", p)
						}
						// Taken back, nothing is left of it.
						d.text = strings.Replace(d.text, text.to, text.from, 1)
						a.Reload()
						settle()
						if c := a.Snapshot().Certificates[0]; len(c.Problems) != 0 {
							t.Errorf("after the change was taken back: %+v", c.Problems)
						}
					})
				})
			}
		}
	}
}

func hasProblem(all []Problem, code string) bool {
	return slices.ContainsFunc(all, func(p Problem) bool { return p.Code == code })
}

// TestChangeWhileDue: the change comes in an outage, with the certificate due already.
func TestChangeWhileDue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, 4*day, oneCertificate)
		a, stop := d.boot()
		defer stop()
		settle()
		d.ca.fail(unavailable)
		time.Sleep(84 * time.Hour)
		d.ca.fail(func(c call) error {
			if r, err := x509.ParseCertificateRequest(c.csr); err != nil || r.Subject.CommonName != "gateway" {
				return &est.Error{Class: est.ErrUnauthorized, Status: 403, Refusal: true}
			}
			return nil
		})
		d.text = strings.Replace(d.text, `common_name = "gateway"`, `common_name = "other"`, 1)
		a.Reload()
		time.Sleep(2 * day)
		settle()
		if left := time.Until(d.live("device-id").Leaf.NotAfter); left <= 0 {
			t.Errorf("dead for %v", -left)
		}
	})
}

// TestSpentCredentials: a password that was shredded after it had served, and a name that cannot be found out any more, do
// not keep a living certificate from renewing itself.
func TestSpentCredentials(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		text := strings.Replace(oneCertificate, `common_name = "gateway"`, `common_name_from = "file://DIR/name"`, 1)
		text = strings.Replace(text, `bootstrap_identity_cert = "file://DIR/bootstrap.pem"`, `username = "user"`, 1)
		text = strings.Replace(text, `bootstrap_identity_pk = "file://DIR/bootstrap.key.pem"`, `password_file = "DIR/password"`, 1)
		d := newDevice(t, day, text)
		writeFile(t, filepath.Join(d.dir, "name"), []byte("gateway\n"))
		writeFile(t, filepath.Join(d.dir, "password"), []byte("secret\n"))
		_, stop := d.boot()
		defer stop()
		settle()
		d.live("device-id")
		remove(t, filepath.Join(d.dir, "name"))
		remove(t, filepath.Join(d.dir, "password"))
		time.Sleep(3 * day)
		settle()
		if left := time.Until(d.live("device-id").Leaf.NotAfter); left <= 0 {
			t.Errorf("dead for %v", -left)
		}
	})
}

// TestClockGlitch: the clock runs ahead for ten minutes, in which a try fails, and is right again. What was stored then must
// hold nothing up, with or without a restart.
func TestClockGlitch(t *testing.T) {
	t.Parallel()
	failures := map[string]error{
		"down":        &est.Error{Class: est.ErrUnavailable},
		"Retry-After": &est.Error{Class: est.ErrUnavailable, Status: 503, RetryAfter: day},
		"202":         &est.Error{Class: est.ErrPending, Status: 202, RetryAfter: 2 * day},
	}
	stories := storiesOf(t)
	for name, failure := range failures {
		for _, ahead := range []time.Duration{30 * time.Hour, 5 * 365 * day} {
			for _, restart := range []bool{false, true} {
				stories.play(fmt.Sprintf("%s/%v/restart=%v", name, ahead, restart), func(t *testing.T) {
					t.Parallel()
					synctest.Test(t, func(t *testing.T) {
						var off atomic.Int64
						d := newDevice(t, 2*day, oneCertificate)
						d.change = func(o *Options) {
							o.Now = func() time.Time { return time.Now().Add(time.Duration(off.Load())) }
						}
						a, stop := d.boot()
						settle()
						d.ca.fail(func(call) error { return failure })
						off.Store(int64(ahead))
						time.Sleep(2 * time.Minute)
						a.RenewAll()
						time.Sleep(8 * time.Minute)
						if restart {
							stop()
						}
						off.Store(0)
						d.ca.fail(nil)
						if restart {
							_, stop = d.boot()
						}
						defer func() { stop() }()
						time.Sleep(3 * day)
						settle()
						if left := time.Until(d.live("device-id").Leaf.NotAfter); left <= 0 {
							t.Errorf("dead for %v", -left)
						}
					})
				})
			}
		}
	}
}

// TestNoWellDefinedEnd: RFC 5280 section 4.1.2.5 has certificates that end in 9999. They are no reason to spin.
func TestNoWellDefinedEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, 290*365*day, strings.Replace(oneCertificate, `"80%"`, `"60m"`, 1))
		var looks atomic.Int64
		d.text = strings.Replace(d.text, `common_name = "gateway"`, `common_name_from = "hostname"`, 1)
		d.change = func(o *Options) {
			o.Host.Hostname = func() (string, error) { looks.Add(1); return "gateway", nil }
		}
		_, stop := d.boot()
		defer stop()
		time.Sleep(time.Hour)
		if n := looks.Load(); n > 20 {
			t.Errorf("%d looks in an hour", n)
		}
	})
}

// TestApprovalOfWhatIsGone: nobody waits for the approval of a request whose key is not on disk any more.
func TestApprovalOfWhatIsGone(t *testing.T) {
	t.Parallel()
	week := func(call) error { return &est.Error{Class: est.ErrPending, Status: 202, RetryAfter: 7 * day} }
	for name, lose := range map[string]func(d *device, a *Agent){
		"the directory was removed": func(d *device, _ *Agent) {
			// One rename takes it away: a removal would race with an agent that puts things back.
			dir := filepath.Join(d.dir, "state/certs/device-id")
			if err := os.Rename(dir, filepath.Join(d.dir, "gone")); err != nil {
				d.t.Fatal(err)
			}
		},
		"another kind of key is wanted": func(d *device, a *Agent) {
			d.text = strings.Replace(d.text, "common_name =", "key = \"ec-p384\"\ncommon_name =", 1)
			a.Reload()
		},
		"the server is another one": func(d *device, a *Agent) {
			d.text = strings.Replace(d.text, "est.example", "other.example", 1)
			a.Reload()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := newDevice(t, day, oneCertificate)
				d.ca.fail(week)
				a, stop := d.boot()
				defer stop()
				settle()
				d.ca.fail(nil)
				time.Sleep(time.Hour)
				lose(d, a)
				time.Sleep(2 * time.Minute)
				settle()
				d.live("device-id")
			})
		})
	}
}

// TestApprovalAtAServerThatIsGone: what one server for renewals asked to wait for is not waited for at the next one.
func TestApprovalAtAServerThatIsGone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, day, strings.Replace(oneCertificate, `common_name = "gateway"`,
			"common_name = \"gateway\"\nrenew_url = \"https://old.example/.well-known/est\"", 1))
		a, stop := d.boot()
		defer stop()
		settle()
		d.ca.fail(func(c call) error {
			return &est.Error{Op: c.op, Class: est.ErrPending, Status: 202, RetryAfter: 7 * day}
		})
		a.RenewAll()
		time.Sleep(time.Minute)
		d.ca.fail(nil)
		d.text = strings.Replace(d.text, "old.example", "new.example", 1)
		a.Reload()
		time.Sleep(time.Minute)
		settle()
		if g := d.live("device-id"); g.Number != 2 || g.Meta.Server != "https://new.example/.well-known/est" {
			t.Errorf("generation %d is of %s", g.Number, g.Meta.Server)
		}
	})
}

// TestOneBadDirectory: somebody's file in the place of a certificate's directory is that certificate's problem.
func TestOneBadDirectory(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, day, oneCertificate+"\n[cert_issuance.certs.mqtt]\nmethod = \"est\"\ncommon_name = \"mqtt\"\n")
		if err := os.MkdirAll(filepath.Join(d.dir, "state/certs"), 0o755); err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(d.dir, "state/certs/mqtt"), nil)
		a, stop := d.boot()
		defer stop()
		settle()
		d.live("device-id")
		if c := a.Snapshot().Certificates[1]; c.ID != "mqtt" || !hasProblem(c.Problems, "store") {
			t.Errorf("mqtt: %+v", c)
		}
		remove(t, filepath.Join(d.dir, "state/certs/mqtt"))
		time.Sleep(3 * time.Minute)
		settle()
		d.live("mqtt")
	})
}

// TestSomebodyKeepsDeleting: the CA must not pay for it.
func TestSomebodyKeepsDeleting(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, 30*day, oneCertificate)
		_, stop := d.boot()
		defer stop()
		settle()
		for range 120 {
			if err := os.Remove(filepath.Join(d.dir, "state/certs/device-id/live")); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
		}
		settle()
		if n := len(d.ca.seen()); n < 6 || n > 16 {
			t.Errorf("%d requests in two hours of deleting", n)
		}
	})
}

// TestRepairedCredential: a try follows within minutes, not at the end of a long back-off.
func TestRepairedCredential(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, 365*day, oneCertificate)
		anchors := filepath.Join(d.dir, "ca.pem")
		if err := os.Rename(anchors, anchors+".away"); err != nil {
			t.Fatal(err)
		}
		_, stop := d.boot()
		defer stop()
		time.Sleep(2 * day)
		if err := os.Rename(anchors+".away", anchors); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Minute)
		settle()
		d.live("device-id")
	})
}

// TestStatusIsOfNow: what status says is true when it is asked, not when the keeper looked last.
func TestStatusIsOfNow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, day, oneCertificate)
		a, stop := d.boot()
		defer stop()
		settle()
		d.ca.fail(func(call) error { return &est.Error{Class: est.ErrPending, Status: 202, RetryAfter: 7 * day} })
		time.Sleep(2 * day)
		if c := a.Snapshot().Certificates[0]; c.State != status.Expired {
			t.Errorf("a day after it expired the certificate is %s", c.State)
		}
	})
}

// TestPolicyReloadIsSpread: a rollout that makes a fleet due must not bring it at one second.
func TestPolicyReloadIsSpread(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		text := strings.Replace(oneCertificate, `jitter = "0%"`, `jitter = "20m"`, 1)
		for i := range 9 {
			text += fmt.Sprintf("[cert_issuance.certs.c%d]\nmethod = \"est\"\ncommon_name = \"c%[1]d\"\n"+
				"[cert_issuance.certs.c%[1]d.auto_renew]\nthreshold = \"80%%\"\njitter = \"20m\"\n", i)
		}
		d := newDevice(t, day, text)
		a, stop := d.boot()
		defer stop()
		time.Sleep(15 * time.Hour)
		reloaded := time.Now()
		d.text = strings.ReplaceAll(d.text, `"80%"`, `"50%"`)
		a.Reload()
		time.Sleep(time.Hour)
		settle()
		calls := d.ca.since(reloaded)
		if len(calls) != 10 {
			t.Fatalf("%d renewals, want 10", len(calls))
		}
		if first, last := calls[0].at, calls[len(calls)-1].at; last.Sub(first) < 5*time.Minute {
			t.Errorf("all came within %v", last.Sub(first))
		}
	})
}
