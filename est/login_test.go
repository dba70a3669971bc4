package est

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
)

var login = &Login{Username: "estuser", Password: "estpwd"}

// refuseLikeLibest answers 401 as cisco's libest does: no body, and the connection is dropped without notice.
func refuseLikeLibest(t testing.TB, w http.ResponseWriter, challenge string) {
	c := hijack(t, w)
	defer c.Close()
	fmt.Fprintf(c, "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: %s\r\nContent-Length: 0\r\n\r\n", challenge)
}

func TestBasicLoginAfterADroppedConnection(t *testing.T) {
	s := newServer(t)
	s.all = func(w http.ResponseWriter, r *http.Request, usual http.Handler) {
		user, password, ok := r.BasicAuth()
		if r.Method == http.MethodPost && (!ok || user != "estuser" || password != "estpwd") {
			refuseLikeLibest(t, w, `Basic realm="estrealm"`)
			return
		}
		usual.ServeHTTP(w, r)
	}
	s.start()
	o := s.options()
	o.Login = login
	c := newClient(t, o)
	_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
	if _, err := c.Enroll(t.Context(), csr, Want{}); err != nil {
		t.Fatal(err)
	}
	if !c.Traffic().PasswordSent || c.Traffic().Connections != 2 || s.connections() != 2 {
		t.Errorf("password sent: %v, %d connections, server counts %d", c.Traffic().PasswordSent, c.Traffic().Connections,
			s.connections())
	}
	// Nothing is sent before it is asked for.
	var withLogin []int
	for i, r := range s.log() {
		if r.Header.Get("Authorization") != "" {
			withLogin = append(withLogin, i)
		}
	}
	if !slices.Equal(withLogin, []int{2}) || len(s.log()) != 3 {
		t.Errorf("requests with a login: %v of %v", withLogin, paths(s.log()))
	}
	c.Close()
	s.awaitClosed()
}

// A server that asks for the password at every operation, as one behind an HTTP server's own login does, costs two
// connections like one that asks once.
func TestBasicLoginAtEveryOperation(t *testing.T) {
	s := newServer(t)
	csrattrs(s, http.StatusOK, "MAA=")
	s.all = func(w http.ResponseWriter, r *http.Request, usual http.Handler) {
		if user, password, _ := r.BasicAuth(); user != login.Username || password != login.Password {
			refuseLikeLibest(t, w, `Basic realm="estrealm"`)
			return
		}
		usual.ServeHTTP(w, r)
	}
	s.start()
	o := s.options()
	o.Login = login
	_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
	c := newClient(t, o)
	if _, err := c.Attributes(t.Context()); err != nil {
		t.Fatal(err)
	}
	issued, err := c.Enroll(t.Context(), csr, Want{})
	if err != nil || c.Traffic().Connections != 2 {
		t.Fatalf("%v, %+v", err, issued)
	}
	if first := s.log()[0]; first.Header.Get("Authorization") != "" || len(s.log()) != 4 {
		t.Errorf("sent before it was asked for: %q, in %v", first.Header.Get("Authorization"), paths(s.log()))
	}
}

