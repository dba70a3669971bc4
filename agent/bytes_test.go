package agent

import (
	"encoding/base64"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"certagent/est/esttest"
)

// TestBytesOfATry measures what one failing try of a certificate that is due costs on the wire, and holds the table in
// docs/operations.md to it: no more than it says, and not much less.
func TestBytesOfATry(t *testing.T) {
	stated := statedBytes(t)
	dearest := map[string]int64{}
	garbage := strings.Repeat("A", 1<<20+2)
	says := func(status int, body string, headers ...string) esttest.Fault {
		return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
			io.Copy(io.Discard, r.Body) // a client drops the connection on which an answer overtakes the request
			for n := 0; n < len(headers); n += 2 {
				w.Header().Set(headers[n], headers[n+1])
			}
			w.WriteHeader(status)
			io.WriteString(w, body)
		}
	}
	everything := func(f esttest.Fault) func(*esttest.Server, *gateway) {
		return func(s *esttest.Server, _ *gateway) { s.Always("", f) }
	}
	enrolments := func(f esttest.Fault) func(*esttest.Server, *gateway) {
		return func(s *esttest.Server, _ *gateway) {
			s.Always("simpleenroll", f)
			s.Always("simplereenroll", f)
		}
	}
	for _, c := range []struct {
		kind string // the row of the table
		fail func(*esttest.Server, *gateway)
	}{
		{"does not verify", func(s *esttest.Server, g *gateway) {
			writeFile(g.t, filepath.Join(g.dir, "ca.pem"), pemOf(stranger(g.t).Raw))
		}},
		{"ends the TLS handshake", func(s *esttest.Server, _ *gateway) {
			s.Misbehave(misbehaviour(t, "demands a certificate and takes none"))
		}},
		{"ends the TLS handshake", func(s *esttest.Server, _ *gateway) { s.Misbehave(misbehaviour(t, "closes after the ClientHello")) }},
		{"401 or 403", enrolments(says(401, "no", "WWW-Authenticate", `Basic realm="estrealm"`))},
		{"401 or 403", enrolments(says(403, strings.Repeat("no ", 500)))},
		{"404", everything(esttest.Status(404))},
		{"503", everything(says(503, strings.Repeat("x", 4096)))},
		{"503", enrolments(says(503, strings.Repeat("x", 4096), "Retry-After", "120"))},
		{"202", enrolments(esttest.Pending202(time.Hour))},
		{"as much as is read", enrolments(says(200, garbage, "Content-Type", "application/pkcs7-mime"))},
		{"as much as is read", everything(says(200, garbage, "Content-Type", "application/pkcs7-mime"))},
		{"as much as is read", everything(says(500, garbage))},
		{"as much as is read", func(s *esttest.Server, _ *gateway) {
			s.Misbehave(misbehaviour(t, "server certificate below a thousand others"))
		}},
		{"as much as is read", func(s *esttest.Server, _ *gateway) {
			s.Always("csrattrs", says(200, base64.StdEncoding.EncodeToString(make([]byte, 700<<10)), "Content-Type", "application/csrattrs"))
			s.Always("simplereenroll", says(200, garbage, "Content-Type", "application/pkcs7-mime"))
			s.Always("simpleenroll", says(200, garbage, "Content-Type", "application/pkcs7-mime"))
		}},
	} {
		t.Run(c.kind, func(t *testing.T) {
			server := esttest.New(t, esttest.Options{Intermediate: true, SendChain: true})
			relay := esttest.NewRelay(t, server.Addr())
			at, err := url.Parse(server.URL())
			if err != nil {
				t.Fatal(err)
			}
			g := newGateway(t, server, trustFile, byUser, "auto_renew = { jitter = \"0%\" }\n")
			g.text = strings.ReplaceAll(g.text, server.URL(), relay.In(at).String())
			g.mustTurn()
			g.ahead = 20 * time.Hour
			c.fail(server, g)
			if g.turn() == nil {
				t.Fatal("the try did not fail")
			}
			g.ahead += 2 * time.Hour // past what it asked to wait
			before, connections := relay.Up.Load()+relay.Down.Load(), relay.Connections.Load()
			if g.turn() == nil {
				t.Fatal("the second try did not fail")
			}
			relay.Stop()
			payload, connections := relay.Up.Load()+relay.Down.Load()-before, relay.Connections.Load()-connections
			cost := onTheWire(payload, connections)
			limit, ok := stated[c.kind]
			if !ok {
				t.Errorf("docs/operations.md has no row for %q", c.kind)
			}
			if cost > limit {
				t.Errorf("%d bytes on %d connections are %d on the wire, docs/operations.md says at most %d", payload, connections, cost, limit)
			}
			dearest[c.kind] = max(dearest[c.kind], cost)
		})
	}
	for kind, cost := range dearest {
		if cost < stated[kind]*6/10 {
			t.Errorf("%s: at most %d bytes, docs/operations.md says %d", kind, cost, stated[kind])
		}
	}
}

// onTheWire adds the headers of IPv6 and TCP with time stamps, 72 bytes for each packet: eight to open and to close a
// connection, and for each 1200 bytes one packet and its acknowledgement.
func onTheWire(payload, connections int64) int64 {
	const header = 72
	return payload + header*(8*connections+2*(payload/1200+1))
}

// statedBytes reads the table of docs/operations.md: bytes by kind.
func statedBytes(t *testing.T) map[string]int64 {
	t.Helper()
	text, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]int64{}
	for _, row := range regexp.MustCompile(`(?m)^\| ([^|]+) \| ([0-9]+) KB \|`).FindAllStringSubmatch(string(text), -1) {
		n, err := strconv.ParseInt(row[2], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		rows[row[1]] = n * 1000
	}
	return rows
}

func misbehaviour(t *testing.T, name string) esttest.Misbehaviour {
	t.Helper()
	for _, m := range esttest.Misbehaviours() {
		if m.Name == name {
			return m
		}
	}
	t.Fatalf("no misbehaviour %q", name)
	return esttest.Misbehaviour{}
}
