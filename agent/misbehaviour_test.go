package agent_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"certagent/agent"
	"certagent/agent/config"
	"certagent/agent/status"
	"certagent/est"
	"certagent/est/esttest"
	"certagent/store"
)

const (
	markedUser     = "est-gw-7"
	markedPassword = "k4#marked-horse battery"
)

// TestMisbehavioursLeaveTheStoreAlone: whatever the server does to a renewal, the generation that is live stays as it
// is, byte for byte, and nothing is written but the request and the time of the next try; status shows what is wrong;
// and no secret is in the log. The client is the real one.
func TestMisbehavioursLeaveTheStoreAlone(t *testing.T) {
	slots := make(chan struct{}, 16) // attempts that wait for their time limit cost nothing
	for _, m := range esttest.Misbehaviours() {
		g := &gateway{dir: t.TempDir(), timeout: 30 * time.Second, log: &lockedBuffer{}}
		done := make(chan error, 1)
		go func() { // ends with its attempts, which have a time limit
			slots <- struct{}{}
			defer func() { <-slots }()
			done <- g.renewAt(m)
		}()
		t.Run(m.Name, func(t *testing.T) {
			t.Parallel()
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			g.judge(t, m)
		})
	}
}

// gateway is a device that has a certificate and comes to renew it.
type gateway struct {
	dir     string
	timeout time.Duration // of a request
	log     *lockedBuffer

	before, after map[string]string // contents of the files in the state directory, by path
	once          error             // of the renewal
	seen          status.Certificate
}

// renewAt enrols at a good server, which misbehaves when the certificate is due.
func (g *gateway) renewAt(m esttest.Misbehaviour) error {
	var passed atomic.Int64 // of the clock of both, in nanoseconds
	began := time.Now()
	clock := func() time.Time { return began.Add(time.Duration(passed.Load())) }
	s, err := esttest.Open(esttest.Options{User: markedUser, Password: markedPassword, Now: clock})
	if err != nil {
		return err
	}
	defer s.Close()
	if err := os.WriteFile(filepath.Join(g.dir, "ca.pem"), s.RootPEM(), 0o644); err != nil {
		return err
	}
	if err := g.run(s, clock, nil); err != nil {
		return err
	}
	if g.once != nil {
		return fmt.Errorf("first enrolment: %w", g.once)
	}
	if g.before, err = files(filepath.Join(g.dir, "state")); err != nil {
		return err
	}

	passed.Store(int64(20 * time.Hour)) // of the 24 that it is valid for
	s.Misbehave(m)
	if m.Silent {
		g.timeout = 2 * time.Second
	}
	var proxy *url.URL
	if m.Proxy {
		proxy = &url.URL{Scheme: "http", Host: s.Addr(), User: url.UserPassword(markedUser, markedPassword)}
	}
	if err := g.run(s, clock, proxy); err != nil {
		return err
	}
	g.after, err = files(filepath.Join(g.dir, "state"))
	return err
}

const gatewayConfiguration = `
[cert_issuance.certs.device]
method = "est"
common_name = "gateway"
url = "%s"
timeout = "%s"
auto_renew = { jitter = "0%%" }
[cert_issuance.est]
trusted_certs = ["file://%s/ca.pem"]
[cert_issuance.est.auth]
username = "%s"
password = "%s"
`

// run is "certagent run --once".
func (g *gateway) run(s *esttest.Server, clock func() time.Time, proxy *url.URL) error {
	stateDir := filepath.Join(g.dir, "state")
	text := fmt.Sprintf(gatewayConfiguration, s.URL(), g.timeout, g.dir, markedUser, markedPassword)
	load := func() (*config.Config, error) {
		return config.Parse("config.toml", []byte(text), config.Defaults{StateDir: stateDir, RunDir: g.dir})
	}
	cfg, err := load()
	if err != nil {
		return err
	}
	kept, err := store.Open(stateDir, store.Options{MachineID: "test"})
	if err != nil {
		return err
	}
	defer kept.Close()
	a, err := agent.New(agent.Options{
		Config: cfg, Load: load, Store: kept, Log: zerolog.New(g.log), Version: "test", Now: clock,
		Synced: func() bool { return false },
		Host:   agent.Host{Hostname: func() (string, error) { return "gateway", nil }, MachineID: "test"},
		Dial: func(o est.Options) (agent.Enroller, error) {
			o.Proxy = func(*http.Request) (*url.URL, error) { return proxy, nil }
			return est.New(o)
		},
	})
	if err != nil {
		return err
	}
	g.once = a.Once(context.Background())
	g.seen = a.Snapshot().Certificates[0]
	return nil
}

