package status_test

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"certagent/agent/golden"
	"certagent/agent/status"
)

// metricsOf is the text of a Snapshot, line by line.
func metricsOf(t *testing.T, s status.Snapshot) []string {
	t.Helper()
	var b bytes.Buffer
	if err := s.WriteMetrics(&b); err != nil {
		t.Fatal(err)
	}
	return slices.Collect(strings.Lines(b.String()))
}

// counted is everything, by an agent that runs and has made attempts.
func counted() status.Snapshot {
	s := everything()
	s.Started = in(-40 * day)
	for i := range s.Certificates {
		if c := &s.Certificates[i]; c.Failures > 0 {
			c.Attempts = []status.Attempts{
				{Result: status.Failed, Class: "unauthorized", Count: 1}, {Result: status.Failed, Class: "unavailable", Count: c.Failures},
				{Result: status.Issued, Count: 3},
			}
		}
	}
	return s
}

// TestMetrics is the whole text; promtool reads this very file in cmd/certagent's TestPrometheus.
func TestMetrics(t *testing.T) {
	golden.Match(t, "testdata/everything.prom", []byte(strings.Join(metricsOf(t, counted()), "")), *update)
}

// What the samples of a metric are for one certificate.
func TestSamples(t *testing.T) {
	expired := status.Certificate{
		ID: "a", State: status.Expired, NotBefore: in(-2 * day), NotAfter: in(-day), Failures: 7,
		Problems: []status.Problem{{Code: "est-pending", Notice: true}, {Code: "hook-failed"}, {Code: "hook-failed"}},
	}
	missing := status.Certificate{ID: "a", State: status.Missing}
	for _, c := range []struct {
		name   string
		s      status.Snapshot
		metric string
		want   []string
	}{
		{"an expired certificate keeps its dates", status.Snapshot{Certificates: []status.Certificate{expired}},
			"certagent_certificate_not_after_timestamp_seconds", []string{fmt.Sprintf(`{id="a"} %d`, in(-day).Unix())}},
		{"what is not known has no sample", status.Snapshot{Certificates: []status.Certificate{missing}},
			"certagent_certificate_not_after_timestamp_seconds", nil},
		{"nor a line of another kind", status.Snapshot{}, "# TYPE certagent_certificate_state", nil},
		{"times have fractions", status.Snapshot{Started: time.UnixMilli(1500)}, "certagent_start_timestamp_seconds", []string{" 1.5"}},
		{"one state of all", status.Snapshot{Certificates: []status.Certificate{missing}}, "certagent_certificate_state", []string{
			`{id="a",state="valid"} 0`, `{id="a",state="due"} 0`, `{id="a",state="overdue"} 0`, `{id="a",state="expired"} 0`,
			`{id="a",state="not-yet-valid"} 0`, `{id="a",state="missing"} 1`, `{id="a",state="key-mismatch"} 0`,
		}},
		{"problems are counted by code", status.Snapshot{Certificates: []status.Certificate{expired}},
			"certagent_certificate_problems", []string{
				`{id="a",code="est-pending",severity="notice"} 1`, `{id="a",code="hook-failed",severity="problem"} 2`,
			}},
		{"a clock that is believed", status.Snapshot{Problems: []status.Problem{{Code: "config-invalid"}}},
			"certagent_clock_credible", []string{" 1"}},
		{"a clock that is not", status.Snapshot{Problems: []status.Problem{{Code: "clock-not-credible"}}},
			"certagent_clock_credible", []string{" 0"}},
		{"who left the configuration is not there",
			status.Snapshot{Certificates: []status.Certificate{{ID: "a", State: status.Unmanaged}}},
			"certagent_certificate_failures", nil},
		{"a hook without the words of its program", status.Snapshot{Certificates: []status.Certificate{{ID: "a", Hooks: []status.Hook{
			{Hook: `exec "/usr/bin/tell \"it\"" "--password=secret"`, State: "ok"},
			{Hook: `exec "damaged`, State: "ok"}, {Hook: "reload a.service", State: "ok"},
		}}}}, "certagent_hook_state", []string{
			`{id="a",number="1",hook="exec /usr/bin/tell \"it\"",state="pending"} 0`,
			`{id="a",number="1",hook="exec /usr/bin/tell \"it\"",state="ok"} 1`,
			`{id="a",number="1",hook="exec /usr/bin/tell \"it\"",state="failed"} 0`, `{id="a",number="2",hook="exec",state="pending"} 0`,
			`{id="a",number="2",hook="exec",state="ok"} 1`, `{id="a",number="2",hook="exec",state="failed"} 0`,
			`{id="a",number="3",hook="reload a.service",state="pending"} 0`, `{id="a",number="3",hook="reload a.service",state="ok"} 1`,
			`{id="a",number="3",hook="reload a.service",state="failed"} 0`,
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, line := range metricsOf(t, c.s) {
				rest, found := strings.CutPrefix(line, c.metric)
				if found && (rest[0] == '{' || rest[0] == ' ') {
					got = append(got, strings.TrimSuffix(rest, "\n"))
				}
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("%s: %q, want %q", c.metric, got, c.want)
			}
		})
	}
}

