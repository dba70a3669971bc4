//go:build external

package main

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"testing"

	"certagent/est/esttest"
)

// TestOpensslAgrees: what the agent stores is what openssl expects, on both faces of the server.
func TestOpensslAgrees(t *testing.T) {
	openssl := func(args ...string) []byte {
		t.Helper()
		out, err := exec.Command("openssl", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("openssl %q: %v\n%s", args, err, out)
		}
		return out
	}
	for _, libest := range []bool{false, true} {
		s := esttest.New(t, esttest.Options{LikeLibest: libest, AskPassword: true})
		g := newGateway(t)
		g.configure(tutorial(t, s))
		g.start()
		h := g.next("device-id", nil)
		cert, key := filepath.Join(h.dir, "cert.pem"), filepath.Join(h.dir, "key.pem")
		openssl("verify", "-CAfile", s.CAFile(), cert)
		openssl("verify", "-CAfile", filepath.Join(h.dir, "ca.pem"), "-untrusted", filepath.Join(h.dir, "fullchain.pem"), cert)
		if !bytes.Equal(openssl("x509", "-in", cert, "-noout", "-pubkey"), openssl("pkey", "-in", key, "-pubout")) {
			t.Error("openssl finds that key and certificate do not match")
		}
		g.stop()
	}
}
