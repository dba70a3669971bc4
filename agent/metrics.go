package agent

import (
	"bytes"
	"cmp"
	"slices"
	"time"

	"certagent/agent/status"
)

// counted is attempts with one more that ended so. What it is given does not change: views share it.
func counted(attempts []status.Attempts, result, class string) []status.Attempts {
	attempts = slices.Clone(attempts)
	one := status.Attempts{Result: result, Class: class}
	at, found := slices.BinarySearchFunc(attempts, one, func(a, b status.Attempts) int {
		return cmp.Or(cmp.Compare(a.Result, b.Result), cmp.Compare(a.Class, b.Class))
	})
	if !found {
		attempts = slices.Insert(attempts, at, one)
	}
	attempts[at].Count++
	return attempts
}

// Metrics is the state of the running agent for Prometheus, in the format of [status.MetricsType].
func (a *Agent) Metrics() []byte { return metricsOf(a.Snapshot()) }

func metricsOf(s status.Snapshot) []byte {
	var b bytes.Buffer
	_ = s.WriteMetrics(&b) // a Buffer takes everything
	return b.Bytes()
}

// lasting is what the metrics say apart from when they say it.
func lasting(s status.Snapshot) []byte {
	s.Time = time.Time{}
	return metricsOf(s)
}

func metricsProblems(textfile, listen error) (problems []Problem) {
	if textfile != nil {
		problems = append(problems, Problem{
			Code: "metrics-textfile", Text: textfile.Error(),
			Hint: "let the agent write in its directory, and its unit too (ReadWritePaths= in a drop-in), or name another file",
		})
	}
	if listen != nil {
		problems = append(problems, Problem{
			Code: "metrics-listen", Text: listen.Error(),
			Hint: "have [metrics] listen name an address of this device and a port that is free; it is tried again every minute",
		})
	}
	return problems
}

// noteMetrics logs a change of whether metrics can be given away in one of the two ways, and shows it. before is the field of
// the Agent that remembers.
func (a *Agent) noteMetrics(before *error, err error, what string) {
	a.mu.Lock()
	was := *before
	*before = err
	a.mu.Unlock()
	switch {
	case err != nil && (was == nil || was.Error() != err.Error()):
		a.o.Log.Warn().Str("event", "metrics").Str("error", clip(err.Error())).Msg(what + " cannot be had; looking again within a minute")
	case err == nil && was != nil:
		a.o.Log.Info().Str("event", "metrics").Msg(what + " gives no trouble any more")
	}
	if (err == nil) != (was == nil) {
		send(a.changed, struct{}{})
	}
}
