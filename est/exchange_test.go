package est

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestStatusClasses(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		status     int
		retryAfter string
		class      error
		refusal    bool
		wait       time.Duration
	}{
		{202, "3600", ErrPending, false, time.Hour},
		{202, "", ErrPending, false, 0},
		{202, "Sun, 01 Mar 2026 12:02:00 GMT", ErrPending, false, 2 * time.Minute},
		{202, "soon", ErrPending, false, 0},
		{204, "", ErrBadResponse, false, 0},
		{206, "", ErrBadResponse, false, 0},
		{304, "", ErrBadResponse, false, 0},
		{400, "", ErrRejected, false, 0},
		{401, "", ErrUnauthorized, true, 0},
		{403, "", ErrUnauthorized, true, 0},
		{404, "", ErrRejected, true, 0},
		{405, "", ErrRejected, true, 0},
		{408, "", ErrUnavailable, false, 0},
		{413, "", ErrRejected, false, 0},
		{415, "", ErrRejected, false, 0},
		{429, "120", ErrUnavailable, false, 2 * time.Minute},
		{500, "", ErrUnavailable, false, 0},
		{501, "", ErrRejected, true, 0},
		{503, "7", ErrUnavailable, false, 7 * time.Second},
		{599, "", ErrUnavailable, false, 0},
		{600, "", ErrBadResponse, false, 0},
	} {
		c := &Client{o: Options{URL: mustParse(t, "https://h/.well-known/est")}}
		a := &answer{status: test.status, header: http.Header{"Retry-After": {test.retryAfter}}, came: now, over: &conn{}}
		post := c.refuse(&request{op: "simpleenroll", csr: []byte{1}}, a)
		if post.Class != test.class || post.Refusal != test.refusal || post.RetryAfter != test.wait ||
			post.Status != test.status {
			t.Errorf("POST %d %q: %v, refusal %v, after %v", test.status, test.retryAfter, post.Class, post.Refusal,
				post.RetryAfter)
		}
		get := c.refuse(&request{op: "cacerts"}, a)
		if get.Refusal {
			t.Errorf("GET %d is a refusal of the identity", test.status)
		}
		if test.status == 202 && get.Class != ErrBadResponse {
			t.Errorf("GET 202: %v", get.Class)
		}
	}
}

func TestErrorText(t *testing.T) {
	s := newServer(t)
	s.handlers["simplereenroll"] = func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprintf(w, "no\x00t \x1b[31mfor\r\n\tyou\xff %s", strings.Repeat("é", errorTextLimit))
	}
	s.start()
	o := s.options()
	o.Certificate = s.root.tlsCertificate(t, clientTemplate("gw-1"))
	o.Identity = "certificate mqtt"
	_, csr := newRequest(t, RenewalTemplate(o.Certificate.Leaf))
	_, err := newClient(t, o).Reenroll(t.Context(), csr, Want{})
	e, ok := errors.AsType[*Error](err)
	if !ok {
		t.Fatal(err)
	}
	prefix := "est simplereenroll at " + s.base().String() +
		` as certificate mqtt: server refused the login (HTTP 403): the client certificate ` +
		`"CN=gw-1", issued by "CN=test root" was offered: "not [31mfor you é`
	if !strings.HasPrefix(err.Error(), prefix) || len(err.Error()) > len(prefix)+errorDetailShown {
		t.Errorf("got %q, want it to begin %q", err, prefix)
	}
	if len(e.Detail) > errorTextLimit || len(e.Detail) < errorTextLimit-10 {
		t.Errorf("kept %d bytes of the text", len(e.Detail))
	}
}

