package control_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"certagent/agent/control"
	"certagent/agent/status"
)

// patience is how long a test waits for what must happen.
const patience = 30 * time.Second

// agent is what a server speaks for in these tests. It publishes, and remembers what it was told.
type agent struct {
	mu        sync.Mutex // guards what follows
	snapshot  status.Snapshot
	revision  int
	changed   chan struct{}
	renewals  []control.Renewal
	imports   []control.Import
	reloadErr error
	hang      chan struct{} // a reload takes until this is closed; nil: no time
}

func newAgent() *agent {
	return &agent{changed: make(chan struct{}), snapshot: status.Snapshot{Schema: status.Schema, StateDir: "/state", Running: true}}
}

func (a *agent) publish(change func(*status.Snapshot)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change(&a.snapshot)
	a.revision++
	close(a.changed)
	a.changed = make(chan struct{})
}

func (a *agent) Snapshot() status.Snapshot {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.snapshot
}

func (a *agent) Metrics() []byte { return []byte("certagent_clock_credible 1\n") }

func (a *agent) CatchUp(context.Context) {}

func (a *agent) News() (string, <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return fmt.Sprint(a.revision), a.changed
}

func (a *agent) Renew(_ context.Context, r control.Renewal) ([]control.Renewed, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.renewals = append(a.renewals, r)
	if len(r.IDs) == 1 && r.IDs[0] == "other" {
		return nil, &control.Error{Status: http.StatusNotFound, Text: "the agent keeps no certificate \"other\"", Hint: "look"}
	}
	return []control.Renewed{{ID: "mqtt", Generation: 7, Waits: "later"}}, nil
}

func (a *agent) ReloadNow(ctx context.Context) error {
	a.mu.Lock()
	err, hang := a.reloadErr, a.hang
	a.mu.Unlock()
	if hang != nil {
		select {
		case <-hang:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return err
}

func (a *agent) Onboard(_ context.Context, o control.Onboarding) (control.Onboarded, error) {
	return control.Onboarded{ID: "device-id", Known: !o.Again, Waits: "for its turn"}, nil
}

func (a *agent) Import(_ context.Context, i control.Import) (control.Imported, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.imports = append(a.imports, i)
	return control.Imported{Generation: 1, Directory: "/state/certs/mqtt/gen-000001"}, nil
}

// serve is a server for a at a socket of its own.
func serve(t *testing.T, a control.Agent) (s *control.Server, socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "control.sock")
	s = control.NewServer(a, zerolog.Nop())
	if err := s.Keep(socket, -1, -1); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s, socket
}

func client(t *testing.T, socket string) *control.Client {
	t.Helper()
	c := control.NewClient(socket, uint32(os.Geteuid()))
	t.Cleanup(c.Close)
	return c
}

func dial(t *testing.T, socket string) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return c
}

