package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certagent/agent/config"
	"certagent/agent/status"
	"certagent/est"
	"certagent/store"
	"certagent/store/keys"
)

// on has the next agent run on another machine: "" is one without a machine-id, "… boot" one that has another at each boot.
func (d *device) on(machine string) {
	before := d.change
	d.change = func(o *Options) {
		if before != nil {
			before(o)
		}
		o.Host.MachineID, o.Host.Volatile = machine, strings.HasSuffix(machine, " boot")
	}
}

// TestClonedDisk: certificates of another device do not log in, not even to ask for CA certificates; new keys come at once,
// by the EST identity once that is new itself, whatever rotate_key says, and over the other device's back-off.
func TestClonedDisk(t *testing.T) {
	for _, rotate := range []string{"true", "false"} {
		t.Run("rotate_key="+rotate, func(t *testing.T) {
			outage := rotate == "true"
			synctest.Test(t, func(t *testing.T) {
				d := newDevice(t, day, strings.ReplaceAll(withESTIdentity, "rotate_key = true", "rotate_key = "+rotate))
				a, stop := d.boot()
				settle()
				before, identity := d.live("device-id"), d.live("est-id")
				d.ca.fail(unavailable) // the image is made in an outage, with a request pending and a back-off
				a.RenewAll()
				time.Sleep(time.Hour)
				stop()
				pending, err := os.ReadFile(filepath.Join(d.dir, "state/certs/device-id/pending/key.pem"))
				if err != nil {
					t.Fatal(err)
				}

				if !outage {
					d.ca.fail(nil)
				}
				d.on("another")
				cloned := time.Now()
				a, stop = d.boot()
				defer func() { stop() }()
				settle()
				for _, c := range a.Snapshot().Certificates {
					if outage != strings.Contains(codes(c), "cloned-state") || c.State != status.Valid {
						t.Errorf("%s: %s, problems %s", c.ID, c.State, codes(c))
					}
				}
				d.ca.fail(nil)
				time.Sleep(time.Hour)
				settle()
				for _, c := range a.Snapshot().Certificates {
					if codes(c) != "" {
						t.Errorf("%s afterwards: %+v", c.ID, c.Problems)
					}
				}
				calls := d.ca.since(cloned)
				for _, c := range calls {
					if c.o.Certificate != nil && (c.o.Certificate.Leaf.Equal(before.Leaf) || c.o.Certificate.Leaf.Equal(identity.Leaf)) {
						t.Errorf("%s by the %s of the other device", c.op, c.identity)
					}
					if c.op != opEnroll {
						t.Errorf("%s with a certificate of the other device to renew", c.op)
					}
				}
				if c := calls[0]; c.at.After(cloned) || c.identity != identityBootstrap {
					t.Errorf("first by the %s after %v", c.identity, c.at.Sub(cloned))
				}
				if c := calls[1]; !outage && (c.at.After(cloned) || c.identity != identityEST) {
					t.Errorf("then by the %s after %v: the others wait for the EST identity", c.identity, c.at.Sub(cloned))
				}
				for _, f := range d.ca.fetches() {
					if !f.at.Before(cloned) && f.o.Certificate != nil && f.o.Certificate.Leaf.Equal(before.Leaf) {
						t.Error("/cacerts was asked with the certificate of the other device")
					}
				}
				after := d.live("device-id")
				old, err := keys.ParsePEM(pending)
				if err != nil {
					t.Fatal(err)
				}
				for name, key := range map[string]keys.Key{"live": before.Key, "pending": old} {
					if keys.Equal(after.Key.Public(), key.Public()) {
						t.Errorf("the %s key of the other device is used", name)
					}
				}
				if after.Meta.Reason != string(reasonCloned) || after.Meta.MachineID != "another" {
					t.Errorf("meta.json: %+v", after.Meta)
				}

				// The old generation is on disk yet: when it must serve again it is still the other device's.
				remove(t, filepath.Join(after.Dir, "cert.pem"))
				time.Sleep(2 * time.Minute)
				settle()
				if g := d.live("device-id"); g.Meta.MachineID != "another" || g.Number <= after.Number {
					t.Errorf("after a loss generation %d of %q is live", g.Number, g.Meta.MachineID)
				}
			})
		})
	}
}

