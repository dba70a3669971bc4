package agent

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certagent/est"
	"certagent/store"
	"certagent/store/durable"
	"certagent/store/durable/durabletest"
	"certagent/store/keys"
	"certagent/store/storetest"
)

// work is what an agent finds and has to do in one turn.
type work struct {
	name    string
	config  string          // default oneCertificate
	prepare func(d *device) // makes what is there before; nil: nothing is
	// unseen: where the file that tells of it cannot be read just now, there seems to be nothing to do.
	unseen  string
	damaged bool                          // the live pair is of no use before, and may be so still
	ids     []string                      // of the certificates that are to be issued; default device-id
	check   func(d *device, after string) // what else is true in the end
}

var works = []work{
	{name: "first enrolment"},
	{name: "renewal", prepare: func(d *device) { d.mustTurn(); d.mustTurn(); time.Sleep(20 * time.Hour) }},
	{
		name:   "renewal of a third generation, with the same key",
		config: strings.Replace(oneCertificate, "rotate_key = true", "rotate_key = false", 1),
		prepare: func(d *device) {
			for range 2 {
				d.mustTurn()
				time.Sleep(20 * time.Hour)
			}
		},
	},
	{
		name: "approved at last",
		prepare: func(d *device) {
			d.ca.fail(func(c call) error {
				return &est.Error{Op: c.op, Class: est.ErrPending, Status: 202, RetryAfter: time.Hour}
			})
			if d.turn(d.broken(0, durabletest.Fail)) == nil {
				d.t.Fatal("202 is taken for a certificate")
			}
			time.Sleep(2 * time.Hour)
		},
	},
	{
		name:    "linked to its connection",
		prepare: func(d *device) { d.ca.want(&est.Attributes{Link: true}, nil) },
	},
	{
		name:   "the server makes the key",
		config: strings.Replace(oneCertificate, `common_name = "gateway"`, "common_name = \"gateway\"\nserver_key = true", 1),
		prepare: func(d *device) {
			k, err := keys.Files{}.Generate(keys.ECP256)
			if err != nil {
				d.t.Fatal(err)
			}
			d.ca.keyOf = k
		},
	},
	{
		name: "a new name in the configuration", unseen: "meta.json",
		prepare: func(d *device) {
			d.mustTurn()
			d.configure(strings.Replace(oneCertificate, `common_name = "gateway"`, `common_name = "router"`, 1))
		},
		check: func(d *device, after string) {
			if cn := d.live("device-id").Leaf.Subject.CommonName; cn != "router" {
				d.t.Errorf("%s: the certificate is for %s", after, cn)
			}
		},
	},
	{
		name: "a renewal that was forced before the restart",
		prepare: func(d *device) {
			d.mustTurn()
			d.wish(reasonForced)
		},
	},
	{
		name: "the live generation is damaged, an older one is not", damaged: true,
		prepare: func(d *device) { d.twoGenerations(); remove(d.t, filepath.Join(d.live("device-id").Dir, "cert.pem")) },
	},
	{
		name:    "the live link is gone, the generations are not",
		prepare: func(d *device) { d.twoGenerations(); remove(d.t, filepath.Join(d.state(), "certs/device-id/live")) },
	},
	{
		name: "the live link leads nowhere", damaged: true,
		prepare: func(d *device) {
			d.twoGenerations()
			link := filepath.Join(d.state(), "certs/device-id/live")
			remove(d.t, link)
			if err := os.Symlink("gen-000099", link); err != nil {
				d.t.Fatal(err)
			}
		},
	},
	{
		name: "leftovers of every kind, and a torn request",
		prepare: func(d *device) {
			d.mustTurn()
			for _, dir := range []string{"", "certs", "trust", "certs/device-id"} {
				tmp := durable.TempName(filepath.Join(d.state(), dir, "x"))
				if err := os.Mkdir(tmp, 0o700); err != nil {
					d.t.Fatal(err)
				}
				writeFile(d.t, filepath.Join(tmp, "key.pem"), []byte("half a key"))
				writeFile(d.t, durable.TempName(filepath.Join(d.state(), dir, "y")), nil)
			}
			pending := filepath.Join(d.state(), "certs/device-id/pending")
			if err := os.Mkdir(pending, 0o700); err != nil {
				d.t.Fatal(err)
			}
			writeFile(d.t, filepath.Join(pending, "request.json"), []byte("{}"))
			time.Sleep(20 * time.Hour)
		},
	},
	{
		name: "the CA has another key beside",
		prepare: func(d *device) {
			d.mustTurn()
			d.ca.also = append(d.ca.also, newFakeCA(d.t, day).cert)
			time.Sleep(20 * time.Hour)
		},
		check: func(d *device, after string) {
			cas, err := os.ReadFile(filepath.Join(d.state(), "trust/est.example_443.pem"))
			if n := bytes.Count(cas, []byte("BEGIN CERTIFICATE")); err != nil || n != 1 && n != 2 {
				d.t.Errorf("%s: %d CA certificates are kept, %v", after, n, err)
			}
		},
	},
	{
		name: "an EST identity and what it logs in for", ids: []string{"est-id", "device-id"},
		config: oneCertificate + "[cert_issuance.est.identity_auto_renew]\nrotate_key = true\nthreshold = \"80%\"\nretry = \"4%\"\n" +
			"[cert_issuance.certs.est-id]\ncommon_name = \"est-id\"\n",
	},
	{
		name:   "another certificate has left the configuration",
		config: oneCertificate + "[cert_issuance.certs.mqtt]\nmethod = \"est\"\ncommon_name = \"mqtt\"\n",
		prepare: func(d *device) {
			d.mustTurn()
			time.Sleep(20 * time.Hour)
			d.ca.fail(unavailable)
			if d.turn(d.broken(0, durabletest.Fail)) == nil {
				d.t.Fatal("nobody is unavailable")
			}
			d.configure(oneCertificate)
		},
		check: func(d *device, after string) {
			if p, err := d.pair("mqtt"); p == nil || err != nil {
				d.t.Errorf("%s: what left the configuration has %v, %v", after, p, err)
			}
		},
	},
}

