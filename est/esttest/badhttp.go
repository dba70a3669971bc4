package esttest

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
)

const certsOnlyType = "application/pkcs7-mime; smime-type=certs-only"

// ok is a success, byte for byte.
func ok(contentType string, body []byte) string {
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s", contentType, len(body), body)
}

// badHTTP misbehave in the framing of an answer.
func badHTTP() []Misbehaviour {
	const head = "HTTP/1.1 200 OK\r\nContent-Type: " + certsOnlyType + "\r\n"
	line := strings.Repeat("A", 64) + "\n"
	page := strings.Repeat(line, 512)
	return []Misbehaviour{
		{Name: "header that drips", Class: "unavailable", Silent: true, play: onEnrol(raw(func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 200 OK\r\n")
			drip(c, "X-Slow: aaaaaaaaaaaaaaaaaaaaaaaa\r\n")
		}))},
		{Name: "body that drips", Class: "unavailable", Silent: true, play: onEnrol(raw(func(c net.Conn) {
			io.WriteString(c, head+"Content-Length: 100000\r\n\r\n")
			drip(c, line)
		}))},
		{Name: "status line that drips", Class: "unavailable", Silent: true, play: onEnrol(raw(func(c net.Conn) {
			drip(c, "HTTP/1.1 200 OK and it goes on and on and on and on and on and on and on")
		}))},
		{Name: "/cacerts that drips", Class: "unavailable", Silent: true, play: onCACerts(raw(func(c net.Conn) {
			io.WriteString(c, head+"Content-Length: 100000\r\n\r\n")
			drip(c, line)
		}))},
		{Name: "hangs when asked", Class: "unavailable", Silent: true,
			play: onEnrol(Hang(context.Background()))},
		{Name: "error whose body drips", Class: "unavailable", Silent: true, play: onEnrol(raw(func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4000\r\n\r\n")
			drip(c, "busy ")
		}))},
		{Name: "endless body of a success", Class: "bad-response", play: onEnrol(Endless(1 << 40))},
		{Name: "endless body of an error", Class: "unavailable", play: onEnrol(raw(func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 500 Internal Server Error\r\nContent-Type: text/plain\r\n\r\n")
			flood(c, page)
		}))},
		{Name: "endless body of a 401", Class: "unauthorized", play: onEnrolOfAnybody(raw(func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"r\"\r\n\r\n")
			flood(c, page)
		}))},
		{Name: "endless body of a redirect", Class: "bad-response", play: onEnrolOfAnybody(raw(func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 307 Temporary Redirect\r\nLocation: /.well-known/est/simpleenroll\r\n\r\n")
			flood(c, page)
		}))},
		{Name: "endless chunks of one byte", Class: "bad-response", play: onEnrol(raw(func(c net.Conn) {
			io.WriteString(c, head+"Transfer-Encoding: chunked\r\n\r\n")
			flood(c, strings.Repeat("1\r\nA\r\n", 4096))
		}))},
		{Name: "endless extension of a chunk", Class: "unavailable", play: onEnrol(raw(func(c net.Conn) {
			io.WriteString(c, head+"Transfer-Encoding: chunked\r\n\r\n1;x=")
			flood(c, strings.Repeat("x", 16<<10))
		}))},
		{Name: "endless trailer", Class: "unavailable", play: onEnrol(raw(func(c net.Conn) {
			io.WriteString(c, head+"Transfer-Encoding: chunked\r\n\r\n1\r\nA\r\n0\r\n")
			for n := 0; ; n++ {
				if _, err := fmt.Fprintf(c, "X-%d: %s\r\n", n, page[:1<<10]); err != nil {
					return
				}
			}
		}))},
		{Name: "chunk of a size that is none", Class: "unavailable",
			play: onEnrol(text(head + "Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nA\r\n"))},
		{Name: "endless header", Class: "unavailable", play: onEnrol(raw(func(c net.Conn) {
			io.WriteString(c, head)
			flood(c, strings.Repeat("X-More: and more\r\n", 512))
		}))},
		{Name: "endless status line", Class: "unavailable", play: onEnrol(raw(func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 200 ")
			flood(c, strings.Repeat("O", 16<<10))
		}))},
		{Name: "header of 1 MiB in one line", Class: "unavailable",
			play: onEnrol(text(head + "X-Large: " + strings.Repeat("x", 1<<20) + "\r\nContent-Length: 0\r\n\r\n"))},
		{Name: "header of 10000 lines", Class: "unavailable",
			play: onEnrol(text(head + strings.Repeat("X-Many: 1\r\n", 10000) + "Content-Length: 0\r\n\r\n"))},
		{Name: "gzip bomb that was not asked for", Class: "bad-response", play: func(s *Server) {
			bomb := zeros(512)
			onEnrol(text(head + fmt.Sprintf("Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s", len(bomb), bomb)))(s)
		}},
		{Name: "less than Content-Length and silence", Class: "unavailable", Silent: true,
			play: onEnrol(text(head + "Content-Length: 1000\r\n\r\nMIIB"))},
		{Name: "less than Content-Length and the end", Class: "unavailable", play: onEnrol(CutBody(100))},
		{Name: "more than Content-Length", Class: "bad-response",
			play: onEnrol(text(head + "Content-Length: 65\r\n\r\n" + page))},
		{Name: "negative Content-Length", Class: "unavailable", play: onEnrol(text(head + "Content-Length: -1\r\n\r\n"))},
		{Name: "two values of Content-Length", Class: "unavailable",
			play: onEnrol(text(head + "Content-Length: 4\r\nContent-Length: 5\r\n\r\nMIIB5"))},
		{Name: "Content-Length beyond 64 bits", Class: "unavailable",
			play: onEnrol(text(head + "Content-Length: 99999999999999999999\r\n\r\nMIIB"))},
		{Name: "Transfer-Encoding of no known kind", Class: "unavailable",
			play: onEnrol(text(head + "Transfer-Encoding: est\r\n\r\nMIIB"))},
		{Name: "HTTP/0.9", Class: "unavailable", play: onEnrol(textAndEnd("<html><body>it works</body></html>\n"))},
		{Name: "a version of HTTP that is none", Class: "unavailable", play: onEnrol(textAndEnd("HTTP/x 200 OK\r\n\r\n"))},
		{Name: "HTTP/2 SETTINGS", Class: "unavailable", play: onEnrol(textAndEnd("\x00\x00\x00\x04\x00\x00\x00\x00\x00"))},
		{Name: "garbage in place of HTTP", Class: "unavailable",
			play: onEnrol(textAndEnd(strings.Repeat("\x00\x1b[2J\xff\xfe", 100) + "\r\n"))},
		{Name: "header line without a colon", Class: "unavailable",
			play: onEnrol(textAndEnd("HTTP/1.1 200 OK\r\nthis is no header\r\n\r\n"))},
		{Name: "endless 100 Continue", Class: "unavailable", play: onEnrol(raw(func(c net.Conn) {
			flood(c, strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 64))
		}))},
		{Name: "endless 103 Early Hints", Class: "unavailable", play: onEnrol(raw(func(c net.Conn) {
			flood(c, strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", 64))
		}))},
		{Name: "102 Processing that drips", Class: "unavailable", Silent: true, play: onEnrol(raw(func(c net.Conn) {
			drip(c, "HTTP/1.1 102 Processing\r\n\r\n")
		}))},
		{Name: "closes in place of an answer", Class: "unavailable", play: onEnrol(CloseBeforeAnswer)},
		{Name: "issues, and loses the answer", Class: "unavailable", play: onEnrol(LoseAnswer)},
		{Name: "resets in place of an answer", Class: "unavailable", play: onEnrol(raw(reset))},
		{Name: "resets inside the header", Class: "unavailable", play: onEnrol(raw(func(c net.Conn) {
			io.WriteString(c, head)
			reset(c)
		}))},
		{Name: "resets before it has read the request", Class: "unavailable", play: onEnrol(
			func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
				if c, _, err := http.NewResponseController(w).Hijack(); err == nil {
					reset(c)
				}
			})},
		{Name: "close_notify inside the body", Class: "unavailable",
			play: onEnrol(textAndEnd(head + "Content-Length: 99\r\n\r\nMIIB"))},
		{Name: "ends inside the body without close_notify", Class: "bad-response", play: onEnrol(raw(func(c net.Conn) {
			io.WriteString(c, head+"\r\nMIIB") // until the end, and the end is forged: anybody can send a FIN
			_, below := bare(c)
			below.Close()
		}))},
		{Name: "a second answer behind that of /cacerts", play: onCACerts(
			func(w http.ResponseWriter, r *http.Request, real http.Handler) {
				answer := capture(real, r)
				text(ok(certsOnlyType, answer.body)+"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")(w, r, real)
			})},
		{Name: "text behind the answer of /cacerts", play: onCACerts(
			func(w http.ResponseWriter, r *http.Request, real http.Handler) {
				answer := capture(real, r)
				text(ok(certsOnlyType, answer.body)+"\x1b[31mERROR: run me as root\r\n")(w, r, real)
			})},
	}
}

// zeros returns n MiB of nothing, compressed: members one behind the other are one file (RFC 1952 2.2).
func zeros(n int) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write(make([]byte, 1<<20))
	z.Close()
	return bytes.Repeat(b.Bytes(), n)
}
