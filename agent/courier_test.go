package agent

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certagent/agent/config"
	"certagent/agent/status"
	"certagent/store"
)

// TestDelivery is a certificate's life with consumers: each generation is written and told once, a restart tells nobody
// again, and an output that somebody removed comes back within a minute without a renewal and without a hook.
func TestDelivery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, hooks := newServed(t, day, delivering)
		a, stop := d.boot()
		settle()
		d.mustServe("out/combined.pem")
		mustTell(t, hooks, hookA+"/1/missing", hookB+"/1/missing")
		e := hooks.event(0)
		live := d.live("device-id")
		if e.ID != "device-id" || e.Directory != live.Dir || e.Cert != live.File("cert.pem") || e.Key != live.File("key.pem") ||
			e.Serial != live.Meta.Serial || e.Fingerprint != live.Meta.SHA256 || e.CA != live.File("ca.pem") || !e.NotAfter.Equal(live.Leaf.NotAfter) {
			t.Errorf("told %+v", e)
		}
		c := device0(a)
		if len(c.Outputs) != 2 || c.Outputs[0].State != "ok" || len(c.Hooks) != 2 || c.Hooks[1].State != "ok" || c.Hooks[1].Output != "well\n" ||
			c.Hooks[0].Tries != 1 || !c.Hooks[0].LastTry.Equal(time.Now()) || codes(c) != "" {
			t.Errorf("status: %+v", c)
		}
		if n := strings.Count(d.logs.String(), "certificate delivered"); n != 1 {
			t.Errorf("%d events for one delivery:\n%s", n, d.logs)
		}

		time.Sleep(20 * time.Hour)
		settle()
		d.mustServe("out/combined.pem")
		mustTell(t, hooks, hookA+"/1/missing", hookB+"/1/missing", hookA+"/2/threshold", hookB+"/2/threshold")

		stop()
		before := len(d.ca.seen())
		remove(t, filepath.Join(d.dir, "out/combined.pem")) // while nobody looks
		_, stop = d.boot()
		defer stop()
		settle()
		d.mustServe("out/combined.pem")

		remove(t, filepath.Join(d.dir, "out/combined.pem"))
		time.Sleep(time.Minute)
		settle()
		d.mustServe("out/combined.pem")
		if err := os.Chmod(filepath.Join(d.dir, "out/combined.pem"), 0o644); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		settle()
		if info, err := os.Stat(filepath.Join(d.dir, "out/combined.pem")); err != nil || info.Mode() != 0o600 {
			t.Errorf("mode %v, %v", info.Mode(), err)
		}
		if len(d.ca.seen()) != before || len(hooks.seen()) != 4 {
			t.Errorf("%d requests, %d hooks for an output that was removed", len(d.ca.seen())-before, len(hooks.seen())-4)
		}
	})
}

// TestCABundleChanges: CA certificates that are fetched apart from any renewal reach the outputs and the hooks.
func TestCABundleChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, hooks := newServed(t, longLife, delivering)
		_, stop := d.boot()
		defer stop()
		settle()
		next := newFakeCA(t, day).cert
		d.ca.add(next)
		time.Sleep(8 * day)
		settle()
		mustTell(t, hooks, hookA+"/1/missing", hookB+"/1/missing", hookA+"/1/ca-bundle", hookB+"/1/ca-bundle")
		data, err := os.ReadFile(filepath.Join(d.dir, "out/ca.pem"))
		if err != nil || !strings.Contains(string(data), string(pemOf(next.Raw))) || !strings.Contains(string(data), string(pemOf(d.ca.cert.Raw))) {
			t.Errorf("%v, ca.pem:\n%s", err, data)
		}
		told, err := os.ReadFile(hooks.event(2).CA)
		if err != nil || !strings.Contains(string(told), string(pemOf(next.Raw))) {
			t.Errorf("told of %s: %v\n%s", hooks.event(2).CA, err, told)
		}
		if n := len(d.ca.seen()); n != 1 {
			t.Errorf("%d enrolments", n)
		}
	})
}