func TestRefusedLogin(t *testing.T) {
	for _, test := range []struct {
		name, challenge string
		login           *Login
		sent            int
		want            string
	}{
		{"wrong password", `Basic realm="r"`, login, 1, "HTTP 401"},
		{"none to give", `Basic realm="r"`, nil, 0, "HTTP 401"},
		{"unknown kind", `Negotiate, Bearer realm="r"`, login, 0, "Negotiate, Bearer"},
		{"no challenge", ``, login, 0, "no WWW-Authenticate"},
		{"colon", `Basic realm="r"`, &Login{"a:b", "geheim"}, 0, "colon"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newServer(t)
			s.handlers["simpleenroll"] = func(w http.ResponseWriter, r *http.Request) {
				if test.challenge != "" {
					w.Header().Set("WWW-Authenticate", test.challenge)
				}
				http.Error(w, "you sent "+r.Header.Get("Authorization"), http.StatusUnauthorized)
			}
			s.start()
			o := s.options()
			o.Login = test.login
			_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
			_, err := newClient(t, o).Enroll(t.Context(), csr, Want{})
			e, ok := errors.AsType[*Error](err)
			if !ok || !errors.Is(err, ErrUnauthorized) || !e.Refusal || e.Status != 401 || e.Hint == "" ||
				!strings.Contains(err.Error(), test.want) {
				t.Errorf("%v (hint %q), want %q", err, e.Hint, test.want)
			}
			sent := 0
			for _, r := range s.log() {
				if authorization := r.Header.Get("Authorization"); authorization != "" {
					sent++
					token := strings.TrimPrefix(authorization, "Basic ")
					if strings.Contains(fmt.Sprintf("%v %+v", err, e), token) {
						t.Errorf("the error quotes the login: %v", err)
					}
				}
			}
			if sent != test.sent {
				t.Errorf("login sent %d times, want %d", sent, test.sent)
			}
		})
	}
}

