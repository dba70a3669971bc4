package agent

import (
	"context"
	"crypto/x509"
	"errors"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certagent/agent/control"
	"certagent/agent/status"
	"certagent/est"
	"certagent/store"
	"certagent/store/keys"
)

func shown(t *testing.T, a *Agent, id string) status.Certificate {
	t.Helper()
	for _, c := range a.Snapshot().Certificates {
		if c.ID == id {
			return c
		}
	}
	t.Fatalf("no certificate %s", id)
	return status.Certificate{}
}

func mustOrder(t *testing.T, a *Agent, r control.Renewal) control.Renewed {
	t.Helper()
	answers, err := a.Renew(t.Context(), r)
	if err != nil || len(answers) != 1 {
		t.Fatalf("%+v: %+v, %v", r, answers, err)
	}
	return answers[0]
}

// keptKey is a device that keeps its key over renewals.
var keptKey = strings.Replace(oneCertificate, "rotate_key = true", "rotate_key = false", 1)

func TestOrderOfAnUnknownCertificateOrdersNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, day, oneCertificate)
		a, stop := d.boot()
		defer stop()
		settle()
		_, err := a.Renew(t.Context(), control.Renewal{IDs: []string{"device-id", "other"}})
		if e, ok := errors.AsType[*control.Error](err); !ok || e.Status != http.StatusNotFound || e.Hint == "" {
			t.Errorf("error %v", err)
		}
		settle()
		if n := len(d.ca.seen()); n != 1 {
			t.Errorf("%d requests, want the first one only", n)
		}
	})
}

// A new key is wanted until there is one: through failures and restarts, and each try is with the same.
func TestNewKeyIsWantedUntilItIsGranted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, longLife, keptKey)
		a, stop := d.boot()
		settle()
		first := d.live("device-id")
		d.ca.fail(unavailable)
		if answer := mustOrder(t, a, control.Renewal{NewKey: true}); answer.Refused != "" || answer.Generation != 1 {
			t.Errorf("answer %+v", answer)
		}
		settle()
		if c := shown(t, a, "device-id"); c.Ordered || c.Failures != 1 {
			t.Errorf("after a failure: ordered %v, %d failures", c.Ordered, c.Failures)
		}
		stop()
		a, stop = d.boot()
		defer stop()
		a.RenewAll() // is no reason to make do with the old key
		settle()
		d.ca.fail(nil)
		time.Sleep(day)
		settle()
		second := d.live("device-id")
		if second.Number != 2 || keys.Equal(first.Key.Public(), second.Key.Public()) || second.Meta.Reason != string(reasonNewKey) {
			t.Errorf("generation %d for %s, same key %v", second.Number, second.Meta.Reason, keys.Equal(first.Key.Public(), second.Key.Public()))
		}
		var asked []string
		for _, c := range d.ca.seen()[1:] {
			r, err := x509.ParseCertificateRequest(c.csr)
			if err != nil {
				t.Fatal(err)
			}
			asked = append(asked, string(r.RawSubjectPublicKeyInfo))
		}
		if len(slices.Compact(asked)) != 1 {
			t.Errorf("it was tried with %d keys", len(slices.Compact(asked)))
		}
		mustOrder(t, a, control.Renewal{})
		settle()
		if third := d.live("device-id"); third.Number != 3 || !keys.Equal(second.Key.Public(), third.Key.Public()) {
			t.Errorf("the wish was granted, and the key changed once more: generation %d", third.Number)
		}
	})
}

// What is under way when a new key is asked for has its end, well or badly, and is not it.
func TestNewKeyDuringAnAttempt(t *testing.T) {
	t.Parallel()
	for _, fails := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			d := newDevice(t, longLife, keptKey)
			a, stop := d.boot()
			defer stop()
			settle()
			first := d.live("device-id")
			slow := true
			d.ca.fail(func(c call) error {
				if !slow {
					return nil
				}
				slow = false
				time.Sleep(time.Minute)
				if fails {
					return unavailable(c)
				}
				return nil
			})
			mustOrder(t, a, control.Renewal{})
			time.Sleep(time.Second)
			if answer := mustOrder(t, a, control.Renewal{NewKey: true}); answer.Waits != "" || answer.Refused != "" {
				t.Errorf("answer %+v", answer)
			}
			if c := shown(t, a, "device-id"); !c.Ordered {
				t.Error("not shown as asked for")
			}
			time.Sleep(2 * time.Minute)
			settle()
			live := d.live("device-id")
			want := 3
			if fails {
				want = 2
			}
			if live.Number != want || keys.Equal(first.Key.Public(), live.Key.Public()) || live.Meta.Reason != string(reasonNewKey) {
				t.Errorf("fails=%v: generation %d for %s, same key %v", fails, live.Number, live.Meta.Reason, keys.Equal(first.Key.Public(), live.Key.Public()))
			}
			if c := shown(t, a, "device-id"); c.Ordered {
				t.Error("still shown as asked for")
			}
		})
	}
}

