package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"certagent/store"
)

func TestLastGoodAndClock(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "state"))
	if _, err := s.LastGood(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("none: %v", err)
	}
	if got, err := s.Clock(); err != nil || got != (store.Clock{}) {
		t.Errorf("none: %v, %v", got, err)
	}
	doc, path := []byte("[cert_issuance]\n"), filepath.Join(s.Dir(), "last-good.toml")
	must(t, s.SaveLastGood(doc))
	before, err := os.Stat(path)
	must(t, err, s.SaveLastGood(doc))
	if after, err := os.Stat(path); err != nil || !os.SameFile(before, after) {
		t.Errorf("the same document was written again, %v", err)
	}
	must(t, os.Chmod(path, 0o644), s.SaveLastGood(doc))
	if after, err := os.Stat(path); err != nil || after.Mode() != 0o600 {
		t.Errorf("a secret with mode %v, %v", after.Mode(), err)
	}
	if got, err := s.LastGood(); err != nil || string(got) != string(doc) {
		t.Errorf("%q, %v", got, err)
	}
	for _, want := range []store.Clock{{Mark: epoch.Add(time.Hour), Refuted: epoch.Add(24 * time.Hour)}, {Mark: epoch}} {
		must(t, s.SaveClock(store.Clock{Mark: want.Mark.Add(time.Millisecond), Refuted: want.Refuted}))
		if got, err := s.Clock(); err != nil || !got.Mark.Equal(want.Mark) || !got.Refuted.Equal(want.Refuted) {
			t.Errorf("%v, %v, want %v", got, err, want)
		}
	}
	path = filepath.Join(s.Dir(), "clock.json")
	text, err := os.ReadFile(path)
	must(t, err)
	another := bytes.ReplaceAll(text, []byte(`"mark": "20`), []byte(`"mark": "21`)) // not torn, and in order but for its sum
	for _, damaged := range [][]byte{[]byte(`{"mark":"20`), another, []byte(`{"mark":"2026-01-01T00:00:00Z"}`), []byte(`{}`)} {
		must(t, os.WriteFile(path, damaged, 0o644))
		if got, err := s.Clock(); err == nil || got != (store.Clock{}) {
			t.Errorf("damaged: %v, %v from %s", got, err, damaged)
		}
	}
}

func TestRetry(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "state"))
	c := certificate(t, s, "mqtt")
	if r, err := c.Retry(); err != nil || r.Damaged || r.Failures != 0 {
		t.Errorf("none: %+v, %v", r, err)
	}
	want := store.Retry{
		Failures: 2, LastTry: epoch, NextTry: epoch.Add(time.Minute), LastError: "est: server unavailable",
		Refusals: map[string]int{"self": 2, "bootstrap": 1}, Reissue: "forced",
		Problems: []store.Problem{{Code: "unreachable", Text: "no route", Since: epoch}},
	}
	path := filepath.Join(c.Dir(), "retry.json")
	must(t, c.SaveRetry(want))
	before, err := os.Stat(path)
	must(t, err, c.SaveRetry(want))
	if after, err := os.Stat(path); err != nil || !os.SameFile(before, after) {
		t.Errorf("the same state was written again, %v", err)
	}
	got, err := c.Retry()
	if err != nil || fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
		t.Errorf("%+v, %v\nwant %+v", got, err, want)
	}
	text, err := os.ReadFile(path)
	if must(t, err); strings.Contains(string(text), "0001-01-01") || strings.Contains(string(text), "damaged") {
		t.Errorf("zero times or the damage are written:\n%s", text)
	}
	for _, torn := range []string{"", "{", string(text[:len(text)/2]), `{"failures":"many"}`} {
		must(t, os.WriteFile(path, []byte(torn), 0o644))
		if r, err := c.Retry(); err != nil || !r.Damaged || r.Failures != 0 {
			t.Errorf("%q: %+v, %v", torn, r, err)
		}
	}
	must(t, c.SaveRetry(want))
	if r, err := c.Retry(); err != nil || r.Damaged {
		t.Errorf("after writing over it: %+v, %v", r, err)
	}
}