func TestChallenges(t *testing.T) {
	for _, test := range []struct {
		headers, want []string // challenges as scheme, name=value, …, in the order of names
	}{
		{nil, nil},
		{[]string{`Basic realm="a"`}, []string{`Basic realm=a`}},
		{[]string{`Basic realm="a, b", Digest realm="c", nonce="d\"", qop="auth,auth-int"`},
			[]string{`Basic realm=a, b`, `Digest nonce=d" qop=auth,auth-int realm=c`}},
		{[]string{`Negotiate`, `, Basic realm = "x" ,charset=UTF-8`}, []string{`Negotiate`, `Basic charset=UTF-8 realm=x`}},
		{[]string{`Negotiate YWJjZA==, Digest nonce=n,REALM="r\\"`}, []string{`Negotiate ywjjza==`, `Digest nonce=n realm=r\`}},
		{[]string{`Digest realm="unterminated, Basic`}, []string{`Digest realm=unterminated, Basic`}},
		{[]string{`Basic realm="one", realm="two"`}, []string{`Basic realm=one`}},
		{[]string{`realm="no scheme"`}, []string{`realm="no`}},
	} {
		var got []string
		for _, c := range challenges(test.headers) {
			text := c.scheme
			for _, name := range slices.Sorted(maps.Keys(c.parameters)) {
				text += " " + name + "=" + c.parameters[name]
			}
			got = append(got, text)
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%q: %q, want %q", test.headers, got, test.want)
		}
	}
}

// Of what a server offers the strongest that we know is answered, whatever else it offers and in however many headers.
func TestBestChallengeIsAnswered(t *testing.T) {
	for _, test := range []struct {
		headers   []string
		want, has string // how the answer begins, and what is in it
	}{
		{[]string{`Basic realm="a", Digest realm="a", nonce="b"`}, "Digest ", `nonce="b"`},
		{[]string{`Basic realm="a"`, `Bearer`, `Digest realm="a", nonce="b", algorithm=SHA-256, qop="x-other, auth"`},
			"Digest ", "algorithm=SHA-256"},
		{[]string{`Digest realm="a", nonce="b", algorithm=MD5, qop="auth"`,
			`Digest realm="a", nonce="c", algorithm=SHA-512-256, qop="auth"`,
			`Digest realm="a", nonce="d", algorithm=SHA-256, qop="auth"`}, "Digest ", `nonce="c"`},
		{[]string{`Digest realm="a", nonce="b", algorithm=md5-sess, qop=auth`}, "Digest ", "algorithm=md5-sess"},
		// What cannot be answered is passed over.
		{[]string{`Digest realm="a", nonce="b", algorithm=MD5-sess, Basic realm="a"`}, "Basic ", ""},
		{[]string{`Digest realm="a", nonce="b", algorithm=SHA-512, qop="auth"`, `Basic realm="a"`}, "Basic ", ""},
		{[]string{`Digest realm="a", nonce="b", algorithm=-sess, qop="auth"`, `Basic realm="a"`}, "Basic ", ""},
		{[]string{`Digest realm="a", nonce="b", qop="x-other"`, `Basic realm="a"`}, "Basic ", ""},
		{[]string{`Digest realm="a"`, `Basic realm="a"`}, "Basic ", ""},
		{[]string{"Digest realm=\"a\x01\", nonce=\"b\"", `Basic realm="a"`}, "Basic ", ""},
	} {
		got, _, err := login.answer(challenges(test.headers), loginFor{"POST", "/x", []byte("body")}, "cnonce")
		if err != nil || !strings.HasPrefix(got, test.want) || !strings.Contains(got, test.has) {
			t.Errorf("%q: %q, %v", test.headers, got, err)
		}
	}
}

// A code alone (an empty user name) and letters outside of ASCII are sent as they are, in UTF-8.
func TestBasicToken(t *testing.T) {
	for _, test := range []struct{ user, password, want, fails string }{
		{"estuser", "estpwd", "estuser:estpwd", ""},
		{"", "code-4711", ":code-4711", ""},
		{"test", "123£", "test:123\xc2\xa3", ""}, // RFC 7617 2.1
		{"Jäsøn", "a:b", "J\xc3\xa4s\xc3\xb8n:a:b", ""},
		{"a:b", "p", "", "colon"},
		{"a", "p\n", "", "control character"},
	} {
		header, _, err := Login{test.user, test.password}.answer(challenges([]string{`Basic realm="foo", charset="UTF-8"`}),
			loginFor{}, "")
		if test.fails != "" {
			if err == nil || !strings.Contains(err.Error(), test.fails) {
				t.Errorf("%q: %v, want %q", test.user, err, test.fails)
			}
			continue
		}
		token, _ := strings.CutPrefix(header, "Basic ")
		if got, _ := base64.StdEncoding.DecodeString(token); err != nil || string(got) != test.want {
			t.Errorf("%q: %q, %v", test.user, got, err)
		}
	}
}

// FuzzChallenges: whatever a server asks with, the answer is one line that can be sent and does not quote the password.
func FuzzChallenges(f *testing.F) {
	f.Add(`Basic realm="a", Digest realm="c", nonce="d\"", qop="auth,auth-int"`)
	f.Add(`Digest realm="a", nonce="b", algorithm=SHA-512-256-sess, qop=auth-int, userhash=true, opaque=","`)
	f.Add(`Negotiate YWJj==, ,= ,"`)
	f.Fuzz(func(t *testing.T, header string) {
		l := Login{"Jäsøn", "p4ssw0rd-of-l0ng-standing"}
		all := challenges([]string{header, header})
		stale(all)
		got, _, err := l.answer(all, loginFor{"POST", "/x", nil}, "cnonce")
		if err == nil && (strings.Contains(got, l.Password) || strings.ContainsFunc(got, isControl)) {
			t.Errorf("%q: %q", header, got)
		}
	})
}

func TestLoginPrintsRedacted(t *testing.T) {
	l := Login{Username: "u5er", Password: "geheim"}
	o := struct {
		Value   Login
		Pointer *Login
	}{l, &l}
	encoded, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{fmt.Sprint(l), fmt.Sprintf("%+v %#v %s %q %x %d", l, l, l, l, l, l),
		fmt.Sprintf("%+v %#v", o, o), fmt.Sprintf("%+v", &l), string(encoded)} {
		if strings.Contains(text, "geheim") || strings.Contains(text, "u5er") || strings.Contains(text, "67656865696d") {
			t.Errorf("shows the login: %s", text)
		}
	}
	if fmt.Sprint(l) != redacted || !strings.Contains(string(encoded), redacted) {
		t.Errorf("%v, %s", l, encoded)
	}
}