// A crash between the wish for a new key and the drop of the request that it puts an end to leaves no way back to the old key.
func TestNewKeyOutlastsACrash(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, longLife, oneCertificate)
		d.ca.fail(func(c call) error {
			return &est.Error{Op: c.op, Class: est.ErrPending, Status: 202, RetryAfter: time.Hour}
		})
		_, stop := d.boot()
		settle()
		stop()
		waiting := d.pendingKey("device-id")
		s, err := store.Open(d.dir+"/state", store.Options{MachineID: "test"})
		if err != nil {
			t.Fatal(err)
		}
		c, err := s.Certificate("device-id")
		if err != nil {
			t.Fatal(err)
		}
		r, err := c.Retry()
		if err != nil || r.PendingUntil.IsZero() {
			t.Fatalf("nothing waits: %+v, %v", r, err)
		}
		r.Reissue, r.Discard, r.PendingUntil = string(reasonNewKey), true, time.Time{}
		if err := errors.Join(c.SaveRetry(r), s.Close()); err != nil {
			t.Fatal(err)
		}
		d.ca.fail(nil)
		_, stop = d.boot()
		defer stop()
		settle()
		if live := d.live("device-id"); keys.Equal(live.Key.Public(), waiting.Public()) {
			t.Error("the certificate has the key that was to be dropped")
		}
	})
}

// pendingKey is the key of the request that is on its way.
func (d *device) pendingKey(id string) keys.Key {
	d.t.Helper()
	s, err := store.View(d.dir + "/state")
	if err != nil {
		d.t.Fatal(err)
	}
	defer s.Close()
	c, err := s.Certificate(id)
	if err != nil {
		d.t.Fatal(err)
	}
	p, err := c.Pending()
	if err != nil || p == nil {
		d.t.Fatalf("pending request of %s: %v, %v", id, p, err)
	}
	return p.Key
}

// Discarding gives up the request and a wish for a new key that a server does not grant.
func TestDiscard(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, longLife, keptKey)
		a, stop := d.boot()
		defer stop()
		settle()
		first := d.live("device-id")
		d.ca.fail(func(c call) error {
			return &est.Error{Op: c.op, Class: est.ErrPending, Status: 202, RetryAfter: 24 * time.Hour}
		})
		mustOrder(t, a, control.Renewal{NewKey: true})
		settle()
		waiting := d.pendingKey("device-id")
		if answer := mustOrder(t, a, control.Renewal{}); !strings.Contains(answer.Refused, "waits for approval") || answer.Hint == "" {
			t.Errorf("over a request that waits: %+v", answer)
		}
		d.ca.fail(nil)
		if answer := mustOrder(t, a, control.Renewal{Discard: true}); answer.Refused != "" {
			t.Errorf("answer %+v", answer)
		}
		settle()
		live := d.live("device-id")
		if live.Number != 2 || !keys.Equal(live.Key.Public(), first.Key.Public()) || keys.Equal(live.Key.Public(), waiting.Public()) {
			t.Errorf("generation %d, not with the key that the configuration keeps", live.Number)
		}
	})
}

// While the clock is not credible nothing is tried, and who asks is told.
func TestOrderByADoubtfulClock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, longLife, oneCertificate)
		d.change = func(o *Options) { o.Built = time.Now().Add(day) }
		a, stop := d.boot()
		defer stop()
		settle()
		if answer := mustOrder(t, a, control.Renewal{}); !strings.Contains(answer.Waits, "clock is not credible") {
			t.Errorf("answer %+v", answer)
		}
		if c := shown(t, a, "device-id"); !c.Ordered {
			t.Error("the wish is forgotten")
		}
	})
}

// Who waits for news hears of what a keeper does, and what has happened stands in the next Snapshot.
func TestNews(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, longLife, oneCertificate)
		a, stop := d.boot()
		defer stop()
		settle()
		before, changed := a.News()
		select {
		case <-changed:
			t.Error("there is news, and nothing has happened")
		default:
		}
		mustOrder(t, a, control.Renewal{})
		settle()
		<-changed
		if after, _ := a.News(); after == before {
			t.Error("what is new has the old name")
		}
		a.CatchUp(t.Context())
		if c := shown(t, a, "device-id"); c.Generation != 2 {
			t.Errorf("generation %d", c.Generation)
		}
	})
}

