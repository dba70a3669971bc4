package store_test

import (
	"crypto"
	"crypto/x509"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"certagent/store"
	"certagent/store/durable"
	"certagent/store/keys"
)

func TestLayoutAndModesWhateverTheUmask(t *testing.T) {
	for _, mask := range []int{0, 0o077} {
		t.Run(fmt.Sprintf("umask %03o", mask), func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "var", "state")
			a, k := newCA(t), generate(t)
			old := syscall.Umask(mask)
			defer syscall.Umask(old)
			s := open(t, dir)
			c := certificate(t, s, "device-id")
			a.renew(t, c, k)
			_, err := c.SavePending(k, request(t, k))
			must(t, err, c.SaveRetry(store.Retry{Failures: 1}),
				s.UpdateTrust("https://EST.example:8085/.well-known/est", keep(a.cert)),
				s.SaveLastGood([]byte("password = \"secret\"\n")), s.SaveClock(store.Clock{Mark: epoch}))
			want := []string{
				"drwxr-xr-x .",
				"drwxr-xr-x certs",
				"drwxr-xr-x certs/device-id",
				"drwxr-xr-x certs/device-id/gen-000001",
				"-rw-r--r-- certs/device-id/gen-000001/ca.pem",
				"-rw-r--r-- certs/device-id/gen-000001/cert.pem",
				"-rw-r--r-- certs/device-id/gen-000001/chain.pem",
				"-rw-r--r-- certs/device-id/gen-000001/fullchain.pem",
				"-rw------- certs/device-id/gen-000001/key.pem",
				"-rw-r--r-- certs/device-id/gen-000001/meta.json",
				"link certs/device-id/live -> gen-000001",
				"drwx------ certs/device-id/pending",
				"-rw------- certs/device-id/pending/key.pem",
				"-rw------- certs/device-id/pending/request.json",
				"-rw-r--r-- certs/device-id/retry.json",
				"-rw-r--r-- clock.json",
				"-rw------- last-good.toml",
				"-rw------- lock",
				"drwxr-xr-x trust",
				"-rw-r--r-- trust/est.example_8085.json",
				"-rw-r--r-- trust/est.example_8085.pem",
			}
			if got := tree(t, dir); !slices.Equal(got, want) {
				t.Errorf("on disk:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			if info, err := os.Stat(filepath.Dir(dir)); err != nil || info.Mode() != fs.ModeDir|0o755 {
				t.Errorf("the directory above has mode %v, %v", info.Mode(), err)
			}
		})
	}
}

func TestFilesOfAGeneration(t *testing.T) {
	_, c, a, g := start(t)
	for name, want := range map[string][]*x509.Certificate{
		"cert.pem": {g.Leaf}, "chain.pem": {a.cert}, "fullchain.pem": {g.Leaf, a.cert}, "ca.pem": {a.cert},
	} {
		data, err := os.ReadFile(filepath.Join(c.Dir(), "live", name))
		must(t, err)
		got, err := store.ParseCertificates(data, x509.ParseCertificate)
		if err != nil || !slices.EqualFunc(got, want, (*x509.Certificate).Equal) {
			t.Errorf("%s holds %d certificates, %v", name, len(got), err)
		}
	}
	tc := g.TLS()
	if len(tc.Certificate) != 2 || tc.Leaf != g.Leaf || tc.PrivateKey != crypto.PrivateKey(g.Key) {
		t.Errorf("for a login: %d certificates", len(tc.Certificate))
	}
	live, err := c.Live()
	must(t, err)
	m := live.Meta
	if !live.HasMeta || m.Serial != "03" || len(m.SHA256) != 64 || len(m.SHA1) != 40 || len(m.CSRSHA256) != 64 ||
		!m.NotBefore.Equal(epoch) || !m.NotAfter.Equal(epoch.Add(24*time.Hour)) || !m.Issued.Equal(epoch) || !m.First ||
		m.Operation != "simpleenroll" || m.Identity != "bootstrap" || m.Reason != "missing" || m.Version != "test" ||
		m.Server != "https://est.example:8085/.well-known/est" || m.MachineID != "machine" {
		t.Errorf("meta.json: %+v", m)
	}
	if r := m.Request; r == nil || r.Subject != "CN=gw" || r.Key != "ec-p256" || r.SANs == nil || r.Usages == nil {
		t.Errorf("the recorded request: %+v", m.Request)
	}
}

