package est

import (
	"cmp"
	"crypto/md5"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/icholy/digest"
)

// The examples of RFC 7616 3.9 (the second as erratum 4897 corrects it), of RFC 2617 3.5, and of RFC 2069 2.4 (as its
// erratum 749 corrects it).
func TestDigestExamples(t *testing.T) {
	const nonce, cnonce = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"
	for _, test := range []struct {
		login             Login
		challenge, cnonce string
		uri, want, user   string
	}{
		{Login{"Mufasa", "Circle of Life"}, `Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm=MD5, ` +
			`nonce="` + nonce + `", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"`, cnonce, "/dir/index.html",
			"8ca523f5e9506fed4657c9700eebdbec", `username="Mufasa"`},
		{Login{"Mufasa", "Circle of Life"}, `Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm=SHA-256, ` +
			`nonce="` + nonce + `", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"`, cnonce, "/dir/index.html",
			"753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1", `username="Mufasa"`},
		{Login{"Jäsøn Doe", "Secret, or not?"}, `Digest realm="api@example.org", qop="auth", algorithm=SHA-512-256, ` +
			`nonce="5TsQWLVdgBdmrQ0XsxbDODV+57QdFR34I9HAbC/RVvkK", opaque="HRPCssKJSGjCrkzDg8OhwpzCiGPChXYjwrI2QmXDnsOS", ` +
			`charset=UTF-8, userhash=true`, "NTg6RKcb9boFIAS3KrFK9BGeh+iDa/sm6jUMp2wds69v", "/doe.json",
			"3798d4131c277846293534c3edc11bd8a5e4cdcbff78b05db9d95eeb1cec68a5",
			`username="793263caabb707a56211940d90411ea4a575adeccb7e360aeb624ed06ece9b0b", userhash=true`},
		{Login{"Mufasa", "Circle Of Life"}, `Digest realm="testrealm@host.com", qop="auth,auth-int", ` +
			`nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", opaque="5ccc069c403ebaf9f0171e9517f40e41"`, "0a4f113b",
			"/dir/index.html", "6629fae49393a05397450978507c4ef1", `username="Mufasa"`},
		{Login{"Mufasa", "CircleOfLife"}, `Digest realm="testrealm@host.com", ` +
			`nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", opaque="5ccc069c403ebaf9f0171e9517f40e41"`, "unused",
			"/dir/index.html", "1949323746fe6a43ef61f9606e7febea", `username="Mufasa"`},
	} {
		got, _, err := test.login.answer(challenges([]string{test.challenge}), loginFor{"GET", test.uri, nil}, test.cnonce)
		if err != nil || !strings.Contains(got, `response="`+test.want+`"`) ||
			!strings.HasPrefix(got, "Digest "+test.user+", realm=") {
			t.Errorf("%s\ngot %s, %v\nwant %s and %s", test.challenge, got, err, test.user, test.want)
		}
	}
}

// digestAsker refuses requests without a Digest of its login, computed here, apart from the client, by RFC 7616 3.4.
type digestAsker struct {
	algorithm, qop, realm string
	login                 Login
	extra                 string // further parameters of the challenge
}

func (d digestAsker) challenge(nonce string) string {
	c := fmt.Sprintf(`Digest realm="%s", nonce="%s"`, strings.ReplaceAll(d.realm, `"`, `\"`), nonce)
	if d.qop != "" {
		c += `, qop="` + d.qop + `"`
	}
	if d.algorithm != "" {
		c += ", algorithm=" + d.algorithm
	}
	return c + d.extra
}

var authParameter = regexp.MustCompile(`([a-z*]+)=(?:"((?:[^"\\]|\\.)*)"|([^", ]+))`)

// fault says what is wrong with an Authorization header; "" is nothing.
func (d digestAsker) fault(r *http.Request, body []byte, nonce string) string {
	header, p := r.Header.Get("Authorization"), map[string]string{}
	for _, m := range authParameter.FindAllStringSubmatch(header, -1) {
		p[m[1]] = regexp.MustCompile(`\\(.)`).ReplaceAllString(m[2], "$1") + m[3]
	}
	h := map[string]func() hash.Hash{"MD5": md5.New, "SHA-256": sha256.New, "SHA-512-256": sha512.New512_256}[strings.TrimSuffix(cmp.Or(d.algorithm, "MD5"), "-sess")]
	sum := func(parts ...string) string {
		h := h()
		io.WriteString(h, strings.Join(parts, ":"))
		return hex.EncodeToString(h.Sum(nil))
	}
	want := map[string]string{"realm": d.realm, "nonce": nonce, "uri": r.URL.RequestURI()}
	if d.algorithm != "" {
		want["algorithm"] = d.algorithm
	}
	user := p["username"]
	if extended, is := strings.CutPrefix(p["username*"], "UTF-8''"); is {
		user, _ = url.PathUnescape(extended)
	}
	if user != d.login.Username {
		return fmt.Sprintf("user name %q", user)
	}
	a1 := sum(d.login.Username, d.realm, d.login.Password)
	if strings.HasSuffix(d.algorithm, "-sess") {
		a1 = sum(a1, nonce, p["cnonce"])
	}
	a2, middle := sum(r.Method, p["uri"]), []string{}
	if d.qop != "" {
		want["qop"], want["nc"] = strings.Split(d.qop, ",")[0], "00000001"
		if p["cnonce"] == "" {
			return "no cnonce"
		}
		if want["qop"] == "auth-int" {
			a2 = sum(r.Method, p["uri"], sum(string(body)))
		}
		middle = []string{p["nc"], p["cnonce"], p["qop"]}
	}
	want["response"] = sum(slices.Concat([]string{a1, nonce}, middle, []string{a2})...)
	got := maps.Clone(p)
	maps.DeleteFunc(got, func(name, _ string) bool { return strings.HasPrefix(name, "username") || name == "cnonce" })
	if !maps.Equal(got, want) {
		return fmt.Sprintf("%s: read %q, want %q", header, got, want)
	}
	return ""
}

