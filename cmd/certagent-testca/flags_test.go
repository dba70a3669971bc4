package main

import (
	"strings"
	"testing"
	"time"
)

func TestParseLifetime(t *testing.T) {
	const day = 24 * time.Hour
	for in, want := range map[string]time.Duration{
		"1s": time.Second, "90s": 90 * time.Second, "1h30m": 90 * time.Minute, "24h": day,
		"7d": 7 * day, "10y": 3650 * day, "200y": 200 * 365 * day,
		"": 0, "0s": 0, "1ms": 0, "-1h": 0, "10": 0, "1w": 0, "d": 0, "y": 0, "-1d": 0, "1.5d": 0, "201y": 0, "65535y": 0,
		"99999999999999y": 0, "1d12h": 0, " 1d": 0,
	} {
		if got, err := parseLifetime(in); got != want || (err == nil) != (want > 0) {
			t.Errorf("parseLifetime(%q) = %s, %v; want %s", in, got, err, want)
		}
	}
}

func FuzzParseLifetime(f *testing.F) {
	for _, s := range []string{"90s", "7d", "10y", "65535d"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if d, err := parseLifetime(s); err == nil && (d < time.Second || d > 200*365*24*time.Hour) {
			t.Errorf("parseLifetime(%q) = %s", s, d)
		}
	})
}

func TestIsHost(t *testing.T) {
	for in, want := range map[string]bool{
		"gateway": true, "est.example.org": true, "192.0.2.1": true, "2001:db8::1": true, "*.example.org": true,
		"": false, "est.example.org:8085": false, "https://est.example.org": false, "two words": false, "münchen": false,
		"[2001:db8::1]": false,
	} {
		if got := isHost(in); got != want {
			t.Errorf("isHost(%q) = %t", in, got)
		}
	}
}

// The flags are these, each with a line in the usage text, and the defaults are the tutorial's.
func TestFlags(t *testing.T) {
	for _, arg := range []string{
		"--listen=:1", "--dir=d", "--host=h", "--lifetime=1s", "--root-lifetime=1y", "--server-lifetime=1d", "--user=u",
		"--password=p", "--label=l", "--like-libest", "--ask-password", "--bootstrap", "--verification=c",
		"--version",
	} {
		if _, err := parse([]string{arg}); err != nil {
			t.Errorf("%s: %v", arg, err)
		}
		name, _, _ := strings.Cut(arg, "=")
		if !strings.Contains(usage, "\n  "+name+" ") {
			t.Errorf("no line for %s in the usage text", name)
		}
	}
	for line := range strings.Lines(usage) {
		if len(line) > 80+len("\n") {
			t.Errorf("wider than a serial console: %s", line)
		}
	}
	c, err := parse(nil)
	if err != nil {
		t.Fatal(err)
	}
	o := c.server
	if o.Listen != "localhost:8085" || o.User != "estuser" || o.Password != "estpwd" || o.Lifetime != 24*time.Hour ||
		o.RootLifetime != 20*365*24*time.Hour || o.ServerLifetime != 10*365*24*time.Hour ||
		o.LikeLibest || o.AskPassword || o.Bootstrap != "" || len(o.Hosts) > 0 {
		t.Errorf("defaults are %+v", o)
	}
}
