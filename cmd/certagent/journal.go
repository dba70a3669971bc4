package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// journalSocket takes the journal's native protocol (systemd-journald.service(8)).
const journalSocket = "/run/systemd/journal/socket"

// messageIDs names the events that matter for MESSAGE_ID= (systemd.journal-fields(7)), by event and result. They stand in
// docs/logging.md and never change. The map itself is never written.
var messageIDs = map[string]string{
	"start":                   "9464e643300e48e8b6c640c586a5a700",
	"stop":                    "68b9236f2df844e285896eb470b041fa",
	"attempt/issued":          "d55b9773a3534ad3b0ebdf1ff662c5af",
	"attempt/waiting":         "3f2a67d5a46545a48a14678ddb0d02ad",
	"attempt/failed":          "6cc3a053d4fb4f11a7be41eabda08af1",
	"delivery/delivered":      "85c2e487bf454cbf82eb8ecf30ca7b7f",
	"delivery/failed":         "25020ad2122d41c48d4231b794a2c2ef",
	"registration/registered": "8f10434122d5609ec1dba44f968e413b",
	"registration/failed":     "5271578f374d1afaecaee6c43028521d",
	"reload/loaded":           "8bce33098af44ef2b75d99bd065bbf93",
	"reload/failed":           "477a6bf07a0545d78a626dcff8cf2b75",
	"trust":                   "a0832cb4a3e34fcaaea585dac4d54a42",
	"clock":                   "cc000b9c6a7d4d53a6c68f173f7950ec",
	"import":                  "b90b46c2c02441cab27e53f9285a5735",
	"loss":                    "392eb75ba3d64a66a397817e2a53186d",
	"disk":                    "8d2130e542894339b79b9ed0641bbab4",
}

// messageID is the MESSAGE_ID of a line, "" where it has none.
func (l logLine) messageID() string {
	event := l.get("event")
	if id, ok := messageIDs[event]; ok {
		return id
	}
	return messageIDs[event+"/"+l.get("result")]
}

// native is the line as the journal takes it: MESSAGE is for people, and each field stands for itself as CERTAGENT_NAME=, once for
// each text of a list, so that it is found by each. journald keeps neither the order of these nor one that comes twice.
func (l logLine) native() []byte {
	var b []byte
	b = appendJournalField(b, "PRIORITY", strconv.Itoa(l.priority()))
	b = appendJournalField(b, "SYSLOG_IDENTIFIER", "certagent")
	b = appendJournalField(b, "MESSAGE", l.sentence())
	if id := l.messageID(); id != "" {
		b = appendJournalField(b, "MESSAGE_ID", id)
	}
	for _, f := range l.fields {
		for _, v := range f.values {
			b = appendJournalField(b, "CERTAGENT_"+strings.ToUpper(f.name), v)
		}
	}
	return b
}

// appendJournalField writes a value with a line break, or another control character, with its length in front: no value can
// be the beginning of another field.
func appendJournalField(b []byte, name, value string) []byte {
	if !strings.ContainsFunc(value, func(r rune) bool { return r < ' ' }) {
		return fmt.Appendf(b, "%s=%s\n", name, value)
	}
	b = append(b, name+"\n"...)
	b = binary.LittleEndian.AppendUint64(b, uint64(len(value)))
	return append(b, value+"\n"...)
}

// journal sends to journald. It is not for concurrent use.
type journal struct {
	to     unix.SockaddrUnix
	socket int  // -1 while there is none
	busy   bool // it did not take the last entry, so that the next does not wait for it
}

func newJournal(path string) *journal { return &journal{to: unix.SockaddrUnix{Name: path}, socket: -1} }

// journalPatience is how long a line waits for a journal that is busy. One that hangs costs that once.
const journalPatience = 250 * time.Millisecond

// send gives the journal one entry. One that is too big for a datagram goes as a sealed file in memory.
func (j *journal) send(entry []byte) error {
	if j.socket < 0 {
		socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open a socket for the journal: %w", err)
		}
		patience := unix.NsecToTimeval(journalPatience.Nanoseconds())
		if err := unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &patience); err != nil {
			_ = unix.Close(socket)
			return fmt.Errorf("limit the wait for the journal: %w", err)
		}
		j.socket = socket
	}
	flags := unix.MSG_NOSIGNAL
	if j.busy {
		flags |= unix.MSG_DONTWAIT
	}
	send := func(data, rights []byte) error {
		return again(func() error { return unix.Sendmsg(j.socket, data, rights, &j.to, flags) })
	}
	err := send(entry, nil)
	if errors.Is(err, unix.EMSGSIZE) || errors.Is(err, unix.ENOBUFS) {
		file, err2 := sealed(entry)
		if err2 != nil {
			return err2
		}
		defer unix.Close(file)
		err = send(nil, unix.UnixRights(file))
	}
	j.busy = errors.Is(err, unix.EAGAIN)
	return err
}

// sealed is a file in memory with that content, which nobody can change any more: journald takes no other.
func sealed(content []byte) (file int, err error) {
	file, err = unix.MemfdCreate("certagent-journal", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return -1, fmt.Errorf("make a file for the journal: %w", err)
	}
	for len(content) > 0 && err == nil {
		var n int
		err = again(func() (err error) { n, err = unix.Write(file, content); return err })
		content = content[max(n, 0):]
	}
	if err == nil {
		_, err = unix.FcntlInt(uintptr(file), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE)
	}
	if err != nil {
		_ = unix.Close(file)
		return -1, fmt.Errorf("write a file for the journal: %w", err)
	}
	return file, nil
}

// again makes a system call until no signal interrupts it.
func again(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
