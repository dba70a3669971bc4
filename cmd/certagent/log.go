package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"certagent/agent/config"
	"certagent/agent/status"
)

// journalLog is where it goes when format is auto and stderr is the journal's; the configuration cannot ask for it.
const (
	autoLog    = "auto"
	jsonLog    = "json"
	consoleLog = "console"
	journalLog = "journal"
)

// logging is the agent's log: it writes to stderr, or to the journal where that stands behind it, in the form that [log]
// asks for. Its methods may be called from any goroutine. Nothing that becomes of a line is an error: a log that nobody can
// write, or reads, is no reason to stop. What nobody takes in time is lost, and the next line that is taken says how much.
type logging struct {
	stderr  outlet
	own     string   // the form for auto
	colours bool     // of the console form
	journal *journal // nil unless stderr is the journal's

	mu   sync.Mutex // guards what follows, and writing: one line at a time
	form string
	lost int // lines that nobody took, and of which nobody knows yet
}

// newLogging finds out where stderr goes.
func newLogging(stderr io.Writer) *logging {
	l := &logging{stderr: outlet{to: stderr}, own: jsonLog, form: jsonLog}
	switch {
	case isTerminal(stderr):
		l.own, l.colours = consoleLog, lookOf(stderr, os.Getenv).Colour
	case isJournal(stderr, os.Getenv("JOURNAL_STREAM")):
		l.own, l.journal = journalLog, newJournal(journalSocket)
	}
	return l
}

// apply takes over what [log] says, for every line from now on. The level is the process's own: with zerolog's global level
// a line that nobody wants costs nothing, whoever holds a copy of the logger.
func (l *logging) apply(c config.Log) {
	level, err := zerolog.ParseLevel(c.Level)
	if err != nil {
		level = zerolog.InfoLevel // the configuration was checked
	}
	zerolog.SetGlobalLevel(level)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.form = c.Format; c.Format == autoLog {
		l.form = l.own
	}
}

// logger writes to l.
func (l *logging) logger() zerolog.Logger { return zerolog.New(l).Hook(stamp{}) }

// stamp gives each line its time: in UTC as all times of the log are, so that they compare as texts, and a day is the same
// day for a whole fleet.
type stamp struct{}

func (stamp) Run(e *zerolog.Event, _ zerolog.Level, _ string) {
	e.Str(zerolog.TimestampFieldName, time.Now().UTC().Format("2006-01-02T15:04:05.000Z07:00"))
}

// Write implements io.Writer: line is one event, as zerolog makes it.
func (l *logging) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost > 0 && l.put(lostLines(l.lost)) {
		l.lost = 0
	}
	if l.lost > 0 || !l.put(line) {
		l.lost++
	}
	return len(line), nil
}

// lostLines is the line that says so. It is an error, for among what was lost there may have been one.
func lostLines(n int) []byte {
	var b bytes.Buffer
	log := zerolog.New(&b).Hook(stamp{})
	log.Error().Str("event", "lost").Int("lines", n).Msg("nobody took these lines of the log in time")
	return b.Bytes()
}

// put reports whether somebody took line.
func (l *logging) put(line []byte) bool {
	out := status.HarmlessJSON(line)
	switch l.form {
	case consoleLog:
		if e, err := parseLogLine(line); err == nil {
			out = e.console(l.colours)
		}
	case journalLog:
		e, err := parseLogLine(line)
		if err == nil && l.journal.send(e.native()) == nil {
			return true
		}
		// By way of stderr the journal takes no fields, but the priority in front (sd-daemon(3)).
		out = fmt.Appendf(nil, "<%d>%s", e.priority(), out)
	}
	return l.stderr.write(out)
}

// isJournal reports whether stream is the one that the journal reads: systemd says in JOURNAL_STREAM which device and inode
// that has (systemd.exec(5)), since a program may have been given another stderr after that.
func isJournal(stream any, says string) bool {
	f, ok := stream.(*os.File)
	if !ok || says == "" {
		return false
	}
	var is unix.Stat_t
	return unix.Fstat(int(f.Fd()), &is) == nil && says == fmt.Sprintf("%d:%d", is.Dev, is.Ino)
}