func TestGenerationsFollowEachOther(t *testing.T) {
	s, c, a, first := start(t)
	if g, err := c.Live(); err != nil || g.Number != 1 || !g.Leaf.Equal(first.Leaf) {
		t.Fatalf("live: %+v, %v", g, err)
	}
	second := a.renew(t, c, first.Key) // rotate_key = false
	if !keys.Equal(second.Key.Public(), first.Key.Public()) {
		t.Error("the key changed")
	}
	third := a.renew(t, c, generate(t))
	if keys.Equal(third.Key.Public(), first.Key.Public()) {
		t.Error("the key did not change")
	}
	if ns, err := c.Generations(); err != nil || !slices.Equal(ns, []int{2, 3}) {
		t.Errorf("generations %v, %v: want the live one and the one before", ns, err)
	}
	// Numbers never repeat, not even that of something strange.
	must(t, os.WriteFile(filepath.Join(c.Dir(), "gen-000010"), nil, 0o600),
		os.Mkdir(filepath.Join(c.Dir(), "gen-11"), 0o700))
	if g := a.renew(t, c, generate(t)); g.Number != 11 {
		t.Errorf("generation %d after something called gen-000010", g.Number)
	}
	must(t, s.Close())
	g, err := certificate(t, open(t, s.Dir()), "device-id").Live()
	if err != nil || g.Number != 11 {
		t.Errorf("after a restart: %+v, %v", g, err)
	}
}

func TestNumbersGrowBeyondSixDigits(t *testing.T) {
	s, c, a, _ := start(t)
	must(t, os.Mkdir(filepath.Join(c.Dir(), "gen-999998"), 0o755))
	for _, want := range []int{999_999, 1_000_000, 1_000_001} {
		if g := a.renew(t, c, generate(t)); g.Number != want {
			t.Errorf("generation %d, want %d", g.Number, want)
		}
	}
	if ns, err := c.Generations(); err != nil || !slices.Equal(ns, []int{1_000_000, 1_000_001}) {
		t.Errorf("generations %v, %v", ns, err)
	}
	// At the end of all numbers nothing is committed that could not be found again.
	end := filepath.Join(c.Dir(), "gen-999999999")
	must(t, os.Mkdir(end, 0o755))
	k := generate(t)
	p, err := c.SavePending(k, request(t, k))
	must(t, err)
	if _, err := c.Commit(a.issue(t, p)); err == nil || !strings.Contains(err.Error(), end) {
		t.Errorf("committed after the last number: %v", err)
	}
	must(t, os.Remove(end), s.Close())
	c = certificate(t, open(t, s.Dir()), "device-id")
	if g, err := c.Live(); err != nil || g.Number != 1_000_001 {
		t.Errorf("live: %+v, %v", g, err)
	}
	_, err = c.Commit(a.issue(t, p))
	must(t, err)
}

func TestCommitRefusesACertificateForAnotherKey(t *testing.T) {
	_, c, a, g := start(t)
	k := generate(t)
	p, err := c.SavePending(k, request(t, k))
	must(t, err)
	i := a.issue(t, p)
	i.Leaf = a.sign(t, "gw", generate(t).Public(), false)
	before := tree(t, c.Dir())
	if _, err := c.Commit(i); err == nil {
		t.Fatal("committed")
	}
	if after := tree(t, c.Dir()); !slices.Equal(before, after) {
		t.Errorf("something changed:\n%s", strings.Join(after, "\n"))
	}
	if live, err := c.Live(); err != nil || live.Number != g.Number {
		t.Errorf("live: %v, %v", live, err)
	}
}

