package store_test

import (
	"bytes"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"certagent/store"
	"certagent/store/durable"
	"certagent/store/keys"
)

func TestLiveSaysWhatIsWrong(t *testing.T) {
	write := func(path string, data []byte) error { return os.WriteFile(path, data, 0o644) }
	for _, c := range []struct {
		name   string
		damage func(dir string) error // dir is the certificate's
		file   string                 // of the BrokenError; empty means ErrMissing
		why    string
	}{
		{name: "no link", damage: func(d string) error { return os.Remove(d + "/live") }},
		{name: "dangling link", damage: func(d string) error { return os.RemoveAll(d + "/gen-000002") }},
		{name: "link out of the directory", file: "live", why: "no generation beside it", damage: func(d string) error {
			return errors.Join(os.Remove(d+"/live"), os.Symlink(filepath.Dir(d)+"/device-id/gen-000002", d+"/live"))
		}},
		{name: "link to nothing of ours", file: "live", why: `"pending"`, damage: func(d string) error {
			return errors.Join(os.Remove(d+"/live"), os.Symlink("pending", d+"/live"))
		}},
		{name: "directory instead of the link", file: "live", why: "is a directory", damage: func(d string) error {
			return errors.Join(os.Remove(d+"/live"), os.Mkdir(d+"/live", 0o755))
		}},
		{name: "link instead of the generation", file: "its directory", why: "is a symbolic link",
			damage: func(d string) error {
				return errors.Join(os.Rename(d+"/gen-000002", d+"/moved"), os.Symlink("moved", d+"/gen-000002"))
			}},
		{name: "no certificate", file: "cert.pem", why: "is gone", damage: func(d string) error {
			return os.Remove(d + "/live/cert.pem")
		}},
		{name: "truncated certificate", file: "cert.pem", why: "cut off", damage: func(d string) error {
			return os.Truncate(d+"/live/cert.pem", 100)
		}},
		{name: "empty certificate", file: "cert.pem", why: "holds 0 certificates", damage: func(d string) error {
			return os.Truncate(d+"/live/cert.pem", 0)
		}},
		{name: "damaged certificate", file: "cert.pem", why: "does not parse", damage: func(d string) error {
			return write(d+"/live/cert.pem", []byte("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"))
		}},
		{name: "key in the certificate's place", file: "cert.pem", why: "PRIVATE KEY", damage: func(d string) error {
			data, err := os.ReadFile(d + "/live/key.pem")
			return errors.Join(err, write(d+"/live/cert.pem", data))
		}},
		{name: "no chain", file: "chain.pem", why: "is gone", damage: func(d string) error {
			return os.Remove(d + "/live/chain.pem")
		}},
		{name: "emptied chain", file: "fullchain.pem", why: "does not hold", damage: func(d string) error {
			return os.Truncate(d+"/live/chain.pem", 0)
		}},
		{name: "no fullchain", file: "fullchain.pem", why: "is gone", damage: func(d string) error {
			return os.Remove(d + "/live/fullchain.pem")
		}},
		{name: "fullchain without a line's end between the two", file: "fullchain.pem", why: "", damage: func(d string) error {
			leaf, err := os.ReadFile(d + "/live/cert.pem")
			chain, chainErr := os.ReadFile(d + "/live/chain.pem")
			leaf = bytes.TrimSuffix(leaf, []byte("\n"))
			return errors.Join(err, chainErr, write(d+"/live/cert.pem", leaf), write(d+"/live/fullchain.pem", slices.Concat(leaf, chain)))
		}},
		{name: "no anchors", file: "ca.pem", why: "is gone", damage: func(d string) error {
			return os.Remove(d + "/live/ca.pem")
		}},
		{name: "no key", file: "key.pem", why: "is gone", damage: func(d string) error {
			return os.Remove(d + "/live/key.pem")
		}},
		{name: "truncated key", file: "key.pem", why: "holds no private key", damage: func(d string) error {
			return os.Truncate(d+"/live/key.pem", 40)
		}},
		{name: "key of the generation before", file: "key.pem", why: "not the key of cert.pem", damage: func(d string) error {
			return os.Rename(d+"/gen-000001/key.pem", d+"/live/key.pem")
		}},
		{name: "key that others may read", file: "key.pem", why: "mode 0644", damage: func(d string) error {
			return os.Chmod(d+"/live/key.pem", 0o644)
		}},
		{name: "FIFO in place of the key", file: "key.pem", why: "is a FIFO", damage: func(d string) error {
			return errors.Join(os.Remove(d+"/live/key.pem"), syscall.Mkfifo(d+"/gen-000002/key.pem", 0o600))
		}},
		{name: "link in place of the key", file: "key.pem", why: "is a symbolic link", damage: func(d string) error {
			return errors.Join(os.Rename(d+"/live/key.pem", d+"/live/k"), os.Symlink("k", d+"/gen-000002/key.pem"))
		}},
		{name: "directory in its place", file: "cert.pem", why: "is a directory", damage: func(d string) error {
			return errors.Join(os.Remove(d+"/live/cert.pem"), os.Mkdir(d+"/live/cert.pem", 0o755))
		}},
		{name: "huge certificate", file: "cert.pem", why: "too large", damage: func(d string) error {
			return os.Truncate(d+"/live/cert.pem", 1<<40)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, cert, a, _ := start(t)
			a.renew(t, cert, generate(t))
			fingerprint := cert.Fingerprint()
			must(t, c.damage(cert.Dir()))
			if cert.Fingerprint() == fingerprint {
				t.Error("the fingerprint did not change")
			}
			g, err := cert.Live()
			b, broken := errors.AsType[*store.BrokenError](err)
			switch {
			case g != nil:
				t.Error("it is live")
			case c.file == "" && !errors.Is(err, store.ErrMissing):
				t.Errorf("error %v, want ErrMissing", err)
			case c.file != "" && (!broken || b.File != c.file || !strings.Contains(b.Why, c.why)):
				t.Errorf("error %v, want one of %s with %q", err, c.file, c.why)
			case broken && b.File != "live" && b.Gen != 2:
				t.Errorf("it is said of generation %d", b.Gen)
			}
			// Whatever it was: what verifies is made live, and a new certificate is committed, also after a restart.
			if g, err := cert.Restore(); err == nil {
				if live, err := cert.Live(); err != nil || live.Number != g.Number {
					t.Errorf("after restoring %d: %+v, %v", g.Number, live, err)
				}
			} else if c.name != "key of the generation before" {
				t.Errorf("restore: %v", err)
			}
			must(t, s.Close())
			cert = certificate(t, open(t, s.Dir()), "device-id")
			g = a.renew(t, cert, generate(t))
			if live, err := cert.Live(); err != nil || live.Number != g.Number {
				t.Errorf("after a renewal: %+v, %v", live, err)
			}
		})
	}
}

