package main

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"certagent/est/esttest"
)

// secret is something that must not show, and how it is found.
type secret struct {
	name  string
	forms map[string]string
}

// password is a secret that is text.
func password(name, text string) secret {
	inJSON, _ := json.Marshal(text) // a string always can
	s := secret{name, map[string]string{
		"clear": text, "JSON": strings.Trim(string(inJSON), `"`), "quoted": strings.Trim(strconv.Quote(text), `"`),
		"ASCII": strings.Trim(strconv.QuoteToASCII(text), `"`), "query": url.QueryEscape(text), "path": url.PathEscape(text),
	}}
	s.encodings([]byte(text))
	return s
}

// encodings are those of bytes that stand anywhere in what was encoded.
func (s secret) encodings(raw []byte) {
	s.forms["hex"], s.forms["HEX"] = hex.EncodeToString(raw), strings.ToUpper(hex.EncodeToString(raw))
	for shift := range 3 {
		// Of base64, what depends on nothing before it and nothing after it.
		inside := raw[(3-shift)%3:]
		inside = inside[:len(inside)/3*3]
		s.forms[fmt.Sprintf("base64 at %d", shift)] = base64.StdEncoding.EncodeToString(inside)
		s.forms[fmt.Sprintf("base64url at %d", shift)] = base64.URLEncoding.EncodeToString(inside)
	}
}

// privateKey is a secret in PEM: its lines, and the numbers in it that are nobody's business.
func privateKey(t *testing.T, name string, text []byte) (secrets []secret) {
	t.Helper()
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if !strings.Contains(block.Type, "PRIVATE KEY") {
			continue
		}
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var numbers [][]byte
		switch k := key.(type) {
		case interface{ Bytes() ([]byte, error) }: // ECDSA
			d, err := k.Bytes()
			if err != nil {
				t.Fatal(err)
			}
			numbers = [][]byte{d}
		case *rsa.PrivateKey:
			numbers = [][]byte{k.D.Bytes(), k.Primes[0].Bytes(), k.Primes[1].Bytes()}
		default:
			t.Fatalf("%s is %T", name, key)
		}
		for i, number := range numbers {
			s := secret{fmt.Sprintf("%s, number %d", name, i), map[string]string{}}
			s.encodings(number)
			s.forms["raw"] = string(number)
			s.forms["decimal bytes"] = strings.Trim(fmt.Sprint(number), "[]")
			secrets = append(secrets, s)
		}
		// Of the lines those with a private number in them: the others are the kind of key and its public half.
		s := secret{name + " in PEM", map[string]string{}}
		const inLine, enough = 48, 12 // bytes
		for at := 0; at < len(block.Bytes); at += inLine {
			line := block.Bytes[at:min(at+inLine, len(block.Bytes))]
			for _, number := range numbers {
				begin := bytes.Index(block.Bytes, number)
				if begin < 0 {
					t.Fatalf("%s does not have its own numbers", name)
				}
				if min(at+len(line), begin+len(number))-max(at, begin) >= enough {
					s.forms[fmt.Sprintf("line %d", at/inLine+1)] = base64.StdEncoding.EncodeToString(line)
				}
			}
		}
		secrets = append(secrets, s)
	}
	return secrets
}

// leaks names what of the secrets stands in text.
func leaks(text string, secrets []secret) (found []string) {
	for _, s := range secrets {
		for form, value := range s.forms {
			if value != "" && strings.Contains(text, value) {
				found = append(found, s.name+", "+form)
			}
		}
	}
	return found
}

