package store_test

import (
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"certagent/store"
	"certagent/store/durable"
	"certagent/store/durable/durabletest"
	"certagent/store/keys"
)

// together runs all of it at once.
func together(does ...func() error) error {
	errs := make([]error, len(does))
	var all sync.WaitGroup
	for i, do := range does {
		all.Go(func() { errs[i] = do() })
	}
	all.Wait()
	return errors.Join(errs...)
}

// A keeper writes its retry state, and repairs what somebody deletes, while its attempt commits beside it. Neither
// disturbs the other, and what was committed last is live.
func TestAKeeperAndItsAttemptWriteAtOnce(t *testing.T) {
	s, err := store.Open(filepath.Join(t.TempDir(), "state"), store.Options{FS: durabletest.NoSync{FS: durable.OS{}}})
	must(t, err)
	defer s.Close()
	c, a, k := certificate(t, s, "device-id"), newCA(t), generate(t)
	a.renew(t, c, k)
	r := request(t, k)
	for i := range 100 {
		if err := os.Remove(filepath.Join(c.Dir(), "live")); err != nil {
			t.Fatal(err)
		}
		var committed *store.Generation
		must(t, together(
			func() (err error) {
				p, err := c.SavePending(k, r)
				if err != nil {
					return err
				}
				committed, err = c.Commit(a.issue(t, p))
				return err
			},
			// Another value of the same certificate, as after a reload.
			func() error { _, err := certificate(t, s, "device-id").Restore(); return err },
			func() error { return c.SaveRetry(store.Retry{Failures: i}) },
		))
		if g, err := c.Live(); err != nil || g.Number != committed.Number {
			t.Fatalf("round %d: live is %+v, %v; %d was committed", i, g, err, committed.Number)
		}
	}
	noTemps(t, c)
}

// Somebody who looks while certificates are renewed sees a pair that matches, always; so does a consumer that follows
// the link once and reads the files from there.
func TestReadersNeverSeeATornPair(t *testing.T) {
	s, c, a, first := start(t)
	v, err := store.View(s.Dir())
	must(t, err)
	seen, done := certificate(t, v, "device-id"), make(chan struct{})
	read := func(look func() error) func() error {
		return func() error {
			for {
				select {
				case <-done:
					return nil
				default:
				}
				if err := look(); err != nil {
					return err
				}
			}
		}
	}
	must(t, together(
		func() error {
			defer close(done)
			for range 50 {
				k := generate(t)
				p, err := c.SavePending(k, request(t, k))
				if err != nil {
					return err
				}
				if _, err := c.Commit(a.issue(t, p)); err != nil {
					return err
				}
			}
			return nil
		},
		read(func() error { _, err := seen.Live(); return err }),
		read(func() error { _, err := seen.Pending(); return err }),
		read(func() error {
			target, err := os.Readlink(filepath.Join(c.Dir(), "live"))
			if err != nil {
				return err
			}
			dir := filepath.Join(c.Dir(), target)
			cert, err := os.ReadFile(filepath.Join(dir, "cert.pem"))
			key, err2 := os.ReadFile(filepath.Join(dir, "key.pem"))
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err2, fs.ErrNotExist) {
				return nil // it slept through two renewals
			}
			if err := errors.Join(err, err2); err != nil {
				return err
			}
			certs, err := store.ParseCertificates(cert, x509.ParseCertificate)
			if err != nil {
				return err
			}
			k, err := keys.ParsePEM(key)
			if err == nil && !keys.Equal(k.Public(), certs[0].PublicKey) {
				err = errors.New("a torn pair in " + dir)
			}
			return err
		}),
	))
	if g, err := seen.Live(); err != nil || g.Number != first.Number+50 {
		t.Errorf("live: %+v, %v", g, err)
	}
}
