package renew_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"certagent/renew"
)

var update = flag.Bool("update", false, "write the tables of docs/operations.md anew (make docs)")

const operations = "../docs/operations.md"

// The lifetimes of the tables.
var lives = []struct {
	name string
	life time.Duration
}{{"1 day", day}, {"30 days", 30 * day}, {"1 year", 365 * day}}

// tries are those of a certificate whose server is dead from its threshold on, from there until some time after it
// has expired, each counted from NotBefore, by the rules that the agent keeps.
func tries(p renew.Policy, life, until time.Duration, draw float64) (all []time.Duration) {
	l := leaf(life, "x")
	var so renew.Tries
	for now := p.Plan(l, birth).Threshold; now.Sub(birth) <= until; now = p.NextTry(&l, so, now) {
		all = append(all, now.Sub(birth))
		so = p.Failed(&l, so, 0, draw, now)
	}
	return all
}

// densest is the greatest number of tries in any 24 hours.
func densest(tries []time.Duration) (most int) {
	first := 0
	for n, at := range tries {
		for at-tries[first] >= day {
			first++
		}
		most = max(most, n-first+1)
	}
	return most
}

// TestTablesOfOperations holds what docs/operations.md says of tries to what the code does.
func TestTablesOfOperations(t *testing.T) {
	text, err := os.ReadFile(operations)
	if err != nil {
		t.Fatal(err)
	}
	want := text
	for _, table := range []struct{ name, is string }{{"tries", tableOfTries()}, {"tries a day", tableOfDays()}} {
		begin := fmt.Sprintf("<!-- %s: made by go test ./renew -update -->\n", table.name)
		before, rest, found := bytes.Cut(want, []byte(begin))
		_, after, ended := bytes.Cut(rest, []byte("<!-- end -->\n"))
		if !found || !ended {
			t.Fatalf("%s has no place for the table %q", operations, table.name)
		}
		want = bytes.Join([][]byte{before, []byte(begin + "\n" + table.is + "\n<!-- end -->\n"), after}, nil)
		if !bytes.Equal(want, text) && !*update {
			t.Errorf("the table %q of %s must say (make docs):\n%s", table.name, operations, table.is)
			text = want
		}
	}
	if *update {
		if err := os.WriteFile(operations, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// tableOfTries has the tries with middle draws, beside those at a constant interval from the failure on, which is
// aziot's rule: the same retry, no jitter, no growth, nothing special about expiry.
func tableOfTries() string {
	const head, tail, after = 10, 3, 2 // rows: the first tries, the last before expiry, those after it
	var columns [][]string
	for _, l := range lives {
		constant := []time.Duration{}
		for at := l.life / 5 * 4; at <= 2*l.life; at += l.life / 25 {
			constant = append(constant, at)
		}
		for _, all := range [][]time.Duration{tries(renew.DefaultPolicy(), l.life, 2*l.life, .5), constant} {
			expiry := slices.IndexFunc(all, func(at time.Duration) bool { return at >= l.life })
			column := make([]string, head+1+tail+1+after)
			for n, at := range all[:min(expiry, head)] {
				column[n] = instant(at, l.life)
			}
			if more := expiry - head - tail; more > 0 {
				column[head] = fmt.Sprintf("%d more", more)
				for n, at := range all[expiry-tail : expiry] {
					column[head+1+n] = instant(at, l.life)
				}
			}
			for n, at := range all[expiry : expiry+1+after] {
				column[head+1+tail+n] = instant(at, l.life)
			}
			columns = append(columns, column)
		}
	}
	var b strings.Builder
	for _, l := range lives {
		fmt.Fprintf(&b, "| %s | aziot ", l.name)
	}
	b.WriteString("|\n" + strings.Repeat("| --- ", len(columns)) + "|\n")
	for n := range columns[0] {
		for _, c := range columns {
			fmt.Fprintf(&b, "| %s ", c[n])
		}
		b.WriteString("|\n")
	}
	return b.String()
}

// instant says when something is, by its distance from expiry.
func instant(at, life time.Duration) string {
	switch {
	case at < life:
		return "−" + roughly(life-at)
	case at == life:
		return "expiry"
	}
	return "+" + roughly(at-life)
}

// roughly rounds to two units.
func roughly(d time.Duration) string {
	switch {
	case d >= day:
		d = d.Round(time.Hour)
		return strings.TrimSuffix(fmt.Sprintf("%dd %dh", d/day, d%day/time.Hour), " 0h")
	case d >= time.Hour:
		d = d.Round(time.Minute)
		return strings.TrimSuffix(fmt.Sprintf("%dh %dm", d/time.Hour, d%time.Hour/time.Minute), " 0m")
	}
	d = d.Round(time.Second)
	return strings.TrimPrefix(strings.TrimSuffix(fmt.Sprintf("%dm %ds", d/time.Minute, d%time.Minute/time.Second), " 0s"), "0m ")
}

// tableOfDays has how many tries there are in a day: shortest draws throughout for the most, middle ones for the rest.
func tableOfDays() string {
	var b strings.Builder
	b.WriteString("| certificate | tries before expiry | most in 24 hours | a day, once it is long dead | at most |\n" +
		"| --- | --- | --- | --- | --- |\n")
	row := func(name string, before string, most int, mean, densest float64) {
		fmt.Fprintf(&b, "| %s | %s | %d | %s | %s |\n", name, before, most, figure(mean), figure(densest))
	}
	p := renew.DefaultPolicy()
	for _, l := range lives {
		row(l.name, fmt.Sprint(before(p, l.life)), densest(tries(p, l.life, 2*l.life+40*day, 0)), rate(l.life, .5), rate(l.life, 0))
	}
	row("1 minute", fmt.Sprint(before(p, time.Minute)), densest(tries(p, time.Minute, 40*day, 0)), rate(time.Minute, .5), rate(time.Minute, 0))
	row("none yet", "", densest(withoutCertificate(0)), rate(0, .5), rate(0, 0))
	return b.String()
}

// before is how many of the tries come before expiry.
func before(p renew.Policy, life time.Duration) (count int) {
	for _, at := range tries(p, life, life, .5) {
		if at < life {
			count++
		}
	}
	return count
}

// rate is how many tries a day there are in the end; life 0 means no certificate.
func rate(life time.Duration, draw float64) float64 {
	p, now := renew.DefaultPolicy(), birth.Add(3*life+100*day)
	if life == 0 {
		return float64(day) / float64(p.Delay(nil, 100, draw, now))
	}
	l := leaf(life, "x")
	return float64(day) / float64(p.Delay(&l, 100, draw, now))
}

// withoutCertificate are the tries of ten days at which none could be had.
func withoutCertificate(draw float64) (all []time.Duration) {
	for at, failures := time.Duration(0), 1; at < 10*day; failures++ {
		all = append(all, at)
		at += renew.DefaultPolicy().Delay(nil, failures, draw, birth)
	}
	return all
}

func figure(f float64) string {
	if f < 10 {
		return fmt.Sprintf("%.1f", f)
	}
	return fmt.Sprintf("%.0f", f)
}

// TestTriesADay has the bound that docs/operations.md computes with: whatever the lifetime and the draws, and whatever
// the server answers, a certificate of a day or more is tried at most 80 times in 24 hours.
func TestTriesADay(t *testing.T) {
	p := renew.DefaultPolicy()
	for _, life := range []time.Duration{day, 2 * day, 7 * day, 30 * day, 90 * day, 365 * day, 10 * 365 * day} {
		for _, draw := range []float64{lowest, .1, .25, middle, .75, highest} {
			if most := densest(tries(p, life, life+40*day, draw)); most > 80 {
				t.Errorf("life %v, draw %.2f: %d tries in 24 hours", life, draw, most)
			}
		}
	}
}

// TestDeadForAYear holds that a certificate is never tried more than 50 times a day once it has been dead for a day,
// however short its life was.
func TestDeadForAYear(t *testing.T) {
	for _, life := range []time.Duration{time.Second, time.Minute, time.Hour, day} {
		for _, retry := range []string{"4%", "1%", "99%"} {
			p := policy(t, "80%", retry, "")
			all := tries(p, life, 365*day, lowest)
			for len(all) > 0 && all[0] < life+day {
				all = all[1:]
			}
			most := int(day/max(time.Minute, p.Retry.Of(day)/2)) + 2
			if got := densest(all); got > most || got < 1 {
				t.Errorf("life %v, retry %s: %d tries in 24 hours, want %d at most", life, retry, got, most)
			}
		}
	}
}