// TestLabelsSurvive: whatever stands in a path, a reader gets it back, and no line of it becomes a sample of its own.
func TestLabelsSurvive(t *testing.T) {
	for path, want := range map[string]string{
		`/a "b"`:                       `/a "b"`,
		`/a\nb`:                        `/a\nb`,
		"/a\nb{} 1\n":                  "/a\nb{} 1\n",
		"/a\"} 1\ncertagent_evil 1\n#": "/a\"} 1\ncertagent_evil 1\n#",
		"/\xff\xfe":                    "/\uFFFD",
		"/größe/\t\x00":                "/größe/\t\x00",
	} {
		s := status.Snapshot{Certificates: []status.Certificate{{ID: "a", Outputs: []status.Output{{Path: path, State: "ok"}}}}}
		var got []string
		for _, line := range metricsOf(t, s) {
			if label, found := strings.CutPrefix(line, `certagent_output_state{id="a",path=`); found && strings.HasSuffix(line, "} 1\n") {
				quoted, _, _ := strings.Cut(label, `,state="ok"`)
				got = append(got, strings.NewReplacer(`\\`, `\`, `\"`, `"`, `\n`, "\n").Replace(quoted[1:len(quoted)-1]))
			}
			if strings.HasPrefix(line, "certagent_evil") {
				t.Errorf("%q makes a sample of its own", path)
			}
		}
		if !slices.Equal(got, []string{want}) {
			t.Errorf("%q comes back as %q, want %q", path, got, want)
		}
	}
}

// TestMetricsKeepTexts: what a server said, and what a hook wrote, stays on the device.
func TestMetricsKeepTexts(t *testing.T) {
	s := counted()
	const mark = "marked-9471"
	for i := range s.Certificates {
		c := &s.Certificates[i]
		c.Subject, c.LastError, c.NextWhy = mark, mark, mark
		for j := range c.Problems {
			c.Problems[j].Text, c.Problems[j].Hint = mark, mark
		}
		for j := range c.Hooks {
			c.Hooks[j].Output, c.Hooks[j].Error = mark, mark
		}
		for j := range c.Outputs {
			c.Outputs[j].Error = mark
		}
	}
	if text := strings.Join(metricsOf(t, s), ""); strings.Contains(text, mark) {
		t.Errorf("a text is in the metrics:\n%s", text)
	}
}

// TestMetricsAreDocumented: the table of the page is what is written, metric by metric, label by label, in that order.
func TestMetricsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "\n## Metrics\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var documented []string
	for _, row := range regexp.MustCompile("(?m)^\\| `(certagent_\\w+)` \\|([^|]*)\\|").FindAllStringSubmatch(section, -1) {
		documented = append(documented, row[1]+" "+strings.ReplaceAll(strings.ReplaceAll(strings.TrimSpace(row[2]), "`", ""), " ", ""))
	}
	var written, counters []string
	name := regexp.MustCompile(`(\w+)="`)
	for _, line := range metricsOf(t, counted()) {
		if strings.HasPrefix(line, "# TYPE ") && !strings.HasSuffix(line, " gauge\n") {
			counters = append(counters, strings.Fields(line)[2])
		}
		if strings.HasPrefix(line, "#") {
			continue
		}
		metric := line[:strings.IndexAny(line, "{ ")]
		var labels []string
		for _, m := range name.FindAllStringSubmatch(line, -1) {
			labels = append(labels, m[1])
		}
		if shape := metric + " " + strings.Join(labels, ","); len(written) == 0 || written[len(written)-1] != shape {
			written = append(written, shape)
		}
	}
	if !slices.Equal(documented, written) {
		t.Errorf("docs/operations.md has\n%s\nand written is\n%s", strings.Join(documented, "\n"), strings.Join(written, "\n"))
	}
	said := strings.Contains(section, "All are gauges but `certagent_attempts_total`")
	if !slices.Equal(counters, []string{"certagent_attempts_total"}) || !said {
		t.Errorf("counters are %q", counters)
	}
	for _, result := range []string{status.Issued, status.Failed, status.Waiting, status.Early} {
		if !strings.Contains(section, "\n| `"+result+"` |") {
			t.Errorf("docs/operations.md lacks the result %s", result)
		}
	}
}