func TestMetaIsNoPartOfTheGeneration(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"gone": os.Remove, "torn": func(p string) error { return os.Truncate(p, 20) },
	} {
		_, c, _, _ := start(t)
		must(t, damage(filepath.Join(c.Dir(), "live", "meta.json")))
		if g, err := c.Live(); err != nil || g.HasMeta || g.Meta.Request != nil {
			t.Errorf("%s: %+v, %v", name, g, err)
		}
	}
}

func TestRestoreTakesTheNewestThatVerifies(t *testing.T) {
	_, c, a, first := start(t)
	second := a.renew(t, c, generate(t))
	before, err := os.Lstat(filepath.Join(c.Dir(), "live"))
	must(t, err)
	if g, err := c.Restore(); err != nil || g.Number != second.Number {
		t.Errorf("nothing wrong: %+v, %v", g, err)
	}
	if after, err := os.Lstat(filepath.Join(c.Dir(), "live")); err != nil || !os.SameFile(before, after) {
		t.Errorf("the link was made again, %v", err)
	}
	must(t, os.Remove(filepath.Join(second.Dir, "key.pem")))
	if g, err := c.Restore(); err != nil || g.Number != first.Number {
		t.Errorf("the newer one broken: %+v, %v", g, err)
	}
	if _, err := os.Stat(second.Dir); err != nil {
		t.Errorf("the broken one is gone: %v", err)
	}
	must(t, os.Remove(filepath.Join(first.Dir, "cert.pem")))
	if _, err := c.Restore(); !errors.Is(err, store.ErrMissing) {
		t.Errorf("none verifies: %v", err)
	}
	// The next one still has a number of its own, and the one before it is kept.
	if g := a.renew(t, c, generate(t)); g.Number != 3 {
		t.Errorf("generation %d", g.Number)
	}
}

// What stands at the link's place (a backup copied with its links followed) is set aside, not deleted.
func TestADirectoryAtTheLinksPlaceIsKept(t *testing.T) {
	_, c, a, _ := start(t)
	live := filepath.Join(c.Dir(), "live")
	must(t, os.Remove(live), os.Mkdir(live, 0o755),
		os.WriteFile(filepath.Join(live, "key.pem"), []byte("precious"), 0o600))
	a.renew(t, c, generate(t))
	found, err := filepath.Glob(filepath.Join(c.Dir(), "displaced-*", "key.pem"))
	if err != nil || len(found) != 1 {
		t.Fatalf("set aside: %v, %v", found, err)
	}
	if data, err := os.ReadFile(found[0]); err != nil || string(data) != "precious" {
		t.Errorf("%q, %v", data, err)
	}
}

// exhausted is a file system whose process has no file descriptors left.
type exhausted struct{ durable.FS }

func (exhausted) OpenFile(path string, _ int, _ os.FileMode) (durable.File, error) {
	return nil, &os.PathError{Op: "open", Path: path, Err: syscall.EMFILE}
}

func TestTroubleOfTheProcessIsNotTheCertificates(t *testing.T) {
	s, _, _, _ := start(t)
	var fsys switchable
	fsys.FS = durable.OS{}
	must(t, s.Close())
	s, err := store.Open(s.Dir(), store.Options{FS: &fsys})
	must(t, err)
	defer s.Close()
	c := certificate(t, s, "device-id")
	fsys.FS = exhausted{durable.OS{}}
	_, err = c.Live()
	if _, broken := errors.AsType[*store.BrokenError](err); broken || errors.Is(err, store.ErrMissing) || err == nil {
		t.Errorf("live without file descriptors: %v", err)
	}
	if _, err := c.Pending(); err != nil {
		t.Errorf("no pending request, and no file descriptors: %v", err)
	}
}

