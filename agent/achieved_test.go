package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certagent/agent/control"
	"certagent/agent/status"
	"certagent/store"
)

// Who has waited for a certificate and looks at status then must not read that it is still being fetched, nor miss when it
// was issued, and by which login: a certificate that is live before the keeper knows what came of the attempt is not shown
// yet.
func TestAnAttemptThatHasBroughtItsCertificate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, longLife, keptKey)
		a, stop := d.boot()
		defer stop()
		settle()
		d.ca.fail(func(call) error { time.Sleep(5 * time.Minute); return nil })
		mustOrder(t, a, control.Renewal{})
		time.Sleep(time.Second)
		if c := shown(t, a, "device-id"); c.NextWhy != "an attempt is under way" {
			t.Errorf("next: %s", c.NextWhy)
		}
		issued := d.live("device-id").Meta.Issued
		d.putLive(2, 1, func(meta string) string { return strings.ReplaceAll(meta, instant(issued), instant(time.Now())) })
		time.Sleep(2 * time.Minute) // the clock task has looked
		if c := shown(t, a, "device-id"); c.Generation != 1 {
			t.Errorf("generation %d; next: %s", c.Generation, c.NextWhy)
		}
		time.Sleep(10 * time.Minute) // the attempt has ended
		if c := shown(t, a, "device-id"); c.Generation != 3 || c.NextWhy == "an attempt is under way" || c.LastSuccess.IsZero() {
			t.Errorf("generation %d; next: %s; issued: %v", c.Generation, c.NextWhy, c.LastSuccess)
		}
	})
}

// putLive makes generation number of the device certificate live, which is a copy of another with another meta.json.
func (d *device) putLive(number, of int, alter func(meta string) string) {
	d.t.Helper()
	certs := filepath.Join(d.state(), "certs", "device-id")
	from, to := filepath.Join(certs, fmt.Sprintf("gen-%06d", of)), filepath.Join(certs, fmt.Sprintf("gen-%06d", number))
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		d.t.Fatal(err)
	}
	meta, err := os.ReadFile(filepath.Join(from, "meta.json"))
	if err != nil {
		d.t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(filepath.Join(to, "key.pem"), 0o600),
		os.WriteFile(filepath.Join(to, "meta.json"), []byte(alter(string(meta))), 0o644),
		os.Symlink(filepath.Base(to), filepath.Join(certs, "next")), os.Rename(filepath.Join(certs, "next"), filepath.Join(certs, "live"))); err != nil {
		d.t.Fatal(err)
	}
}

// What a first attempt has laid down before it is live is no certificate that there was: a look meanwhile finds no loss.
func TestAFirstGenerationThatIsNotLiveYet(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, longLife, keptKey)
		_, stop := d.boot()
		settle()
		stop()
		k := d.unstarted().keepers["device-id"]
		k.retry = store.Retry{}
		for _, c := range []struct {
			running bool
			from    int // the generation that was live when the attempt began
			had     bool
		}{{false, 0, true}, {true, 0, false}, {true, 1, true}} {
			if k.running, k.from = c.running, c.from; k.had() != c.had {
				t.Errorf("%+v: %v", c, !c.had)
			}
		}
	})
}

func instant(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// While there was none, and the attempt for one hangs, a certificate that somebody puts back is shown within the minute: the
// attempt has not brought it.
func TestPutBackDuringAnAttempt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, longLife, keptKey)
		_, stop := d.boot()
		settle()
		stop()
		backup := t.TempDir()
		certs := filepath.Join(d.state(), "certs", "device-id")
		if err := errors.Join(os.CopyFS(backup, os.DirFS(filepath.Join(certs, "gen-000001"))), os.RemoveAll(certs)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		hangs := 30 * time.Minute // the first attempt alone: nobody may be at it when the agent is stopped
		d.ca.fail(func(c call) error { time.Sleep(hangs); hangs = 0; return unavailable(c) })
		a, stop := d.boot()
		defer stop()
		time.Sleep(time.Minute)
		if c := shown(t, a, "device-id"); c.State != status.Missing || c.NextWhy != "an attempt is under way" {
			t.Errorf("at first: %s; next: %s", c.State, c.NextWhy)
		}
		if err := os.CopyFS(filepath.Join(certs, "gen-000001"), os.DirFS(backup)); err != nil {
			t.Fatal(err)
		}
		d.putLive(3, 1, func(meta string) string { return meta })
		time.Sleep(90 * time.Second) // the clock task has looked
		if c := shown(t, a, "device-id"); c.State != status.Valid || c.Generation != 3 || c.NextWhy != "an attempt is under way" {
			t.Errorf("put back: %s, generation %d; next: %s", c.State, c.Generation, c.NextWhy)
		}
		time.Sleep(time.Hour) // the attempt has failed
		if c := shown(t, a, "device-id"); c.State != status.Valid || c.Generation != 3 {
			t.Errorf("at the end: %s, generation %d; next: %s", c.State, c.Generation, c.NextWhy)
		}
	})
}