// say sends a request as it is typed, and gives the answer.
func say(t *testing.T, socket, request string) (*http.Response, string) {
	t.Helper()
	c := dial(t, socket)
	_, _ = io.WriteString(c, request) // what is too long is not read to its end
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatalf("%q: %v", request, err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r, string(body)
}

func TestAskingAndTelling(t *testing.T) {
	t.Parallel()
	a := newAgent()
	a.snapshot.Certificates = []status.Certificate{{ID: "mqtt", State: status.Valid, Ordered: true}}
	_, socket := serve(t, a)
	c := client(t, socket)
	ctx := t.Context()

	news, changed, err := c.Status(ctx, "", 0)
	if err != nil || !changed || news.Revision != "0" || news.Snapshot.StateDir != "/state" || !news.Snapshot.Certificates[0].Ordered {
		t.Errorf("status: %+v, %v, %v", news, changed, err)
	}
	answers, err := c.Renew(ctx, control.Renewal{IDs: []string{"mqtt"}, NewKey: true})
	if err != nil || len(answers) != 1 || answers[0] != (control.Renewed{ID: "mqtt", Generation: 7, Waits: "later"}) {
		t.Errorf("renew: %+v, %v", answers, err)
	}
	if r := a.renewals; len(r) != 1 || r[0].IDs[0] != "mqtt" || !r[0].NewKey || r[0].Discard {
		t.Errorf("the agent was asked %+v", r)
	}
	_, err = c.Renew(ctx, control.Renewal{IDs: []string{"other"}})
	if e, ok := errors.AsType[*control.Error](err); !ok || e.Status != http.StatusNotFound || e.Hint != "look" {
		t.Errorf("what the agent refuses: %#v", err)
	}
	if err := c.Reload(ctx); err != nil {
		t.Errorf("reload: %v", err)
	}
	a.reloadErr = errors.New("config.toml:1:1: frob: unknown key\nconfig.toml:2:1: frib: unknown key")
	if err := c.Reload(ctx); err == nil || err.Error() != a.reloadErr.Error() {
		t.Errorf("reload of a bad file: %v", err)
	}
	taken, err := c.Import(ctx, control.Import{ID: "mqtt", File: "import-x.pem", Replace: true})
	if err != nil || taken.Generation != 1 || a.imports[0] != (control.Import{ID: "mqtt", File: "import-x.pem", Replace: true}) {
		t.Errorf("import: %+v, %v; the agent was asked %+v", taken, err, a.imports)
	}
}

// TestWhatIsNoRequest: everything else is refused with what would be right, and reaches no agent.
func TestWhatIsNoRequest(t *testing.T) {
	t.Parallel()
	post := func(path, body string) string {
		return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body)
	}
	for name, c := range map[string]struct {
		request string
		code    int
		says    string
	}{
		"another path":         {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 404, `there is no \"/\" here`},
		"another version":      {"GET /v2/status HTTP/1.1\r\nHost: x\r\n\r\n", 404, "there is no"},
		"a way round":          {post("/v1/../v1/renew", "{}"), 404, "there is no"},
		"a change by GET":      {"GET /v1/renew HTTP/1.1\r\nHost: x\r\n\r\n", 405, "takes POST"},
		"status by POST":       {post("/v1/status", ""), 405, "takes GET"},
		"no JSON":              {post("/v1/renew", "mqtt"), 400, "read the request"},
		"nothing":              {post("/v1/renew", ""), 400, "read the request"},
		"null":                 {post("/v1/renew", "null"), 400, "one JSON object"},
		"two wishes":           {post("/v1/renew", `{"ids":["mqtt"]} {"ids":[]}`), 400, "one JSON object"},
		"a list":               {post("/v1/renew", `["mqtt"]`), 400, "read the request"},
		"a reload of a part":   {post("/v1/reload", `{"ids":["mqtt"]}`), 400, "ids"},
		"a GET with a body":    {"GET /v1/status HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n", 400, "no body"},
		"one in parts":         {"GET /v1/status HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "no body"},
		"a misspelt wish":      {post("/v1/renew", `{"newkey":true}`), 400, "newkey"},
		"more than is read":    {post("/v1/renew", `{"ids":["`+strings.Repeat("x", 1<<20)+`"]}`), 400, "too large"},
		"a header without end": {"GET /v1/status HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 12<<10+1) + "\r\n\r\n", 431, ""},
		"another protocol":     {"\x16\x03\x01\r\n\r\n", 400, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAgent()
			_, socket := serve(t, a)
			r, body := say(t, socket, c.request)
			if r.StatusCode != c.code || !strings.Contains(body, c.says) {
				t.Errorf("%s\n%s\nwant %d, %q", r.Status, body, c.code, c.says)
			}
			if len(a.renewals) > 0 {
				t.Errorf("the agent was asked: %+v", a.renewals)
			}
		})
	}
}

// TestNews: who has the newest status and is ready to wait hears of the next one when it comes, or that there is none.
func TestNews(t *testing.T) {
	t.Parallel()
	a := newAgent()
	_, socket := serve(t, a)
	c := client(t, socket)
	first, _, err := c.Status(t.Context(), "", 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, changed, err := c.Status(t.Context(), first.Revision, time.Second); changed || err != nil {
		t.Errorf("without news: %v, %v", changed, err)
	}
	type answer struct {
		news control.News
		err  error
	}
	heard := make(chan answer, 1)
	go func() {
		news, _, err := c.Status(t.Context(), first.Revision, control.MaxWait)
		heard <- answer{news, err}
	}()
	// The request may be on its way still. Whichever is first, it must hear of this.
	a.publish(func(s *status.Snapshot) { s.StateDir = "/other" })
	if n := <-heard; n.err != nil || n.news.Snapshot.StateDir != "/other" || n.news.Revision == first.Revision {
		t.Errorf("news: %+v", n)
	}
	if news, changed, err := c.Status(t.Context(), "of another agent", control.MaxWait); !changed || err != nil || news.Revision != "1" {
		t.Errorf("with a revision that nobody knows: %+v, %v, %v", news, changed, err)
	}
}

// TestNewsOutlastsTheReadLimit: who waits for news longer than a request may take is not taken for gone.
func TestNewsOutlastsTheReadLimit(t *testing.T) {
	t.Parallel()
	_, socket := serve(t, newAgent())
	begun := time.Now()
	_, changed, err := client(t, socket).Status(t.Context(), "0", 7*time.Second)
	if waited := time.Since(begun); changed || err != nil || waited < 7*time.Second {
		t.Errorf("after %v: %v, %v", waited, changed, err)
	}
}

// TestStuckClients: who says nothing, who reads nothing and who does not end what he says loses his connection, and meanwhile
// others are served as if he were not there.
func TestStuckClients(t *testing.T) {
	t.Parallel()
	a := newAgent()
	for n := range 3000 { // more than the sockets take
		a.snapshot.Certificates = append(a.snapshot.Certificates, status.Certificate{ID: fmt.Sprint(n), LastError: strings.Repeat("x", 1000)})
	}
	_, socket := serve(t, a)
	stuck := map[string]string{
		"says nothing":         "",
		"does not end":         "GET /v1/status HTTP/1.1\r\nHost:",
		"does not end a body":  "POST /v1/renew HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{",
		"begins no body":       "POST /v1/reload HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n",
		"does not end a part":  "POST /v1/reload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{",
		"a body for nobody":    "GET /v1/status HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n",
		"a body for no path":   "POST /v1/none HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n",
		"reads nothing":        "GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n",
		"asks again and again": strings.Repeat("GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n", 100),
	}
	conns := map[string]net.Conn{}
	for what, request := range stuck {
		conns[what] = dial(t, socket)
		if _, err := io.WriteString(conns[what], request); err != nil {
			t.Fatal(err)
		}
	}
	if news, _, err := client(t, socket).Status(t.Context(), "", 0); err != nil || len(news.Snapshot.Certificates) != 3000 {
		t.Errorf("beside stuck clients: %d certificates, %v", len(news.Snapshot.Certificates), err)
	}
	for what, c := range conns {
		if strings.HasPrefix(what, "reads") || strings.HasPrefix(what, "asks") {
			// What the socket holds can be read still; then comes the end, before the answer's own.
			within(t, what+": the connection is ended", func() bool {
				_, err := c.Write([]byte("x"))
				return err != nil
			})
			continue
		}
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: the connection is still open", what)
		}
	}
}

func within(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("did not happen within %v: %s", patience, what)
		}
	}
}

