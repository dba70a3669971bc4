package check

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"certagent/agent"
	"certagent/agent/status"
	"certagent/est"
	"certagent/est/esttest"
)

const markedPassword = "k4#marked-horse battery"

// served is a server and what a device has to log in to it.
type served struct {
	*esttest.Server
	look agent.ServerLook
}

func serve(t *testing.T, o esttest.Options) served {
	t.Helper()
	o.Dir, o.Bootstrap, o.Password = t.TempDir(), "gateway", markedPassword
	s := served{Server: esttest.New(t, o)}
	at, err := url.Parse(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	s.look = agent.ServerLook{
		URL: at, Password: &est.Login{Username: esttest.DefaultUser, Password: markedPassword},
		Options: est.Options{URL: at, Anchors: append(s.look.Options.Anchors, s.TLSRoot), Timeout: time.Minute,
			Proxy: func(*http.Request) (*url.URL, error) { return nil, nil }},
	}
	s.login(t, o.Dir)
	return s
}

// login has the device log in with the bootstrap certificate in dir.
func (s *served) login(t *testing.T, dir string) {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "bootstrap.pem"), filepath.Join(dir, "bootstrap.key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	s.look.Logins = []agent.LoginLook{{Label: "bootstrap certificate", Certificate: &pair}}
}

func (s *served) probe(t *testing.T, timeout time.Duration, clock agent.ClockLook) []*Result {
	t.Helper()
	p := &probes{Options: Options{Now: time.Now(), Timeout: timeout}, clock: clock}
	ctx, cancel := context.WithTimeoutCause(t.Context(), timeout, fmt.Errorf("nothing more came within %v", timeout))
	defer cancel()
	return collect(ctx, timeout, []job{{idTCP, s.look.URL.String(), func(ctx context.Context) []*Result { return p.server(ctx, &s.look) }}}, nil)
}

// onlyLooked fails the test if the server was asked for more than the doctor may ask for, or told the password by another operation
// than /csrattrs, unasked, or more than once.
func (s *served) onlyLooked(t *testing.T) (passwords int) {
	t.Helper()
	asked := false
	for _, l := range s.Logins() {
		if l.Operation != "cacerts" && l.Operation != "csrattrs" {
			t.Errorf("the server was asked for %s", l.Operation)
		}
		if l.Username != "" {
			passwords++
			if !asked || l.Operation != "csrattrs" || passwords > 1 {
				t.Errorf("the password was sent unasked, or once more: %v", l)
			}
		}
		asked = asked || l.Operation == "csrattrs" && l.Status == http.StatusUnauthorized
	}
	return passwords
}

// wanting demands a password for /csrattrs.
func wanting(password string) esttest.Fault {
	return func(w http.ResponseWriter, r *http.Request, real http.Handler) {
		if _, sent, _ := r.BasicAuth(); sent != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="est"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		real.ServeHTTP(w, r)
	}
}

// TestServer: how each sort of trouble with a server shows: in which check, with which words, and what is not tried after it.
func TestServer(t *testing.T) {
	notLoggedIn := map[string]string{idLogin: "skipped ", idPassword: "skipped "}
	for _, tc := range []struct {
		name    string
		options esttest.Options
		trouble func(t *testing.T, s *served)
		clock   agent.ClockLook
		// want has for each check the beginning of "verdict text" of one of its results, hints a part of the hint.
		want      map[string]string
		hints     map[string]string
		passwords int
	}{
		{
			name: "all is well", trouble: func(*testing.T, *served) {},
			want: map[string]string{
				idResolve: "ok 127.0.0.1 leads to 127.0.0.1:", idTCP: "ok connected to 127.0.0.1:", idTLS: "ok TLS 1.3",
				idTrust: "ok its certificate, CN=", idServer: "ok its certificate expires in 9 years", idCACerts: "ok it has 1 CA certificate",
				idLogin: "ok bootstrap certificate was shown, and not refused (HTTP 200", idPassword: "skipped asked only when enrolling",
			},
		},
		{
			name: "all is well at libest's", options: esttest.Options{LikeLibest: true}, trouble: func(*testing.T, *served) {},
			want: map[string]string{idTLS: "ok TLS 1.2", idCACerts: "ok", idLogin: "ok bootstrap certificate was shown"},
		},
		{
			name: "a name that does not exist", trouble: func(t *testing.T, s *served) {
				s.move(t, "https://no..such.example/.well-known/est")
			},
			want: map[string]string{
				idResolve: "failed server unavailable: dial tcp: lookup no..such.example", idTCP: "skipped", idTLS: "skipped", idTrust: "skipped",
				idCACerts: "skipped", idLogin: "skipped", idPassword: "skipped",
			},
			hints: map[string]string{idResolve: "check host and port in the URL"},
		},
		{
			name: "the server is down", trouble: func(_ *testing.T, s *served) { s.Stop() },
			want: map[string]string{
				idResolve: "ok", idTCP: "failed server unavailable: dial tcp", idTLS: "skipped", idTrust: "skipped", idCACerts: "skipped",
				idLogin: "skipped", idPassword: "skipped",
			},
			hints: map[string]string{idTCP: "that the server runs"},
		},
		{
			name: "another CA's server", trouble: func(t *testing.T, s *served) {
				s.look.Options.Anchors = nil
				other := esttest.New(t, esttest.Options{})
				s.look.Options.Anchors = append(s.look.Options.Anchors, other.TLSRoot)
			},
			want: map[string]string{
				idTCP: "ok", idTLS: "ok the server speaks TLS", idTrust: "failed server not trusted: unknown CA", idCACerts: "skipped",
				idLogin: "skipped", idPassword: "skipped",
			},
			hints: map[string]string{idTrust: "trusted_certs"},
		},
		{
			name: "a certificate for another name", options: esttest.Options{Hosts: []string{"est.example"}, OnlyHosts: true},
			trouble: func(*testing.T, *served) {},
			want:    map[string]string{idTLS: "ok", idTrust: "failed server not trusted: server certificate is for est.example", idLogin: "skipped"},
			hints:   map[string]string{idTrust: "use one of the names"},
		},
		{
			name: "no TLS there", trouble: func(_ *testing.T, s *served) { s.misbehave("speaks plain HTTP") },
			want: map[string]string{idTCP: "ok", idTLS: "failed server not trusted: what answers there does not speak TLS", idTrust: "skipped"},
		},
		{
			name: "/cacerts is not there", trouble: func(_ *testing.T, s *served) { s.Always("cacerts", esttest.Status(404)) },
			want:  map[string]string{idTrust: "ok", idCACerts: "failed server rejected the request (HTTP 404)", idLogin: "ok"},
			hints: map[string]string{idCACerts: "check the path in the URL"},
		},
		{
			name: "no /csrattrs", trouble: func(_ *testing.T, s *served) { s.Always("csrattrs", esttest.Status(404)) },
			want: map[string]string{idLogin: "ok bootstrap certificate was shown, and not refused (HTTP 404"},
		},
		{
			name: "nothing in /csrattrs", trouble: func(_ *testing.T, s *served) { s.Always("csrattrs", esttest.Status(204)) },
			want: map[string]string{idLogin: "ok bootstrap certificate was shown, and not refused (HTTP 204"},
		},
		{
			name: "401 to the certificate", trouble: func(_ *testing.T, s *served) { s.Always("csrattrs", esttest.Status(401)) },
			want: map[string]string{idCACerts: "ok", idLogin: "failed bootstrap certificate: server refused the login (HTTP 401)"},
			hints: map[string]string{
				idLogin: "have the server ask for Basic or Digest",
			},
		},
		{
			name: "403 to the certificate", trouble: func(_ *testing.T, s *served) { s.Always("csrattrs", esttest.Status(403)) },
			want:  map[string]string{idLogin: "failed bootstrap certificate: server refused the login (HTTP 403)", idPassword: "skipped"},
			hints: map[string]string{idLogin: "have the server accept the CA that issued this identity"},
		},
		{
			name: "an alert over the certificate", options: esttest.Options{RefuseByAlert: true},
			trouble: func(t *testing.T, s *served) {
				other := t.TempDir()
				esttest.New(t, esttest.Options{Dir: other, Bootstrap: "stranger"})
				s.login(t, other)
			},
			want: map[string]string{idTrust: "ok", idCACerts: "ok", idLogin: "failed bootstrap certificate: server refused the login: it ended the connection"},
		},
		{
			name: "the password is asked for", trouble: func(_ *testing.T, s *served) { s.Always("csrattrs", wanting(markedPassword)) },
			want: map[string]string{
				idLogin:    "ok bootstrap certificate was shown, with the password",
				idPassword: `ok /csrattrs asked for it, and took that of user "estuser"`,
			},
			passwords: 1,
		},
		{
			name: "a wrong password is sent once", trouble: func(t *testing.T, s *served) {
				s.Always("csrattrs", wanting("another"))
				s.look.Logins = append(s.look.Logins, agent.LoginLook{Label: "EST identity est-id", Certificate: s.look.Logins[0].Certificate})
			},
			want: map[string]string{
				idLogin:    "skipped bootstrap certificate: the password that the server asked for beside it was refused",
				idPassword: `failed user "estuser": server refused the login (HTTP 401)`,
			},
			hints:     map[string]string{idPassword: "check username and password"},
			passwords: 1,
		},
		{
			name: "the password alone", trouble: func(_ *testing.T, s *served) {
				s.look.Logins = nil
				s.Always("csrattrs", wanting(markedPassword))
			},
			want:      map[string]string{idPassword: "ok /csrattrs asked for it"},
			passwords: 1,
		},
		{
			name: "an expired certificate is not shown", trouble: func(_ *testing.T, s *served) {
				s.look.Logins = []agent.LoginLook{{Label: "certificate mqtt", Why: "expired at 2001-01-01T00:00:00Z"}}
			},
			want: map[string]string{idLogin: "skipped certificate mqtt expired at 2001", idPassword: "skipped asked only when enrolling"},
		},
		{
			name: "a clock that is not credible", clock: agent.ClockLook{Doubted: "the clock says 1970"}, trouble: func(t *testing.T, s *served) {
				s.look.Options.Now = func() time.Time { return time.Unix(0, 0) }
			},
			want: map[string]string{idTCP: "ok", idTrust: "skipped the clock is not credible", idLogin: "skipped", idPassword: "skipped"},
		},
		{
			name: "nothing to trust by", trouble: func(_ *testing.T, s *served) { s.look.Options.Anchors = nil },
			want: map[string]string{idTrust: "failed no trust anchors", idLogin: "skipped", idPassword: "skipped"},
		},
		{
			name: "a password for everything", passwords: 1, trouble: func(_ *testing.T, s *served) { s.Always("", wanting(markedPassword)) },
			want: map[string]string{idCACerts: "skipped it asks for the password", idLogin: "ok", idPassword: "ok"},
		},
		{
			name: "a password for everything, and there is none", trouble: func(_ *testing.T, s *served) {
				s.look.Password = nil
				s.Always("", wanting(markedPassword))
			},
			want: map[string]string{idCACerts: "failed server refused the login (HTTP 401)", idLogin: "failed"},
		},
		{
			name: "a fingerprint of another CA", trouble: func(_ *testing.T, s *served) {
				s.look.Options.Anchors, s.look.Fingerprint = nil, strings.Repeat("00", 32)
			},
			want:  map[string]string{idTrust: "failed trust https://127.0.0.1:", idLogin: "skipped"},
			hints: map[string]string{idTrust: "compare the fingerprint"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, tc.options)
			tc.trouble(t, &s)
			for id, begins := range notLoggedIn {
				if tc.want[idTrust] != "" && !strings.HasPrefix(tc.want[idTrust], "ok") && tc.want[id] == "" {
					tc.want[id] = begins
				}
			}
			results := s.probe(t, time.Minute, tc.clock)
			for id, begins := range tc.want {
				if !anyResult(results, func(r *Result) bool {
					return r.ID == id && strings.HasPrefix(string(r.Verdict)+" "+r.Text, begins) && strings.Contains(r.Hint, tc.hints[id])
				}) {
					t.Errorf("no result of %s begins %q with the hint %q:\n%s", id, begins, tc.hints[id], shown(t, results))
				}
			}
			if n := s.onlyLooked(t); n != tc.passwords {
				t.Errorf("the password was sent %d times, want %d", n, tc.passwords)
			}
			if strings.Contains(shown(t, results), markedPassword) {
				t.Error("the password shows")
			}
		})
	}
}