func TestRedirects(t *testing.T) {
	elsewhere := newServer(t).start()
	for _, test := range []struct {
		name   string
		status int
		to     func(base string, n int) string
		class  error // nil: it is followed
		want   string
	}{
		{"307 is followed", 307, func(_ string, n int) string { return "/moved/est/OP" }, nil, ""},
		{"308 is followed", 308, func(base string, n int) string { return base + "/moved/est/OP" }, nil, ""},
		{"302 loses the POST", 302, func(string, int) string { return "/moved/est/OP" }, ErrBadResponse, "POST into a GET"},
		{"300", 300, func(string, int) string { return "/moved/est/OP" }, ErrBadResponse, "of a kind"},
		{"another port", 307, func(string, int) string { return elsewhere.http.URL + "/est/OP" }, ErrBadResponse,
			"another server"},
		{"no TLS", 307, func(base string, _ int) string { return strings.Replace(base, "https", "http", 1) },
			ErrBadResponse, "not https"},
		{"login in it", 307, func(base string, _ int) string { return strings.Replace(base, "//", "//u:p@", 1) },
			ErrBadResponse, "with a login"},
		{"no URL", 307, func(string, int) string { return "https://%zz" }, ErrBadResponse, "not a URL"},
		{"in circles", 308, func(string, int) string { return "/.well-known/est/simpleenroll" }, ErrBadResponse,
			"more than 3"},
		{"no Location", 307, func(string, int) string { return "" }, ErrBadResponse, "HTTP 307"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newServer(t)
			s.all = func(w http.ResponseWriter, r *http.Request, usual http.Handler) {
				if strings.HasPrefix(r.URL.Path, "/.well-known/est/simpleenroll") {
					if location := test.to(s.http.URL, 0); location != "" {
						w.Header().Set("Location", strings.Replace(location, "OP", "simpleenroll", 1))
					}
					w.WriteHeader(test.status)
					return
				}
				r.URL.Path = strings.Replace(r.URL.Path, "/moved/est/", "/.well-known/est/", 1)
				usual.ServeHTTP(w, r)
			}
			s.start()
			_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
			o := s.options()
			o.Login = login
			c := newClient(t, o)
			issued, err := c.Enroll(t.Context(), csr, Want{})
			if test.class == nil {
				if err != nil || c.Traffic().Connections != 1 {
					t.Errorf("%v, %+v", err, issued)
				}
				return
			}
			if !errors.Is(err, test.class) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
	if n := elsewhere.connections(); n != 0 {
		t.Errorf("the other server was dialled %d times", n)
	}
}

func TestRedirectedGETIsFollowed(t *testing.T) {
	for _, status := range []int{301, 302, 303, 307, 308} {
		s := newServer(t)
		s.all = func(w http.ResponseWriter, r *http.Request, usual http.Handler) {
			if r.URL.Path == "/old/cacerts" {
				http.Redirect(w, r, "/.well-known/est/cacerts", status)
				return
			}
			usual.ServeHTTP(w, r)
		}
		s.start()
		o := s.options()
		o.URL = mustParse(t, s.http.URL+"/old")
		c := newClient(t, o)
		if _, err := c.CACerts(t.Context()); err != nil || c.connections != 1 {
			t.Errorf("%d: %v, %d connections", status, err, c.connections)
		}
	}
}

// A server that has everything behind a password sends a POST on to another URL of its own. Whether or not that one
// takes the password as well, it is given once to each.
func TestLoginAfterARedirectWithinTheOrigin(t *testing.T) {
	for _, takes := range []bool{true, false} {
		s := newServer(t)
		s.all = func(w http.ResponseWriter, r *http.Request, usual http.Handler) {
			_, _, known := r.BasicAuth()
			again := strings.HasSuffix(r.URL.Path, "/again")
			switch {
			case r.Method == http.MethodGet:
				usual.ServeHTTP(w, r)
			case !known || again && !takes:
				refuseLikeLibest(t, w, `Basic realm="r"`)
			case !again:
				http.Redirect(w, r, "/.well-known/est/again", http.StatusTemporaryRedirect)
			default:
				r.URL.Path = "/.well-known/est/simpleenroll"
				usual.ServeHTTP(w, r)
			}
		}
		s.start()
		o := s.options()
		o.Login = login
		_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
		_, err := newClient(t, o).Enroll(t.Context(), csr, Want{})
		if takes && err != nil || !takes && !errors.Is(err, ErrUnauthorized) {
			t.Errorf("taken: %v: %v", takes, err)
		}
		var sent []string
		for _, r := range s.log() {
			if r.Header.Get("Authorization") != "" {
				sent = append(sent, r.RequestURI)
			}
		}
		if want := []string{"/.well-known/est/simpleenroll", "/.well-known/est/again"}; !slices.Equal(sent, want) {
			t.Errorf("taken: %v: sent to %v", takes, sent)
		}
	}
}

// A gigantic answer is not read: what the server could write is what the buffers in between hold.
func TestHugeAnswers(t *testing.T) {
	const huge = 256 << 20
	for _, test := range []struct {
		name   string
		status int
		length bool // announce it
		class  error
	}{
		{"success", 200, false, ErrBadResponse},
		{"announced success", 200, true, ErrBadResponse},
		{"error", 500, false, ErrUnavailable},
	} {
		t.Run(test.name, func(t *testing.T) {
			var written atomic.Int64
			done := make(chan struct{})
			s := newServer(t)
			s.handlers["simpleenroll"] = func(w http.ResponseWriter, r *http.Request) {
				defer close(done)
				w.Header().Set("Content-Type", "application/pkcs7-mime")
				if test.length {
					w.Header().Set("Content-Length", fmt.Sprint(huge))
				}
				w.WriteHeader(test.status)
				chunk := []byte(strings.Repeat("A", 32<<10))
				for range huge / len(chunk) {
					n, err := w.Write(chunk)
					written.Add(int64(n))
					if err != nil {
						return
					}
				}
			}
			s.start()
			_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
			_, err := newClient(t, s.options()).Enroll(t.Context(), csr, Want{})
			if !errors.Is(err, test.class) {
				t.Error(err)
			}
			<-done
			if n := written.Load(); n > 32<<20 {
				t.Errorf("the server could write %d bytes", n)
			}
		})
	}
}

func TestHugeHeader(t *testing.T) {
	s := newServer(t)
	s.handlers["simpleenroll"] = func(w http.ResponseWriter, r *http.Request) {
		for i := range 2 * headerLimit >> 10 {
			w.Header().Set(fmt.Sprintf("X-%d", i), strings.Repeat("x", 1<<10))
		}
		s.answer(w, s.root.issue(t, s.lastDER())) // good, but for its size
	}
	s.start()
	_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
	_, err := newClient(t, s.options()).Enroll(t.Context(), csr, Want{})
	if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "header") {
		t.Error(err)
	}
}

func TestConnectionCutInsideTheAnswer(t *testing.T) {
	for _, cut := range []string{
		"HTTP/1.1 200 OK\r\nContent-Type: application/pkcs7-mime\r\nContent-Length: 1000\r\n\r\nMIIB",
		"HTTP/1.1 200 OK\r\nContent-Ty",
		"this is not HTTP\r\n\r\n",
	} {
		s := newServer(t)
		s.all = func(w http.ResponseWriter, r *http.Request, usual http.Handler) {
			if r.Method != http.MethodPost {
				usual.ServeHTTP(w, r)
				return
			}
			c := hijack(t, w)
			defer c.Close()
			io.WriteString(c, cut)
		}
		s.start()
		o := s.options()
		o.Certificate = s.root.tlsCertificate(t, clientTemplate("gw-1"))
		_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
		c := newClient(t, o)
		_, err := c.Enroll(t.Context(), csr, Want{})
		// The certificate was offered and this connection ended; but it had been answered on, so it is no refusal.
		if e, ok := errors.AsType[*Error](err); !ok || e.Class != ErrUnavailable || e.Refusal || c.connections != 1 {
			t.Errorf("%q: %v, %d connections", cut, err, c.connections)
		}
	}
}

// A certificate that was good for /cacerts is not what a later connection ended for.
func TestDroppedConnectionAfterCACerts(t *testing.T) {
	s := newServer(t)
	s.handlers["cacerts"] = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		s.answer(w, s.root.cert)
	}
	s.handlers["simpleenroll"] = func(w http.ResponseWriter, r *http.Request) { hijack(t, w).Close() }
	s.start()
	o := s.options()
	o.Certificate = s.root.tlsCertificate(t, clientTemplate("gw-1"))
	_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
	c := newClient(t, o)
	_, err := c.Enroll(t.Context(), csr, Want{})
	if e, ok := errors.AsType[*Error](err); !ok || e.Class != ErrUnavailable || e.Refusal || c.connections != 2 {
		t.Errorf("%v, %d connections", err, c.connections)
	}
}

