package est

import (
	"bufio"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"unicode"
)

// Servers and proxies quote what they do not like, in every place of an answer. None of it leads the login, or a part
// of it, or an escape sequence into an error, and no error is longer than a log can bear.
func TestAnswersThatQuoteTheLogin(t *testing.T) {
	root := newRoot(t, "root")
	const user, password = "estuser", "correct horse battery"
	token := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	for _, test := range []struct{ name, answer string }{ // with AUTH for the Authorization header, PASS for the password
		{"header line", "HTTP/1.1 200 OK\r\nyou sent AUTH \x1b[31m\x00\r\n\r\n"},
		{"long header line", "HTTP/1.1 200 OK\r\n" + strings.Repeat("A", 60000) + "AUTH\r\n\r\n"},
		{"status line", "HTTP/1.1 AUTH\r\n\r\n"},
		{"no status line", "what is AUTH\r\n\r\n"},
		{"status text", "HTTP/1.1 500 AUTH\r\nContent-Length: 0\r\n\r\n"},
		{"length", "HTTP/1.1 200 OK\r\nContent-Length: AUTH\r\n\r\n"},
		{"transfer encoding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: AUTH\r\n\r\n"},
		{"media type", "HTTP/1.1 200 OK\r\nContent-Type: AUTH\r\nContent-Length: 0\r\n\r\n"},
		{"location", "HTTP/1.1 307 Over there\r\nLocation: https://evil.example/AUTH\r\nContent-Length: 0\r\n\r\n"},
		{"location, where it is cut", "HTTP/1.1 307 Over there\r\nLocation: https://evil.example/" +
			strings.Repeat("x", 150) + "AUTH\r\nContent-Length: 0\r\n\r\n"},
		{"challenge", "HTTP/1.1 401 No\r\nWWW-Authenticate: AUTH\r\nContent-Length: 0\r\n\r\n"},
		{"body", "HTTP/1.1 403 No\r\nConnection: close\r\n\r\nno PASS, no AUTH"},
		{"body, where it is cut", "HTTP/1.1 403 No\r\nConnection: close\r\n\r\n" +
			strings.Repeat("x", errorTextLimit-20) + "AUTHxxxxxxxxx"},
		{"body, where the connection is cut", "HTTP/1.1 403 No\r\nContent-Length: 9999\r\n\r\nno AUTH, no " + token[:12]},
		{"page", "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n<p>AUTH PASS"},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := rawServer(t, root, func(c *tls.Conn, _ int) {
				for r := bufio.NewReader(c); ; {
					request, err := http.ReadRequest(r)
					if err != nil {
						return
					}
					io.Copy(io.Discard, request.Body)
					authorization := request.Header.Get("Authorization")
					switch {
					case request.Method == http.MethodGet:
						io.WriteString(c, ok(certsOnlyBody(t, root.cert)))
					case authorization == "":
						io.WriteString(c, asksForLogin)
					default:
						io.WriteString(c, strings.NewReplacer("AUTH", authorization, "PASS", password).Replace(test.answer))
						return
					}
				}
			})
			o.Login = &Login{user, password}
			_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
			_, err := newClient(t, o).Enroll(t.Context(), csr, Want{})
			e, is := errors.AsType[*Error](err)
			if !is {
				t.Fatal(err)
			}
			all := fmt.Sprintf("%v %+v %s %s %v", err, e, e.Detail, e.Hint, e.Err)
			for _, secret := range []string{token, token[:8], token[8:16], "horse"} {
				if strings.Contains(all, secret) {
					t.Errorf("%q is in %s", secret, all)
				}
			}
			if strings.ContainsFunc(all, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("not printable: %q", all)
			}
			if len(err.Error()) > 2<<10 {
				t.Errorf("error of %d bytes", len(err.Error()))
			}
		})
	}
}

// An account is locked after some wrong passwords. A server that refused it for /cacerts is not sent it again for the
// enrolment, nor after a pause in which the connection was given up.
func TestRefusedLoginIsNotSentAgain(t *testing.T) {
	s := newServer(t)
	s.all = func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.Header().Set("WWW-Authenticate", `Basic realm="r"`)
		w.WriteHeader(http.StatusUnauthorized)
	}
	s.start()
	o := s.options()
	o.Login = login
	_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
	c := newClient(t, o)
	if _, err := c.Attributes(t.Context()); !errors.Is(err, ErrUnauthorized) {
		t.Errorf("CSR attributes: %v", err)
	}
	c.HangUp()
	_, err := c.Enroll(t.Context(), csr, Want{})
	e, is := errors.AsType[*Error](err)
	if !is || e.Class != ErrUnauthorized || !e.Refusal || e.Identity != `user "estuser"` ||
		!strings.Contains(e.Hint, "password") {
		t.Errorf("%v, %+v", err, e)
	}
	sent := 0
	for _, r := range s.log() {
		if r.Header.Get("Authorization") != "" {
			sent++
		}
	}
	if sent != 1 {
		t.Errorf("sent %d times over %v", sent, paths(s.log()))
	}
}

// However an answer spells what it was sent, nothing of it is kept.
func TestSpellingsOfALogin(t *testing.T) {
	const password = `pass "ü&%+\<word>'`
	for name, said := range map[string]string{
		"as it is":                 password,
		"a query":                  url.Values{"p": {password}}.Encode(),
		"a path":                   url.PathEscape(password),
		"JSON":                     fmt.Sprintf(`{"detail":%s}`, mustJSON(t, password)),
		"a program's string":       fmt.Sprintf("%q", password),
		"a program's ASCII string": fmt.Sprintf("%+q", password),
		"hexadecimal":              fmt.Sprintf("%x", password),
		"HEXADECIMAL":              fmt.Sprintf("%X", password),
		"base64":                   base64.StdEncoding.EncodeToString([]byte(password)),
		"base64 behind a byte":     base64.StdEncoding.EncodeToString([]byte("x" + password)),
		"base64 in the midst":      base64.URLEncoding.EncodeToString([]byte("xx" + password + "yy")),
		"a page":                   `<p>pass &#34;ü&amp;%+\&lt;word&gt;&#39;</p>`,
	} {
		kept := quote("you sent "+said, spellings(password), errorTextLimit)
		// What is left of base64 is two characters at either end, which other bytes have their part in.
		if !strings.Contains(kept, redacted) || len(kept) > len("you sent ")+len(redacted)+24 {
			t.Errorf("%s: %q is kept as %q", name, said, kept)
		}
	}
	if got := quote("a cat", spellings("at"), errorTextLimit); got != "a c"+redacted {
		t.Errorf("of a short password: %q", got)
	}
	if got := quote("6174 YXQ=", spellings("at"), errorTextLimit); got != "6174 YXQ=" {
		t.Errorf("what a short password is encoded to is found anywhere: %q", got)
	}
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