// TestTooManyConnections: who is one too many is shut out at once, and there is room again when others leave.
func TestTooManyConnections(t *testing.T) {
	t.Parallel()
	_, socket := serve(t, newAgent())
	wait := "GET /v1/status HTTP/1.1\r\nHost: x\r\nIf-None-Match: \"0\"\r\nPrefer: wait=30\r\n\r\n"
	var open []net.Conn
	for range 64 {
		c := dial(t, socket)
		if _, err := io.WriteString(c, wait); err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	c := client(t, socket)
	_, _, err := c.Status(t.Context(), "", 0)
	if err == nil || !strings.Contains(err.Error(), "has too many") {
		t.Errorf("the 65th: %v", err)
	}
	for _, c := range open {
		c.Close()
	}
	within(t, "room again", func() bool {
		_, _, err := c.Status(t.Context(), "", 0)
		return err == nil
	})
}

// TestShutOut: who is shut out is told so, whenever in the exchange that happens.
func TestShutOut(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "control.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	for range 300 {
		if _, _, err := client(t, socket).Status(t.Context(), "", 0); !errors.Is(err, control.ErrShut) {
			t.Fatalf("shut out: %v", err)
		}
	}
}

// TestAThousandConnections at once, from one who may do everything: those that are too many are shut out, and who comes after
// them is served.
func TestAThousandConnections(t *testing.T) {
	t.Parallel()
	_, socket := serve(t, newAgent())
	const request = "GET /v1/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
	var all sync.WaitGroup
	var answered, shut atomic.Int32
	for range 1000 {
		c := dial(t, socket)
		all.Go(func() {
			_, _ = io.WriteString(c, request) // who is shut out may notice here
			switch answer, err := io.ReadAll(c); {
			case errors.Is(err, os.ErrDeadlineExceeded):
				t.Error("a connection that is neither served nor ended")
			case bytes.HasPrefix(answer, []byte("HTTP/1.1 200 OK\r\n")):
				answered.Add(1)
			default:
				shut.Add(1)
			}
		})
	}
	all.Wait()
	if answered.Load() == 0 || answered.Load()+shut.Load() != 1000 {
		t.Errorf("%d were answered, %d shut out", answered.Load(), shut.Load())
	}
	within(t, "room again", func() bool {
		_, _, err := client(t, socket).Status(t.Context(), "", 0)
		return err == nil
	})
}

