package store

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"certagent/store/durable"
)

// public is a file system to somebody who may not read keys and pending requests.
type public struct{ durable.OS }

func (p public) OpenFile(path string, flag int, m fs.FileMode) (durable.File, error) {
	if filepath.Base(path) == "key.pem" || strings.Contains(path, "/pending/") {
		return nil, &fs.PathError{Op: "open", Path: path, Err: syscall.EACCES}
	}
	return p.OS.OpenFile(path, flag, m)
}

func TestSomebodyWhoMayNotReadKeysSeesTheRest(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	s, err := Open(dir, Options{})
	do(t, err)
	defer s.Close()
	c, err := s.Certificate("device-id")
	do(t, err)
	issueOne(t, c)

	v := newStore(dir, Options{FS: public{}})
	v.readOnly = true
	c, err = v.Certificate("device-id")
	do(t, err)
	g, err := c.Live()
	if err != nil || g.Key != nil || g.Leaf == nil || !g.HasMeta || g.TLS().PrivateKey != nil {
		t.Errorf("live: %+v, %v", g, err)
	}
	if _, err := c.Pending(); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("pending: %v", err)
	}
	// To an agent, a key that it may not read is a broken generation.
	v.readOnly = false
	_, err = c.Live()
	if b, ok := errors.AsType[*BrokenError](err); !ok || b.File != "key.pem" || !errors.Is(err, fs.ErrPermission) {
		t.Errorf("live to an agent: %v", err)
	}
}
