package awsiot_test

import (
	"bytes"
	"os"
	"regexp"
	"slices"
	"testing"

	"certagent/agent/onboard/awsiot"
)

// The page has every code and no other, and its result is one.
func TestPage(t *testing.T) {
	whole, err := os.ReadFile("../../../docs/onboarding.md")
	if err != nil {
		t.Fatal(err)
	}
	_, page, found := bytes.Cut(whole, []byte("\n## AWS IoT\n"))
	if !found {
		t.Fatal("the page has no section for AWS IoT")
	}
	source, err := os.ReadFile("errors.go")
	if err != nil {
		t.Fatal(err)
	}
	find := func(in []byte, expression string) (found []string) {
		for _, m := range regexp.MustCompile(expression).FindAllSubmatch(in, -1) {
			found = append(found, string(m[1]))
		}
		slices.Sort(found)
		return found
	}
	rows, codes := find(page, "(?m)^\\| `(aws-[a-z-]+)` \\| "), find(source, `(?m)^\tCode\w+ += "(aws-[a-z-]+)"`)
	if len(codes) < 10 || !slices.Equal(rows, codes) {
		t.Errorf("the page has %q, the package %q", rows, codes)
	}
	example := find(page, "(?ms)^```json\n(.*?)^```$")
	if len(example) != 1 {
		t.Fatalf("%d examples", len(example))
	}
	if r := awsiot.ParseResult([]byte(example[0])); r == nil || string(r.Bytes()) != example[0] {
		t.Errorf("%+v", r)
	}
}
