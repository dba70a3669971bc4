package agent

import (
	"context"
	"fmt"
	"os"
	"strings"

	"certagent/store/export"
)

// lookout is what the minute's look compares the outputs of a certificate with: how they were when they were last written.
// It never changes.
type lookout struct {
	marks     map[string]export.Mark // of those that were right, by path
	passwords []string               // files that they depend on
	stamp     string                 // of those
	// The rest is for outputs that could not be written: by what keeps them it is noticed that somebody mended it.
	set     export.Set
	trouble string // what Check said after the try; "" where all was right
}

// newLookout notes how the outputs are after they were written with these results.
func (a *Agent) newLookout(s export.Set, results []export.Result, passwords []string, stamp string) *lookout {
	l := &lookout{marks: map[string]export.Mark{}, passwords: passwords, stamp: stamp, set: s}
	for _, r := range results {
		if r.Settled() {
			l.marks[r.Path] = r.Mark
		}
	}
	if len(l.marks) < len(results) {
		l.trouble = troubleOf(a.o.Outputs.Check(s, l.marks))
	}
	return l
}

// troubleOf says what is wrong with outputs, to be compared.
func troubleOf(results []export.Result) string {
	var b strings.Builder
	for _, r := range results {
		if !r.Settled() {
			fmt.Fprintln(&b, r.Path, r.Drift, r.Err)
		}
	}
	return b.String()
}

// outputsChanged tells whether the outputs are no longer as they were. Where all was right that costs a stat(2) for each.
func (a *Agent) outputsChanged(l *lookout) bool {
	for path, mark := range l.marks {
		info, err := os.Lstat(path)
		if err != nil || !mark.Fits(info) {
			return true
		}
	}
	if stampOf(l.passwords) != l.stamp {
		return true
	}
	return l.trouble != "" && troubleOf(a.o.Outputs.Check(l.set, l.marks)) != l.trouble
}

// watchOutputs looks at the outputs of all certificates whenever the clock task says so, and has those written anew that
// somebody changed or removed. It is apart from everything else, because outputs may lie on file systems that hang. It
// ends with ctx; nobody waits for that.
func (a *Agent) watchOutputs(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.lookAtOutputs:
		}
		for _, k := range a.allKeepers() {
			l := k.courier.lookout.Load()
			if l == nil || ctx.Err() != nil {
				continue
			}
			changed := false
			if crashed := guard(func() { changed = a.outputsChanged(l) }); crashed != nil {
				a.o.Log.Error().Str("event", "crash").Str("certificate", k.id).Str("error", clip(crashed.Error())).
					Msg("looking at outputs crashed")
			}
			if changed {
				k.wish(wishOutputs)
			}
		}
	}
}
