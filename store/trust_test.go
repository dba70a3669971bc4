package store_test

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"certagent/store"
	"certagent/store/durable"
	"certagent/store/durable/durabletest"
	"certagent/store/keys"
)

// keep replaces the CA certificates of a server and leaves the rest.
func keep(cas ...*x509.Certificate) func(store.Trust) store.Trust {
	return func(t store.Trust) store.Trust {
		t.CAs = cas
		return t
	}
}

func same(a, b []*x509.Certificate) bool { return slices.EqualFunc(a, b, (*x509.Certificate).Equal) }

func TestTrustOfEachServer(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "state"))
	a, b := newCA(t), newCA(t)
	const server = "https://est.example/.well-known/est"
	if got, err := s.Trust(server); got.CAs != nil || err != nil {
		t.Errorf("nothing fetched: %v, %v", got, err)
	}
	must(t, s.UpdateTrust(server, keep(a.cert, b.cert)))
	for _, name := range []string{server, "https://EST.example:443/.well-known/est/", "est.example:443", "est.example"} {
		if got, err := s.Trust(name); err != nil || !same(got.CAs, []*x509.Certificate{a.cert, b.cert}) {
			t.Errorf("%s: %d certificates, %v", name, len(got.CAs), err)
		}
	}
	for _, other := range []string{"https://est.example:8443/.well-known/est", "https://est.example/.well-known/est/label",
		"https://est.example/prefix/.well-known/est", "http_est.example", "https://[::1]:443", "https://127.0.0.1"} {
		if got, err := s.Trust(other); got.CAs != nil || err != nil {
			t.Errorf("%s: %v, %v", other, got.CAs, err)
		}
		must(t, s.UpdateTrust(other, keep(b.cert)))
	}
	if got, err := s.Trust(server); err != nil || len(got.CAs) != 2 {
		t.Errorf("others wrote into %s: %d certificates, %v", server, len(got.CAs), err)
	}
	for _, bad := range []string{"", "https://", "https:///x", "..", "../../etc/passwd:1",
		"https://" + strings.Repeat("x", 300)} {
		if err := s.UpdateTrust(bad, keep(a.cert)); err == nil {
			t.Errorf("%q is a server", bad)
		}
	}
	if err := s.UpdateTrust(server, keep()); err == nil {
		t.Error("the certificates that were there were replaced by none")
	}
	must(t, s.UpdateTrust("nothing.example", keep()))
	if left, err := filepath.Glob(filepath.Join(s.Dir(), "trust", "nothing*")); len(left) > 0 || err != nil {
		t.Errorf("of a server of which nothing is known there is %v, %v", left, err)
	}
}

// everythingOf is a Trust with every field set: of three CAs the first is a TLS anchor.
func everythingOf(t *testing.T) store.Trust {
	t.Helper()
	a, b, c := newCA(t), newCA(t), newCA(t)
	return store.Trust{
		CAs: []*x509.Certificate{a.cert, b.cert}, TLSAnchors: []*x509.Certificate{a.cert}, ImplicitOff: true,
		Fetched: epoch, Under: []string{"one", "two"}, Bootstrap: []*x509.Certificate{c.cert},
		Attributes: []byte{0x30, 0}, AttributesFetched: epoch.Add(time.Minute), Linking: true,
		Refresh: store.Refresh{Failures: 2, LastTry: epoch, NextTry: epoch.Add(time.Hour), LastError: "no route"},
	}
}