// TestNewBundleComesWithARenewal: it is one delivery.
func TestNewBundleComesWithARenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, hooks := newServed(t, day, delivering[:len(oneCertificate)]+`
[provisioning.attestation.identity_cert.on_renew]
exec = [["/bin/a"], ["/bin/b", "two words"]]
`)
		_, stop := d.boot()
		defer stop()
		settle()
		d.ca.add(newFakeCA(t, day).cert)
		time.Sleep(20 * time.Hour)
		settle()
		mustTell(t, hooks, hookA+"/1/missing", hookB+"/1/missing", hookA+"/2/threshold", hookB+"/2/threshold")
	})
}

// TestReloadOfConsumers: what the configuration adds or changes takes effect at once, without a request to the CA, and only
// hooks that never ran for this generation run. A reload also tries again what failed.
func TestReloadOfConsumers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, hooks := newServed(t, day, oneCertificate)
		a, stop := d.boot()
		defer stop()
		settle()
		if _, err := os.Stat(filepath.Join(d.dir, "state/certs/device-id/delivery.json")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("a state of delivery without a consumer: %v", err)
		}
		reload := func(text string) {
			d.configure(text)
			a.Reload()
			settle()
		}
		reload(delivering)
		d.mustServe("out/combined.pem")
		mustTell(t, hooks, hookA+"/1/missing", hookB+"/1/missing")

		const hookC = `exec "/bin/c"`
		hooks.fail(hookC, errors.New("no"))
		changed := strings.ReplaceAll(delivering, `[["/bin/a"], `, `[["/bin/c"], ["/bin/a"], `)
		changed = strings.ReplaceAll(changed, "out/combined.pem", "out/moved.pem")
		changed = strings.ReplaceAll(changed, `path = "DIR/out/ca.pem"`, "path = \"DIR/out/ca.pem\"\nmode = \"0600\"")
		reload(changed)
		d.mustServe("out/moved.pem")
		d.mustServe("out/combined.pem") // nothing is deleted
		mustTell(t, hooks, hookA+"/1/missing", hookB+"/1/missing", hookC+"/1/missing")
		if info, err := os.Stat(filepath.Join(d.dir, "out/ca.pem")); err != nil || info.Mode() != 0o600 {
			t.Errorf("mode %v, %v", info.Mode(), err)
		}
		hooks.fail(hookC, nil)
		reload(changed)
		mustTell(t, hooks, hookA+"/1/missing", hookB+"/1/missing", hookC+"/1/missing", hookC+"/1/missing")
		reload(oneCertificate)
		if c := device0(a); len(c.Outputs)+len(c.Hooks) != 0 {
			t.Errorf("status: %+v", c)
		}
		if n := len(d.ca.seen()); n != 1 {
			t.Errorf("%d requests", n)
		}
	})
}

// TestPasswordOfAnOutput: it is read each time; a missing one is a problem of that output, and one that changes has it
// written anew within a minute.
func TestPasswordOfAnOutput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _ := newServed(t, day, oneCertificate+`
[[provisioning.attestation.identity_cert.outputs]]
format = "pkcs12"
path = "DIR/out/gateway.p12"
password_file = "DIR/p12.password"
`)
		a, stop := d.boot()
		defer stop()
		settle()
		c := device0(a)
		if codes(c) != "output-refused" || !strings.Contains(c.Problems[0].Text, "its password cannot be had") {
			t.Errorf("without a password: %+v", c.Problems)
		}
		read := func() string {
			time.Sleep(time.Minute)
			settle()
			data, err := os.ReadFile(filepath.Join(d.dir, "out/gateway.p12"))
			if err != nil || codes(device0(a)) != "" {
				t.Fatalf("%v, problems %s", err, codes(device0(a)))
			}
			return string(data)
		}
		writeFile(t, filepath.Join(d.dir, "p12.password"), []byte("one\n"))
		one := read()
		writeFile(t, filepath.Join(d.dir, "p12.password"), []byte("another\n"))
		if read() == one {
			t.Error("the file is the same with another password")
		}
		state, err := os.ReadFile(filepath.Join(d.dir, "state/certs/device-id/delivery.json"))
		if err != nil || strings.Contains(string(state), "another") {
			t.Errorf("%v, the password is in the state:\n%s", err, state)
		}
	})
}

