package agent

import (
	"context"
	"crypto/x509"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"certagent/agent/config"
	"certagent/est"
	"certagent/store"
)

// caThatEnds is a CA certificate as far as the rules of time look at it.
func caThatEnds(at time.Time) *x509.Certificate { return &x509.Certificate{NotAfter: at} }

func TestWhenCACertificatesAreOld(t *testing.T) {
	now := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	began := now.Add(-time.Minute)
	long := caThatEnds(now.Add(10 * 365 * day))
	fetched := now.Add(-day)
	for _, c := range []struct {
		name  string
		trust store.Trust
		place float64
		want  time.Time
	}{
		{"after a week", store.Trust{Fetched: fetched, CAs: []*x509.Certificate{long}}, 0, fetched.Add(7 * day)},
		{"or up to a quarter before, by the device", store.Trust{Fetched: fetched, CAs: []*x509.Certificate{long}}, .5,
			fetched.Add(7*day - 21*time.Hour)},
		{"half of what was left of the one that expires first",
			store.Trust{Fetched: fetched, CAs: []*x509.Certificate{long, caThatEnds(fetched.Add(4 * day))}}, 0, fetched.Add(2 * day)},
		{"but not within an hour", store.Trust{Fetched: fetched, CAs: []*x509.Certificate{caThatEnds(fetched.Add(time.Minute))}}, .9,
			fetched.Add(time.Hour)},
		{"one that had expired when it came says nothing",
			store.Trust{Fetched: fetched, CAs: []*x509.Certificate{long, caThatEnds(fetched.Add(-day))}}, 0, fetched.Add(7 * day)},
		{"one without a well-defined end", store.Trust{Fetched: fetched,
			CAs: []*x509.Certificate{caThatEnds(time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC))}}, 0, fetched.Add(7 * day)},
		{"of unknown age", store.Trust{CAs: []*x509.Certificate{long}}, .5, began.Add(30 * time.Minute)},
		{"fetched by a clock that ran ahead", store.Trust{Fetched: now.Add(day), CAs: []*x509.Certificate{long}}, 0, began},
	} {
		if got := refreshDue(c.trust, c.place, began, now); !got.Equal(c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestWhenAServerIsAsked(t *testing.T) {
	now := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	cas := []*x509.Certificate{caThatEnds(now.Add(10 * 365 * day))}
	old := store.Trust{CAs: cas, Fetched: now.Add(-8 * day)}
	failed := func(last, next time.Duration) store.Trust {
		t := old
		t.Refresh = store.Refresh{Failures: 1, LastTry: now.Add(last), NextTry: now.Add(next)}
		return t
	}
	for _, c := range []struct {
		name   string
		trust  store.Trust
		issued bool
		never  bool
		at     time.Duration // from now
	}{
		{"old", old, true, false, -day},
		{"nothing is known: the first attempt asks", store.Trust{}, false, true, 0},
		{"what was known is gone", store.Trust{}, true, false, 0},
		{"after a failure", failed(-time.Minute, time.Hour), true, false, time.Hour},
		{"after a failure long ago", failed(-2*day, -day/2), true, false, -day / 2},
		{"a wait that no rule makes", failed(-time.Minute, 30*day), true, false, -day},
		{"a failure that a wrong clock wrote", failed(time.Hour, 2*time.Hour), true, false, -day},
	} {
		v := viewServer(server{issued: c.issued}, c.trust, 0, now, now)
		if v.never != c.never || !v.never && !v.at.Equal(now.Add(c.at)) {
			t.Errorf("%s: never %v, at %v from now; want %v, %v", c.name, v.never, v.at.Sub(now), c.never, c.at)
		}
	}
}

func TestWaitAfterAFailedRefresh(t *testing.T) {
	for _, c := range []struct {
		failures int
		draw     float64
		left     time.Duration
		want     time.Duration
	}{
		{1, .5, math.MaxInt64, time.Hour},
		{1, 0, math.MaxInt64, 30 * time.Minute},
		{2, .5, math.MaxInt64, 4 * time.Hour},
		{3, .5, math.MaxInt64, 16 * time.Hour},
		{4, .5, math.MaxInt64, day},
		{1000, .99, math.MaxInt64, day},
		{4, .5, 8 * time.Hour, 2 * time.Hour},
		{4, .5, time.Minute, 5 * time.Minute},
		{1, .5, 0, time.Hour},
	} {
		if got := refreshDelay(c.failures, c.draw, c.left); got != c.want {
			t.Errorf("%d failures, draw %v, %v left: %v, want %v", c.failures, c.draw, c.left, got, c.want)
		}
	}
}

func TestServersOfAConfiguration(t *testing.T) {
	parse := func(s string) *url.URL {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	one, two := "https://one.example/.well-known/est", "https://two.example/.well-known/est"
	now := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	generation := func(left time.Duration, usage ...x509.ExtKeyUsage) *store.Generation {
		return &store.Generation{Leaf: &x509.Certificate{NotAfter: now.Add(left), ExtKeyUsage: usage}}
	}
	good := generation(day)
	good.Meta.Server = two
	lives := map[string]*store.Generation{
		"ca": generation(day), "expired": generation(-day), "for servers": generation(day, x509.ExtKeyUsageServerAuth), "b": good, "c": generation(day),
	}
	all := serversOf([]config.Certificate{
		{ID: "a", URL: parse(one)}, {ID: "ca", URL: parse(one), CA: true}, {ID: "expired", URL: parse(one)},
		{ID: "for servers", URL: parse(one)}, {ID: "b", URL: parse(one), RenewURL: parse(two)}, {ID: "c", URL: parse(two)},
	}, func(id string) *store.Generation { return lives[id] }, now)
	if len(all) != 2 || all[0].url.String() != one || all[1].url.String() != two {
		t.Fatalf("%+v", all)
	}
	for i, issued := range []bool{false, true} {
		if s := all[i]; s.cert.ID != "b" || s.login != good || s.issued != issued {
			t.Errorf("%s: %s logs in with %v, issued %v", s.url, s.cert.ID, s.login, s.issued)
		}
	}
}

// longLife is that of a certificate that is not renewed while a test looks at what happens besides.
const longLife = 10 * 365 * day

// TestCACertificatesAreRefreshed: once a week, whatever the renewals do, with the certificate itself and never a password
// (row 30 of RFC 7030 section 4.1.2).
func TestCACertificatesAreRefreshed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		text := strings.Replace(oneCertificate, "[cert_issuance.est.auth]", "[cert_issuance.est.auth]\nusername = \"u\"\npassword = \"p\"", 1)
		d := newDevice(t, longLife, text)
		a, stop := d.boot()
		defer stop()
		time.Sleep(15 * day)
		settle()
		all := d.ca.fetches()
		if n := len(all); n < 3 || n > 4 {
			t.Fatalf("%d fetches in two weeks", n)
		}
		if n := len(d.ca.seen()); n != 1 {
			t.Errorf("%d enrolments", n)
		}
		for i, f := range all[1:] {
			if gap := f.at.Sub(all[i].at); gap > 7*day+time.Minute || gap < 5*day {
				t.Errorf("fetch %d came after %v", i+2, gap)
			}
			if f.o.Login != nil {
				t.Error("a password was ready for /cacerts")
			}
			if f.o.Certificate == nil || !f.o.Certificate.Leaf.Equal(d.live("device-id").Leaf) {
				t.Error("the certificate itself was not offered")
			}
		}
		s := a.Snapshot()
		if len(s.Servers) != 1 || !s.Servers[0].NextRefresh.After(time.Now()) || s.Servers[0].CAs != 1 || len(s.Problems) != 0 {
			t.Errorf("status: %+v, problems %+v", s.Servers, s.Problems)
		}
	})
}

