package est

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// rawServer speaks TLS on loopback and leaves everything inside to serve, which is told the number of the connection,
// from 1. It returns options for it.
func rawServer(t *testing.T, root *authority, serve func(c *tls.Conn, n int)) Options {
	t.Helper()
	config := &tls.Config{Certificates: []tls.Certificate{*root.tlsCertificate(t, serverTemplate())}}
	var conns atomic.Int32
	address := listen(t, func(c net.Conn) {
		secured := tls.Server(c, config)
		serve(secured, int(conns.Add(1)))
		secured.Close()
	})
	return Options{URL: mustParse(t, "https://"+address+"/.well-known/est"), Anchors: []*x509.Certificate{root.cert},
		Timeout: 20 * time.Second}
}

// ok is an answer with status 200.
func ok(body []byte) string {
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: application/pkcs7-mime\r\nContent-Length: %d\r\n\r\n%s",
		len(body), body)
}

// asksForLogin is a 401 as servers of all kinds send it.
const asksForLogin = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"r\"\r\nContent-Length: 0\r\n\r\n"

// The requests, byte for byte: what servers of every kind accept. One connection, and another one after a 401; each is
// closed at once when it is not needed any more, with a close-notify (crypto/tls says unexpected EOF for an end without).
func TestRequestsByteForByte(t *testing.T) {
	root := newRoot(t, "root")
	var seen [2]bytes.Buffer
	ended := make(chan error, 2)
	o := rawServer(t, root, func(c *tls.Conn, n int) {
		r := bufio.NewReader(io.TeeReader(c, &seen[n-1]))
		for {
			request, err := http.ReadRequest(r)
			if err != nil {
				ended <- err
				return
			}
			body, _ := io.ReadAll(request.Body)
			switch {
			case request.Method == http.MethodGet:
				io.WriteString(c, ok(certsOnlyBody(t, root.cert)))
			case request.Header.Get("Authorization") == "":
				io.WriteString(c, asksForLogin)
			default:
				der, _ := base64.StdEncoding.DecodeString(string(body))
				io.WriteString(c, ok(certsOnlyBody(t, root.issue(t, der))))
			}
		}
	})
	o.Login, o.UserAgent = login, "certagent/1"
	_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
	c := newClient(t, o)
	if _, err := c.Enroll(t.Context(), csr, Want{}); err != nil {
		t.Fatal(err)
	}
	c.Close()
	for range seen {
		if err := <-ended; err != io.EOF {
			t.Errorf("a connection ended with %v", err)
		}
	}

	body := string(wrapBase64(csr))
	get := fmt.Sprintf("GET /.well-known/est/cacerts HTTP/1.1\r\nHost: %s\r\nUser-Agent: certagent/1\r\n\r\n", o.URL.Host)
	post := func(authorization string) string {
		return fmt.Sprintf("POST /.well-known/est/simpleenroll HTTP/1.1\r\nHost: %s\r\nUser-Agent: certagent/1\r\n"+
			"Content-Length: %d\r\n%sContent-Transfer-Encoding: base64\r\nContent-Type: application/pkcs10\r\n\r\n%s",
			o.URL.Host, len(body), authorization, body)
	}
	want := []string{get + post(""), post("Authorization: Basic ZXN0dXNlcjplc3Rwd2Q=\r\n")}
	if got := []string{seen[0].String(), seen[1].String()}; !slices.Equal(got, want) {
		t.Errorf("got\n%q\nwant\n%q", got, want)
	}
}

// What a server can send in place of HTTP, and what HTTP allows it to send without end.
func TestBadHTTP(t *testing.T) {
	root := newRoot(t, "root")
	_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
	t.Cleanup(func() { awaitNoClientGoroutines(t) })
	const head = "HTTP/1.1 200 OK\r\nContent-Type: application/pkcs7-mime\r\n"
	for _, test := range []struct {
		name    string
		first   string // sent before a request came
		answer  string // to each request
		endless string // sent after it for ever
		class   error
		want    string // in the error; "" is whatever it says
	}{
		{"answers before it is asked", ok(certsOnlyBody(t, root.cert)), "", "", ErrUnavailable, ""},
		{"HTTP/2 before it is asked", "\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x80", "", "",
			ErrUnavailable, ""},
		{"HTTP/2", "", "\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x80", "", ErrUnavailable, ""},
		{"another protocol", "220 mail.example ESMTP\r\n", "", "", ErrUnavailable, ""},
		{"100 without end", "", "", "HTTP/1.1 100 Continue\r\n\r\n", ErrUnavailable, "headers exceeded"},
		{"103 without end", "", "", "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", ErrUnavailable, "headers exceeded"},
		{"some 1xx, then an answer", "", strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", 20) +
			"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n", "", ErrUnauthorized, "HTTP 403"},
		{"101", "", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n", "x", ErrBadResponse,
			"HTTP 101"},
		{"header without end", "", head, "X-More: y\r\n", ErrUnavailable, "headers exceeded"},
		{"one line without end", "", "HTTP/1.1 200 ", "x", ErrUnavailable, "headers exceeded"},
		{"chunk extensions without end", "", head + "Transfer-Encoding: chunked\r\n\r\n",
			"1;" + strings.Repeat("e", 2000) + "\r\nA\r\n", ErrUnavailable, "too much non-data"},
		{"trailer without end", "", head + "Transfer-Encoding: chunked\r\n\r\n0\r\n", "X-More: y\r\n", ErrUnavailable,
			"trailer"},
		{"gzip", "", head + "Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00", "", ErrBadResponse,
			"neither base64 nor DER"},
		{"two lengths", "", head + "Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", "", ErrUnavailable, "Content-Length"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			o := rawServer(t, root, func(c *tls.Conn, _ int) {
				io.WriteString(c, test.first)
				for r := bufio.NewReader(c); ; {
					request, err := http.ReadRequest(r)
					if err != nil {
						return
					}
					io.Copy(io.Discard, request.Body)
					io.WriteString(c, test.answer)
					for test.endless != "" {
						if _, err := io.WriteString(c, strings.Repeat(test.endless, 100)); err != nil {
							return
						}
					}
				}
			})
			if test.want == "" {
				o.Timeout = time.Second // by which alone some of these end
			}
			c := newClient(t, o)
			_, err := c.Enroll(t.Context(), csr, Want{})
			e, is := errors.AsType[*Error](err)
			if !is || e.Class != test.class || e.Refusal != (test.class == ErrUnauthorized) ||
				!strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %q", err, test.want)
			}
			c.Close()
		})
	}
}
