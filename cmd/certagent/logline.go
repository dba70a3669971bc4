package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"certagent/agent/status"
)

// logLine is one event of the log, out of the JSON that it is made in.
type logLine struct {
	level         zerolog.Level
	time, message string
	fields        []logField // the others, in order
}

// logField has one value, or those of a list of texts. A list of numbers is one value, with spaces in between.
type logField struct {
	name   string
	values []string
}

// parseLogLine reads what zerolog wrote: an object whose values are strings, numbers, booleans, or lists of those.
func parseLogLine(line []byte) (logLine, error) {
	l := logLine{level: zerolog.NoLevel}
	in := json.NewDecoder(bytes.NewReader(line))
	in.UseNumber()
	if t, err := in.Token(); err != nil || t != json.Delim('{') {
		return l, errors.New("not an object")
	}
	for in.More() {
		name, err := in.Token()
		if err != nil {
			return l, err
		}
		values, err := logValues(in)
		if err != nil {
			return l, err
		}
		f := logField{fmt.Sprint(name), values}
		switch f.name {
		case zerolog.LevelFieldName:
			l.level, _ = zerolog.ParseLevel(f.value())
		case zerolog.TimestampFieldName:
			l.time = f.value()
		case zerolog.MessageFieldName:
			l.message = f.value()
		default:
			l.fields = append(l.fields, f)
		}
	}
	return l, nil
}

func logValues(in *json.Decoder) ([]string, error) {
	t, err := in.Token()
	if err != nil {
		return nil, err
	}
	if t != json.Delim('[') {
		return []string{fmt.Sprint(t)}, nil
	}
	values, numbers := []string{}, false
	for in.More() {
		t, err := in.Token()
		if err != nil {
			return nil, err
		}
		_, numbers = t.(json.Number)
		values = append(values, fmt.Sprint(t))
	}
	if numbers {
		values = []string{strings.Join(values, " ")}
	}
	_, err = in.Token() // the end of the list
	return values, err
}

func (f logField) value() string { return strings.Join(f.values, "; ") }

// get is the value of a field, "" where it has none.
func (l logLine) get(name string) string {
	i := slices.IndexFunc(l.fields, func(f logField) bool { return f.name == name })
	if i < 0 {
		return ""
	}
	return l.fields[i].value()
}

// sentence says what happened, to what, why, and what happens next: one line, for people.
func (l logLine) sentence() string {
	var b strings.Builder
	if id := l.get("certificate"); id != "" {
		b.WriteString(id + ": ")
	}
	b.WriteString(l.message)
	for _, name := range inSentence {
		if v := l.get(name); v != "" {
			b.WriteString(": " + v)
		}
	}
	if result := l.get("result"); result == status.Failed || result == status.Waiting {
		if at := l.get("next_try"); at != "" {
			b.WriteString("; next try " + at)
		}
	}
	return status.Printable(b.String())
}

// inSentence are the fields that say why.
var inSentence = [...]string{"error", "errors", "warning", "why"}

// console is the line for a person at a terminal.
func (l logLine) console(colours bool) []byte {
	paint := func(code, text string) string {
		if !colours {
			return text
		}
		return "\x1b[" + code + "m" + text + "\x1b[0m"
	}
	at := l.time
	if t, err := time.Parse(time.RFC3339, l.time); err == nil {
		at = t.Local().Format(time.DateTime)
	}
	label, colour := consoleLevel(l.level)
	b := []byte(paint("2", status.Printable(at)) + " " + paint(colour, label) + " " + l.sentence())
	said := append([]string{"event", "certificate", "result"}, inSentence[:]...)
	for _, f := range l.fields {
		if slices.Contains(said, f.name) {
			continue
		}
		value := status.Printable(f.value())
		if value == "" || strings.ContainsAny(value, ` "=`) {
			value = strconv.Quote(value)
		}
		b = append(b, " "+paint("2", status.Printable(f.name)+"=")+value...)
	}
	return append(b, '\n')
}

// consoleLevel is a level in as many letters, and its colour (SGR, ECMA-48).
func consoleLevel(l zerolog.Level) (label, colour string) {
	switch l {
	case zerolog.DebugLevel, zerolog.TraceLevel:
		return "debug", "2"
	case zerolog.InfoLevel:
		return "info ", "32"
	case zerolog.WarnLevel:
		return "warn ", "33"
	}
	return "error", "1;31"
}

// priority is the level as syslog(3) counts.
func (l logLine) priority() int {
	switch l.level {
	case zerolog.DebugLevel, zerolog.TraceLevel:
		return 7
	case zerolog.InfoLevel:
		return 6
	case zerolog.WarnLevel:
		return 4
	}
	return 3
}
