package hook

import (
	"bytes"
	"errors"
	"os"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

const (
	// outputShown is how much of a program's output is shown: its end.
	outputShown = 4 << 10
	// outputKept is how much is kept while the program runs. It is more, so that of a private key which reaches into
	// what is shown the beginning or the end is seen; the longest (RSA-8192, PKCS#8) has some 6.3 KiB in PEM.
	outputKept = 16 << 10
	// leftOpen is how long to go on reading after a program has ended while a child of its holds the output open.
	leftOpen = 250 * time.Millisecond
	// pipeHolds is what a pipe holds unless somebody has changed that (pipe(7)).
	pipeHolds = 64 << 10
)

// output reads what a program writes, however much, and keeps the end.
type output struct {
	from  *os.File
	ended chan struct{} // closed when everybody has closed the output, or end was called

	// Until ended is closed these belong to the reading goroutine.
	kept []byte
	cut  bool // something was written before kept
}

// newOutput returns an output, and the file to which the program writes. The caller closes that file, and calls end.
func newOutput() (*output, *os.File, error) {
	from, to, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	o := &output{from: from, ended: make(chan struct{})}
	go o.read() // ends when all writers have closed, or at end's deadline
	return o, to, nil
}

func (o *output) read() {
	defer close(o.ended)
	buf := make([]byte, outputKept)
	for {
		n, err := o.from.Read(buf)
		o.keep(buf[:n])
		if errors.Is(err, os.ErrDeadlineExceeded) {
			o.readRest(buf)
		}
		if err != nil {
			return
		}
	}
}

// keep adds what was read, and forgets what is too old.
func (o *output) keep(read []byte) {
	o.kept = append(o.kept, read...)
	if over := len(o.kept) - outputKept; over > 0 {
		o.kept = append(o.kept[:0], o.kept[over:]...)
		o.cut = true
	}
}

// readRest reads what is in the pipe without waiting: on a busy machine the time was over before anybody read.
func (o *output) readRest(buf []byte) {
	pipe, err := o.from.SyscallConn()
	if err != nil {
		return
	}
	_ = pipe.Control(func(fd uintptr) { // it fails on a closed file alone, which has nothing more
		for range pipeHolds / len(buf) { // somebody may be writing for ever
			n, err := unix.Read(int(fd), buf)
			if n <= 0 || err != nil {
				return
			}
			o.keep(buf[:n])
		}
	})
}

// end stops reading when all writers have closed, at the latest after patience, and returns what is to be shown. Who
// writes later gets SIGPIPE.
func (o *output) end(patience time.Duration) string {
	_ = o.from.SetReadDeadline(time.Now().Add(patience)) // a pipe has deadlines
	<-o.ended
	_ = o.from.Close() // nothing was written to it
	return shown(o.kept, o.cut)
}

const pemKey = `[A-Z0-9 ]*PRIVATE KEY-----`

var (
	wholeKey  = regexp.MustCompile(`(?s)-----BEGIN ` + pemKey + `.*?(-----END ` + pemKey + `|\z)`)
	restOfKey = regexp.MustCompile(`(?s)\A.*-----END ` + pemKey)
)

const (
	redacted = "[redacted: private key]"
	cutMark  = "[the beginning was cut off]\n"
)

// shown is what may be shown to anybody: valid UTF-8, printable, without private keys in PEM, no longer than
// outputShown and a mark. Cut says that kept is only the end of what was written.
func shown(kept []byte, cut bool) string {
	kept = wholeKey.ReplaceAll(kept, []byte(redacted))
	kept = restOfKey.ReplaceAll(kept, []byte(redacted)) // its beginning was cut off
	text := strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, string(bytes.ToValidUTF8(kept, []byte("?"))))
	if over := len(text) - outputShown; over > 0 {
		for !utf8.RuneStart(text[over]) {
			over++
		}
		text, cut = text[over:], true
	}
	if cut {
		text = cutMark + text
	}
	return text
}
