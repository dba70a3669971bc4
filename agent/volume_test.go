package agent

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"certagent/est"
)

// volume is how much a device's log grew, without what level debug says.
func (d *device) volume(since int) (lines, longest int) {
	for line := range strings.Lines(d.logs.String()[since:]) {
		if strings.Contains(line, `"level":"debug"`) {
			continue
		}
		lines++
		longest = max(longest, len(line))
	}
	return lines, longest
}

// A gateway that is well writes nothing: the CA certificates that it fetches, and finds to be the same, are no news.
func TestIdleDaysWriteNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, 365*day, oneCertificate)
		_, stop := d.boot()
		defer stop()
		settle()
		time.Sleep(time.Minute)
		settle()
		said, fetched := len(d.logs.String()), len(d.ca.fetches())
		time.Sleep(20 * day)
		settle()
		if lines, _ := d.volume(said); lines != 0 {
			t.Errorf("%d lines in twenty days in which nothing happened:\n%s", lines, d.logs.String()[said:])
		}
		if len(d.ca.fetches()) == fetched {
			t.Error("no CA certificates were fetched in twenty days: this tested something else")
		}
	})
}

// A server that is gone for weeks, and says as much as it may before that, does not fill a disk: the table of
// docs/operations.md.
func TestDeadServerWritesLittle(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	stories := storiesOf(t)
	for _, tc := range []struct {
		name     string
		lifetime time.Duration
	}{
		{"a server that is gone, a certificate of a year", 365 * day},
		{"the same, of a day", day},
		{"the same, of an hour", time.Hour},
	} {
		stories.play(tc.name, func(t *testing.T) {
			t.Parallel()
			row := regexp.MustCompile(`(?m)^\| ` + tc.name + ` \| (\d+) \| ([\d,]+) \|$`).FindSubmatch(page)
			if row == nil {
				t.Fatal("docs/operations.md does not have it")
			}
			most, _ := strconv.Atoi(string(row[1]))
			bytes, _ := strconv.Atoi(strings.ReplaceAll(string(row[2]), ",", ""))
			synctest.Test(t, func(t *testing.T) {
				d := newDevice(t, tc.lifetime, defaults)
				d.drawing(0) // as soon as it may be
				s := d.begins()
				defer func() { s.stop() }()
				gone := func(call) error {
					return &est.Error{Op: opReenroll, Server: "https://est.example/.well-known/est", Class: est.ErrUnavailable, Err: fmt.Errorf("dial tcp 192.0.2.1:443: connect: connection refused")}
				}
				d.ca.fail(gone)
				d.ca.hide(func(est.Options) error { return gone(call{}) })
				s.off(tc.lifetime * 8 / 10)
				for range 5 {
					said := len(d.logs.String())
					time.Sleep(day)
					settle()
					lines, longest := d.volume(said)
					if lines > most || longest > bytes {
						t.Errorf("%d lines of up to %d bytes in a day, want %d and %d at most", lines, longest, most, bytes)
					}
				}
			})
		})
	}
}

// Whatever a line is made of, it is bounded.
func TestLongestLine(t *testing.T) {
	long := strings.Repeat("é", 1<<20)
	e := event{
		Certificate: "mqtt", Reason: "forced", Identity: long[:64], Operation: opEnroll, Server: long, Path: long,
		ending: ending{
			Error: long, Hint: long, NextTry: time.Now(), Traffic: est.Traffic{Connections: 1, Statuses: make([]int, 32)},
		},
	}
	for range 1000 {
		e.Warnings = append(e.Warnings, long)
		e.Problems = append(e.Problems, Problem{Code: long})
	}
	var b syncBuffer
	log := zerolog.New(&b)
	log.Info().EmbedObject(&e).Msg("certificate not issued")
	if n := len(b.String()); n > 48<<10 {
		t.Errorf("a line of %d bytes", n)
	}
	if strings.Contains(b.String(), `\ufffd`) {
		t.Error("a character was cut in two")
	}
}

// crashing is an Exporter with a mistake, over which it says a lot.
type crashing struct{ Exporter }

func (crashing) Sweep([]string) []string { panic(strings.Repeat("é", 1<<20)) }

// What a mistake in certagent says is bounded as well: it may quote what a server sent.
func TestLongestCrash(t *testing.T) {
	var b syncBuffer
	a := &Agent{o: Options{Log: zerolog.New(&b), Outputs: crashing{}}}
	a.sweep(slices.Repeat([]string{strings.Repeat("/é", 2000)}, 1000))
	if n := len(b.String()); n < 2000 || n > 48<<10 {
		t.Errorf("a line of %d bytes", n)
	}
}