// TestAMistakeInOneAnswer: the one that comes after it is made.
func TestAMistakeInOneAnswer(t *testing.T) {
	t.Parallel()
	a := newAgent()
	_, socket := serve(t, &mistaken{agent: a})
	if _, _, err := client(t, socket).Status(t.Context(), "", 0); err == nil {
		t.Fatal("there is an answer")
	}
	if _, _, err := client(t, socket).Status(t.Context(), "", 0); err != nil {
		t.Errorf("the next one: %v", err)
	}
}

// mistaken is an agent whose first Snapshot is a panic.
type mistaken struct {
	*agent
	once atomic.Bool
}

func (m *mistaken) Snapshot() status.Snapshot {
	if !m.once.Swap(true) {
		panic("a mistake")
	}
	return m.agent.Snapshot()
}

// TestManyAgentsForOneSocket: of those that start at once one has it, and knows that; it goes on having it.
func TestManyAgentsForOneSocket(t *testing.T) {
	t.Parallel()
	for range 20 {
		socket := filepath.Join(t.TempDir(), "control.sock")
		var all sync.WaitGroup
		errs := make([]error, 8)
		servers := make([]*control.Server, len(errs))
		for i := range errs {
			a := newAgent()
			a.snapshot.StateDir = fmt.Sprint(i)
			servers[i] = control.NewServer(a, zerolog.Nop())
			defer servers[i].Close()
			all.Go(func() { errs[i] = servers[i].Keep(socket, -1, -1) })
		}
		all.Wait()
		var has []string
		for i, err := range errs {
			if err == nil {
				has = append(has, fmt.Sprint(i))
			} else if !strings.Contains(err.Error(), "another program answers there") {
				t.Error(err)
			}
		}
		news, _, err := client(t, socket).Status(t.Context(), "", 0)
		if err != nil || len(has) != 1 || news.Snapshot.StateDir != has[0] {
			t.Fatalf("%q believe that they have it; %q answers, %v", has, news.Snapshot.StateDir, err)
		}
	}
}

// TestADirectoryThatSomebodyLocks: whoever may read it may lock it for ever, which keeps nobody from anything.
func TestADirectoryThatSomebodyLocks(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "control.sock")
	dir, err := os.Open(filepath.Dir(socket))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	s := control.NewServer(newAgent(), zerolog.Nop())
	defer s.Close()
	if err := s.Keep(socket, -1, -1); err != nil {
		t.Error(err)
	}
}

// TestClosing ends everything at once, also what waits.
func TestClosing(t *testing.T) {
	t.Parallel()
	a := newAgent()
	a.hang = make(chan struct{})
	s, socket := serve(t, a)
	ended := make(chan error, 2)
	go func() {
		_, _, err := client(t, socket).Status(t.Context(), "0", control.MaxWait)
		ended <- err
	}()
	go func() { ended <- client(t, socket).Reload(t.Context()) }()
	dial(t, socket)
	s.Close()
	for range 2 {
		select {
		case err := <-ended:
			if err == nil {
				t.Error("what waits is answered as if all were well")
			}
		case <-time.After(patience):
			t.Fatal("what waits goes on waiting")
		}
	}
	if _, err := os.Lstat(socket); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is left behind: %v", err)
	}
	if _, _, err := client(t, socket).Status(t.Context(), "", 0); !errors.Is(err, control.ErrNobody) {
		t.Errorf("afterwards: %v", err)
	}
}

