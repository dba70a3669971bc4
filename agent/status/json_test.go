package status_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"

	"certagent/agent/status"
)

// TestPageOfTheJSONForm: docs/status-json.md has a table for each type, whose rows are the fields of the type in their order, each
// with what kind of value it has; and every state.
func TestPageOfTheJSONForm(t *testing.T) {
	page, err := os.ReadFile("../../docs/status-json.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(page), fmt.Sprintf("`schema` is %d", status.Schema)) {
		t.Error("the page does not tell the schema")
	}
	kinds := map[reflect.Type]string{
		reflect.TypeFor[string](): "string", reflect.TypeFor[status.State](): "string", reflect.TypeFor[int](): "number",
		reflect.TypeFor[bool](): "true or false", reflect.TypeFor[time.Time](): "time",
	}
	kinds[reflect.TypeFor[*status.Onboarding]()] = "object"
	row := regexp.MustCompile("(?m)^\\| `([a-z0-9_]+)` \\| ([^|]+) \\| ([^|]+) \\|")
	typed := map[string]reflect.Type{"the object": reflect.TypeFor[status.Snapshot]()}
	for f := range reflect.TypeFor[status.Snapshot]().Fields() {
		if f.Type.Kind() == reflect.Slice {
			typed[jsonName(f)] = f.Type.Elem()
		}
	}
	for f := range reflect.TypeFor[status.Certificate]().Fields() {
		if kind := f.Type.Kind(); kind == reflect.Slice || kind == reflect.Pointer {
			typed[jsonName(f)] = f.Type.Elem()
		}
	}
	for name, typ := range typed {
		_, section, ok := strings.Cut(string(page), "\n## Each of `"+name+"`\n")
		if name == "the object" {
			_, section, ok = strings.Cut(string(page), "\n## The object\n")
		}
		if typ == reflect.TypeFor[status.Onboarding]() {
			_, section, ok = strings.Cut(string(page), "\n## The object `"+name+"`\n")
		}
		if !ok {
			t.Errorf("the page has no section for %s", name)
			continue
		}
		section, _, _ = strings.Cut(section, "\n## ")
		var want, got []string
		for f := range typ.Fields() {
			kind := kinds[f.Type]
			if f.Type.Kind() == reflect.Slice {
				kind = "list"
			}
			when := "always"
			if _, options, _ := strings.Cut(f.Tag.Get("json"), ","); strings.HasPrefix(options, "omit") {
				when = "if known"
				if f.Type.Kind() == reflect.Bool {
					when = "if true"
				}
			}
			want = append(want, jsonName(f)+": "+kind+", "+when)
		}
		for _, m := range row.FindAllStringSubmatch(section, -1) {
			got = append(got, m[1]+": "+strings.TrimSpace(m[2])+", "+strings.TrimSpace(m[3]))
		}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("%s: the page has\n%s\nand the type\n%s", name, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

func jsonName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}

// TestRoundTrip: what a machine reads is what was written.
func TestRoundTrip(t *testing.T) {
	first := writeJSON(t, everything())
	var back status.Snapshot
	d := json.NewDecoder(strings.NewReader(first))
	d.DisallowUnknownFields()
	if err := d.Decode(&back); err != nil {
		t.Fatal(err)
	}
	if again := writeJSON(t, back); again != first {
		t.Errorf("the JSON form changes in a round trip:\n%s", again)
	}
}

func writeJSON(t *testing.T, s status.Snapshot) string {
	t.Helper()
	var b bytes.Buffer
	if err := s.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestAnotherVersion: what an older agent does not tell and a newer one tells besides leaves all faces usable: lists are
// lists, and a state that is not known is not taken for well.
func TestAnotherVersion(t *testing.T) {
	var s status.Snapshot
	const text = `{"schema": 1, "time": "2026-11-21T20:30:00Z", "running": true, "started": "2026-11-20T20:30:00Z", "mood": {"of": ["the", "day"]},
		"certificates": [{"id": "mqtt", "state": "revoked", "colour": 7}, {"id": "device-id", "state": "valid"}]}`
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		t.Fatal(err)
	}
	if out := writeJSON(t, s); strings.Contains(out, "null") || !strings.Contains(out, `"servers": []`) {
		t.Errorf("a list is missing:\n%s", out)
	}
	if code := s.ExitCode(); code != status.ExitDegraded {
		t.Errorf("exit code %d", code)
	}
	if line, want := s.Line(), "1 of 2 certificates valid; mqtt: revoked"; line != want {
		t.Errorf("the line is %q, want %q", line, want)
	}
	got := table(t, s, status.Look{})
	if want := "2 certificates: 1 revoked, 1 valid\n"; !strings.HasPrefix(got, want) || !strings.Contains(got, "\nmqtt       revoked  [                ]  -\n") {
		t.Errorf("the table is\n%s", got)
	}
}

// TestJSONIsSafe: whoever prints it on a terminal sees text, and whoever parses it gets what was meant.
func TestJSONIsSafe(t *testing.T) {
	const evil = "a\x1b[2J\u009b31m\u202e\x7f\u2028\U000e0041\r\n\t証明書 é \\ \" 🔑"
	out := writeJSON(t, status.Snapshot{StateDir: evil})
	for _, r := range out {
		if r != '\n' && !unicode.IsPrint(r) {
			t.Errorf("%U is not escaped", r)
		}
	}
	if !strings.Contains(out, "証明書 é") {
		t.Errorf("more is escaped than must be:\n%s", out)
	}
	var back status.Snapshot
	if err := json.Unmarshal([]byte(out), &back); err != nil || back.StateDir != evil {
		t.Errorf("it came back as %q (%v)", back.StateDir, err)
	}
}

// TestHarmlessJSON: lines of logs come as they are, also with bytes that are no text; most have nothing to escape.
func TestHarmlessJSON(t *testing.T) {
	for line, want := range map[string]string{
		"{\"a\":\"plain\"}\n": "{\"a\":\"plain\"}\n",
		"\"\x7f\"":            `"\u007f"`,
		"\"\xff\xc3\"":        `"\ufffd\ufffd"`,
		"\"\U000e0041é\"":     `"\udb40\udc41é"`,
	} {
		if got := string(status.HarmlessJSON([]byte(line))); got != want {
			t.Errorf("%q becomes %s, want %s", line, got, want)
		}
	}
}
