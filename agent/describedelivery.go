package agent

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"certagent/agent/status"
	"certagent/store"
)

// describeDelivery says how the consumers of a certificate are served.
func describeDelivery(s *status.Certificate, v view) {
	d := v.delivery
	var w wanted
	if v.cfg != nil {
		w = wantedOf(v.cfg.Outputs, hooksOf(v.cfg.OnRenew))
	} else { // those of the last delivery are what is known
		w.outputs = d.Outputs
		for _, h := range d.Hooks {
			w.hooks = append(w.hooks, h.Hook)
		}
	}
	w.generation, w.sha256, w.cas = d.Generation, d.SHA256, d.CAs
	if v.live != nil {
		w.sha256 = thumbprint(v.live.Leaf)
	}
	d = reconcile(d, w)
	held := 0
	for _, h := range d.Hooks {
		s.Hooks = append(s.Hooks, status.Hook{
			Hook: h.Hook, State: string(h.State), Tries: h.Tries, LastTry: h.LastTry, NextTry: h.NextTry,
			Output: h.Output, Skipped: h.Skipped, Class: h.Class, Error: h.Error,
		})
		if h.State != store.StepOK {
			held++
		}
		if h.Error != "" && h.State != store.StepOK {
			s.Problems = append(s.Problems, Problem{
				Code: "hook-failed", Text: h.Error + lastLine(h.Output), Since: h.Since,
				Hint: cmp.Or(h.Hint, hintHook),
			})
		}
	}
	var missing []string
	var since time.Time // the first of them
	for _, o := range d.Outputs {
		s.Outputs = append(s.Outputs, status.Output{
			Path: o.Path, Format: o.Format, State: string(o.State), Written: o.Written, Error: o.Error,
		})
		if o.State == store.StepFailed {
			if missing = append(missing, o.Path); since.IsZero() || o.Since.Before(since) {
				since = o.Since
			}
			s.Problems = append(s.Problems, Problem{Code: outputProblem(o), Text: o.Error, Hint: cmp.Or(o.Hint, hintOutput), Since: o.Since})
		}
	}
	if held > 0 && len(missing) > 0 {
		s.Problems = append(s.Problems, Problem{
			Code: "hooks-waiting", Since: since, Hint: "see to the outputs; the hooks then run by themselves",
			Text: fmt.Sprintf("no hook runs before every output is written: %s", strings.Join(missing, ", ")),
		})
	}
	if len(missing) > 0 {
		s.OutputsNextTry = d.NextTry
	}
}

// outputProblem is the code of an output that failed.
func outputProblem(o store.DeliveredOutput) string {
	if o.Refused {
		return "output-refused"
	}
	return "output-failed"
}

// lastLine is the end of what a hook wrote, as part of a sentence.
func lastLine(output string) string {
	const most = 200
	output = strings.TrimSpace(output)
	line := output[strings.LastIndexByte(output, '\n')+1:]
	if line == "" {
		return ""
	}
	if r := []rune(line); len(r) > most {
		line = string(r[:most]) + "…"
	}
	return "; the last that it wrote: " + line
}