func TestTrustIsKeptWhole(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "state"))
	want := everythingOf(t)
	const server = "est.example"
	all := func(store.Trust) store.Trust { return want }
	must(t, s.UpdateTrust(server, all))
	got, err := s.Trust(server)
	must(t, err)
	if !same(got.CAs, want.CAs) || !same(got.TLSAnchors, want.TLSAnchors) || !same(got.Bootstrap, want.Bootstrap) {
		t.Errorf("certificates %d %d %d", len(got.CAs), len(got.TLSAnchors), len(got.Bootstrap))
	}
	got.CAs, got.TLSAnchors, got.Bootstrap = nil, nil, nil
	plain := want
	plain.CAs, plain.TLSAnchors, plain.Bootstrap = nil, nil, nil
	if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", plain) {
		t.Errorf("%+v\nwant %+v", got, plain)
	}
	files := []string{"est.example_443.pem", "est.example_443.json"}
	var before []os.FileInfo
	for _, f := range files {
		info, err := os.Stat(filepath.Join(s.Dir(), "trust", f))
		must(t, err)
		before = append(before, info)
	}
	must(t, s.UpdateTrust(server, func(t store.Trust) store.Trust { return t }))
	for i, f := range files {
		if after, err := os.Stat(filepath.Join(s.Dir(), "trust", f)); err != nil || !os.SameFile(before[i], after) {
			t.Errorf("%s was written again though nothing changed, %v", f, err)
		}
	}
}

// Whatever becomes of the two files, it costs no more than fetching again: nothing is trusted for it that was not, and the
// next answer is stored.
func TestTrustThatIsDamaged(t *testing.T) {
	const server = "est.example"
	stranger := newCA(t)
	for name, c := range map[string]struct {
		damage func(t *testing.T, cas, record string)
		check  func(got store.Trust, err error) bool
	}{
		"no record: nothing is known of the certificates but that they are there": {
			func(t *testing.T, _, record string) { must(t, os.Remove(record)) },
			func(got store.Trust, err error) bool {
				return err == nil && len(got.CAs) == 2 && got.TLSAnchors == nil && !got.ImplicitOff && got.Fetched.IsZero()
			},
		},
		"half a record": {
			func(t *testing.T, _, record string) { must(t, os.Truncate(record, 40)) },
			func(got store.Trust, err error) bool { return err == nil && len(got.CAs) == 2 && got.Fetched.IsZero() },
		},
		"the record of a later version": {
			func(t *testing.T, _, record string) {
				data, err := os.ReadFile(record)
				must(t, err, os.WriteFile(record, bytes.Replace(data, []byte(`"version": 1`), []byte(`"version": 2`), 1), 0o644))
			},
			func(got store.Trust, err error) bool {
				return err == nil && got.TLSAnchors == nil && got.Fetched.IsZero()
			},
		},
		"other certificates than the record speaks of": {
			func(t *testing.T, cas, _ string) {
				must(t, os.WriteFile(cas, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: stranger.cert.Raw}), 0o644))
			},
			func(got store.Trust, err error) bool {
				return err == nil && len(got.CAs) == 1 && got.TLSAnchors == nil && !got.ImplicitOff
			},
		},
		"no certificates": {
			func(t *testing.T, cas, _ string) { must(t, os.Remove(cas)) },
			func(got store.Trust, err error) bool {
				return err == nil && got.CAs == nil && got.TLSAnchors == nil && !got.ImplicitOff && got.Fetched.IsZero() && got.Linking
			},
		},
		"damaged certificates": {
			func(t *testing.T, cas, _ string) {
				must(t, os.WriteFile(cas, []byte("-----BEGIN CERTIFICATE-----\nMII"), 0o644))
			},
			func(got store.Trust, err error) bool { return err != nil && got.CAs == nil && got.Fetched.IsZero() },
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, filepath.Join(t.TempDir(), "state"))
			want := everythingOf(t)
			all := func(store.Trust) store.Trust { return want }
			must(t, s.UpdateTrust(server, all))
			path := filepath.Join(s.Dir(), "trust", "est.example_443")
			c.damage(t, path+".pem", path+".json")
			if got, err := s.Trust(server); !c.check(got, err) {
				t.Errorf("%+v, %v", got, err)
			}
			must(t, s.UpdateTrust(server, all))
			if got, err := s.Trust(server); err != nil || !same(got.CAs, want.CAs) || !got.ImplicitOff {
				t.Errorf("after it was stored again: %+v, %v", got, err)
			}
		})
	}
}