type switchable struct{ durable.FS }

func TestFingerprintAndWatchDirs(t *testing.T) {
	s, c, a, g := start(t)
	none := certificate(t, s, "none")
	if f, w := none.Fingerprint(), none.WatchDirs(); f != "" || w != nil {
		t.Errorf("of nothing: %q, %v", f, w)
	}
	if got := c.WatchDirs(); !slices.Equal(got, []string{c.Dir(), g.Dir}) {
		t.Errorf("watched: %v", got)
	}
	if got := s.WatchDirs(); !slices.Equal(got, []string{s.Dir(), filepath.Join(s.Dir(), "certs")}) {
		t.Errorf("watched: %v", got)
	}
	k := generate(t)
	seen := map[string]string{}
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"as it is", func() error { return nil }},
		{"pending request", func() error { _, err := c.SavePending(k, request(t, k)); return err }},
		{"key written in place", func() error {
			path := filepath.Join(g.Dir, "key.pem")
			data, err := os.ReadFile(path)
			return errors.Join(err, os.WriteFile(path, data, 0o600))
		}},
		{"mode", func() error { return os.Chmod(filepath.Join(g.Dir, "key.pem"), 0o640) }},
		{"meta.json gone", func() error { return os.Remove(filepath.Join(g.Dir, "meta.json")) }},
		{"renewed", func() error { a.renew(t, c, k); return nil }},
	} {
		must(t, step.do())
		f := c.Fingerprint()
		if before, ok := seen[f]; ok || f == "" || f != c.Fingerprint() {
			t.Errorf("%s: fingerprint %q, as at %q", step.name, f, before)
		}
		seen[f] = step.name
	}
	must(t, c.SaveRetry(store.Retry{Failures: 1}))
	if _, ok := seen[c.Fingerprint()]; !ok {
		t.Error("the retry state changes the fingerprint")
	}
}

func FuzzCertificates(f *testing.F) {
	a := newCA(f)
	one := store.EncodeCertificates(a.cert)
	f.Add(one)
	f.Add(append(slices.Clone(one), one...))
	f.Add(one[:len(one)/2])
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		certs, err := store.ParseCertificates(data, x509.ParseCertificate)
		if err != nil {
			return
		}
		again, err := store.ParseCertificates(store.EncodeCertificates(certs...), x509.ParseCertificate)
		if err != nil || !slices.EqualFunc(certs, again, (*x509.Certificate).Equal) {
			t.Errorf("%d certificates written and read: %d, %v", len(certs), len(again), err)
		}
	})
}

func FuzzJSON(f *testing.F) {
	s, c, _, _ := start(f)
	k, err := keys.Files{}.Generate(keys.ECP256)
	must(f, err)
	_, err = c.SavePending(k, request(f, k))
	must(f, err, c.SaveRetry(store.Retry{Failures: 1, LastTry: epoch, Refusals: map[string]int{"self": 1}}),
		c.SaveDelivery(delivery))
	for _, name := range []string{"live/meta.json", "pending/request.json", "retry.json", "delivery.json"} {
		data, err := os.ReadFile(filepath.Join(c.Dir(), name))
		must(f, err)
		f.Add(data)
		f.Add(data[:len(data)/2])
	}
	must(f, s.Close())
	f.Add([]byte(`{"last_try":"9999-99-99T00:00:00Z","refusals":[],"id":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		// What is accepted is what is written back, but for its form.
		if r := store.ParseRetry(data); !r.Damaged {
			once, err := store.EncodeJSON(r)
			must(t, err)
			twice, err := store.EncodeJSON(store.ParseRetry(once))
			if err != nil || !bytes.Equal(once, twice) {
				t.Errorf("%s\nis read as\n%s", once, twice)
			}
		}
		once, err := store.EncodeJSON(store.ParseDelivery(data))
		must(t, err)
		twice, err := store.EncodeJSON(store.ParseDelivery(once))
		if err != nil || store.ParseDelivery(data).Version != 0 && !bytes.Equal(once, twice) {
			t.Errorf("%s\nis read as\n%s", once, twice)
		}
		if p, err := store.ParsePending(data); err == nil && p.ID == "" {
			t.Error("a pending request without an id")
		}
		if m, err := store.ParseMeta(data); err == nil {
			_, err := store.EncodeJSON(m)
			must(t, err)
		}
	})
}

// A fullchain that a person wrote a line into holds the same certificates still.
func TestFullchainWithText(t *testing.T) {
	_, cert, _, _ := start(t)
	file := cert.Dir() + "/live/fullchain.pem"
	text, err := os.ReadFile(file)
	must(t, err)
	must(t, os.WriteFile(file, slices.Concat([]byte("of the gateway\n"), text), 0o644))
	if _, err := cert.Live(); err != nil {
		t.Error(err)
	}
}
