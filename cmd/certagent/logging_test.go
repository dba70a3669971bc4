package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"certagent/est/esttest"
	"certagent/store"
)

// loggingPage is what docs/logging.md says: the fields of each event, and the MESSAGE_IDs by event and result.
func loggingPage(t *testing.T) (events map[string][]string, ids map[string]string) {
	t.Helper()
	file, err := os.Open("../../docs/logging.md")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	quoted := regexp.MustCompile("`([a-z_/]+)`")
	words := func(cell string) (all []string) {
		for _, m := range quoted.FindAllStringSubmatch(cell, -1) {
			all = append(all, m[1])
		}
		return all
	}
	events, ids = map[string][]string{}, map[string]string{}
	section := ""
	for lines := bufio.NewScanner(file); lines.Scan(); {
		line := lines.Text()
		if heading, is := strings.CutPrefix(line, "## "); is {
			section = heading
		}
		cells := strings.Split(line, " | ")
		switch {
		case section == "Events" && len(cells) == 3 && strings.HasPrefix(line, "| `"):
			for _, event := range words(cells[0]) {
				events[event] = words(cells[2])
			}
		case section == "The journal" && len(cells) == 2 && strings.HasPrefix(line, "| `"):
			id := strings.Trim(cells[0], "| `")
			if !regexp.MustCompile("^[0-9a-f]{32}$").MatchString(id) {
				continue // the heading
			}
			ids[strings.Join(words(cells[1]), "/")] = id
		}
	}
	if len(events) == 0 || len(ids) == 0 {
		t.Fatal("docs/logging.md has no table of events, or none of MESSAGE_IDs")
	}
	return events, ids
}

// everyLine has what zerolog puts into each line, or writes by itself.
var everyLine = []string{"time", "level", "message", "event"}

// TestLoggingPageAndCode holds docs/logging.md and the source together: the code names no event and no field that the page
// does not have, and the page none that the code does not.
func TestLoggingPageAndCode(t *testing.T) {
	t.Parallel()
	events, ids := loggingPage(t)
	if !maps.Equal(ids, messageIDs) {
		t.Errorf("MESSAGE_IDs of the page: %v\nof the program: %v", ids, messageIDs)
	}
	inPage := map[string]bool{}
	for _, fields := range events {
		for _, f := range fields {
			inPage[f] = true
		}
	}
	inCode, named := map[string]bool{}, map[string]bool{}
	for _, dir := range []string{".", "../../agent", "../../agent/control"} {
		for _, call := range logCalls(t, dir) {
			if call.field == "event" {
				named[call.value] = true
			} else {
				inCode[call.field] = true
			}
		}
	}
	same := func(what string, page, code map[string]bool) {
		for name := range page {
			if !code[name] {
				t.Errorf("docs/logging.md has the %s %q, which the code does not log", what, name)
			}
		}
		for name := range code {
			if !page[name] && !slices.Contains(everyLine, name) {
				t.Errorf("the code logs the %s %q, which docs/logging.md does not have", what, name)
			}
		}
	}
	same("field", inPage, inCode)
	have := map[string]bool{}
	for e := range events {
		have[e] = true
	}
	same("event", have, named)
}

// logCall is one field that the code writes, with its value where that is a literal.
type logCall struct{ field, value string }