// wish leaves what a keeper writes before it acts on a wish.
func (d *device) wish(why reason) {
	d.t.Helper()
	s, err := store.Open(d.state(), store.Options{MachineID: "test"})
	if err != nil {
		d.t.Fatal(err)
	}
	defer s.Close()
	c, err := s.Certificate("device-id")
	if err != nil {
		d.t.Fatal(err)
	}
	r, err := c.Retry()
	r.Reissue = string(why)
	if err := errors.Join(err, c.SaveRetry(r)); err != nil {
		d.t.Fatal(err)
	}
}

// twoGenerations makes a certificate and renews it.
func (d *device) twoGenerations() {
	d.mustTurn()
	time.Sleep(20 * time.Hour)
	d.mustTurn()
}

// TestEveryCallOfATurnFails: every call on the file system and every answer of the server fails once, in every way, during
// a whole turn: opening the store, what is repaired there, the attempt from the choice of an identity to the commit,
// what is learned of the server, the clock mark and the retry state. After each, a matching pair is live, the old or the
// new one; no key is readable for others; the next turn completes the work, with the key that the server was asked with,
// and asks for nothing that is there already; nothing is left over.
func TestEveryCallOfATurnFails(t *testing.T) {
	for i, w := range works {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			for _, mode := range durabletest.Modes {
				stride, visited, calls := durabletest.Stride(17), 0, 0
				synctest.Test(t, func(t *testing.T) {
					p := w.begin(t)
					for n := 1 + 3*i%stride; p.breakAt(t, n, mode); n += stride {
						visited, calls = visited+1, n
					}
				})
				t.Logf("%v: %d fault points, every %dth of %d or some more", mode, visited, stride, calls)
				if durabletest.Few(visited, 3) {
					t.Errorf("%v: only %d fault points", mode, visited)
				}
			}
		})
	}
}

// prepared is a device before its turn.
type prepared struct {
	work
	*device
	before string // its state directory, to copy
	old    map[string]*storetest.Pair
	key    map[string]crypto.PublicKey // of requests on their way
}