// TestPlaceOfTheSocket: what answers is never taken away, what is dead is replaced, what is something else is left alone.
func TestPlaceOfTheSocket(t *testing.T) {
	t.Parallel()
	dead := func(t *testing.T, path string) {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		l.Close()
	}
	for name, c := range map[string]struct {
		before func(t *testing.T, path string)
		says   string // "" means that it is had
	}{
		"nothing there": {func(*testing.T, string) {}, ""},
		"a dead one":    {dead, ""},
		"one half made": {func(t *testing.T, path string) { dead(t, path+".new") }, ""},
		"one that answers": {func(t *testing.T, path string) {
			l, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
		}, "another program answers there"},
		"a file": {func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "no socket"},
		"a link": {func(t *testing.T, path string) {
			if err := os.Symlink("/dev/log", path); err != nil {
				t.Fatal(err)
			}
		}, "no socket"},
		"no directory": {func(t *testing.T, path string) {
			if err := os.Remove(filepath.Dir(path)); err != nil {
				t.Fatal(err)
			}
		}, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			socket := filepath.Join(t.TempDir(), "control.sock")
			c.before(t, socket)
			before, _ := os.Lstat(socket)
			s := control.NewServer(newAgent(), zerolog.Nop())
			defer s.Close()
			err := s.Keep(socket, -1, -1)
			if c.says != "" {
				after, _ := os.Lstat(socket)
				if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), socket) {
					t.Errorf("%v, want %q", err, c.says)
				}
				if before != nil && !os.SameFile(before, after) {
					t.Error("what was there is gone")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := client(t, socket).Status(t.Context(), "", 0); err != nil {
				t.Error(err)
			}
			if info, err := os.Lstat(socket); err != nil || info.Mode() != fs.ModeSocket|0o666 {
				t.Errorf("mode %v, %v", info.Mode(), err)
			}
			if left, _ := filepath.Glob(socket + "?*"); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

func TestPathThatIsTooLong(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), strings.Repeat("x", 110))
	err := control.NewServer(newAgent(), zerolog.Nop()).Keep(socket, -1, -1)
	if err == nil || !strings.Contains(err.Error(), "107 are the most") {
		t.Error(err)
	}
}

// TestKeepingTheSocket: one that somebody removed is made again, and one that is to be elsewhere moves.
func TestKeepingTheSocket(t *testing.T) {
	t.Parallel()
	s, socket := serve(t, newAgent())
	reached := func(socket string) error {
		_, _, err := client(t, socket).Status(t.Context(), "", 0)
		return err
	}
	if err := s.Keep(socket, -1, -1); err != nil || reached(socket) != nil {
		t.Errorf("all is well: %v, %v", err, reached(socket))
	}
	if err := os.Remove(socket); err != nil {
		t.Fatal(err)
	}
	if err := s.Keep(socket, -1, -1); err != nil || reached(socket) != nil {
		t.Errorf("removed: %v, %v", err, reached(socket))
	}
	nowhere := filepath.Join(t.TempDir(), "no", "control.sock")
	if err := s.Keep(nowhere, -1, -1); err == nil || reached(socket) != nil {
		t.Errorf("where it cannot be it is as before: %v, %v", err, reached(socket))
	}
	other := filepath.Join(t.TempDir(), "control.sock")
	if err := s.Keep(other, -1, -1); err != nil || reached(other) != nil || !errors.Is(reached(socket), control.ErrNobody) {
		t.Errorf("moved: %v, %v, %v", err, reached(other), reached(socket))
	}
	// Another agent's socket in this one's place is not this one's to remove.
	if err := os.Remove(other); err != nil {
		t.Fatal(err)
	}
	second := control.NewServer(newAgent(), zerolog.Nop())
	defer second.Close()
	if err := second.Keep(other, -1, -1); err != nil {
		t.Fatal(err)
	}
	if err := s.Keep(other, -1, -1); err == nil {
		t.Error("two servers have one socket")
	}
	s.Close()
	if err := reached(other); err != nil {
		t.Errorf("the other agent's socket: %v", err)
	}
}

// TestClientsOfOtherServers: nobody there, somebody who says nothing, a stranger, and what speaks of something else.
func TestClientsOfOtherServers(t *testing.T) {
	t.Parallel()
	listen := func() (string, net.Listener) {
		socket := filepath.Join(t.TempDir(), "s")
		l, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return socket, l
	}
	silent, _ := listen()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, _, err := client(t, silent).Status(ctx, "", 0); !errors.Is(err, control.ErrSilent) || !strings.Contains(err.Error(), silent) {
		t.Errorf("one that says nothing: %v", err)
	}
	_, own := serve(t, newAgent())
	if _, _, err := control.NewClient(own, uint32(os.Geteuid())+1).Status(t.Context(), "", 0); err == nil ||
		!strings.Contains(err.Error(), fmt.Sprintf("user %d answers there", os.Geteuid())) {
		t.Errorf("a stranger: %v", err)
	}
	for says, want := range map[string]string{
		"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n{\"schema\":9}": "schema 9",
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello":           "understand",
		"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 2\r\n\r\nno":     "502 Bad Gateway",
		"220 mail ESMTP\r\n": "malformed HTTP",
		"":                   "ended the connection",
	} {
		socket, l := listen()
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = http.ReadRequest(bufio.NewReader(c))
				_, _ = io.Copy(c, bytes.NewBufferString(says))
				c.Close()
			}
		}()
		if _, _, err := client(t, socket).Status(t.Context(), "", 0); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", says, err)
		}
	}
}
