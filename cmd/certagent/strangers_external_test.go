//go:build external

package main

import (
	"os"
	"testing"

	"certagent/est/esttest"
)

// TestSomebodyElsesFiles: a part of the state directory belongs to neither the agent nor the state directory's owner.
func TestSomebodyElsesFiles(t *testing.T) {
	s := esttest.New(t, esttest.Options{})
	for path, c := range map[string]struct{ fate, says string }{
		"certs":                          {refused, "certs belongs to user 4711"},
		"trust":                          {refused, "trust belongs to user 4711"},
		"certs/mqtt":                     {refused, "mqtt belongs to user 4711"},
		"certs/mqtt/gen-000001":          {anew, "gen-000001 belongs to user 4711"},
		"certs/mqtt/gen-000001/cert.pem": {anew, "cert.pem belongs to user 4711"},
		"certs/mqtt/gen-000001/key.pem":  {anew, "belongs to user 4711"},
		"certs/mqtt/retry.json":          {ignored, ""},
		"last-good.toml":                 {ignored, ""},
	} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			g := withOneCertificate(t, s)
			path := g.path("state", path)
			if err := os.Lchown(path, 4711, 4711); err != nil {
				t.Fatal(err)
			}
			g.meet(t, c.fate, c.says)
			if c.fate == refused {
				if err := os.Lchown(path, 0, 0); err != nil {
					t.Fatal(err)
				}
				g.meet(t, ignored, "")
			}
		})
	}
}
