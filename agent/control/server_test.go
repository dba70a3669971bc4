package control_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"certagent/agent/control"
	"certagent/agent/status"
)

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
