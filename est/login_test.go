package est

import (
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/icholy/digest"
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
	issued, err := c.Enroll(t.Context(), csr, Want{})
	if err != nil {
		t.Fatal(err)
	}
	if !issued.PasswordSent || issued.Connections != 2 || s.connections() != 2 {
		t.Errorf("password sent: %v, %d connections, server counts %d", issued.PasswordSent, issued.Connections,
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

// libest's Digest challenge has neither algorithm nor opaque; the answer must not have them either. What is checked
// against is computed here, by RFC 7616 3.4.
func TestDigestLogin(t *testing.T) {
	s := newServer(t)
	s.all = func(w http.ResponseWriter, r *http.Request, usual http.Handler) {
		if r.Method == http.MethodPost {
			credentials, err := digest.ParseCredentials(r.Header.Get("Authorization"))
			if err != nil {
				refuseLikeLibest(t, w, `Digest qop="auth", realm="estrealm", nonce="1500000000"`)
				return
			}
			h := func(s string) string { sum := md5.Sum([]byte(s)); return hex.EncodeToString(sum[:]) }
			want := h(strings.Join([]string{h("estuser:estrealm:estpwd"), "1500000000", "00000001",
				credentials.Cnonce, "auth", h("POST:/.well-known/est/simpleenroll")}, ":"))
			if credentials.Response != want || strings.Contains(r.Header.Get("Authorization"), "opaque") ||
				credentials.Algorithm != "" || credentials.URI != r.URL.Path {
				t.Errorf("Authorization: %s", r.Header.Get("Authorization"))
			}
		}
		usual.ServeHTTP(w, r)
	}
	s.start()
	o := s.options()
	o.Login = login
	_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
	issued, err := newClient(t, o).Enroll(t.Context(), csr, Want{})
	if err != nil || issued.Connections != 2 || !issued.PasswordSent {
		t.Errorf("%v, %+v", err, issued)
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
		headers, want []string
	}{
		{nil, nil},
		{[]string{`Basic realm="a"`}, []string{`Basic realm="a"`}},
		{[]string{`Basic realm="a, b", Digest realm="c", nonce="d\"", qop="auth,auth-int"`},
			[]string{`Basic realm="a, b"`, `Digest realm="c", nonce="d\"", qop="auth,auth-int"`}},
		{[]string{`Negotiate`, `, Basic realm = "x" ,charset=UTF-8`}, []string{`Negotiate`,
			`Basic realm = "x", charset=UTF-8`}},
		{[]string{`Digest realm="unterminated, Basic`}, []string{`Digest realm="unterminated, Basic`}},
	} {
		if got := challenges(test.headers); !slices.Equal(got, test.want) {
			t.Errorf("%q: %q, want %q", test.headers, got, test.want)
		}
	}
}

func TestDigestIsPreferredAndBasicTheFallback(t *testing.T) {
	for _, test := range []struct{ challenge, want string }{
		{`Basic realm="a", Digest realm="a", nonce="b"`, "Digest "},
		{`Digest realm="a", nonce="b", algorithm=MD5-sess, Basic realm="a"`, "Basic "},
		{`Digest realm="a", nonce="b", algorithm=SHA-256, qop="x-other, auth"`, "Digest "},
	} {
		h := http.Header{"Www-Authenticate": {test.challenge}}
		got, _, err := login.answer(h, "POST", "/x", []byte("body"))
		if err != nil || !strings.HasPrefix(got, test.want) {
			t.Errorf("%s: %q, %v", test.challenge, got, err)
		}
	}
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