// TestRenewalsThatFetchCount: nothing is asked for twice.
func TestRenewalsThatFetchCount(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, 4*day, oneCertificate)
		_, stop := d.boot()
		defer stop()
		time.Sleep(12 * day)
		settle()
		if enrolled, fetched := len(d.ca.seen()), len(d.ca.fetches()); fetched != enrolled {
			t.Errorf("%d fetches for %d renewals", fetched, enrolled)
		}
	})
}

// TestRefreshThatFails: it backs off, obeys Retry-After, survives a restart and becomes a problem; the certificates go on.
func TestRefreshThatFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, longLife, oneCertificate)
		a, stop := d.boot()
		time.Sleep(day)
		d.ca.hide(func(o est.Options) error { return &est.Error{Op: opCACerts, Class: est.ErrUnavailable, Status: 503} })
		before := len(d.ca.fetches())
		time.Sleep(9 * day)
		tries := d.ca.fetches()[before:]
		if n := len(tries); n < 3 || n > 8 {
			t.Errorf("%d tries in some three days of failure", n)
		}
		s := a.Snapshot()
		if len(s.Problems) != 1 || s.Problems[0].Code != "cacerts-stale" || !s.Problems[0].Notice || s.ExitCode() != 0 {
			t.Errorf("status after some failures: %+v, exit code %d", s.Problems, s.ExitCode())
		}
		time.Sleep(7 * day)
		if s := a.Snapshot(); len(s.Problems) != 1 || s.Problems[0].Notice {
			t.Errorf("status when they are twice as old: %+v", s.Problems)
		}

		d.ca.hide(func(o est.Options) error {
			return &est.Error{Op: opCACerts, Class: est.ErrUnavailable, Status: 503, RetryAfter: 20 * time.Hour}
		})
		last := len(d.ca.fetches())
		for len(d.ca.fetches()) == last {
			time.Sleep(time.Hour)
		}
		asked := d.ca.fetches()[last]
		for range 5 { // a restart does not make it forget
			stop()
			a, stop = d.boot()
			time.Sleep(10 * time.Minute)
			settle()
		}
		for len(d.ca.fetches()) == last+1 {
			time.Sleep(time.Hour)
		}
		if gap := d.ca.fetches()[last+1].at.Sub(asked.at); gap < 20*time.Hour {
			t.Errorf("asked again after %v, the server said 20 h", gap)
		}
		d.ca.hide(nil)
		time.Sleep(2 * day)
		settle()
		if s := a.Snapshot(); len(s.Problems) != 0 || s.Servers[0].Failures != 0 {
			t.Errorf("status after the first success: %+v %+v", s.Problems, s.Servers)
		}
		if n := len(d.ca.seen()); n != 1 {
			t.Errorf("%d enrolments", n)
		}
		stop()
	})
}

