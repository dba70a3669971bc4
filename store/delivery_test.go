package store_test

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"certagent/store"
)

// delivery has something in every field.
var delivery = store.Delivery{
	Version: 1, Generation: 7, SHA256: "5c77", CAs: "ab", Reason: "threshold", Failures: 1, NextTry: epoch.Add(time.Hour),
	Outputs: []store.DeliveredOutput{{
		Path: "/etc/x.pem", Format: "cert", State: store.StepFailed, Mark: "5c 1 2.3", Written: epoch, Error: "write /etc/x.pem: no",
		Hint: "chown", Refused: true, Since: epoch,
	}},
	Hooks: []store.DeliveredHook{{
		Hook: "reload nginx.service", State: store.StepPending, Tries: 2, LastTry: epoch, NextTry: epoch, Output: "o", Skipped: "s",
		Class: "failed", Error: "e", Hint: "h", Since: epoch,
	}},
}

func TestDelivery(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "state"))
	c := certificate(t, s, "mqtt")
	if d, err := c.Delivery(); err != nil || !reflect.DeepEqual(d, store.Delivery{}) {
		t.Errorf("none: %+v, %v", d, err)
	}
	path := filepath.Join(c.Dir(), "delivery.json")
	must(t, c.SaveDelivery(delivery))
	before, err := os.Stat(path)
	must(t, err, c.SaveDelivery(delivery))
	if after, err := os.Stat(path); err != nil || !os.SameFile(before, after) || after.Mode() != 0o644 {
		t.Errorf("written again, or %v, %v", after.Mode(), err)
	}
	if got, err := c.Delivery(); err != nil || !reflect.DeepEqual(got, delivery) {
		t.Errorf("%+v, %v\nwant %+v", got, err, delivery)
	}
	text, err := os.ReadFile(path)
	must(t, err)
	for _, none := range []string{
		"", "{", string(text[:len(text)/2]), strings.Replace(string(text), `"version": 1`, `"version": 2`, 1), `{"version":1,"hooks":{}}`,
	} {
		must(t, os.WriteFile(path, []byte(none), 0o644))
		if d, err := c.Delivery(); err != nil || !reflect.DeepEqual(d, store.Delivery{}) {
			t.Errorf("%q: %+v, %v", none, d, err)
		}
	}
	must(t, os.WriteFile(path, text, 0o644), os.Chmod(path, 0o666))
	if d, err := c.Delivery(); err != nil || !reflect.DeepEqual(d, store.Delivery{}) {
		t.Errorf("what everybody may write is believed: %+v, %v", d, err)
	}
	must(t, c.SaveDelivery(store.Delivery{SHA256: "5c"}))
	if text, err := os.ReadFile(path); err != nil || strings.Contains(string(text), "0001-01-01") {
		t.Errorf("zero times are written: %v\n%s", err, text)
	}
}

// A request says on which machine it was made, also when it is saved again by another.
func TestPendingKnowsItsMachine(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	k := generate(t)
	var saved *store.Pending
	for _, machine := range []string{"one", "two"} {
		s, err := store.Open(dir, store.Options{MachineID: machine})
		must(t, err)
		c := certificate(t, s, "mqtt")
		if saved == nil {
			saved, err = c.SavePending(k, request(t, k))
		} else {
			saved, err = c.SavePending(k, *saved)
		}
		must(t, err)
		p, err := c.Pending()
		if must(t, err); p == nil || p.MachineID != "one" {
			t.Errorf("saved on %s: %+v", machine, p)
		}
		must(t, s.Close())
	}
}

func TestOwnerAndTrustFile(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "state"))
	if uid, gid := s.Owner(); uid != os.Geteuid() || gid != os.Getegid() {
		t.Errorf("owner %d:%d", uid, gid)
	}
	const server = "https://est.example:8443/.well-known/est/label"
	_, c, a, _ := start(t)
	must(t, s.UpdateTrust(server, keep(a.cert)))
	path, err := s.TrustFile(server)
	must(t, err)
	if data, err := os.ReadFile(path); err != nil || !strings.Contains(string(data), "CERTIFICATE") {
		t.Errorf("%s: %q, %v", path, data, err)
	}
	if _, err := s.TrustFile("no server at all"); err == nil {
		t.Error("a file for no server")
	}
	g, err := c.Live()
	must(t, err)
	if _, err := os.Stat(g.File("ca.pem")); err != nil {
		t.Error(err)
	}
}