// logCalls finds the fields by the methods of zerolog that write one, and by the functions of agent/fields.go.
func logCalls(t *testing.T, dir string) (calls []logCall) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	names = slices.DeleteFunc(names, func(name string) bool { return strings.HasSuffix(name, "_test.go") })
	methods := []string{"Str", "Strs", "Int", "Ints", "Int32", "Int64", "Uint32", "Bool", "Float64", "Time", "AnErr", "Interface", "Any", "Bytes",
		"Hex", "RawJSON", "Dict", "Dur", "Stringer", "Uint", "Uint64", "Object", "Array", "Errs"}
	functions := []string{"text", "list", "when", "elapsed"}
	literal := func(e ast.Expr) (string, bool) {
		l, ok := e.(*ast.BasicLit)
		if !ok || l.Kind != token.STRING {
			return "", false
		}
		s, err := strconv.Unquote(l.Value)
		return s, err == nil
	}
	for _, name := range names {
		files := token.NewFileSet()
		file, err := parser.ParseFile(files, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			if fun, is := call.Fun.(*ast.SelectorExpr); is && fun.Sel.Name != "Str" && fun.Sel.Name != "EmbedObject" && isLine(fun.X) {
				t.Errorf("%s: a line of the log does not begin with its event", files.Position(call.Pos()))
			}
			at := -1
			switch f := call.Fun.(type) {
			case *ast.SelectorExpr:
				if f.Sel.Name == "Err" && len(call.Args) == 1 {
					calls = append(calls, logCall{field: "error"})
				}
				if slices.Contains(methods, f.Sel.Name) && len(call.Args) == 2 {
					at = 0
				}
			case *ast.Ident:
				if slices.Contains(functions, f.Name) && len(call.Args) == 3 {
					at = 1
				}
			}
			if at < 0 {
				return true
			}
			field, ok := literal(call.Args[at])
			if !ok {
				return true // inside one of the functions
			}
			value, _ := literal(call.Args[at+1])
			calls = append(calls, logCall{field, value})
			return true
		})
	}
	return calls
}

// isLine reports whether e begins a line of the log: Log.Info(), log.Error() and the like.
func isLine(e ast.Expr) bool {
	call, ok := e.(*ast.CallExpr)
	if !ok {
		return false
	}
	level, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || !slices.Contains([]string{"Debug", "Info", "Warn", "Error", "WithLevel"}, level.Sel.Name) {
		return false
	}
	switch of := level.X.(type) {
	case *ast.SelectorExpr:
		return strings.EqualFold(of.Sel.Name, "log")
	case *ast.Ident:
		return of.Name == "log"
	}
	return false
}

// spoken are the lines of an agent's log; each must be JSON.
func (g *gateway) spoken() (lines []map[string]any) {
	g.t.Helper()
	for line := range strings.Lines(g.log.String()) {
		if !strings.HasSuffix(line, "\n") {
			break // it is being written
		}
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			g.t.Fatalf("not JSON: %v\n%s", err, line)
		}
		lines = append(lines, fields)
	}
	return lines
}

// says waits until the log has a line with these fields, behind the first n lines, and gives it.
func (g *gateway) says(n int, want map[string]any) map[string]any {
	g.t.Helper()
	var found map[string]any
	g.until(fmt.Sprintf("the log says %v", want), func() bool {
		for _, line := range g.spoken()[n:] {
			fits := true
			for name, value := range want {
				fits = fits && fmt.Sprint(line[name]) == fmt.Sprint(value)
			}
			if fits {
				found = line
				return true
			}
		}
		return false
	})
	return found
}