// move has the device look for its server elsewhere.
func (s *served) move(t *testing.T, to string) {
	t.Helper()
	at, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	s.look.URL, s.look.Options.URL = at, at
}

func (s *served) misbehave(name string) {
	for _, m := range esttest.Misbehaviours() {
		if m.Name == name {
			s.Misbehave(m)
			return
		}
	}
	panic("no misbehaviour " + name)
}

func anyResult(all []*Result, is func(*Result) bool) bool { return slices.ContainsFunc(all, is) }

func shown(t *testing.T, all []*Result) string {
	t.Helper()
	var r Report
	r.assemble(all)
	var b strings.Builder
	if err := r.WriteText(&b, status.Look{Unicode: true}); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestHostileServer: no misbehaviour of a server holds the doctor up, has it say more than it may, show a login to a server that
// is not trusted, or take a broken answer for a good one; and what comes from a server cannot steer a terminal.
func TestHostileServer(t *testing.T) {
	for _, m := range esttest.Misbehaviours() {
		t.Run(m.Name, func(t *testing.T) {
			t.Parallel()
			timeout := time.Minute
			if m.Silent {
				timeout = 3 * time.Second
			}
			s := serve(t, esttest.Options{})
			s.Misbehave(m)
			if m.Proxy {
				proxy := &url.URL{Scheme: "http", Host: s.Addr(), User: url.UserPassword("proxyuser", markedPassword)}
				s.look.Options.Proxy = func(*http.Request) (*url.URL, error) { return proxy, nil }
			}
			began := time.Now()
			results := s.probe(t, timeout, agent.ClockLook{})
			if took := time.Since(began); took > timeout+grace+10*time.Second { // that of a busy machine
				t.Errorf("took %v", took)
			}
			s.onlyLooked(t)
			text := shown(t, results)
			if strings.Contains(text, markedPassword) {
				t.Error("the password shows")
			}
			for line := range strings.Lines(text) {
				if line = strings.TrimSuffix(line, "\n"); line != status.Printable(line) {
					t.Errorf("unprintable: %q", line)
				}
			}
			if len(text) > 16<<10 {
				t.Errorf("%d bytes were said", len(text))
			}
			for _, r := range results {
				if m.Class == "untrusted" && r.ID == idLogin && r.Verdict == OK {
					t.Errorf("a server that is not trusted was shown a login: %s", r.Text)
				}
			}
		})
	}
}
