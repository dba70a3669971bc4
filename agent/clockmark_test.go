package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"certagent/store"
)

// TestMarkOfExchanges: without synchronisation the mark follows the certificates that have served, and never comes near
// our own clock by what a server says: not at an enrolment, not by force, not by a notBefore that lies ahead.
func TestMarkOfExchanges(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const life = 10 * day
		d := newAstray(t, life, oneCertificate)
		d.caOff.Store(int64(4 * time.Minute)) // it says that it is later than it is
		a, stop := d.boot()
		defer stop()
		time.Sleep(day)
		a.RenewAll()
		settle()
		if mark := d.mark(); !mark.IsZero() {
			t.Errorf("an enrolment and a force have made %v the newest time", mark)
		}
		for range 2 {
			served := d.live("device-id")
			for d.live("device-id").Number == served.Number {
				time.Sleep(time.Hour)
				settle()
				if mark := d.mark(); mark.After(time.Now()) {
					t.Fatalf("at %v the mark is %v", time.Now(), mark)
				}
			}
			if mark := d.mark(); !mark.Equal(served.Leaf.NotBefore) {
				t.Errorf("the mark is %v, want %v, when the certificate that was renewed began", mark, served.Leaf.NotBefore)
			}
		}
	})
}

// TestBuildDateAhead: the program was built by a clock that was wrong by years. A synchronised clock wins, and status says that
// one of the two is wrong; that is kept for the next start without a network, and holds for that build alone.
func TestBuildDateAhead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newAstray(t, 400*day, oneCertificate)
		d.built = time.Now().Add(4 * year)
		a, stop := d.boot()
		time.Sleep(day)
		settle()
		if n := len(d.ca.seen()); n != 0 {
			t.Errorf("%d requests by a clock before the build that nothing corroborates", n)
		}
		d.synced.Store(true)
		time.Sleep(aMinute)
		settle()
		d.works("once it is synchronised")
		if s := a.Snapshot(); !slices.Equal(problems(s), []string{"build-date"}) || s.ExitCode() != 0 {
			t.Errorf("problems: %v, exit code %d", problems(s), s.ExitCode())
		}
		stop()
		d.synced.Store(false)
		d.set(time.Hour)
		if got := problems(d.survey()); !slices.Equal(got, []string{"build-date"}) {
			t.Errorf("without an agent: %v", got)
		}
		a, stop = d.boot()
		settle()
		if got := problems(a.Snapshot()); !slices.Equal(got, []string{"build-date"}) {
			t.Errorf("after a restart: %v", got)
		}
		stop()

		d.built = d.built.Add(day) // an update, built by the same clock
		a, stop = d.boot()
		if got := problems(a.Snapshot()); !slices.Equal(got, []string{"clock-not-credible"}) {
			t.Errorf("after an update: %v", got)
		}
		d.synced.Store(true)
		d.both(5 * year) // the right time comes past the build
		time.Sleep(aMinute)
		settle()
		if got := problems(a.Snapshot()); len(got) != 0 {
			t.Errorf("past the build: %v", got)
		}
		stop()
		d.synced.Store(false)
		d.set(to1970)
		if got := problems(d.survey()); !slices.Contains(got, "clock-not-credible") {
			t.Errorf("in 1970 again: %v", got)
		}
	})
}

// TestClockFile: clock.json damaged keeps nobody from going on, whether the clock is synchronised or not, and is put right
// when it is.
func TestClockFile(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		`{"mark":"20`, ``, `[]`, `{"mark":"9999-12-31T23:59:59Z"}`, `{"mark":"2040-01-01T00:00:00Z","sum":1}`,
	} {
		t.Run(text, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := newAstray(t, 10*day, oneCertificate)
				if err := os.Mkdir(filepath.Join(d.dir, "state"), 0o755); err != nil {
					t.Fatal(err)
				}
				writeFile(t, filepath.Join(d.dir, "state", "clock.json"), []byte(text))
				a, stop := d.boot()
				defer stop()
				settle()
				d.live("device-id") // there is one
				if got := problems(a.Snapshot()); len(got) != 0 {
					t.Errorf("problems: %v", got)
				}
				d.synced.Store(true)
				time.Sleep(aMinute)
				settle()
				if mark := d.mark(); mark.IsZero() {
					t.Error("it was not put right")
				}
				d.works("once the clock is synchronised")
			})
		})
	}
}

// TestClockNotChecked: with [clock] check = false a clock is believed whatever it says, from the reload on.
func TestClockNotChecked(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newAstray(t, 10*day, oneCertificate)
		d.ca.writeBootstrapFrom(t, d.dir, time.Now().Add(-60*year), 120*year)
		d.both(to1970)
		a, stop := d.boot()
		defer stop()
		settle()
		if n := len(d.ca.seen()); n != 0 {
			t.Fatalf("%d requests", n)
		}
		d.configure(oneCertificate + "[clock]\ncheck = false\n")
		a.Reload()
		settle()
		d.works("in 1970")
		if got := problems(a.Snapshot()); len(got) != 0 {
			t.Errorf("problems: %v", got)
		}
	})
}