// mark is a password that nothing else looks like, and that every encoding changes.
func mark(name string) string { return name + ` "ü&%+\` + rand.Text() }

// The search finds what was planted: each secret in each form, made otherwise than the search makes it.
func TestLeaksAreFound(t *testing.T) {
	t.Parallel()
	text := mark("planted")
	key := pemKey(t)
	private, _ := pem.Decode(key)
	for name, planted := range map[string]string{
		"clear":            "user " + text + " refused",
		"a header":         "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("estuser:"+text)),
		"a shorter user":   base64.StdEncoding.EncodeToString([]byte("u:" + text)),
		"a longer one":     base64.RawURLEncoding.EncodeToString([]byte("us:" + text + "!")),
		"hex":              fmt.Sprintf("%x", text),
		"a hex dump":       fmt.Sprintf("%X", text),
		"a Go string":      fmt.Sprintf("%q", text),
		"a URL":            (&url.URL{Scheme: "https", Host: "h", RawQuery: url.Values{"p": {text}}.Encode()}).String(),
		"a path":           (&url.URL{Path: "/" + url.PathEscape(text)}).Path,
		"JSON":             string(sure(json.Marshal(map[string]string{"password": text}))),
		"a log line":       jsonLine(text),
		"PEM":              string(key),
		"PEM in JSON":      string(sure(json.Marshal(string(key)))),
		"a line of PEM":    strings.Split(string(key), "\n")[strings.Count(string(key), "\n")/2],
		"DER":              string(private.Bytes),
		"DER in hex":       fmt.Sprintf("%x", private.Bytes),
		"DER in base64":    base64.StdEncoding.EncodeToString(private.Bytes),
		"DER behind bytes": base64.StdEncoding.EncodeToString(append([]byte("x"), private.Bytes...)),
	} {
		if len(leaks(planted, append(privateKey(t, "key", key), password("password", text)))) == 0 {
			t.Errorf("not found in %s: %q", name, planted)
		}
	}
	if found := leaks("the certificate mqtt was issued "+base64.StdEncoding.EncodeToString([]byte("to nobody in particular")),
		append(privateKey(t, "key", key), password("password", text))); len(found) > 0 {
		t.Errorf("found where there is nothing: %v", found)
	}
}

func sure[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// jsonLine is a line as the log makes it.
func jsonLine(text string) string {
	var b bytes.Buffer
	l := newLogging(&b)
	log := l.logger()
	log.Error().Str("error", "server says "+text).Msg("certificate not issued")
	return b.String()
}

func pemKey(t *testing.T) []byte {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: sure(x509.MarshalPKCS8PrivateKey(key))})
}

// hoard is everything that a gateway of a test let out, by where it did.
type hoard map[string]string

// collect looks everywhere where a secret must not be: the log in every form, files of the state and run directories but
// those that are for it, the process, and what every command says.
func (g *gateway) collect(h hoard, moment string) {
	g.t.Helper()
	h[moment+": the log"] = g.log.String()
	for line := range strings.Lines(g.log.String()) {
		if l, err := parseLogLine([]byte(line)); err == nil {
			h[moment+": the console"] += string(l.console(true))
			h[moment+": the journal"] += string(l.native())
		}
	}
	for _, args := range [][]string{
		{"status"}, {"status", "--json"}, {"check"}, {"check", "--json"}, {"config", "show"}, {"config", "check"}, {"version"},
		{"wait", "mqtt", "--timeout", "0s"},
		{"renew", "nobody"}, {"import", "mqtt", "--cert", g.path("config.toml"), "--key", g.path("config.toml")},
		{"run", "--once", "--config", g.path("p12.password")},
	} {
		r := g.tell(args...)
		h[moment+": certagent "+strings.Join(args, " ")] = r.stdout + r.stderr
	}
	for _, dir := range []string{"state", "run"} {
		err := filepath.WalkDir(g.path(dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return nil // it is gone by now, or no file
			}
			switch filepath.Base(path) {
			case "key.pem", "last-good.toml": // which are 0600, and are for it
				if info, err := d.Info(); err == nil && info.Mode().Perm()&0o077 != 0 {
					g.t.Errorf("%s has mode %v", path, info.Mode())
				}
				return nil
			}
			data, err := os.ReadFile(path)
			if err == nil {
				h[moment+": "+path] = string(data)
			}
			return nil
		})
		if err != nil {
			g.t.Fatal(err)
		}
	}
	if g.cmd != nil {
		for _, name := range []string{"cmdline", "environ"} {
			data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", g.cmd.Process.Pid, name))
			if err != nil {
				g.t.Fatal(err)
			}
			h[moment+": "+name] = string(data)
		}
	}
}

// keysBelow are all private keys in files.
func (g *gateway) keysBelow() (secrets []secret) {
	g.t.Helper()
	err := filepath.WalkDir(g.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil // it is gone by now, or no file
		}
		if data, err := os.ReadFile(path); err == nil && bytes.Contains(data, []byte("PRIVATE KEY-----")) {
			secrets = append(secrets, privateKey(g.t, path, data)...)
		}
		return nil
	})
	if err != nil {
		g.t.Fatal(err)
	}
	return secrets
}

func (h hoard) mustHold(t *testing.T, secrets []secret) {
	t.Helper()
	for where, text := range h {
		for _, what := range leaks(text, secrets) {
			t.Errorf("%s has %s", where, what)
		}
	}
}

// TestNoSecretShowsAnywhere has a gateway do everything with marked passwords and keys, at level debug.
func TestNoSecretShowsAnywhere(t *testing.T) {
	for name, options := range map[string]esttest.Options{
		"Basic": {AskPassword: true}, "Digest": {AskPassword: true, Digest: true, LikeLibest: true, Workers: 5}, "libest": {AskPassword: true, LikeLibest: true, Workers: 5},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			login, wrong, p12 := mark("login"), mark("wrong"), mark("p12")
			options.Password = login
			s := esttest.New(t, options)
			g := newGateway(t)
			g.write("p12.password", p12+"\n")
			g.write("login.password", login+"\n")
			bootstrap, bootstrapKey := s.IssueBootstrap("factory", 24*time.Hour)
			g.write("bootstrap.pem", string(bootstrap))
			g.write("bootstrap.key.pem", string(bootstrapKey))
			if err := os.Mkdir(g.path("out"), 0o700); err != nil {
				t.Fatal(err)
			}
			config := func(password, more string) string {
				text := served(s) + outputsFor(g, everyFormat...) + hooksFor("env; tr '\\0' ' ' < /proc/self/cmdline") +
					"[cert_issuance.certs.made]\ncommon_name = \"made\"\nkey = \"rsa-2048\"\nserver_key = true\n"
				return fmt.Sprintf("[log]\nlevel = \"debug\"\n[metrics]\ntextfile = %q\n", g.path("run", "metrics.prom")) + strings.NewReplacer(`password = "estpwd"`, password).Replace(text) + more
			}
			inline := fmt.Sprintf("password = %s", sure(json.Marshal(login)))
			g.configure(config(inline, ""))
			h := hoard{}
			g.start()
			first := g.next("mqtt", nil)
			g.next("made", nil)
			g.delivered()
			g.collect(h, "enrolled")

			// Another way to the same password, and a bootstrap certificate beside it.
			g.configure(config(fmt.Sprintf("password_file = %q\nbootstrap_identity_cert = \"file://%s\"\nbootstrap_identity_pk = \"file://%s\"",
				g.path("login.password"), g.path("bootstrap.pem"), g.path("bootstrap.key.pem")), ""))
			g.tell("reload").want(t, 0, "", "")
			g.tell("renew", "--wait", "--new-key").want(t, 0, "issued", ".*")
			g.next("mqtt", &first)
			g.delivered()
			cert, key := g.brought(s, "brought")
			g.tell("import", "mqtt", "--cert", cert, "--key", key, "--replace").want(t, 0, "imported", ".*")
			g.delivered()
			g.collect(h, "renewed and imported")

			// A password that is refused, and one that is written where none belongs.
			g.configure(config(fmt.Sprintf("password = %s", sure(json.Marshal(wrong))), ""))
			g.tell("reload").want(t, 0, "", "")
			g.tell("renew", "mqtt").want(t, 0, "asked for", "")
			g.until("the refusal", func() bool { return g.certificate("mqtt").Failures > 0 })
			g.configure(config(inline, "pasword = "+string(sure(json.Marshal(login)))+"\n"))
			g.tell("reload").want(t, 2, "", "pasword")
			g.collect(h, "refused")
			g.configure(config(inline, ""))
			g.tell("reload").want(t, 0, "", "")

			// Servers that quote what they were sent, in every place of an answer.
			for _, m := range esttest.Misbehaviours() {
				if strings.Contains(m.Name, "quotes the login") && name != "Digest" {
					s.Misbehave(m)
					g.fails(h, m.Name)
				}
			}
			for place, echo := range echoes(login) {
				s.Clear()
				s.Always("simplereenroll", echo)
				s.Always("simpleenroll", echo)
				g.fails(h, place)
			}
			g.collect(h, "quoted")

			// A crash that nobody contains prints every goroutine.
			g.signal(syscall.SIGQUIT)
			<-g.end
			g.cmd = nil
			g.collect(h, "crashed")
			if !strings.Contains(g.log.String(), "goroutine 1 ") {
				t.Error("the crash printed no goroutines: this tested something else")
			}
			secrets := append(g.keysBelow(), password("the login", login), password("the wrong login", wrong), password("the PKCS#12 password", p12))
			if len(secrets) < 20 {
				t.Errorf("%d secrets: the keys were not found", len(secrets))
			}
			h.mustHold(t, secrets)
		})
	}
}

// fails has the agent try, and fail.
func (g *gateway) fails(h hoard, name string) {
	g.t.Helper()
	before := strings.Count(g.log.String(), `"result":"failed"`)
	r := g.tell("renew", "mqtt", "--wait")
	h["quoting: "+name] = r.stdout + r.stderr
	g.until("the failure: "+name, func() bool { return strings.Count(g.log.String(), `"result":"failed"`) > before })
	status := g.tell("status", "--json")
	h["status, quoting: "+name] = status.stdout + status.stderr
}

// echoes are answers that quote the request, by where they do.
func echoes(login string) map[string]esttest.Fault {
	quote := func(status int, header, body func(authorization string) string, name, contentType string) esttest.Fault {
		return func(w http.ResponseWriter, r *http.Request, real http.Handler) {
			authorization := r.Header.Get("Authorization")
			if authorization == "" {
				real.ServeHTTP(w, r) // which asks for it
				return
			}
			w.Header().Set("Content-Type", contentType)
			if name != "" {
				w.Header().Set(name, header(authorization))
			}
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body(authorization)))
		}
	}
	none := func(string) string { return "" }
	all := func(a string) string {
		return strings.Join([]string{
			a, login, base64.StdEncoding.EncodeToString([]byte(login)), hex.EncodeToString([]byte(login)), url.QueryEscape(login),
			url.PathEscape(login), fmt.Sprintf("%q", login), string(sure(json.Marshal(login))),
		}, " and ")
	}
	header := func(a string) string { return url.PathEscape(a) + "+" + url.QueryEscape(login) }
	return map[string]esttest.Fault{
		"a body":           quote(400, nil, all, "", "text/plain"),
		"a page":           quote(500, nil, func(a string) string { return "<html>" + all(a) + "</html>" }, "", "text/html"),
		"a certificate":    quote(200, nil, all, "", "application/pkcs7-mime; smime-type=certs-only"),
		"another page":     quote(200, nil, all, "", "text/html"),
		"a redirect":       quote(307, func(a string) string { return "https://evil.example/?" + header(a) }, none, "Location", "text/plain"),
		"a challenge":      quote(401, func(a string) string { return `Basic realm="` + header(a) + `"` }, all, "Www-Authenticate", "text/plain"),
		"when to try":      quote(503, header, all, "Retry-After", "text/plain"),
		"the type":         quote(200, header, all, "Content-Type", "text/plain"),
		"problem document": quote(403, nil, func(a string) string { return string(sure(json.Marshal(map[string]string{"detail": all(a)}))) }, "", "application/problem+json"),
	}
}

// TestPlantedLeakIsFound: a hook that prints a password has it in the state and in status, which is where the search finds it.
func TestPlantedLeakIsFound(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{})
	g := newGateway(t)
	text := mark("p12")
	g.write("p12.password", text+"\n")
	g.configure(served(s) + hooksFor("cat "+g.path("p12.password")))
	g.start()
	g.next("mqtt", nil)
	g.delivered()
	h := hoard{}
	g.collect(h, "planted")
	for _, where := range []string{": certagent status --json", ": " + g.path("state", "certs", "mqtt", "delivery.json")} {
		if len(leaks(h["planted"+where], []secret{password("planted", text)})) == 0 {
			t.Errorf("not found in%s:\n%s", where, h["planted"+where])
		}
	}
	g.stop()
}