func TestDigestOfEverySort(t *testing.T) {
	names := []string{"estuser", "", `back\slash "and" quotes`, "Jäsøn Doe", "日本:語"}
	n := 0
	for _, algorithm := range []string{"", "MD5", "MD5-sess", "SHA-256", "SHA-256-sess", "SHA-512-256",
		"SHA-512-256-sess"} {
		for _, qop := range []string{"", "auth", "auth-int", "auth,auth-int"} {
			if qop == "" && strings.HasSuffix(algorithm, "-sess") {
				continue // a session needs a cnonce
			}
			d := digestAsker{algorithm, qop, `a "realm"`, Login{names[n%len(names)], "pass, \"wörd\""}, ""}
			n++
			t.Run(algorithm+" "+qop+" "+d.login.Username, func(t *testing.T) {
				s := newServer(t)
				s.all = func(w http.ResponseWriter, r *http.Request, usual http.Handler) {
					if r.Method == http.MethodPost && r.Header.Get("Authorization") == "" {
						refuseLikeLibest(t, w, d.challenge("n0nce/=="))
						return
					}
					if r.Method == http.MethodPost {
						if fault := d.fault(r, s.log()[len(s.log())-1].body, "n0nce/=="); fault != "" {
							t.Error(fault)
						}
					}
					usual.ServeHTTP(w, r)
				}
				s.start()
				o := s.options()
				o.Login = &d.login
				_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
				c := newClient(t, o)
				issued, err := c.Enroll(t.Context(), csr, Want{})
				if err != nil || c.Traffic().Connections != 2 || !c.Traffic().PasswordSent {
					t.Errorf("%v, %+v", err, issued)
				}
			})
		}
	}
}

// Where icholy/digest can compute an answer, ours is the same.
func TestDigestBesideAnotherImplementation(t *testing.T) {
	body := []byte("body")
	for _, text := range []string{
		`Digest qop="auth", realm="estrealm", nonce="1500000000"`,
		`Digest realm="r", nonce="n"`,
		`Digest realm="r", nonce="n", qop="auth-int", algorithm=MD5, opaque="o"`,
		`Digest realm="r", nonce="n", qop="auth", algorithm=SHA-512-256, userhash=true`,
		`Digest realm="r", nonce="n", qop="auth", algorithm=SHA-256, opaque=""`,
	} {
		c, err := digest.ParseChallenge(text)
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := digest.Digest(c, digest.Options{Method: "POST", URI: "/x", Cnonce: "c", Username: login.Username,
			Password: login.Password, GetBody: func() (io.ReadCloser, error) {
				return io.NopCloser(strings.NewReader(string(body))), nil
			}})
		if err != nil {
			t.Fatal(err)
		}
		header, _, err := login.answer(challenges([]string{text}), loginFor{"POST", "/x", body}, "c")
		if err != nil {
			t.Fatal(err)
		}
		ours, err := digest.ParseCredentials(header)
		if err != nil || ours.Response != theirs.Response || ours.Username != theirs.Username ||
			ours.QOP != theirs.QOP || ours.Opaque != theirs.Opaque || ours.Userhash != theirs.Userhash {
			t.Errorf("%s: %v\nours   %s\ntheirs %s", text, err, header, theirs)
		}
	}
}

// A nonce that has aged is not a wrong password: the login is given once more, with the new nonce, and no third time.
func TestStaleNonce(t *testing.T) {
	for _, test := range []struct {
		name   string
		second string // what the server says to the first answer
		ends   bool   // whether it is content with the second
		sent   int
	}{
		{"stale once", `Digest realm="r", nonce="second", qop="auth", stale=true`, true, 2},
		{"stale for ever", `Digest realm="r", nonce="second", qop="auth", stale="TRUE"`, false, 2},
		{"not stale", `Digest realm="r", nonce="second", qop="auth", stale=false`, true, 1},
		{"a new nonce, and not a word of stale", `Digest realm="r", nonce="second", qop="auth"`, true, 1},
		{"Basic instead", `Basic realm="r"`, true, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newServer(t)
			d := digestAsker{qop: "auth", realm: "r", login: *login}
			var sent []string
			s.all = func(w http.ResponseWriter, r *http.Request, usual http.Handler) {
				if r.Method != http.MethodPost {
					usual.ServeHTTP(w, r)
					return
				}
				challenge := d.challenge("first")
				if r.Header.Get("Authorization") != "" {
					nonce := []string{"first", "second", "second"}[len(sent)]
					if fault := d.fault(r, nil, nonce); fault != "" {
						t.Error(fault)
					}
					sent = append(sent, nonce)
					challenge = test.second
					if len(sent) == 2 && test.ends {
						usual.ServeHTTP(w, r)
						return
					}
				}
				refuseLikeLibest(t, w, challenge)
			}
			s.start()
			o := s.options()
			o.Login = login
			_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
			_, err := newClient(t, o).Enroll(t.Context(), csr, Want{})
			if well := err == nil; well != (test.sent == 2 && test.ends) || len(sent) != test.sent {
				t.Errorf("%v, login sent with %q", err, sent)
			}
		})
	}
}