// TestYears: certificates are renewed across the ends of 32-bit time and of the time that crypto/x509 writes as UTCTime, and
// as late as RFC 5280 lets one end.
func TestYears(t *testing.T) {
	t.Parallel()
	stories := storiesOf(t)
	for _, at := range []string{"2038-01-19T03:14:08Z", "2050-01-01T00:00:00Z", "2106-02-07T06:28:16Z", "2262-04-11T23:47:17Z"} {
		stories.play(at, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				then, err := time.Parse(time.RFC3339, at)
				if err != nil {
					t.Fatal(err)
				}
				d := newAstray(t, day, oneCertificate)
				d.ca.writeBootstrapFrom(t, d.dir, time.Now(), 290*year)
				d.both(time.Until(then) - 3*day)
				_, stop := d.boot()
				defer stop()
				time.Sleep(6*day + time.Hour)
				settle()
				if n := len(d.ca.seen()); n != 8 {
					t.Errorf("%d requests in six days, want 8", n)
				}
				d.works("after it")
			})
		})
	}
}

// TestReachedIsWhatIsCorroborated: what the clients of servers may forget for having expired goes by the time that is
// known to have come, not by the clock.
func TestReachedIsWhatIsCorroborated(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newAstray(t, 10*day, oneCertificate)
		d.both(30 * year)
		a, stop := d.boot()
		defer stop()
		settle()
		calls := d.ca.seen()
		if len(calls) != 1 || !calls[0].o.Reached.Equal(d.built) {
			t.Errorf("with a clock that ran ahead: %v, want the build date", calls)
		}
		d.synced.Store(true)
		time.Sleep(aMinute)
		a.RenewAll()
		settle()
		if calls := d.ca.seen(); d.now().Sub(calls[len(calls)-1].o.Reached) > time.Hour {
			t.Errorf("with one that is synchronised: %v", calls[len(calls)-1].o.Reached)
		}
	})
}

// TestIsSynced: the kernel's estimate of its error decides, and timesyncd's flag where it was touched lately by this clock.
func TestIsSynced(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name     string
		maxError time.Duration
		touched  time.Time
		want     bool
	}{
		{"as the kernel starts", 16 * time.Second, time.Time{}, false},
		{"a little under", 16*time.Second - time.Microsecond, time.Time{}, true},
		{"steered", 20 * time.Millisecond, time.Time{}, true},
		{"timesyncd, now", 16 * time.Second, now, true},
		{"by the coarse clock of a file system", 16 * time.Second, now.Add(time.Millisecond), true},
		{"half an hour ago", 16 * time.Second, now.Add(-35 * time.Minute), true},
		{"before the clock was set to another year", 16 * time.Second, now.AddDate(-30, 0, 0), false},
		{"before it was set back by an hour", 16 * time.Second, now.Add(time.Hour), false},
	} {
		if got := isSynced(c.maxError, c.touched, now); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

// TestBelieved: what a clock that stood ahead wrote is void, but for what is wanted and what was had.
func TestBelieved(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	r := store.Retry{
		Failures: 3, LastTry: now.Add(clockStep), NextTry: now.Add(time.Hour), RetryAfter: now.Add(time.Hour),
		PendingUntil: now.Add(time.Hour), LastClass: "untrusted", LastError: "expired",
		Refusals: map[string]int{"certificate": 2}, Problems: []store.Problem{{Code: "est-untrusted"}},
		Reissue: string(reasonForced), Login: "login", LastSuccess: now.Add(-day), LastIdentity: "certificate", Losses: 1,
		SpreadRefused: true, RenewAt: now.Add(day), Drift: store.Drift{Wanted: "other", Failures: 2, NextTry: now.Add(time.Hour)},
	}
	if got := believed(r, now); fmt.Sprint(got) != fmt.Sprint(r) {
		t.Errorf("a clock that was stepped by seconds voids: %+v", got)
	}
	r.LastTry = r.LastTry.Add(1)
	want := store.Retry{
		Reissue: r.Reissue, Login: r.Login, LastSuccess: r.LastSuccess, LastIdentity: r.LastIdentity, Losses: 1,
		SpreadRefused: true, RenewAt: r.RenewAt, Drift: store.Drift{Wanted: "other"},
	}
	if got := believed(r, now); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%+v\nwant %+v", got, want)
	}
}

// TestShortLivesInAWrongDay: for a day the clocks of device and server are both ahead by years, and certificates that live for
// an hour are renewed by each other all the while. That corroborates nothing: the right time is believed when it is back.
func TestShortLivesInAWrongDay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newAstray(t, time.Hour, oneCertificate)
		a, stop := d.boot()
		defer stop()
		settle()
		d.both(2 * year)
		time.Sleep(day - time.Hour)
		if n := len(d.ca.seen()); n < 20 {
			t.Fatalf("%d requests in the wrong day", n)
		}
		d.both(0)
		time.Sleep(aMinute)
		settle()
		d.works("a minute after")
		if got := problems(a.Snapshot()); len(got) != 0 {
			t.Errorf("problems: %v", got)
		}
	})
}