// TestRefreshWithoutTheCertificate: a server that does not take it may yet tell its CA certificates to anybody.
func TestRefreshWithoutTheCertificate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, longLife, oneCertificate)
		a, stop := d.boot()
		defer stop()
		settle()
		d.ca.hide(func(o est.Options) error {
			if o.Certificate != nil {
				return &est.Error{Op: opCACerts, Class: est.ErrUnauthorized, Refusal: true}
			}
			return nil
		})
		time.Sleep(8 * day)
		settle()
		if s := a.Snapshot(); s.Servers[0].Failures != 0 || time.Since(s.Servers[0].Fetched) > 3*day {
			t.Errorf("status: %+v", s.Servers)
		}
	})
}

// TestRefreshWaitsForTheClock: with a clock that is not credible nothing is fetched, nor judged old.
func TestRefreshWaitsForTheClock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var off atomic.Int64
		d := newDevice(t, longLife, oneCertificate)
		d.change = func(o *Options) {
			o.Now = func() time.Time { return time.Now().Add(time.Duration(off.Load())) }
			o.Built = time.Now().Add(-day)
		}
		_, stop := d.boot()
		defer stop()
		time.Sleep(time.Minute)
		n := len(d.ca.fetches())
		off.Store(int64(-20 * 365 * day))
		time.Sleep(9 * day)
		if got := len(d.ca.fetches()); got != n {
			t.Errorf("%d fetches by a clock that is not credible", got-n)
		}
		off.Store(0)
		time.Sleep(2 * time.Minute)
		settle()
		if got := len(d.ca.fetches()); got != n+1 {
			t.Errorf("%d fetches once the clock was right, nine days later", got-n)
		}
	})
}

