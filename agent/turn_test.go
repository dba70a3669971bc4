package agent

import (
	"crypto/x509"
	"net/url"
	"testing"
	"time"

	"certagent/agent/config"
	"certagent/store"
)

// For whose turn an attempt waits, and how urgent it is.
func TestTurnOf(t *testing.T) {
	now := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	first, renewals := &url.URL{Scheme: "https", Host: "ca.example"}, &url.URL{Scheme: "https", Host: "renew.example:8443"}
	until := func(d time.Duration) *store.Generation {
		return &store.Generation{Leaf: &x509.Certificate{NotAfter: now.Add(d)}}
	}
	for _, c := range []struct {
		name   string
		live   *store.Generation
		renew  *url.URL
		server string
		by     time.Time
	}{
		{"missing", nil, nil, "ca.example", now},
		{"missing, another server for renewals", nil, renewals, "ca.example", now},
		{"expired", until(-day), nil, "ca.example", now},
		{"alive", until(day), nil, "ca.example", now.Add(day)},
		{"alive, another server for renewals", until(day), renewals, "renew.example:8443", now.Add(day)},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := order{cert: &config.Certificate{URL: first, RenewURL: c.renew}, live: c.live}
			if server, by := o.turn(now); server != c.server || !by.Equal(c.by) {
				t.Errorf("at %s, by %v; want %s, %v", server, by, c.server, c.by)
			}
		})
	}
}
