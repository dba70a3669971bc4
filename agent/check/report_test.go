package check

import (
	"bytes"
	"context"
	"flag"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"certagent/agent/golden"
	"certagent/agent/status"
)

var update = flag.Bool("update", false, "write the golden files anew; look at the difference before you keep it")

// every has each check of the catalogue once, with each verdict in turn, in an order that is not the one in which they are shown.
func every() Report {
	r := Report{Schema: Schema, Time: now, Version: "1.0.0", Config: "/etc/certagent/config.toml", StateDir: "/var/lib/certagent"}
	subjects := map[string]string{
		areaConfig: "/etc/certagent/config.toml", areaState: "/var/lib/certagent", areaFiles: "/etc/certagent/bootstrap/key.pem",
		areaCredentials: "/etc/certagent/bootstrap/cert.pem", areaServers: "https://est.example:8085/.well-known/est",
		areaCertificates: "device-id", areaDelivery: "/etc/mosquitto/certs/gateway.pem", areaOnboarding: "dps",
	}
	var results []*Result
	for i, k := range Catalogue() {
		made := []*Result{
			ok(k.ID, subjects[k.Area], "it is as it should be"),
			warning(k.ID, subjects[k.Area], "it works, and will not do so for ever, unless somebody sees to it soon enough", "see to it"),
			failed(k.ID, subjects[k.Area], "a server said \x1b[2J\u009b2J ünd no", "chgrp certagent /etc/certagent/bootstrap/key.pem and chmod 0640 /etc/certagent/bootstrap/key.pem"),
			skipped(k.ID, subjects[k.Area], needsRoot),
		}[i%4]
		results = append([]*Result{made}, results...)
	}
	r.assemble(results)
	return r
}

func TestFaces(t *testing.T) {
	var text, json, coloured bytes.Buffer
	if err := every().WriteText(&text, status.Look{}); err != nil {
		t.Fatal(err)
	}
	if err := every().WriteJSON(&json); err != nil {
		t.Fatal(err)
	}
	if err := every().WriteText(&coloured, status.Look{Colour: true}); err != nil {
		t.Fatal(err)
	}
	golden.Match(t, "testdata/every.txt", text.Bytes(), *update)
	golden.Match(t, "testdata/every.json", json.Bytes(), *update)
	for line := range strings.Lines(text.String()) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 80 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	for _, face := range []string{text.String(), json.String()} {
		if strings.ContainsAny(face, "\x1b\u009b") {
			t.Error("what a server said moves the cursor")
		}
	}
	if strings.Contains(text.String(), "ü") {
		t.Error("a terminal that does not understand UTF-8 gets it")
	}
	var wide bytes.Buffer
	if err := every().WriteText(&wide, status.Look{Columns: 120, Unicode: true}); err != nil || !strings.Contains(wide.String(), "ünd no") ||
		strings.Count(wide.String(), "\n") >= strings.Count(text.String(), "\n") {
		t.Errorf("%v:\n%s", err, wide.String())
	}
	plain := coloured.String()
	for _, code := range []string{"32", "33", "31", "36", "0"} {
		if !strings.Contains(plain, "\x1b["+code+"m") {
			t.Errorf("no colour %s", code)
		}
		plain = strings.ReplaceAll(plain, "\x1b["+code+"m", "")
	}
	if plain != text.String() {
		t.Error("colours change more than the colour of the verdicts")
	}
}

func TestSummary(t *testing.T) {
	for want, s := range map[string]Summary{
		"0 checks: ":                                {},
		"1 check: 1 ok":                             {Checks: 1, OK: 1},
		"31 checks: 29 ok, 1 warning, 1 failed":     {Checks: 31, OK: 29, Warnings: 1, Failed: 1},
		"5 checks: 2 warnings, 1 failed, 2 skipped": {Checks: 5, Warnings: 2, Failed: 1, Skipped: 2},
	} {
		if got := s.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// TestPageHasTheCatalogue: docs/check.md has one row for each check, in this order, and each field of the JSON form.
func TestPageHasTheCatalogue(t *testing.T) {
	page, err := os.ReadFile("../../docs/check.md")
	if err != nil {
		t.Fatal(err)
	}
	var table strings.Builder
	area := ""
	for _, k := range Catalogue() {
		shown := ""
		if k.Area != area {
			area, shown = k.Area, k.Area
		}
		table.WriteString("| " + shown + " | `" + k.ID + "` | " + k.About + " |\n")
	}
	if !strings.Contains(string(page), table.String()) {
		t.Errorf("docs/check.md does not have this table:\n%s", table.String())
	}
	for _, typ := range []reflect.Type{reflect.TypeFor[Report](), reflect.TypeFor[Result](), reflect.TypeFor[Summary]()} {
		for f := range typ.Fields() {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name == "" || !strings.Contains(string(page), "`"+name+"`") {
				t.Errorf("docs/check.md does not name the field %q", name)
			}
		}
	}
}

// TestHangingProbe: what does not obey its context costs a failed result, and nobody waits for it.
func TestHangingProbe(t *testing.T) {
	forever := make(chan struct{})
	defer close(forever)
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	results := collect(ctx, time.Millisecond, []job{
		{"output-place", "/nfs/key.pem", func(context.Context) []*Result { <-forever; return nil }},
		{"clock-credible", "", func(context.Context) []*Result { return []*Result{ok("clock-credible", "", "well")} }},
	}, nil)
	if len(results) != 2 || results[0].Verdict != Failed || results[0].Subject != "/nfs/key.pem" || results[1].Verdict != OK {
		t.Errorf("%+v", results)
	}
	if _, inTime := within(time.Millisecond, func() bool { <-forever; return true }); inTime {
		t.Error("what hangs ended in time")
	}
	if done, inTime := within(time.Minute, func() bool { return true }); !done || !inTime {
		t.Error("what does not hang did not end")
	}
}
