package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"certagent/est/esttest"
)

// TestKeyModeHoldsFromTheNextCertificate: a mode that is configured anew changes no key that is there, nor has one issued, and is
// that of the next one; docs/configuration.md says so.
func TestKeyModeHoldsFromTheNextCertificate(t *testing.T) {
	t.Parallel()
	p := &patient{newGateway(t), esttest.New(t, esttest.Options{})}
	p.configure(p.base())
	p.start()
	first := p.next("mqtt", nil)
	key := func() (generation string, mode fs.FileMode) {
		t.Helper()
		file, err := filepath.EvalSymlinks(p.path("state", "certs", "mqtt", "live", "key.pem"))
		p.must(err)
		info, err := os.Stat(file)
		p.must(err)
		return filepath.Dir(file), info.Mode()
	}
	p.with(`key_mode = "0400"`)
	p.tell("reload").want(t, 0, "", "")
	p.tell("status").want(t, 0, "valid", "")
	if dir, mode := key(); dir != first.dir || mode != 0o600 {
		t.Errorf("after the reload the key in %s has mode %v", dir, mode)
	}
	p.tell("renew", "--wait").want(t, 0, "issued", `.*`)
	if dir, mode := key(); dir == first.dir || mode != 0o400 {
		t.Errorf("after the renewal the key in %s has mode %v", dir, mode)
	}
	p.stop()
}