// A reload that somebody waits for says what is wrong, or comes back when it is done.
func TestReloadNow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, longLife, oneCertificate)
		a, stop := d.boot()
		defer stop()
		settle()
		d.configure("frob = 1\n" + oneCertificate)
		if err := a.ReloadNow(t.Context()); err == nil || !strings.Contains(err.Error(), "frob") {
			t.Errorf("a bad file: %v", err)
		}
		d.configure(oneCertificate + "[cert_issuance.certs.mqtt]\ncommon_name = \"mqtt\"\n")
		if err := a.ReloadNow(t.Context()); err != nil {
			t.Error(err)
		}
		if c := shown(t, a, "mqtt"); c.ID == "" {
			t.Error("it is not in force yet")
		}
	})
}

// What is wanted is one thing: a new key stays wanted until it is granted or taken back.
func TestWish(t *testing.T) {
	t.Parallel()
	forced, newKey := string(reasonForced), string(reasonNewKey)
	for _, c := range []struct {
		before, ordered string
		discard         bool
		want            string
	}{
		{"", forced, false, forced},
		{string(reasonBroken), forced, false, forced},
		{forced, newKey, true, newKey},
		{newKey, forced, false, newKey},
		{newKey, forced, true, forced},
	} {
		if got := wish(c.before, c.ordered, c.discard); got != c.want {
			t.Errorf("%q after %q (discard %v) is %q, want %q", c.ordered, c.before, c.discard, got, c.want)
		}
	}
}

// What was ordered while the retry state could not be read is joined with what stands there.
func TestOrderBeforeTheRetryStateIsRead(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		onDisk, ordered, want store.Retry
	}{
		"nothing ordered": {
			onDisk: store.Retry{Reissue: "new-key", Ordered: true, Failures: 3},
			want:   store.Retry{Reissue: "new-key", Ordered: true, Failures: 3},
		},
		"forced over a wish for a new key": {
			onDisk:  store.Retry{Reissue: "new-key", NextTry: time.Unix(1e9, 0)},
			ordered: store.Retry{Reissue: "forced", Ordered: true},
			want:    store.Retry{Reissue: "new-key", Ordered: true},
		},
		"a new key, the request dropped": {
			onDisk:  store.Retry{Failures: 3, PendingUntil: time.Unix(2e9, 0).UTC()},
			ordered: store.Retry{Reissue: "new-key", Ordered: true, Discard: true},
			want:    store.Retry{Failures: 3, PendingUntil: time.Unix(2e9, 0).UTC(), Reissue: "new-key", Ordered: true, Discard: true},
		},
		"the wish for a new key taken back": {
			onDisk:  store.Retry{Reissue: "new-key"},
			ordered: store.Retry{Reissue: "forced", Ordered: true, Discard: true},
			want:    store.Retry{Reissue: "forced", Ordered: true, Discard: true},
		},
	} {
		s, err := store.Open(t.TempDir(), store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		stored, err := s.Certificate("mqtt")
		if err == nil {
			err = stored.SaveRetry(c.onDisk)
		}
		if err != nil {
			t.Fatal(err)
		}
		k := &keeper{stored: stored, retry: c.ordered, unread: 1}
		if err := k.readRetry(); err != nil || !reflect.DeepEqual(k.retry, c.want) {
			t.Errorf("%s: %v\n%+v, want\n%+v", name, err, k.retry, c.want)
		}
	}
}

// Who waits for what was ordered need not care that the agent is started anew: it goes on being ordered, on disk too, until it
// has come to an end.
func TestOrderOutlastsARestart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, longLife, oneCertificate)
		a, stop := d.boot()
		settle()
		stopping := make(chan struct{})
		d.ca.fail(func(call) error {
			<-stopping
			return context.Canceled
		})
		mustOrder(t, a, control.Renewal{})
		settle()
		time.AfterFunc(time.Second, func() { close(stopping) })
		stop()
		d.ca.fail(func(call) error {
			time.Sleep(time.Second)
			return nil
		})
		a, stop = d.boot()
		defer stop()
		if c := shown(t, a, "device-id"); !c.Ordered || c.Generation != 1 {
			t.Errorf("after the restart: %+v", c)
		}
		time.Sleep(time.Minute)
		settle()
		if c := shown(t, a, "device-id"); c.Ordered || c.Generation != 2 {
			t.Errorf("in the end: %+v", c)
		}
	})
}
