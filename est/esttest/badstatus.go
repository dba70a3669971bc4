package esttest

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
)

// badStatuses misbehave in what they answer, in well-formed HTTP.
func badStatuses() []Misbehaviour {
	status := func(code int, headers ...string) func(*Server) { return onEnrol(Status(code, headers...)) }
	redirect := func(code int, location string) func(*Server) { return status(code, "Location", location) }
	challenge := func(values ...string) func(*Server) {
		var headers []string
		for _, v := range values {
			headers = append(headers, "WWW-Authenticate", v)
		}
		return onEnrolOfAnybody(Status(http.StatusUnauthorized, headers...))
	}
	body := func(contentType, body string) func(*Server) { return onEnrol(Garbage(contentType, body)) }
	return []Misbehaviour{
		{Name: "101 Switching Protocols", Class: "bad-response", play: onEnrol(raw(func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: est\r\n\r\n")
			flood(c, strings.Repeat("A", 16<<10))
		}))},
		{Name: "204 on an enrolment", Class: "bad-response", play: status(204)},
		{Name: "206 on an enrolment", Class: "bad-response", play: status(206)},
		{Name: "200 with an empty body", Class: "bad-response", play: body(certsOnlyType, "")},
		{Name: "200 with white space", Class: "bad-response", play: body(certsOnlyType, strings.Repeat(" \r\n", 1000))},
		{Name: "200 with a web page", Class: "bad-response",
			play: body("text/html", "<html><title>Welcome to the hotel</title>\x1b[2J<p>Please log in.</html>")},
		{Name: "200 of a wrong media type", Class: "bad-response", play: body("application/json", `{"error":"busy"}`)},
		{Name: "200 of a media type of 10 KiB", Class: "bad-response", play: body("text/"+strings.Repeat("x", 10<<10), "x")},
		{Name: "200 with the request sent back", Class: "bad-response", play: onEnrol(
			func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
				w.Header().Set("Content-Type", certsOnlyType)
				io.Copy(w, r.Body)
			})},
		{Name: "web page for /cacerts", play: onCACerts(Garbage("text/html", "<html>"))},
		{Name: "503 for /cacerts", play: onCACerts(Status(503, "Retry-After", "60"))},
		{Name: "401 for /cacerts", Class: "unauthorized", play: func(s *Server) {
			s.Always("", Status(401, "WWW-Authenticate", `Basic realm="r"`))
		}},
		{Name: "endless body for /cacerts", play: onCACerts(Endless(1 << 40))},

		{Name: "web page for /csrattrs", play: onAttributes(Garbage("text/html", "<html>"))},
		{Name: "503 for /csrattrs", play: onAttributes(Status(503, "Retry-After", "60"))},
		{Name: "endless body for /csrattrs", play: onAttributes(Endless(1 << 40))},
		{Name: "/csrattrs nested 10000 deep", play: onAttributes(Garbage("application/csrattrs",
			base64.StdEncoding.EncodeToString(nested(10000))))},
		{Name: "/csrattrs of 100000 elements", play: onAttributes(Garbage("application/csrattrs",
			base64.StdEncoding.EncodeToString(tlv(0x30, bytes.Repeat([]byte("\x06\x01\x2a"), 100_000)))))},

		{Name: "redirect to itself", Class: "bad-response", play: onEnrolOfAnybody(
			func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
				http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
			})},
		{Name: "redirect there and back", Class: "bad-response", play: onEnrolOfAnybody(
			func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
				there, op := "/there/", r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
				if strings.HasPrefix(r.URL.Path, there) {
					there = "/.well-known/est/"
				}
				http.Redirect(w, r, there+op, http.StatusPermanentRedirect)
			})},
		{Name: "redirect out of TLS", Class: "bad-response",
			play: redirect(307, "http://127.0.0.1/.well-known/est/simpleenroll")},
		{Name: "redirect to another host", Class: "bad-response",
			play: redirect(307, "https://evil.example/.well-known/est/simpleenroll")},
		{Name: "redirect to another port", Class: "bad-response",
			play: redirect(308, "https://127.0.0.1:1/.well-known/est/")},
		{Name: "redirect with a login in it", Class: "bad-response", play: redirect(307, "https://you:me@127.0.0.1/")},
		{Name: "redirect that makes the POST a GET", Class: "bad-response", play: redirect(302, "/.well-known/est/cacerts")},
		{Name: "redirect to what is no URL", Class: "bad-response", play: redirect(307, "https://%zz")},
		{Name: "redirect to a name of 50 KiB", Class: "bad-response",
			play: redirect(307, "https://"+strings.Repeat("a", 50<<10)+".example/")},
		{Name: "redirect to no place", Class: "bad-response", play: status(307)},
		{Name: "300 Multiple Choices", Class: "bad-response", play: redirect(300, "/.well-known/est/cacerts")},
		{Name: "304 Not Modified", Class: "bad-response", play: status(304)},
		{Name: "305 Use Proxy", Class: "bad-response", play: redirect(305, "https://127.0.0.1:1/")},

		{Name: "401 for ever", Class: "unauthorized", play: challenge(`Basic realm="r"`)},
		{Name: "401 without WWW-Authenticate", Class: "unauthorized", play: challenge()},
		{Name: "401 with schemes that nobody knows", Class: "unauthorized",
			play: challenge("Negotiate", `Bearer scope="est"`)},
		{Name: "401 with a thousand challenges", Class: "unauthorized",
			play: challenge(strings.Repeat(`Digest nonce="x", `, 1000), strings.Repeat(`"\`, 1000))},
		{Name: "401 with a Digest that never holds", Class: "unauthorized",
			play: challenge(`Digest realm="r", nonce="\\\"\"", qop="auth", algorithm=SHA-256`)},
		{Name: "401 with a Digest of no known algorithm", Class: "unauthorized",
			play: challenge(`Digest realm="r", nonce="n", algorithm=ROT13`)},
		{Name: "401 with a Digest cut short", Class: "unauthorized", play: challenge(`Digest realm="r`)},
		{Name: "403", Class: "unauthorized", play: status(403)},
		{Name: "404", Class: "rejected", play: status(404)},
		{Name: "407 from the server", Class: "rejected", play: status(407, "Proxy-Authenticate", `Basic realm="r"`)},
		{Name: "413", Class: "rejected", play: status(413)},
		{Name: "501", Class: "rejected", play: status(501)},
		{Name: "600", Class: "bad-response", play: status(600)},
		{Name: "429", Class: "unavailable", play: status(429)},
		{Name: "429 with Retry-After", Class: "unavailable", play: status(429, "Retry-After", "120")},
		{Name: "503", Class: "unavailable", play: status(503)},
		{Name: "503 with Retry-After", Class: "unavailable", play: status(503, "Retry-After", "120")},
		{Name: "503 until the next century", Class: "unavailable", play: status(503, "Retry-After", "3155760000")},
		{Name: "503 until a date in the next century", Class: "unavailable",
			play: status(503, "Retry-After", "Thu, 01 Jan 2150 00:00:00 GMT")},
		{Name: "503 until after the end of numbers", Class: "unavailable",
			play: status(503, "Retry-After", strings.Repeat("9", 1000))},
		{Name: "503 until before now", Class: "unavailable", play: status(503, "Retry-After", "-86400")},
		{Name: "503 until nobody knows when", Class: "unavailable", play: status(503, "Retry-After", "soon, or so")},
		{Name: "503 until a control character", Class: "unavailable",
			play: onEnrol(text("HTTP/1.1 503 Busy\r\nRetry-After: \x1b[5m\r\nContent-Length: 0\r\n\r\n"))},
		{Name: "202 for ever", Class: "pending", play: onEnrol(Pending202(3600e9))},
		{Name: "202 without Retry-After", Class: "pending", play: onEnrol(Pending202(-1))},
		{Name: "202 until the next century", Class: "pending", play: onEnrol(Status(202, "Retry-After", "3155760000"))},
		{Name: "202 with the body of a success", Class: "pending", play: onEnrol(
			func(w http.ResponseWriter, r *http.Request, real http.Handler) {
				answer := capture(real, r)
				w.Header().Set("Content-Type", certsOnlyType)
				w.WriteHeader(http.StatusAccepted)
				w.Write(answer.body)
			})},

		{Name: "500 that quotes the login", Class: "unavailable", play: onEnrol(quoting(
			"HTTP/1.1 500 AUTH USER:PASS\r\nX-Debug: AUTH\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n" +
				"Traceback: Authorization: AUTH\nlogin(user=USER, password=PASS)"))},
		{Name: "403 that quotes the login in pieces", Class: "unauthorized", play: onEnrol(quoting(
			"HTTP/1.1 403 No\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n" + strings.Repeat("AUTH\n PASS ", 500)))},
		{Name: "status line that quotes the login", Class: "unavailable",
			play: onEnrol(quoting("HTTP/1.1 AUTH PASS\r\n\r\n"))},
		{Name: "redirect that quotes the login", Class: "bad-response", play: onEnrol(quoting(
			"HTTP/1.1 307 Over There\r\nLocation: https://evil.example/?AUTH&PASS\r\nContent-Length: 0\r\n\r\n"))},
		{Name: "second answer that quotes the login", Class: "rejected", play: onEnrol(quoting(
			"HTTP/1.1 422 No\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nX-Debug: AUTH PASS\r\n\r\n"))},
		{Name: "500 with escapes for the terminal", Class: "unavailable", play: onEnrol(text(
			"HTTP/1.1 500 \x1b[31m\x1b]0;owned\x07\r\nContent-Length: 57\r\n\r\n" +
				"\x1b[2J\x1b[H\rall is well\n{\"level\":\"info\",\"msg\":\"fine\"}\x00\x9b31m\u202e\xff"))},
	}
}

// quoting is a Fault that answers with a text in which AUTH is replaced by what stood in the Authorization header
// behind the scheme, USER and PASS by the user name and password.
func quoting(answer string) Fault {
	return func(w http.ResponseWriter, r *http.Request, real http.Handler) {
		_, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		login, _ := base64.StdEncoding.DecodeString(token)
		user, password, _ := strings.Cut(string(login), ":")
		said := strings.NewReplacer("AUTH", token, "USER", user, "PASS", password).Replace(answer)
		raw(func(c net.Conn) {
			io.WriteString(c, said)
			if strings.Contains(answer, "Connection: close") {
				c.Close()
			}
		})(w, r, real)
	}
}

// badProxies misbehave as proxies between client and server (RFC 9110 9.3.6).
func badProxies() []Misbehaviour {
	says := func(answer string) func(*Server) {
		return taking(func(c net.Conn) {
			c.Read(make([]byte, 4<<10))
			io.WriteString(c, answer)
		})
	}
	closes := func(answer string) func(*Server) {
		return taking(func(c net.Conn) {
			c.Read(make([]byte, 4<<10))
			io.WriteString(c, answer)
			c.Close()
		})
	}
	const established = "HTTP/1.1 200 Connection established\r\n\r\n"
	list := []Misbehaviour{
		{Name: "proxy: demands a login", Class: "unavailable",
			play: closes("HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"r\"\r\n\r\n")},
		{Name: "proxy: forbids", Class: "unavailable", play: closes("HTTP/1.1 403 \x1b[31mForbidden\r\n\r\n")},
		{Name: "proxy: cannot reach the server", Class: "unavailable", play: closes("HTTP/1.1 502 Bad Gateway\r\n\r\n")},
		{Name: "proxy: redirects", Class: "unavailable",
			play: closes("HTTP/1.1 302 Found\r\nLocation: http://portal.example/\r\nContent-Length: 0\r\n\r\n")},
		{Name: "proxy: says nothing", Class: "unavailable", Silent: true, play: taking(func(net.Conn) {})},
		{Name: "proxy: drips", Class: "unavailable", Silent: true, play: taking(func(c net.Conn) {
			drip(c, "HTTP/1.1 200 Connection established and it takes its time\r\nX: y\r\n")
		})},
		{Name: "proxy: resets", Class: "unavailable", play: taking(func(c net.Conn) {
			c.Read(make([]byte, 4<<10))
			reset(c)
		})},
		{Name: "proxy: endless header", Class: "unavailable", play: taking(func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 200 OK\r\n")
			flood(c, strings.Repeat("X-More: and more\r\n", 512))
		})},
		{Name: "proxy: garbage", Class: "unavailable", play: closes("\x00\x01\x02\x1b[2J\r\n\r\n")},
		{Name: "proxy: says yes, then garbage", Class: "untrusted", play: taking(func(c net.Conn) {
			c.Read(make([]byte, 4<<10))
			io.WriteString(c, established)
			c.Read(make([]byte, 4<<10)) // the ClientHello
			io.WriteString(c, strings.Repeat("GARBAGE!", 64))
		})},
		{Name: "proxy: says yes, then closes", Class: "unavailable", play: closes(established)},
		{Name: "proxy: says yes, then nothing", Class: "unavailable", Silent: true, play: says(established)},
		{Name: "proxy: another server behind it", Class: "untrusted", play: func(s *Server) {
			s.setConduct(conduct{take: func(c net.Conn) {
				c.Read(make([]byte, 4<<10))
				fmt.Fprint(c, established)
				impostor(s, c)
			}})
		}},
	}
	for i := range list {
		list[i].Proxy = true
	}
	return list
}