// TestClonedDiskDeliversNothing of the other device: consumers hear of the new certificate.
func TestClonedDiskDeliversNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, hooks := newServed(t, day, delivering)
		_, stop := d.boot()
		settle()
		stop()
		remove(t, filepath.Join(d.dir, "out/combined.pem"))
		d.ca.fail(unavailable)
		d.on("another")
		_, stop = d.boot()
		defer stop()
		time.Sleep(2 * time.Minute)
		settle()
		if _, err := os.Stat(filepath.Join(d.dir, "out/combined.pem")); err == nil {
			t.Error("the other device's key was written")
		}
		d.ca.fail(nil)
		time.Sleep(time.Hour)
		settle()
		d.mustServe("out/combined.pem")
		mustTell(t, hooks, hookA+"/1/missing", hookB+"/1/missing", hookA+"/2/cloned", hookB+"/2/cloned")
	})
}

// TestClonedApproval: a request that another device made, and that waits for approval, is not this one's, with or without a
// certificate.
func TestClonedApproval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, day, oneCertificate)
		d.ca.fail(func(c call) error {
			return &est.Error{Op: c.op, Class: est.ErrPending, RetryAfter: 100 * time.Hour}
		})
		_, stop := d.boot()
		settle()
		stop()
		theirs := d.ca.seen()[0].csr
		d.ca.fail(nil)
		d.on("another")
		_, stop = d.boot()
		defer stop()
		settle()
		calls := d.ca.seen()
		if len(calls) != 2 || string(calls[1].csr) == string(theirs) {
			t.Fatalf("%d requests", len(calls))
		}
		d.live("device-id")
	})
}

// TestNoJudgementWithoutMachineID: where one is missing, here or there, the certificate is this device's; and a disk that
// comes back to its own device is not a clone of itself.
func TestNoJudgementWithoutMachineID(t *testing.T) {
	for _, machines := range [][]string{{"", "two"}, {"one", ""}, {"one", "one"}, {"one", "one boot"}, {"one boot", "two"}} {
		synctest.Test(t, func(t *testing.T) {
			d := newDevice(t, day, oneCertificate)
			d.on(machines[0])
			_, stop := d.boot()
			settle()
			stop()
			if recorded := d.live("device-id").Meta.MachineID; machines[0] == "one boot" && recorded == machines[0] {
				t.Errorf("%q is recorded", recorded)
			}
			if machines[0] != "one" { // the test's store knows one
				strip(t, filepath.Join(d.live("device-id").Dir, "meta.json"))
			}
			d.on(machines[1])
			a, stop := d.boot()
			defer stop()
			settle()
			if n := len(d.ca.seen()); n != 1 || codes(device0(a)) != "" {
				t.Errorf("%q: %d requests, problems %s", machines, n, codes(device0(a)))
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, day, oneCertificate)
		_, stop := d.boot()
		settle()
		stop()
		d.ca.fail(unavailable)
		d.on("another")
		_, stop = d.boot()
		settle()
		stop()
		d.ca.fail(nil)
		before := len(d.ca.seen())
		d.on("test")
		a, stop := d.boot()
		defer stop()
		time.Sleep(time.Hour)
		settle()
		if n := len(d.ca.seen()) - before; n != 0 || codes(device0(a)) != "" {
			t.Errorf("back on its own device: %d requests, problems %s", n, codes(device0(a)))
		}
	})
}

// TestNotClonedAfterAll: the device is the same and has another machine-id, and nothing else can log in. Who removes meta.json,
// as status says, has the certificate back as it was, and consumers are served.
func TestNotClonedAfterAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, hooks := newServed(t, day, delivering)
		_, stop := d.boot()
		settle()
		stop()
		remove(t, filepath.Join(d.dir, "bootstrap.pem"))
		remove(t, filepath.Join(d.dir, "out/combined.pem"))
		remove(t, filepath.Join(d.state(), "certs/device-id/delivery.json"))
		d.on("another")
		a, stop := d.boot()
		defer stop()
		time.Sleep(2 * time.Hour)
		settle()
		record, c := filepath.Join(d.live("device-id").Dir, "meta.json"), device0(a)
		if !strings.Contains(codes(c), "cloned-state") || !strings.Contains(fmt.Sprint(c.Problems), "remove "+record) {
			t.Errorf("problems %+v", c.Problems)
		}
		remove(t, record)
		time.Sleep(2 * time.Minute)
		settle()
		c, live := device0(a), d.live("device-id")
		if codes(c) != "" || c.Failures != 0 || c.Serial == "" || c.SHA256 == "" || live.Number != 1 {
			t.Errorf("afterwards: %+v", c)
		}
		d.mustServe("out/combined.pem")
		mustTell(t, hooks, hookA+"/1/missing", hookB+"/1/missing", hookA+"/1/", hookB+"/1/")
		if e := hooks.event(2); e.Serial != c.Serial || e.Fingerprint != c.SHA256 {
			t.Errorf("told of %+v", e)
		}
		time.Sleep(day)
		settle()
		if g := d.live("device-id"); g.Number != 2 || g.Meta.MachineID != "another" {
			t.Errorf("renewed to generation %d of %q", g.Number, g.Meta.MachineID)
		}
	})
}