// TestLogging is a life of an agent, and what its log says of it: the right things at the right level, and no field that
// docs/logging.md does not have. Every field of the events that make up that life is seen.
func TestLogging(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{AskPassword: true, Lifetime: time.Hour})
	other := esttest.New(t, esttest.Options{})
	g := newGateway(t)
	copyFile(t, s.CAFile(), g.path("anchors.pem"))
	config := func(change ...string) string {
		text := "[log]\nlevel = \"debug\"\n" + consumers(t, s, g, "test -e "+g.path("ready")) + outputsAt(g.path("missing", "cert.pem"))
		return strings.NewReplacer(append(change, s.CAFile(), g.path("anchors.pem"))...).Replace(text)
	}
	g.configure(config())
	g.start()
	first := g.next("mqtt", nil)
	issued := g.says(0, map[string]any{"event": "attempt", "result": "issued", "level": "info"})
	want := map[string]any{
		"certificate": "mqtt", "reason": "missing", "attempt": 1, "operation": "simpleenroll", "identity": "password", "server": s.URL(),
		"path": "/.well-known/est/simpleenroll", "key": "ec-p256", "new_key": true, "connections": 2, "generation": 1,
		"serial": fmt.Sprintf("%x", first.leaf.SerialNumber.Bytes()), "not_after": first.leaf.NotAfter.UTC().Format(time.RFC3339), "next_why": "threshold",
	}
	for name, value := range want {
		if fmt.Sprint(issued[name]) != fmt.Sprint(value) {
			t.Errorf("%s is %v, want %v", name, issued[name], value)
		}
	}
	if statuses := fmt.Sprint(issued["statuses"]); !strings.Contains(statuses, "401") || !strings.HasSuffix(statuses, "200]") {
		t.Errorf("statuses of a login by password: %s", statuses)
	}
	failed := g.says(0, map[string]any{"event": "delivery", "result": "failed", "level": "error"})
	if !strings.Contains(fmt.Sprint(failed["errors"]), "missing") || failed["next_try"] == nil {
		t.Errorf("of what was not delivered: %v", failed)
	}
	if err := os.Mkdir(g.path("missing"), 0o700); err != nil {
		t.Fatal(err)
	}
	n := len(g.spoken())
	g.signal(syscall.SIGHUP) // a person who reloads may have mended something
	g.says(n, map[string]any{"event": "delivery", "result": "failed", "problems": "[hook-failed]"})
	g.write("ready", "")
	n = len(g.spoken())
	g.signal(syscall.SIGHUP)
	g.says(n, map[string]any{"event": "delivery", "result": "delivered", "level": "info"})

	// A renewal over the socket names what it replaces.
	n = len(g.spoken())
	g.tell("renew", "--wait", "mqtt").want(t, 0, "issued", `.*`)
	g.says(n, map[string]any{"event": "order", "path": "/v1/renew", "uid": os.Getuid()})
	renewed := g.says(n, map[string]any{"event": "attempt", "result": "issued", "reason": "forced"})
	if renewed["previous_serial"] != issued["serial"] || renewed["previous_not_after"] != issued["not_after"] ||
		renewed["identity"] != "certificate+password" {
		t.Errorf("of a renewal: %v", renewed)
	}

	// What fails says what, as whom, when it is tried again and why then; it is loud where a person has to do something.
	for _, trouble := range []struct {
		name              string
		begin             func()
		class, level, why string
		result            string
	}{
		{"503", func() { s.Always("", esttest.Status(503, "Retry-After", "3600")) }, "unavailable", "warn", "retry-after", "failed"},
		{"no answer", func() { s.Stop() }, "unavailable", "warn", "back-off", "failed"},
		{"refused", func() { s.Always("simplereenroll", esttest.Status(403)) }, "unauthorized", "error", "back-off", "failed"},
		{"another key", func() { s.Always("", esttest.CertificateForAnotherKey) }, "bad-response", "error", "back-off", "failed"},
		{"another CA", func() { copyFile(t, other.CAFile(), g.path("anchors.pem")) }, "untrusted", "error", "back-off", "failed"},
		{"202", func() { s.Always("simplereenroll", esttest.Pending202(time.Hour)) }, "pending", "warn", "approval", "waiting"},
	} {
		// Nothing is under way from the trouble before, and nothing is left to be tried again by itself.
		g.tell("renew", "--wait", "mqtt").want(t, 0, "issued", `.*`)
		trouble.begin()
		n := len(g.spoken())
		g.tell("renew", "mqtt").want(t, 0, "asked for", "")
		line := g.says(n, map[string]any{"event": "attempt", "result": trouble.result})
		if line["class"] != trouble.class || line["level"] != trouble.level || line["next_why"] != trouble.why || line["next_try"] == nil ||
			line["error"] == nil || line["previous_generation"] == nil {
			t.Errorf("%s: %v", trouble.name, line)
		}
		s.Clear()
		if trouble.class == "untrusted" {
			copyFile(t, s.CAFile(), g.path("anchors.pem"))
		}
		if err := s.Start(); err != nil {
			t.Fatal(err)
		}
	}
	g.tell("renew", "mqtt").want(t, 1, "", "waits for approval")
	g.tell("renew", "--wait", "--discard", "mqtt").want(t, 0, "issued", `.*`)
	g.signal(syscall.SIGUSR1)
	g.says(0, map[string]any{"event": "order", "certificates": 1})
	g.says(0, map[string]any{"event": "plan", "level": "debug"})

	// A CA certificate comes and goes.
	s.SetCACerts(s.Root, first.leaf)
	n = len(g.spoken())
	g.tell("renew", "--wait", "mqtt").want(t, 0, "issued", `.*`)
	g.tell("renew", "--wait", "--new-key", "mqtt").want(t, 0, "issued", `.*`)
	if added := g.says(n, map[string]any{"event": "trust"}); added["added"] == nil {
		t.Errorf("of a new CA certificate: %v", added)
	}
	s.SetCACerts(s.Root)
	n = len(g.spoken())
	g.tell("renew", "--wait", "mqtt").want(t, 0, "issued", `.*`)
	if removed := g.says(n, map[string]any{"event": "trust"}); removed["removed"] == nil {
		t.Errorf("of a CA certificate that went: %v", removed)
	}

	// Somebody deletes it; the one before serves meanwhile.
	n = len(g.spoken())
	if err := os.Remove(filepath.Join(g.mustRead("mqtt").dir, "key.pem")); err != nil {
		t.Fatal(err)
	}
	g.says(n, map[string]any{"event": "loss", "level": "warn"})

	// Reloads, good and bad.
	g.configure(config("jitter", "jiter"))
	if bad := g.says(n, map[string]any{"event": "reload", "result": "failed", "level": "error"}); !strings.Contains(fmt.Sprint(bad["error"]), "jiter") {
		t.Errorf("of a bad file: %v", bad)
	}
	g.configure(config("\"0%\"", "\"1%\"") + "\n[cert_issuance.certs.second]\ncommon_name = \"second\"\n")
	g.says(n, map[string]any{"event": "reload", "result": "loaded", "added": "[second]", "changed": "[mqtt]", "level": "info"})
	g.next("second", nil)
	g.configure("hostname = \"gateway\"\n" + config())
	g.says(n, map[string]any{"event": "reload", "removed": "[second]"})
	g.says(n, map[string]any{"event": "configuration", "level": "warn"})
	cert, key := g.brought(s, "mqtt")
	g.tell("import", "mqtt", "--cert", cert, "--key", key, "--replace").want(t, 0, "imported", ".*")
	g.says(n, map[string]any{"event": "import", "level": "info"})
	g.stop()
	if stop := g.says(n, map[string]any{"event": "stop"}); stop["version"] == nil || stop["certificates"] == nil || stop["ran_seconds"] == nil {
		t.Errorf("of the end: %v", stop)
	}

	g.logsAsDocumented("attempt", "delivery", "trust", "reload", "plan", "order", "loss")
}

