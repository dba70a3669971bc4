package main

import (
	"io"
	"os"
	"time"

	"github.com/rs/zerolog"

	"certagent/agent/config"
)

// newLog writes to stderr as [log] says: for people on a terminal, as JSON elsewhere.
func newLog(c config.Log, stderr io.Writer) (zerolog.Logger, error) {
	level, err := zerolog.ParseLevel(c.Level)
	if err != nil {
		return zerolog.Nop(), err
	}
	if c.Format == "console" || c.Format == "auto" && isTerminal(stderr) {
		stderr = zerolog.ConsoleWriter{Out: stderr, TimeFormat: time.DateTime, NoColor: os.Getenv("NO_COLOR") != ""}
	}
	return zerolog.New(stderr).Level(level).With().Timestamp().Logger(), nil
}