func TestCommitOfAnImportedPair(t *testing.T) {
	_, c, a, _ := start(t)
	k := generate(t)
	i := a.issue(t, &store.Pending{Key: k})
	i.Chain, i.CAs = nil, nil
	g, err := c.Commit(i)
	must(t, err)
	live, err := c.Live()
	if err != nil || live.Number != g.Number || live.Meta.Request != nil ||
		live.Meta.CSRSHA256 != "" || len(live.Chain) != 0 {
		t.Errorf("live: %+v, %v", live, err)
	}
}

func TestKeyForAGroup(t *testing.T) {
	_, c, a, _ := start(t)
	k := generate(t)
	i := a.issue(t, &store.Pending{Key: k})
	i.KeyPerm = durable.Perm{Mode: 0o640, UID: -1, GID: os.Getegid()}
	g, err := c.Commit(i)
	must(t, err)
	info, err := os.Stat(filepath.Join(g.Dir, "key.pem"))
	if err != nil || info.Mode() != 0o640 || len(g.Meta.Warnings) > 0 {
		t.Errorf("key.pem has mode %v, %v; warnings %v", info.Mode(), err, g.Meta.Warnings)
	}
}

// noChown is a file system on which nothing can be given away.
type noChown struct{ durable.FS }

type noChownFile struct{ durable.File }

func (n noChown) OpenFile(path string, flag int, m fs.FileMode) (durable.File, error) {
	f, err := n.FS.OpenFile(path, flag, m)
	if err != nil {
		return nil, err
	}
	return noChownFile{f}, nil
}

func (noChownFile) Chown(int, int) error {
	return &fs.PathError{Op: "chown", Path: "f", Err: syscall.EPERM}
}

func TestAGroupThatCannotBeGivenIsAWarning(t *testing.T) {
	s, err := store.Open(filepath.Join(t.TempDir(), "state"), store.Options{FS: noChown{durable.OS{}}})
	must(t, err)
	defer s.Close()
	c, a, k := certificate(t, s, "mqtt"), newCA(t), generate(t)
	i := a.issue(t, &store.Pending{Key: k})
	i.KeyPerm = durable.Perm{Mode: 0o640, UID: -1, GID: 4711}
	g, err := c.Commit(i)
	must(t, err)
	info, err := os.Stat(filepath.Join(g.Dir, "key.pem"))
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("key.pem has mode %v, %v", info.Mode(), err)
	}
	if w := g.Meta.Warnings; len(w) != 1 || !strings.Contains(w[0], "CAP_CHOWN") || !strings.Contains(w[0], "4711") {
		t.Errorf("warnings %q", w)
	}
}

func TestIDs(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "state"))
	for id, good := range map[string]bool{
		"device-id": true, "a.b_c-9": true, strings.Repeat("x", 64): true,
		"": false, ".": false, "..": false, ".hidden": false, "a/b": false, "a b": false, "ä": false,
		strings.Repeat("x", 65): false,
	} {
		if _, err := s.Certificate(id); (err == nil) != good {
			t.Errorf("id %q: %v", id, err)
		}
	}
	for _, id := range []string{"zz", "aa"} {
		must(t, certificate(t, s, id).SaveRetry(store.Retry{}))
	}
	must(t, os.Mkdir(filepath.Join(s.Dir(), "certs", "not one"), 0o755),
		os.WriteFile(filepath.Join(s.Dir(), "certs", "file"), nil, 0o644))
	certificate(t, s, "nothing-of-it")
	if ids, err := s.IDs(); err != nil || !slices.Equal(ids, []string{"aa", "zz"}) {
		t.Errorf("ids %v, %v", ids, err)
	}
}