// logsAsDocumented fails the test where the log has a field that docs/logging.md does not have, or where one of those of
// the events given was never seen.
func (g *gateway) logsAsDocumented(complete ...string) {
	g.t.Helper()
	events, _ := loggingPage(g.t)
	seen := map[string]map[string]bool{}
	for _, line := range g.spoken() {
		event := fmt.Sprint(line["event"])
		if seen[event] == nil {
			seen[event] = map[string]bool{}
		}
		for field := range line {
			seen[event][field] = true
			if !slices.Contains(events[event], field) && !slices.Contains(everyLine, field) {
				g.t.Errorf("docs/logging.md does not have the field %s of %s: %v", field, event, line)
			}
		}
	}
	for _, event := range complete {
		for _, field := range events[event] {
			if !seen[event][field] {
				g.t.Errorf("%s: the field %s was never seen", event, field)
			}
		}
	}
}

// TestLoggingByAge: CA certificates that are old are fetched by themselves, and a clock that is behind what is known is not
// believed; the log says both.
func TestLoggingByAge(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{})
	g := newGateway(t)
	g.configure("[log]\nlevel = \"debug\"\n" + served(s))
	g.start()
	g.next("mqtt", nil)
	g.stop()
	meanwhile := func(change func(*store.Store) error) {
		t.Helper()
		kept, err := store.Open(g.path("state"), store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(change(kept), kept.Close()); err != nil {
			t.Fatal(err)
		}
	}
	grow := func(kept *store.Store) error {
		return kept.UpdateTrust(s.URL(), func(old store.Trust) store.Trust {
			old.Fetched = time.Now().Add(-30 * 24 * time.Hour)
			return old
		})
	}
	meanwhile(grow)
	n := len(g.spoken())
	g.start()
	// That it brought nothing new is nobody's business.
	g.says(n, map[string]any{"event": "cacerts", "result": "fetched", "level": "debug", "new_certificates": false, "identity": "certificate"})
	g.stop()

	meanwhile(grow)
	s.Always("cacerts", esttest.Status(404))
	g.start()
	g.says(n, map[string]any{"event": "cacerts", "result": "failed", "level": "warn", "class": "rejected"})
	g.stop()
	meanwhile(func(kept *store.Store) error { return kept.SaveClock(store.Clock{Mark: time.Now().AddDate(20, 0, 0)}) })
	g.start()
	if line := g.says(n, map[string]any{"event": "clock", "level": "warn"}); line["why"] == nil {
		t.Errorf("of a clock that is not believed: %v", line)
	}
	g.stop()
	g.logsAsDocumented("cacerts")
}