// TestRefreshAfterAClockThatRanAhead: what was fetched by such a clock, and by an agent that it started, is old within an
// hour of the right time, not in years.
func TestRefreshAfterAClockThatRanAhead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var off atomic.Int64
		off.Store(int64(5 * 365 * day))
		d := newDevice(t, longLife, oneCertificate)
		d.change = func(o *Options) {
			o.Now = func() time.Time { return time.Now().Add(time.Duration(off.Load())) }
		}
		_, stop := d.boot()
		defer stop()
		time.Sleep(time.Minute)
		n := len(d.ca.fetches())
		off.Store(0)
		time.Sleep(refreshUnknown + 2*time.Minute)
		settle()
		if got := len(d.ca.fetches()); got != n+1 {
			t.Errorf("%d fetches within an hour of the right time, want 1", got-n)
		}
	})
}

// TestLostTrustIsFetchedAgain: it is there for other software, too.
func TestLostTrustIsFetchedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, longLife, oneCertificate)
		_, stop := d.boot()
		settle()
		stop()
		dir := filepath.Join(d.dir, "state", "trust")
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		_, stop = d.boot()
		defer stop()
		time.Sleep(refreshUnknown + time.Minute)
		settle()
		if _, err := os.Stat(filepath.Join(dir, "est.example_443.pem")); err != nil {
			t.Error(err)
		}
		if n := len(d.ca.seen()); n != 1 {
			t.Errorf("%d enrolments", n)
		}
	})
}

// TestRefreshThatHangsHoldsNobodyUp: neither the watchdog, nor a renewal, nor the end.
func TestRefreshThatHangsHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, longLife, oneCertificate)
		var fed atomic.Int64
		d.change = func(o *Options) {
			o.Watchdog = time.Minute
			o.Notify = func(s string) {
				if s == "WATCHDOG=1" {
					fed.Add(1)
				}
			}
			dial := o.Dial
			o.Dial = func(eo est.Options) (Enroller, error) {
				client, err := dial(eo)
				return hangs{client}, err
			}
		}
		a, stop := d.boot()
		time.Sleep(8 * day)
		before := fed.Load()
		time.Sleep(time.Hour)
		if n := fed.Load() - before; n < 100 {
			t.Errorf("the watchdog was fed %d times in an hour", n)
		}
		a.RenewAll()
		settle()
		if g := d.live("device-id"); g.Number != 2 {
			t.Errorf("live generation is %d after a forced renewal", g.Number)
		}
		began := time.Now()
		stop()
		if took := time.Since(began); took > 0 {
			t.Errorf("the end took %v", took)
		}
	})
}

// stuck answers to nobody, not even to the end: it is on a disk or in a library that hangs.
type stuck struct {
	Enroller
	let <-chan struct{}
}

func (s stuck) CACerts(context.Context) ([]*x509.Certificate, error) {
	<-s.let
	return nil, context.Canceled
}

// TestStuckRefreshIsAbandoned: the end of the agent comes in time all the same.
func TestStuckRefreshIsAbandoned(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, longLife, oneCertificate)
		let := make(chan struct{})
		d.change = func(o *Options) {
			dial := o.Dial
			o.Dial = func(eo est.Options) (Enroller, error) {
				client, err := dial(eo)
				return stuck{client, let}, err
			}
		}
		_, stop := d.boot()
		time.Sleep(8 * day)
		began := time.Now()
		go func() { // lets the test end where the agent does not
			time.Sleep(time.Minute)
			close(let)
		}()
		stop()
		if took := time.Since(began); took > stopGrace {
			t.Errorf("the end took %v", took)
		}
		<-let
	})
}
