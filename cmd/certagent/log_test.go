package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"certagent/agent/status"
)

// nasty is what a server could say to forge a field, a line or a colour.
const nasty = "no\nPRIORITY=0\nMESSAGE=all is well\n\x1b[2J\u009b31m\u202e \"quoted\" \U000e0041"

// entryOf parses the journal's native protocol strictly, as systemd.io/JOURNAL_NATIVE_PROTOCOL has it.
func entryOf(entry []byte) (fields [][2]string, err error) {
	valid := func(name string) bool {
		return name != "" && len(name) <= 64 && strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") == "" && name[0] >= 'A'
	}
	for len(entry) > 0 {
		line, rest, ended := bytes.Cut(entry, []byte{'\n'})
		if !ended {
			return nil, fmt.Errorf("%q has no end", line)
		}
		name, value, inline := strings.Cut(string(line), "=")
		if !inline {
			if len(rest) < 8 {
				return nil, fmt.Errorf("%s has no length", name)
			}
			n := binary.LittleEndian.Uint64(rest)
			if rest = rest[8:]; n >= uint64(len(rest)) || rest[n] != '\n' {
				return nil, fmt.Errorf("%s has the length %d", name, n)
			}
			value, rest = string(rest[:n]), rest[n+1:]
		}
		if !valid(name) {
			return nil, fmt.Errorf("%q is no name of a field", name)
		}
		fields, entry = append(fields, [2]string{name, value}), rest
	}
	return fields, nil
}

// journald is a socket that takes entries as journald does.
func journald(t *testing.T) (path string, next func() (entry [][2]string, inFile bool)) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "socket")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close() })
	return path, func() ([][2]string, bool) {
		t.Helper()
		data, rights := make([]byte, 1<<20), make([]byte, 64)
		if err := socket.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		n, nrights, _, _, err := socket.ReadMsgUnix(data, rights)
		if err != nil {
			t.Fatal(err)
		}
		data = data[:n]
		if nrights > 0 {
			control, err := unix.ParseSocketControlMessage(rights[:nrights])
			if err != nil {
				t.Fatal(err)
			}
			fds, err := unix.ParseUnixRights(&control[0])
			if err != nil || n != 0 || len(fds) != 1 {
				t.Fatalf("%d files beside %d bytes: %v", len(fds), n, err)
			}
			const all = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
			if seals, err := unix.FcntlInt(uintptr(fds[0]), unix.F_GET_SEALS, 0); err != nil || seals&all != all {
				t.Fatalf("the file has the seals %x: %v", seals, err)
			}
			file := os.NewFile(uintptr(fds[0]), "entry")
			defer file.Close()
			if data, err = io.ReadAll(io.NewSectionReader(file, 0, 1<<30)); err != nil {
				t.Fatal(err)
			}
		}
		fields, err := entryOf(data)
		if err != nil {
			t.Fatalf("%v in %q", err, data)
		}
		return fields, nrights > 0
	}
}

// TestJournalEntries: fields are fields whatever is in them, a list is one for each, and what is too big for a datagram comes
// in a sealed file.
func TestJournalEntries(t *testing.T) {
	t.Parallel()
	path, next := journald(t)
	var stderr bytes.Buffer
	l := &logging{stderr: outlet{to: &stderr}, form: journalLog, journal: newJournal(path)}
	log := l.logger()
	log.Error().Str("event", "attempt").Str("certificate", "mqtt").Str("result", "failed").Ints("statuses", []int{200, 401, 200}).Strs("problems", []string{"a", "b"}).
		Str("error", nasty).Str("next_try", "2026-01-01T00:00:00Z").Msg("certificate not issued")
	entry, inFile := next()
	want := [][2]string{
		{"PRIORITY", "3"}, {"SYSLOG_IDENTIFIER", "certagent"},
		{"MESSAGE", "mqtt: certificate not issued: " + status.Printable(nasty) + "; next try 2026-01-01T00:00:00Z"},
		{"MESSAGE_ID", messageIDs["attempt/failed"]}, {"CERTAGENT_EVENT", "attempt"}, {"CERTAGENT_CERTIFICATE", "mqtt"},
		{"CERTAGENT_RESULT", "failed"}, {"CERTAGENT_STATUSES", "200 401 200"}, {"CERTAGENT_PROBLEMS", "a"}, {"CERTAGENT_PROBLEMS", "b"}, {"CERTAGENT_ERROR", nasty},
		{"CERTAGENT_NEXT_TRY", "2026-01-01T00:00:00Z"},
	}
	if !slices.Equal(entry, want) || inFile {
		t.Errorf("in a file: %v\n%q, want\n%q", inFile, entry, want)
	}
	for _, size := range []int{1 << 10, 4 << 20} {
		big := strings.Repeat("é\n", size/3)
		log.Info().Str("event", "start").Str("error", big).Msg("agent started")
		entry, inFile := next()
		if inFile != (size > 1<<20) || !slices.Contains(entry, [2]string{"CERTAGENT_ERROR", big}) || !slices.Contains(entry, [2]string{"PRIORITY", "6"}) {
			t.Errorf("an entry of %d bytes comes in a file: %v", size, inFile)
		}
	}
	if stderr.Len() > 0 {
		t.Errorf("on stderr as well: %s", &stderr)
	}
}