// TestOnceDelivers: "run --once" waits for the delivery, and fails with it; it tries at once what failed before.
func TestOnceDelivers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, hooks := newServed(t, day, delivering)
		once := func() error {
			cfg, err := d.load()
			if err != nil {
				t.Fatal(err)
			}
			s, err := store.Open(filepath.Join(d.dir, "state"), store.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			a, err := New(Options{
				Config: cfg, Load: d.load, Store: s, Dial: d.ca.dial, Synced: func() bool { return false }, Hooks: hooks,
			})
			if err != nil {
				t.Fatal(err)
			}
			return a.Once(t.Context())
		}
		hooks.fail(hookA, errors.New("exit status 3"))
		if err := once(); err == nil || !strings.Contains(err.Error(), "delivery of certificate device-id: "+hookA+": failed: exit status 3") {
			t.Errorf("with a hook that fails: %v", err)
		}
		d.mustServe("out/combined.pem")
		mustTell(t, hooks, hookA+"/1/missing", hookB+"/1/missing")
		hooks.fail(hookA, nil)
		if err := once(); err != nil {
			t.Errorf("with one that works: %v", err)
		}
		if err := once(); err != nil {
			t.Errorf("with nothing due: %v", err)
		}
		mustTell(t, hooks, hookA+"/1/missing", hookB+"/1/missing", hookA+"/1/missing")
		if n := len(d.ca.seen()); n != 1 {
			t.Errorf("%d requests", n)
		}
		remove(t, filepath.Join(d.dir, "out/ca.pem"))
		if err := os.Mkdir(filepath.Join(d.dir, "out/ca.pem"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := once(); err == nil || !strings.Contains(err.Error(), "out/ca.pem") {
			t.Errorf("with a directory in an output's place: %v", err)
		}
	})
}

// TestSurveyOfADelivery: from disk the same is told as by the agent, and what a killed agent did not get to is pending.
func TestSurveyOfADelivery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, hooks := newServed(t, day, delivering)
		hooks.fail(hookA, errors.New("no"))
		_, stop := d.boot()
		settle()
		stop()
		survey := func(cfg *config.Config) status.Certificate {
			s, err := store.View(filepath.Join(d.dir, "state"))
			if err != nil {
				t.Fatal(err)
			}
			snapshot, err := Survey(SurveyOptions{Config: cfg, Store: s, Now: time.Now()})
			if err != nil {
				t.Fatal(err)
			}
			return snapshot.Certificates[0]
		}
		cfg, err := d.load()
		if err != nil {
			t.Fatal(err)
		}
		for name, cfg := range map[string]*config.Config{"with": cfg, "without": nil} {
			if c := survey(cfg); c.Hooks[0].State != "failed" || c.Hooks[1].State != "ok" || c.Outputs[0].State != "ok" || codes(c) != "hook-failed" {
				t.Errorf("%s configuration: %+v", name, c)
			}
		}
		state := filepath.Join(d.dir, "state/certs/device-id/delivery.json")
		data, err := os.ReadFile(state)
		if err != nil {
			t.Fatal(err)
		}
		live := d.live("device-id").Meta.SHA256
		writeFile(t, state, []byte(strings.Replace(string(data), live, strings.Repeat("0", len(live)), 1)))
		for name, cfg := range map[string]*config.Config{"with": cfg, "without": nil} {
			if c := survey(cfg); c.Hooks[1].State != "pending" || c.Outputs[0].State != "pending" || codes(c) != "" {
				t.Errorf("%s configuration, after the delivery of another generation: %+v", name, c)
			}
		}
		remove(t, state)
		if c := survey(cfg); c.Hooks[0].State != "pending" || c.Outputs[1].State != "pending" || codes(c) != "" {
			t.Errorf("before the delivery: %+v", c)
		}
		cfg.Certificates = nil
		if c := survey(cfg); c.State != status.Unmanaged || len(c.Hooks)+len(c.Outputs) != 0 {
			t.Errorf("out of the configuration: %+v", c)
		}
	})
}