// A POST that is dropped is not sent twice: the server may have issued.
func TestDroppedPOSTIsNotRepeated(t *testing.T) {
	s := newServer(t)
	var posts atomic.Int32
	s.handlers["simpleenroll"] = func(w http.ResponseWriter, r *http.Request) {
		posts.Add(1)
		hijack(t, w).Close()
	}
	s.start()
	o := s.options()
	o.Certificate = s.root.tlsCertificate(t, clientTemplate("gw-1"))
	_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
	_, err := newClient(t, o).Enroll(t.Context(), csr, Want{})
	if e, ok := errors.AsType[*Error](err); !ok || e.Class != ErrUnavailable || e.Refusal {
		t.Error(err)
	}
	if n := posts.Load(); n != 1 {
		t.Errorf("posted %d times", n)
	}
}

func TestCallerCancels(t *testing.T) {
	s := newServer(t)
	reached := make(chan struct{})
	s.handlers["simpleenroll"] = func(_ http.ResponseWriter, r *http.Request) {
		close(reached)
		<-r.Context().Done()
	}
	s.start()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-reached
		cancel()
	}()
	_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
	_, err := newClient(t, s.options()).Enroll(ctx, csr, Want{})
	if !errors.Is(err, context.Canceled) || !errors.Is(err, ErrUnavailable) {
		t.Error(err)
	}
	s.awaitClosed()
}