func (w work) begin(t *testing.T) *prepared {
	if w.config == "" {
		w.config = oneCertificate
	}
	if w.ids == nil {
		w.ids = []string{"device-id"}
	}
	p := &prepared{
		work: w, device: newDevice(t, day, w.config), old: map[string]*storetest.Pair{}, key: map[string]crypto.PublicKey{},
	}
	if err := os.Mkdir(p.state(), 0o755); err != nil {
		t.Fatal(err)
	}
	if w.prepare != nil {
		w.prepare(p.device)
	}
	time.Sleep(time.Minute)
	p.before = filepath.Join(p.dir, "before")
	if err := os.Rename(p.state(), p.before); err != nil {
		t.Fatal(err)
	}
	for _, id := range w.ids {
		pair, err := storetest.Live(p.before, id)
		if err == nil {
			p.old[id] = pair
		}
		if k, err := storetest.PendingKey(p.before, id); err == nil {
			p.key[id] = k
		}
	}
	return p
}

// breakAt has the n-th call of the turn fail, checks, and reports whether there were that many calls.
func (p *prepared) breakAt(t *testing.T, n int, mode durabletest.Mode) bool {
	t.Helper()
	if err := storetest.Copy(p.before, p.state()); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(p.state())
	time.Sleep(time.Millisecond) // so that what happens now is told from what happened before
	fsys, asked, serial := p.broken(n, mode), len(p.ca.seen()), p.ca.lastSerial()
	p.ca.fail(p.sentIsDurable(fsys))
	err := p.turn(fsys)
	if fsys.Fired() == "" && err != nil {
		t.Fatalf("without a fault: %v", err)
	}
	at := fmt.Sprintf("%v at %s", mode, strings.ReplaceAll(fsys.Fired(), p.dir, ""))
	if u := fsys.Unsynced(); len(u) > 0 {
		t.Errorf("%s: renamed before it was durable: %v", at, u)
	}
	if wrong := storetest.Wrong(p.state()); len(wrong) > 0 {
		t.Errorf("%s: on disk: %v", at, wrong)
	}
	first := p.ca.seen()[asked:]
	is, had := map[string]bool{}, map[string]crypto.PublicKey{}
	for _, id := range p.ids {
		is[id] = p.isNew(t, id, serial, at)
		seen := p.unseen == "" || !strings.Contains(fsys.Fired(), p.unseen)
		if err == nil && !is[id] && seen {
			t.Errorf("%s: the turn said that all is well, and %s was not issued", at, id)
		}
		had[id] = p.key[id]
		if k, err := storetest.PendingKey(p.state(), id); err == nil {
			had[id] = k
		}
	}
	for _, c := range first {
		if k, sent := had[c.id], publicKey(t, c.csr); !is[c.id] && !storetest.SameKey(sent, k) {
			t.Errorf("%s: the key that the server was asked with for %s is gone", at, c.id)
		}
	}

	asked = len(p.ca.seen())
	works := p.broken(0, durabletest.Fail)
	p.ca.fail(p.sentIsDurable(works))
	if err := p.turn(works); err != nil {
		t.Errorf("%s: the next turn: %v\n%s", at, err, p.logs)
	}
	for _, c := range p.ca.seen()[asked:] {
		switch k := had[c.id]; {
		case is[c.id]:
			t.Errorf("%s: %s was issued, and is asked for again", at, c.id)
		case k != nil && !storetest.SameKey(publicKey(t, c.csr), k):
			t.Errorf("%s: %s is asked for with another key than before", at, c.id)
		}
	}
	for _, id := range p.ids {
		if !p.isNew(t, id, serial, at) {
			t.Errorf("%s: %s was not issued in the next turn", at, id)
		}
		// The one before is kept, and one more until the next commit where tidying failed or the newer one was damaged.
		if n := len(p.generations(id)); n > 3 {
			t.Errorf("%s: %d generations of %s are kept", at, n, id)
		}
	}
	p.isTidy(at)
	if p.check != nil {
		p.check(p.device, at)
	}
	return fsys.Fired() != ""
}

// isNew reports whether a certificate is live that the CA issued after serial; the pair must match either way.
func (p *prepared) isNew(t *testing.T, id string, serial int64, at string) bool {
	t.Helper()
	pair, err := p.pair(id)
	switch {
	case err != nil && !p.damaged:
		t.Errorf("%s: %s: %v", at, id, err)
	case pair == nil && p.old[id] != nil:
		t.Errorf("%s: %s had a pair and has none", at, id)
	}
	return pair != nil && pair.Leaf.SerialNumber.Int64() > serial
}
