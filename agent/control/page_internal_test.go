package control

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rs/zerolog"
)

// page is docs/control-api.md.
func page(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/control-api.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// section is the part of the page below a heading.
func section(t *testing.T, heading string) string {
	t.Helper()
	_, part, found := strings.Cut(page(t), heading+"\n")
	if !found {
		t.Fatalf("docs/control-api.md has no %q", heading)
	}
	if end := regexp.MustCompile("(?m)^##").FindStringIndex(part); end != nil {
		part = part[:end[0]]
	}
	return part
}

// The page has each path with its method, and no other.
func TestPageHasEachPath(t *testing.T) {
	t.Parallel()
	var want, has []string
	for path, to := range NewServer(nil, zerolog.Nop()).paths {
		want = append(want, to.method+" "+path)
	}
	for _, m := range regexp.MustCompile(`(?m)^    ((?:GET|POST) /\S+)$`).FindAllStringSubmatch(page(t), -1) {
		has = append(has, m[1])
	}
	slices.Sort(want)
	slices.Sort(has)
	if !slices.Equal(has, want) {
		t.Errorf("the page has %q, the server %q", has, want)
	}
}

// What is sent and what comes back is as the page shows it: each example is one of the type, with every field, and each table
// has the fields in their order. Who changes a type changes the page, and sees that it is an interface.
func TestPageShowsWhatTravels(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		heading, table string
		into           any
		fields         reflect.Type
	}{
		{"### Renew", "request", &Renewal{}, reflect.TypeFor[Renewal]()},
		{"### Renew", "answer", &renewals{}, reflect.TypeFor[Renewed]()},
		{"### Onboard", "request", &Onboarding{}, reflect.TypeFor[Onboarding]()},
		{"### Onboard", "answer", &Onboarded{}, reflect.TypeFor[Onboarded]()},
		{"### Import", "request", &Import{}, reflect.TypeFor[Import]()},
		{"### Import", "answer", &Imported{}, reflect.TypeFor[Imported]()},
		{"## Errors", "", &Error{}, reflect.TypeFor[Error]()},
	} {
		part := section(t, c.heading)
		if c.table != "" {
			_, rows, _ := strings.Cut(part, "| "+c.table+" | what |\n| --- | --- |\n")
			var has []string
			for row := range strings.Lines(rows) {
				m := regexp.MustCompile("^\\| `([a-z_]+)` \\| ").FindStringSubmatch(row)
				if m == nil {
					break
				}
				has = append(has, m[1])
			}
			if want := namesOf(c.fields); !slices.Equal(has, want) {
				t.Errorf("%s: the table %q has %q, want %q", c.heading, c.table, has, want)
			}
		}
		if !slices.ContainsFunc(regexp.MustCompile(`(?m)^    (\{.*\})$`).FindAllStringSubmatch(part, -1), func(m []string) bool {
			return isExample([]byte(m[1]), c.into, c.fields)
		}) {
			t.Errorf("%s: there is no example of %v with every field as it travels", c.heading, c.fields)
		}
	}
}

// namesOf are the names of the fields of t as they travel.
func namesOf(t reflect.Type) (names []string) {
	for f := range t.Fields() {
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "-" {
			names = append(names, name)
		}
	}
	return names
}

// isExample tells whether text is what becomes of into again, and leaves nothing of fields out.
func isExample(text []byte, into any, fields reflect.Type) bool {
	if read(text, into) != nil {
		return false
	}
	for _, name := range namesOf(fields) {
		if !bytes.Contains(text, []byte(`"`+name+`":`)) {
			return false
		}
	}
	var want bytes.Buffer
	again, err := json.Marshal(into)
	return err == nil && json.Compact(&want, text) == nil && bytes.Equal(again, want.Bytes())
}

// The limits on the page are those of the program.
func TestPageHasTheLimits(t *testing.T) {
	t.Parallel()
	part := section(t, "## Limits")
	for _, row := range []string{
		fmt.Sprintf("| a request | %.0f s from its first byte to its last; %d KiB of header, %d KiB of body |",
			readWithin.Seconds(), maxHeader>>10+4, maxBody>>10),
		fmt.Sprintf("| an answer | taken within %.0f s |", writeWithin.Seconds()),
		fmt.Sprintf("| between two requests of a connection | %.0f s |", idleWithin.Seconds()),
		fmt.Sprintf("| connections of one user who may change nothing; of all of those | %d; %d |", maxOfUser, maxOfOthers),
		fmt.Sprintf("| connections of those who may | %d |", maxTrusted),
		fmt.Sprintf("The path of the socket has at most %d bytes", maxPath-len(".new")),
	} {
		if !strings.Contains(part, row) {
			t.Errorf("the page does not say %q", row)
		}
	}
	if says := fmt.Sprintf("not done within %.0f s; it goes on", changeWithin.Seconds()); !strings.Contains(section(t, "## Errors"), says) {
		t.Errorf("the page does not say %q", says)
	}
	if says := fmt.Sprintf("at most %.0f.", MaxWait.Seconds()); !strings.Contains(section(t, "### Status"), says) {
		t.Errorf("the page does not say %q", says)
	}
}