// TestJournalThatDoesNotTakeIt: where the journal is not there, or hangs, the line goes to stderr with its priority.
func TestJournalThatDoesNotTakeIt(t *testing.T) {
	t.Parallel()
	hangs, _ := journald(t)
	for name, path := range map[string]string{"not there": filepath.Join(t.TempDir(), "none"), "hangs": hangs} {
		var stderr bytes.Buffer
		l := &logging{stderr: outlet{to: &stderr}, form: journalLog, journal: newJournal(path)}
		log := l.logger()
		for n := 0; stderr.Len() == 0; n++ { // one that hangs takes what fits into its queue (net.unix.max_dgram_qlen)
			log.Warn().Str("event", "disk").Str("error", nasty).Msg("not read")
			if n > 1<<16 {
				t.Fatalf("%s: nobody reads, and nothing comes to stderr", name)
			}
		}
		line, is := strings.CutPrefix(stderr.String(), "<4>")
		var fields map[string]string
		if err := json.Unmarshal([]byte(line), &fields); !is || err != nil || fields["error"] != nasty {
			t.Errorf("%s: %v in %q", name, err, stderr.String())
		}
	}
}

// TestForms: no value reaches the terminal or makes a line of its own, in any form; JSON says what was said.
func TestForms(t *testing.T) {
	t.Parallel()
	for _, form := range []string{jsonLog, consoleLog} {
		for _, colours := range []bool{false, true} {
			var stderr bytes.Buffer
			l := &logging{stderr: outlet{to: &stderr}, form: form, colours: colours}
			log := l.logger()
			log.Warn().Str("event", "attempt").Str("certificate", "mqtt").Str("error", nasty).Str("hint", nasty).Int("failures", 2).
				Bool("new_key", true).Float64("took_seconds", .25).Strs("warnings", []string{nasty, "b"}).Msg("certificate not issued")
			line := strings.TrimSuffix(stderr.String(), "\n")
			plain := line
			if form == consoleLog && colours {
				if !strings.Contains(line, "\x1b[33mwarn \x1b[0m ") {
					t.Errorf("no colour in %q", line)
				}
				for _, code := range []string{"\x1b[33m", "\x1b[2m", "\x1b[0m"} {
					plain = strings.ReplaceAll(plain, code, "")
				}
			}
			if plain != status.Printable(plain) {
				t.Errorf("%s: the terminal is reached by %q", form, line)
			}
			if form == jsonLog {
				var fields map[string]any
				if err := json.Unmarshal([]byte(line), &fields); err != nil || fields["error"] != nasty {
					t.Errorf("%v in %s", err, line)
				}
			} else if !strings.Contains(plain, "warn  mqtt: certificate not issued: no PRIORITY=0 ") || !strings.Contains(plain, " failures=2 new_key=true took_seconds=0.25 warnings=") {
				t.Errorf("a line for people: %q", plain)
			}
		}
	}
}

// TestTimeOfALine: wherever the gateway stands, all times of its log are in UTC and compare as texts.
func TestTimeOfALine(t *testing.T) {
	here := time.Local
	time.Local = time.FixedZone("elsewhere", 9*3600)
	t.Cleanup(func() { time.Local = here })
	line := jsonLine("m")
	if !regexp.MustCompile(`"time":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"`).MatchString(line) {
		t.Error(line)
	}
}

// TestWhereStderrGoes: the journal is told by device and inode, so that a stderr that somebody turned elsewhere is not taken for it.
func TestWhereStderrGoes(t *testing.T) {
	t.Parallel()
	file, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var is unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &is); err != nil {
		t.Fatal(err)
	}
	for says, want := range map[string]bool{
		fmt.Sprintf("%d:%d", is.Dev, is.Ino): true, fmt.Sprintf("%d:%d", is.Dev, is.Ino+1): false, fmt.Sprintf("%d:%d", is.Dev+1, is.Ino): false, "": false, "no": false,
	} {
		if isJournal(file, says) != want {
			t.Errorf("JOURNAL_STREAM=%q: %v", says, !want)
		}
	}
	if isJournal(&bytes.Buffer{}, "1:1") {
		t.Error("what is no file is the journal's")
	}
}

// A log that nobody can write is no error of whoever logs.
func TestLogThatFails(t *testing.T) {
	t.Parallel()
	l := &logging{stderr: outlet{to: failing{}}, form: consoleLog}
	for _, line := range []string{"{\"level\":\"info\",\"message\":\"m\"}\n", "no JSON\n"} {
		if n, err := l.Write([]byte(line)); n != len(line) || err != nil {
			t.Errorf("%d, %v", n, err)
		}
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("nobody reads") }