func (g *gateway) judge(t *testing.T, m esttest.Misbehaviour) {
	if m.Class == "" {
		if g.once != nil || g.seen.Generation != 2 {
			t.Errorf("generation %d: %v", g.seen.Generation, g.once)
		}
	} else {
		if g.once == nil || g.seen.LastClass != m.Class || g.seen.LastError == "" || len(g.seen.Problems) == 0 {
			t.Errorf("%q, want %q: %s\n%v, %+v", g.seen.LastClass, m.Class, g.seen.LastError, g.once, g.seen.Problems)
		}
		if g.seen.Generation != 1 || g.seen.NextTry.IsZero() {
			t.Errorf("generation %d, next try %v", g.seen.Generation, g.seen.NextTry)
		}
		g.compareFiles(t)
	}
	all := g.log.String() + fmt.Sprintf("%+v", g.seen) + fmt.Sprint(g.once)
	for path, content := range g.after {
		all += path + content
	}
	token := base64.StdEncoding.EncodeToString([]byte(markedUser + ":" + markedPassword))
	for _, secret := range []string{markedPassword, "horse", token, token[4:16], url.PathEscape(markedPassword)} {
		if strings.Contains(all, secret) {
			t.Errorf("%q is in log, status or store", secret)
		}
	}
	if n := strings.Count(g.log.String(), "\n"); n > 20 || len(g.log.String()) > 20<<10 {
		t.Errorf("%d lines and %d bytes of log", n, len(g.log.String()))
	}
}

// compareFiles lets nothing be new but what an attempt that failed leaves: the request, to be sent again, and when; and when
// an operation that was asked before the one that failed was last answered.
func (g *gateway) compareFiles(t *testing.T) {
	paths := slices.Sorted(maps.Keys(g.before))
	for path := range g.after {
		if _, ok := g.before[path]; !ok {
			paths = append(paths, path)
		}
	}
	for _, path := range paths {
		switch {
		case path == "lock", path == "certs/device/retry.json", path == "certs/device/pending",
			strings.HasPrefix(path, "certs/device/pending/"):
		case strings.HasPrefix(path, "trust/") && strings.HasSuffix(path, ".json") &&
			withoutTimes(g.before[path]) == withoutTimes(g.after[path]):
		case g.before[path] != g.after[path]:
			t.Errorf("%s was %q and is %q", path, g.before[path], g.after[path])
		}
	}
	if g.after["certs/device/live"] != "link to gen-000001" {
		t.Errorf("live is %q", g.after["certs/device/live"])
	}
}

// withoutTimes is what stands in a server's record but for when it was written and when the server answered.
func withoutTimes(record string) string {
	_, text, _ := strings.Cut(record, "{")
	fields := map[string]any{}
	if err := json.Unmarshal([]byte("{"+text), &fields); err != nil {
		return record
	}
	delete(fields, "fetched")
	delete(fields, "csrattrs_fetched")
	return fmt.Sprint(fields)
}

// files reads a directory with everything below it.
func files(dir string) (map[string]string, error) {
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		switch {
		case entry.IsDir():
			all[name] = info.Mode().String()
		case info.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(path)
			all[name] = "link to " + to
			return err
		default:
			content, err := os.ReadFile(path)
			all[name] = info.Mode().String() + info.ModTime().String() + string(content)
			return err
		}
		return nil
	})
	return all, err
}

// lockedBuffer keeps what is logged.
type lockedBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