// outputsAt is one output more.
func outputsAt(path string) string {
	return fmt.Sprintf("[[cert_issuance.certs.mqtt.outputs]]\nformat = \"cert\"\npath = %q\n", path)
}

// TestLogObeysAReload: level and form change with the configuration, for every line from then on.
func TestLogObeysAReload(t *testing.T) {
	t.Parallel()
	s, g, first := running(t)
	reload := func(log string) {
		t.Helper()
		g.configure("[log]\n" + log + "\n" + served(s))
		g.tell("reload").want(t, 0, "", "")
	}
	// What the agent says comes by a pipe, in order: what is waited for has everything before it.
	since := func(said int, what string) string {
		t.Helper()
		g.until(what, func() bool { return strings.Contains(g.log.String()[said:], what) })
		return g.log.String()[said:]
	}
	reload(`level = "warn"`)
	since(0, `"path":"/v1/reload"`)
	said := len(g.log.String())
	g.tell("renew", "--wait").want(t, 0, "issued", ".*")
	reload(`format = "console"`)
	if quiet, _, _ := strings.Cut(since(said, " info  configuration loaded "), "\n"); !strings.Contains(quiet, "configuration loaded") {
		t.Errorf("at level warn a renewal is told: %s", quiet)
	}
	g.tell("renew", "--wait").want(t, 0, "issued", ".*")
	if more := since(said, " info  mqtt: certificate issued "); strings.Contains(more, "{") || strings.Contains(more, "\x1b") {
		t.Errorf("in console form, to no terminal: %s", more)
	}
	reload(`level = "debug"`)
	g.tell("renew", "--wait").want(t, 0, "issued", ".*")
	since(said, `"event":"plan"`)
	if h := g.mustRead("mqtt"); h.leaf.Equal(first.leaf) {
		t.Error("nothing was renewed: this tested something else")
	}
	g.stop()
}

// TestLogOnATerminal: a person reads lines, in colours unless NO_COLOR is set.
func TestLogOnATerminal(t *testing.T) {
	t.Parallel()
	for _, noColor := range []string{"", "1"} {
		s := esttest.New(t, esttest.Options{})
		g := newGateway(t)
		g.configure(served(s))
		terminal, end := openTerminal(t)
		cmd := g.command("run", "--once")
		cmd.Env = append(cmd.Env, "NO_COLOR="+noColor, "TERM=xterm")
		cmd.Stderr = end
		shown := make(chan string)
		go func() { // ends when nobody has the other end open
			text, _ := io.ReadAll(terminal) // EIO is the end of a terminal (pty(7))
			shown <- string(text)
		}()
		if err := errors.Join(cmd.Run(), end.Close()); err != nil {
			t.Fatal(err)
		}
		text := <-shown
		if coloured := strings.Contains(text, "\x1b[32minfo \x1b[0m mqtt: certificate issued"); coloured != (noColor == "") {
			t.Errorf("NO_COLOR=%q: coloured %v\n%q", noColor, coloured, text)
		}
		if noColor != "" && (strings.Contains(text, "\x1b") || !strings.Contains(text, "info  mqtt: certificate issued ")) {
			t.Errorf("without colours: %q", text)
		}
	}
}