// strip takes the machine-id out of a record, as an older version left it.
func strip(t *testing.T, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var kept []string
	for line := range strings.Lines(string(data)) {
		if !strings.Contains(line, `"machine_id"`) {
			kept = append(kept, line)
		}
	}
	writeFile(t, path, []byte(strings.Join(kept, "")))
}

// TestSurveyOfAClonedDisk says the same without an agent.
func TestSurveyOfAClonedDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, day, oneCertificate)
		_, stop := d.boot()
		settle()
		stop()
		cfg, err := d.load()
		if err != nil {
			t.Fatal(err)
		}
		s, err := store.View(filepath.Join(d.dir, "state"))
		if err != nil {
			t.Fatal(err)
		}
		for name, cfg := range map[string]*config.Config{"with": cfg, "without": nil} {
			snapshot, err := Survey(SurveyOptions{Config: cfg, Store: s, Now: time.Now(), Host: Host{MachineID: "another"}})
			if err != nil {
				t.Fatal(err)
			}
			c := snapshot.Certificates[0]
			if codes(c) != "cloned-state" || c.NextWhy != whyOf(reasonCloned) || snapshot.ExitCode() != status.ExitDegraded {
				t.Errorf("%s configuration: %s, %q, exit code %d", name, codes(c), c.NextWhy, snapshot.ExitCode())
			}
		}
	})
}

// TestClonedLoginToCACerts: the refresh of CA certificates does not show the other device's certificate either.
func TestClonedLoginToCACerts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, longLife, oneCertificate)
		_, stop := d.boot()
		settle()
		stop()
		remove(t, filepath.Join(d.dir, "bootstrap.pem")) // nothing can log in, and no attempt asks anybody
		d.on("another")
		cloned := time.Now()
		_, stop = d.boot()
		defer stop()
		time.Sleep(8 * day)
		settle()
		alone := 0
		for _, f := range d.ca.fetches() {
			if f.at.Before(cloned) {
				continue
			}
			if f.o.Certificate == nil {
				alone++
			} else if f.o.Certificate.Leaf.Equal(d.live("device-id").Leaf) {
				t.Fatal("the other device's certificate was shown")
			}
		}
		if alone == 0 {
			t.Error("nothing was fetched apart from attempts")
		}
	})
}

func TestForeignPending(t *testing.T) {
	h := Host{MachineID: "here"}
	of := func(machine string) *store.Generation { return &store.Generation{Meta: store.Meta{MachineID: machine}} }
	for _, tc := range []struct {
		pending string
		live    *store.Generation
		want    bool
	}{
		{"here", of("there"), false}, {"there", of("here"), true}, {"there", nil, true}, {"here", nil, false},
		{"", nil, false}, {"", of("here"), false}, {"", of(""), false}, {"", of("there"), true}, // made before that was recorded
	} {
		if got := h.foreignPending(&store.Pending{MachineID: tc.pending}, tc.live); got != tc.want {
			t.Errorf("%+v: %v", tc, got)
		}
	}
	if (Host{}).foreign("there") || (Host{}).cloned(of("there")) || h.cloned(nil) {
		t.Error("judged without a machine-id")
	}
}
