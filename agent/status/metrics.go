package status

import (
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// MetricsType is the media type of what WriteMetrics writes.
const MetricsType = "text/plain; version=0.0.4; charset=utf-8"

// metric is one metric of Prometheus: its name, its kind and what it means, and how a Snapshot says it.
type metric struct {
	name, kind, help string
	samples          func(s *Snapshot, add sample)
}

// sample adds one sample of a metric; labels are names and values in turn.
type sample func(value float64, labels ...string)

// WriteMetrics writes the Snapshot for Prometheus, in its text format, version 0.0.4. docs/operations.md has the table of the
// metrics. The order is always the same: that of the table, and in each metric that of the Snapshot. What is not known has no
// sample. Certificates that are not in the configuration have none at all.
//
// Whoever reaches the port may read it, so nothing is in it that is not meant for everybody: the words after a hook's program
// are left out, and so is every text that came from a server.
func (s Snapshot) WriteMetrics(w io.Writer) error {
	var b []byte
	for _, m := range metrics() {
		head := "# HELP " + m.name + " " + escaped(m.help, false) + "\n# TYPE " + m.name + " " + m.kind + "\n"
		m.samples(&s, func(value float64, labels ...string) {
			b = append(b, head...)
			head = ""
			b = append(b, m.name...)
			before := byte('{')
			for i := 0; i < len(labels); i += 2 {
				b = append(b, before)
				b = append(b, labels[i]...)
				b = append(b, '=', '"')
				b = append(b, escaped(labels[i+1], true)...)
				b = append(b, '"')
				before = ','
			}
			if len(labels) > 0 {
				b = append(b, '}')
			}
			b = append(b, ' ')
			b = strconv.AppendFloat(b, value, 'f', -1, 64)
			b = append(b, '\n')
		})
	}
	_, err := w.Write(b)
	return err
}

// escaped is text as it may stand after HELP, or between the quotes of a label.
func escaped(text string, quoted bool) string {
	if !strings.ContainsFunc(text, func(r rune) bool { return r == '\\' || r == '\n' || r == '"' || r == '\uFFFD' }) {
		return text
	}
	text = strings.NewReplacer(`\`, `\\`, "\n", `\n`).Replace(strings.ToValidUTF8(text, "\uFFFD"))
	if quoted {
		text = strings.ReplaceAll(text, `"`, `\"`)
	}
	return text
}

// metrics is the table of all of them, as docs/operations.md has it.
func metrics() []metric {
	const gauge, counter = "gauge", "counter"
	return []metric{
		{"certagent_build_info", gauge, "Always 1; the label is the version of the program.",
			func(s *Snapshot, add sample) { add(1, "version", s.Version) }},
		{"certagent_snapshot_timestamp_seconds", gauge, "When all this was said, by the agent's clock.",
			func(s *Snapshot, add sample) { addTime(add, s.Time) }},
		{"certagent_start_timestamp_seconds", gauge, "When the agent was started.",
			func(s *Snapshot, add sample) { addTime(add, s.Started) }},
		{"certagent_clock_credible", gauge, "Whether the agent believes its clock; if not, nothing is tried.",
			func(s *Snapshot, add sample) { add(truth(!has(s.Problems, "clock-not-credible"))) }},
		{"certagent_problems", gauge, "Problems of the agent as a whole by code; severity notice changes no exit code.",
			func(s *Snapshot, add sample) { addProblems(add, s.Problems) }},

		{"certagent_certificate_state", gauge, "Which state the certificate is in: 1 for that one, 0 for the others.",
			certificates(func(c *Certificate, add sample) {
				for _, state := range []State{Valid, Due, Overdue, Expired, NotYetValid, Missing, KeyMismatch} {
					add(truth(c.State == state), "state", string(state))
				}
			})},
		certificateTime("not_before", "When the certificate begins to be valid.",
			func(c *Certificate) time.Time { return c.NotBefore }),
		certificateTime("not_after", "When the certificate expires, or expired.",
			func(c *Certificate) time.Time { return c.NotAfter }),
		certificateTime("renew_at", "When renewal is due: the threshold with this certificate's own spread.",
			func(c *Certificate) time.Time { return c.RenewAt }),
		certificateTime("next_try", "When the agent acts next.",
			func(c *Certificate) time.Time { return c.NextTry }),
		certificateTime("last_try", "When the last attempt ended.",
			func(c *Certificate) time.Time { return c.LastTry }),
		certificateTime("last_success", "When the last attempt ended that brought a certificate.",
			func(c *Certificate) time.Time { return c.LastSuccess }),
		certificateNumber("failures", "Failed attempts since the last success.",
			func(c *Certificate) float64 { return float64(c.Failures) }),
		certificateNumber("pending", "Whether a request waits for approval at the server.",
			func(c *Certificate) float64 { return truth(c.Pending) }),
		certificateNumber("generation", "The number of the live generation, 0 for none.",
			func(c *Certificate) float64 { return float64(c.Generation) }),
		{"certagent_certificate_problems", gauge, "Problems of the certificate by code; severity notice changes no exit code.",
			certificates(func(c *Certificate, add sample) { addProblems(add, c.Problems) })},

		{"certagent_attempts_total", counter, "Attempts since the agent was started, by result and error class.",
			certificates(func(c *Certificate, add sample) {
				for _, a := range c.Attempts {
					add(float64(a.Count), "result", a.Result, "class", a.Class)
				}
			})},
		{"certagent_output_state", gauge, "Which state an output is in: 1 for that one, 0 for the others.",
			certificates(func(c *Certificate, add sample) {
				for _, o := range c.Outputs {
					addStep(add, o.State, "path", o.Path)
				}
			})},
		{"certagent_hook_state", gauge, "Which state a hook is in: 1 for that one, 0 for the others.",
			certificates(func(c *Certificate, add sample) {
				for i, h := range c.Hooks {
					addStep(add, h.State, "number", strconv.Itoa(i+1), "hook", program(h.Hook))
				}
			})},

		{"certagent_onboarding_state", gauge, "How far the cloud knows the certificate: 1 for that state, 0 for the others.",
			onboardings(func(o *Onboarding, add sample) {
				for _, state := range []string{Pending, Registered, Failed} {
					add(truth(o.State == state), "state", state)
				}
			})},
		{"certagent_onboarding_registered_timestamp_seconds", gauge, "When the cloud last said that it knows the device.",
			onboardings(func(o *Onboarding, add sample) { addTime(add, o.Registered) })},
		{"certagent_onboarding_next_try_timestamp_seconds", gauge, "When the cloud is told next.",
			onboardings(func(o *Onboarding, add sample) { addTime(add, o.NextTry) })},
		{"certagent_onboarding_failures", gauge, "Failed tries to tell the cloud since the last success.",
			onboardings(func(o *Onboarding, add sample) { add(float64(o.Failures)) })},

		{"certagent_server_cas", gauge, "How many CA certificates of the server are known.",
			servers(func(v *Server, add sample) { add(float64(v.CAs)) })},
		{"certagent_server_fetched_timestamp_seconds", gauge, "When they were last fetched.",
			servers(func(v *Server, add sample) { addTime(add, v.Fetched) })},
		{"certagent_server_next_refresh_timestamp_seconds", gauge, "When they are fetched again, if no renewal does so before.",
			servers(func(v *Server, add sample) { addTime(add, v.NextRefresh) })},
		{"certagent_server_refresh_failures", gauge, "Failed tries to fetch them again since the last success.",
			servers(func(v *Server, add sample) { add(float64(v.Failures)) })},
	}
}

// certificates has f add the samples of each certificate; the id comes before its labels.
func certificates(f func(c *Certificate, add sample)) func(*Snapshot, sample) {
	return func(s *Snapshot, add sample) {
		for i := range s.Certificates {
			if c := &s.Certificates[i]; c.State != Unmanaged {
				f(c, func(value float64, labels ...string) { add(value, append([]string{"id", c.ID}, labels...)...) })
			}
		}
	}
}

// onboardings has f add the samples of each certificate that a cloud is to know; id and cloud come before its labels.
func onboardings(f func(o *Onboarding, add sample)) func(*Snapshot, sample) {
	return certificates(func(c *Certificate, add sample) {
		if o := c.Onboarding; o != nil {
			f(o, func(value float64, labels ...string) { add(value, append([]string{"cloud", o.Cloud}, labels...)...) })
		}
	})
}

// certificateTime is a time that each certificate may have.
func certificateTime(name, help string, of func(*Certificate) time.Time) metric {
	return metric{"certagent_certificate_" + name + "_timestamp_seconds", "gauge", help,
		certificates(func(c *Certificate, add sample) { addTime(add, of(c)) })}
}

// certificateNumber is a number that each certificate has.
func certificateNumber(name, help string, of func(*Certificate) float64) metric {
	return metric{"certagent_certificate_" + name, "gauge", help,
		certificates(func(c *Certificate, add sample) { add(of(c)) })}
}

// servers has f add the samples of each server; the url comes before its labels.
func servers(f func(v *Server, add sample)) func(*Snapshot, sample) {
	return func(s *Snapshot, add sample) {
		for i := range s.Servers {
			v := &s.Servers[i]
			f(v, func(value float64, labels ...string) { add(value, append([]string{"url", v.URL}, labels...)...) })
		}
	}
}

// addTime adds a time in seconds since 1970; one that is zero is not known.
func addTime(add sample, t time.Time) {
	if !t.IsZero() {
		add(float64(t.UnixMilli()) / 1000)
	}
}

// addStep adds a sample for each state that an output or a hook can be in.
func addStep(add sample, is string, labels ...string) {
	for _, state := range []string{"pending", "ok", "failed"} {
		add(truth(is == state), append(labels, "state", state)...)
	}
}

// addProblems adds how many problems there are of each code, in the order in which the codes come up.
func addProblems(add sample, problems []Problem) {
	type kind struct{ code, severity string }
	var kinds []kind
	count := map[kind]int{}
	for _, p := range problems {
		k := kind{p.Code, "problem"}
		if p.Notice {
			k.severity = "notice"
		}
		if count[k]++; count[k] == 1 {
			kinds = append(kinds, k)
		}
	}
	for _, k := range kinds {
		add(float64(count[k]), "code", k.code, "severity", k.severity)
	}
}

// program is what a hook does, without the words that its program is given: there may be a password among those, although
// that is no place for one.
func program(hook string) string {
	words, exec := strings.CutPrefix(hook, "exec ")
	if !exec {
		return hook
	}
	first, err := strconv.QuotedPrefix(words)
	if err != nil {
		return "exec"
	}
	name, err := strconv.Unquote(first)
	if err != nil {
		return "exec"
	}
	return "exec " + name
}

func has(problems []Problem, code string) bool {
	return slices.ContainsFunc(problems, func(p Problem) bool { return p.Code == code })
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