// A crash or a failing disk at any call leaves the old trust, the new one, or certificates of the new one of which the
// record says nothing.
func TestEveryCallOfATrustUpdateFails(t *testing.T) {
	const server = "est.example"
	older, newer := everythingOf(t), everythingOf(t)
	newer.Fetched = epoch.Add(time.Hour)
	for _, mode := range durabletest.Modes {
		visited := 0
		for fired := true; fired; visited++ {
			dir := filepath.Join(t.TempDir(), "state")
			base := durabletest.NoSync{FS: durable.OS{}}
			s, err := store.Open(dir, store.Options{FS: base})
			must(t, err)
			must(t, s.UpdateTrust(server, func(store.Trust) store.Trust { return older }), s.Close())

			fsys := durabletest.New(base, visited+1, mode)
			if s, err = store.Open(dir, store.Options{FS: fsys}); err == nil {
				err = s.UpdateTrust(server, func(store.Trust) store.Trust { return newer })
				s.Close()
			}
			at := fsys.Fired()
			fired = at != ""
			if u := fsys.Unsynced(); len(u) > 0 {
				t.Errorf("%v at %s: renamed %v", mode, at, u)
			}

			v, viewErr := store.View(dir)
			must(t, viewErr)
			got, readErr := v.Trust(server)
			switch {
			case readErr != nil:
				t.Errorf("%v at %s: %v", mode, at, readErr)
			case same(got.CAs, older.CAs) && got.Fetched.Equal(older.Fetched):
				if err == nil {
					t.Errorf("%v at %s: no error, and the old trust is there", mode, at)
				}
			case same(got.CAs, newer.CAs) && got.Fetched.Equal(newer.Fetched):
			case same(got.CAs, newer.CAs) && got.TLSAnchors == nil && !got.ImplicitOff:
			default:
				t.Errorf("%v at %s: %+v", mode, at, got)
			}
		}
		t.Logf("%v: %d fault points", mode, visited-1)
		if visited < 12 {
			t.Errorf("%v: only %d fault points", mode, visited-1)
		}
	}
}

// Two certificates on one server are two keepers that may have learned something at the same time.
func TestTrustIsChangedByOneAtATime(t *testing.T) {
	s, err := store.Open(filepath.Join(t.TempDir(), "state"), store.Options{FS: durabletest.NoSync{FS: durable.OS{}}})
	must(t, err)
	defer s.Close()
	ca := newCA(t)
	var adds []func() error
	for range 50 {
		adds = append(adds, func() error {
			return s.UpdateTrust("est.example", func(t store.Trust) store.Trust {
				t.CAs, t.Refresh.Failures = []*x509.Certificate{ca.cert}, t.Refresh.Failures+1
				return t
			})
		})
	}
	must(t, together(adds...))
	if got, err := s.Trust("est.example"); err != nil || got.Refresh.Failures != len(adds) {
		t.Errorf("%d of %d changes are left, %v", got.Refresh.Failures, len(adds), err)
	}
}

// The key that a server made takes the place of the request's; a crash before the commit has the request asked again.
func TestKeyOfTheServer(t *testing.T) {
	_, c, a, _ := start(t)
	asked, made := generate(t), generate(t)
	p, err := c.SavePending(asked, request(t, asked))
	must(t, err)
	issue := a.issue(t, &store.Pending{Key: made})
	issue.Pending = p
	if _, err := c.Commit(issue); err == nil {
		t.Fatal("a certificate for another key than the request's was committed without that key")
	}
	if still, err := c.Pending(); err != nil || still == nil || !bytes.Equal(still.CSR, p.CSR) {
		t.Errorf("after the failure the request is %v, %v", still, err)
	}
	issue.Key = made
	g, err := c.Commit(issue)
	must(t, err)
	if !keys.Equal(g.Key.Public(), made.Public()) {
		t.Error("the generation has another key")
	}
	if left, err := c.Pending(); left != nil || err != nil {
		t.Errorf("the request is still pending: %v, %v", left, err)
	}
	if live, err := c.Live(); err != nil || live.Number != g.Number {
		t.Errorf("live: %v, %v", live, err)
	}
}
