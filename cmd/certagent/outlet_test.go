package main

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"certagent/est/esttest"
)

// narrow is a pipe with as little room as the system allows.
func narrow(t *testing.T) (read, write *os.File) {
	t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { read.Close(); write.Close() })
	if _, err := unix.FcntlInt(write.Fd(), unix.F_SETPIPE_SZ, 4096); err != nil {
		t.Fatal(err)
	}
	return read, write
}

// TestReaderHangs: lines of all sizes for a reader who hangs cost one wait, and when he goes on he is told how many he
// missed: each line was taken whole, or is counted.
func TestReaderHangs(t *testing.T) {
	t.Parallel()
	read, write := narrow(t)
	l := newLogging(write)
	log := l.logger()
	const sent = 200
	began := time.Now()
	for n := range sent {
		log.Error().Str("event", "disk").Str("error", strings.Repeat("x", n*97%9000)).Msg("not read")
	}
	if took := time.Since(began); took > 10*readerPatience {
		t.Errorf("%d lines took %v", sent, took)
	}
	text := make(chan string)
	go func() { // ends when the other end is closed
		all, _ := io.ReadAll(read)
		text <- string(all)
	}()
	for left := 1; left > 0; { // until the reader has caught up
		var err error
		if left, err = unix.IoctlGetInt(int(write.Fd()), unix.TIOCINQ); err != nil {
			t.Fatal(err)
		}
	}
	log.Info().Str("event", "stop").Msg("agent stopped")
	write.Close()
	whole, lost, all := 0, 0, <-text
	for line := range strings.Lines(all) {
		var said struct {
			Event, Level string
			Lines        int
		}
		switch err := json.Unmarshal([]byte(line), &said); {
		case err != nil: // it broke off, and counts as lost
		case said.Event == "lost" && said.Level == "error":
			lost += said.Lines
		default:
			whole++
		}
	}
	if whole+lost != sent+1 || lost < sent/2 || !strings.HasSuffix(all, `"message":"agent stopped"}`+"\n") {
		t.Errorf("of %d lines %d came and %d were lost:\n%s", sent+1, whole, lost, all)
	}
}

// TestAgentOutlivesItsLogsReader: an agent whose stderr nobody reads any more works, answers, feeds the watchdog and stops;
// who reads again is told of what he missed.
func TestAgentOutlivesItsLogsReader(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{})
	g := newGateway(t)
	g.configure("[log]\nlevel = \"debug\"\n" + served(s))
	read, write := narrow(t)
	manager, hear := g.manager()
	g.startInto(write, manager, "WATCHDOG_USEC=2000000")
	g.tell("wait", "mqtt").want(t, 0, "", ".*")
	for range 16 { // each is several hundred bytes
		g.tell("reload").want(t, 0, "", "")
		hear("RELOADING=1")
	}
	g.tell("renew", "--wait").want(t, 0, "issued", ".*")
	for range 3 {
		hear("WATCHDOG=1")
	}
	// A line at least is in the pipe, and the one that makes room for "lost" is some way behind it.
	lines := bufio.NewReader(read)
	g.until("the reader is told", func() bool {
		if err := read.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		g.signal(syscall.SIGHUP)
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(line, `"event":"lost"`)
	})
	g.stop()
}
