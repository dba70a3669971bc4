package agent

import (
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/smallstep/pkcs7"

	"certagent/est/esttest"
	"certagent/store"
)

// TestServersThatInviteALoop has what a device asks of a server whose certificates do not last, or are not new, and what
// status says of it. The device is restarted again and again, or not at all.
func TestServersThatInviteALoop(t *testing.T) {
	t.Parallel()
	keep := strings.Replace(defaults, "common_name", "auto_renew = { rotate_key = false }\ncommon_name", 1)
	keep = strings.Replace(keep, "[provisioning.attestation.identity_cert.auto_renew]\njitter = \"0%\"\n", "", 1)
	sixty := strings.Replace(defaults, "jitter", "threshold = \"60d\"\njitter", 1)
	first := func() func(*x509.Certificate) *x509.Certificate {
		var kept *x509.Certificate
		return func(issued *x509.Certificate) *x509.Certificate {
			if kept == nil {
				kept = issued
			}
			return kept
		}
	}
	stories := storiesOf(t)
	for _, c := range []struct {
		name   string
		text   string
		life   time.Duration // of what the server issues
		alter  func(*x509.Certificate)
		answer func() func(*x509.Certificate) *x509.Certificate
		watch  time.Duration
		// least and most requests in that time
		least, most int
		generations int           // at most; 0: as many as requests
		spent       time.Duration // of the ration, before the first request
		problem     string
	}{
		{name: "the same certificate again", text: keep, life: 30 * day, answer: first, watch: 30*day - time.Hour,
			least: 8, most: 60, generations: 1, problem: "est-bad-response"},
		{name: "one that is due already, by a threshold longer than its life", text: sixty, life: 30 * day, watch: 30 * day,
			least: 19, most: 21, problem: "born-due"},
		{name: "one that began a year ago", text: defaults, life: 30 * day, watch: 30 * day,
			alter: func(c *x509.Certificate) { c.NotBefore = c.NotBefore.Add(-year) },
			least: 2, most: 4, problem: "born-due"},
		{name: "one that ends when the first ended", text: defaults, life: 30 * day, watch: 30*day - time.Hour,
			alter: fixedEnd(30 * day), least: 4, most: 50},
		{name: "one of the first one's dates", text: defaults, life: 30 * day, watch: 30*day - time.Hour,
			alter: fixed(30 * day), least: 4, most: 20, problem: "born-due"},
		{name: "one of two minutes", text: defaults, life: 2 * time.Minute, watch: 3 * time.Hour,
			least: 3 * 30, most: 3*60*60/96 + 2},
		{name: "one of a second", text: defaults, life: time.Second, watch: 2 * time.Hour, spent: day - 30*time.Minute,
			least: 119, most: 30 + 122, problem: "renewed-too-often"},
		{name: "one that is no sooner here than it ends", text: defaults, life: time.Nanosecond, watch: 2 * time.Hour, spent: day - 30*time.Minute,
			least: 119, most: 30 + 122, problem: "renewed-too-often"},
	} {
		for _, restarts := range []bool{false, true} {
			stories.play(fmt.Sprintf("%s, restarts %t", c.name, restarts), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					d := newDevice(t, c.life, c.text)
					d.drawing(0)
					answer := c.answer
					if answer == nil {
						answer = func() func(*x509.Certificate) *x509.Certificate { return nil }
					}
					d.ca.issue(c.alter, answer())
					began := time.Now()
					if c.spent > 0 {
						d.keeps(store.Retry{Spent: began.Add(c.spent)})
					}
					s := d.begins()
					defer func() { s.stop() }()
					for time.Since(began) < c.watch {
						if restarts {
							s.restarts()
						}
						s.passes(min(5*time.Hour, c.watch/3, c.watch-time.Since(began)))
					}
					requests := len(d.ca.seen())
					if requests < c.least || requests > c.most {
						t.Errorf("%d requests in %v, want %d to %d", requests, c.watch, c.least, c.most)
					}
					if c.generations > 0 && d.live("device-id").Number > c.generations {
						t.Errorf("generation %d is live, want %d at most", d.live("device-id").Number, c.generations)
					}
					problems := s.agent.Snapshot().Certificates[0].Problems
					i := slices.IndexFunc(problems, func(p Problem) bool { return p.Code == c.problem })
					if c.problem != "" && (i < 0 || problems[i].Hint == "") {
						t.Errorf("status does not say %s with a remedy: %+v", c.problem, problems)
					}

					before := len(d.ca.seen())
					s.agent.RenewAll()
					time.Sleep(time.Second)
					settle()
					if len(d.ca.seen()) == before {
						t.Error("a forced renewal was held")
					}
				})
			})
		}
	}
}

// keeps writes the retry state of the device.
func (d *device) keeps(r store.Retry) {
	d.t.Helper()
	s, err := store.Open(d.state(), store.Options{})
	if err != nil {
		d.t.Fatal(err)
	}
	defer s.Close()
	c, err := s.Certificate("device-id")
	if err != nil {
		d.t.Fatal(err)
	}
	if err := c.SaveRetry(r); err != nil {
		d.t.Fatal(err)
	}
}

// fixedEnd has every certificate end at the same time, that much after the first request.
func fixedEnd(life time.Duration) func(*x509.Certificate) {
	var end time.Time
	return func(c *x509.Certificate) {
		if end.IsZero() {
			end = c.NotBefore.Add(life)
		}
		c.NotAfter = end
	}
}

// fixed has every certificate begin and end at the same times.
func fixed(life time.Duration) func(*x509.Certificate) {
	var begin time.Time
	return func(c *x509.Certificate) {
		if begin.IsZero() {
			begin = c.NotBefore
		}
		c.NotBefore, c.NotAfter = begin, begin.Add(life)
	}
}

// TestFirstEnrolmentIsNotGuarded: a certificate that is lost just after it was issued is had again at once.
func TestFirstEnrolmentIsNotGuarded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, 30*day, strings.Replace(defaults, "jitter", "threshold = \"60d\"\njitter", 1))
		s := d.begins()
		defer func() { s.stop() }()
		s.stop()
		remove(t, d.state()+"/certs/device-id/live")
		remove(t, d.state()+"/certs/device-id/gen-000001/key.pem")
		s.agent, s.stop = s.boot()
		settle()
		if n := len(d.ca.seen()); n != 2 {
			t.Errorf("%d requests, want 2", n)
		}
	})
}

// TestSameCertificateOnTheWire: a server that answers a renewal with what the device has already is a failure, and the
// certificate goes on as it is; by the real client.
func TestSameCertificateOnTheWire(t *testing.T) {
	t.Parallel()
	server := esttest.New(t, esttest.Options{})
	g := newGateway(t, server, trustFile, byUser, "auto_renew = { rotate_key = false, jitter = \"0%\" }\n")
	g.mustTurn()
	before := g.live()
	message, err := pkcs7.DegenerateCertificate(before.Leaf.Raw)
	if err != nil {
		t.Fatal(err)
	}
	server.Always("simplereenroll", func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.Header().Set("Content-Type", "application/pkcs7-mime; smime-type=certs-only")
		w.Header().Set("Content-Transfer-Encoding", "base64")
		io.WriteString(w, base64.StdEncoding.EncodeToString(message))
	})
	g.ahead = 20 * time.Hour
	err = g.turn()
	if err == nil || !strings.Contains(err.Error(), "the certificate that is live already") {
		t.Fatalf("the same certificate again: %v", err)
	}
	if after := g.live(); after.Number != before.Number {
		t.Errorf("generation %d is live", after.Number)
	}
}
