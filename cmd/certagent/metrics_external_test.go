//go:build external

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"certagent/agent/status"
)

const prometheusExample = "../../examples/prometheus"

// promtool runs it on a text, or on files.
func promtool(t *testing.T, stdin []byte, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "promtool", args...)
	cmd.Stdin = bytes.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil || bytes.Contains(out, []byte("error while linting")) {
		t.Errorf("%v: %v\n%s", cmd.Args, err, out)
	}
}

// TestPrometheusRules: the alerts do what their tests say, and each of them fires in one.
func TestPrometheusRules(t *testing.T) {
	promtool(t, nil, "check", "config", "--lint=all", "--lint-fatal", filepath.Join(prometheusExample, "prometheus.yml"))
	promtool(t, nil, "test", "rules", filepath.Join(prometheusExample, "certagent.test.yml"))
	rules, cases := readFile(t, prometheusExample, "certagent.rules.yml"), readFile(t, prometheusExample, "certagent.test.yml")
	alerts := regexp.MustCompile(`(?m)^      - alert: (\w+)$`).FindAllStringSubmatch(rules, -1)
	if len(alerts) < 10 {
		t.Fatalf("%d alerts", len(alerts))
	}
	for _, alert := range alerts {
		fires, rests := false, false
		for c := range strings.SplitSeq(cases, "- eval_time:") {
			if regexp.MustCompile(`(?m)^        alertname: ` + alert[1] + `$`).MatchString(c) {
				fires = fires || strings.Contains(c, "exp_alerts:")
				rests = rests || !strings.Contains(c, "exp_alerts:")
			}
		}
		if !fires || !rests {
			t.Errorf("%s: there is a case in which it fires: %v; in which it does not: %v", alert[1], fires, rests)
		}
	}
	// What they ask for is there.
	documented := readFile(t, "../../docs", "operations.md")
	asked := rules + readFile(t, prometheusExample, "dashboard.json")
	for _, name := range regexp.MustCompile(`certagent_\w+`).FindAllString(asked, -1) {
		if !strings.Contains(documented, "| `"+name+"` |") {
			t.Errorf("%s is no metric of ours", name)
		}
	}
	promtool(t, []byte(readFile(t, "../../agent/status/testdata", "everything.prom")), "check", "metrics")
}

func readFile(t *testing.T, elem ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(elem...))
	must(t, err)
	return string(text)
}

// monitored is a gateway with everything that metrics tell of: outputs and hooks that work and that do not, a certificate
// that cannot be had, and a configuration that does not load any more. certagent-testca is its CA.
func monitored(t *testing.T, listen string) *gateway {
	g := newGateway(t)
	ca, at := testCA(t)
	must(t, os.Mkdir(g.path("node"), 0o755), os.Mkdir(g.path("out"), 0o755), os.Mkdir(g.path("config.d"), 0o755))
	g.example("metrics.toml", "config.d/metrics.toml", map[string]string{
		"/var/lib/prometheus/node-exporter": g.path("node"), "127.0.0.1:9470": listen,
	})
	g.configure(fmt.Sprintf(`[cert_issuance.est]
trusted_certs = ["file://%s"]
[cert_issuance.est.auth]
username = "estuser"
password = "estpwd"
[cert_issuance.est.urls]
default = %q
[cert_issuance.certs.mqtt]
common_name = "mqtt"
outputs = [{ format = "fullchain", path = %q }]
on_renew = { exec = [["/bin/true"], ["/bin/sh", "-c", "exit 1", "marked-word"]] }
[cert_issuance.certs.web]
common_name = "web"
outputs = [{ format = "fullchain", path = %q }]
[cert_issuance.certs.away]
common_name = "away"
url = "https://127.0.0.1:1/.well-known/est"
`, ca, at, g.path("out", "mqtt.pem"), g.path("nowhere", "web.pem")))
	g.start()
	g.next("mqtt", nil)
	must(t, os.WriteFile(g.path("config.d", "bad.toml"), []byte("frob = 1\n"), 0o600))
	g.until("everything that is wrong", func() bool {
		s := g.status()
		codes := map[string]bool{}
		for _, p := range s.Problems {
			codes[p.Code] = true
		}
		for _, c := range s.Certificates {
			for _, p := range c.Problems {
				codes[p.Code] = true
			}
		}
		return codes["config-invalid"] && codes["hook-failed"] && codes["output-refused"] && codes["est-unavailable"]
	})
	return g
}

// example writes a file of the example, with what is another here.
func (g *gateway) example(from, to string, other map[string]string) {
	g.t.Helper()
	text := readFile(g.t, prometheusExample, from)
	for is, becomes := range other {
		if !strings.Contains(text, is) {
			g.t.Fatalf("%s has no %s", from, is)
		}
		text = strings.ReplaceAll(text, is, becomes)
	}
	g.write(to, text)
}

// testCA runs certagent-testca; it gives the file of its CA certificate and the URL of its operations.
func testCA(t *testing.T) (ca, at string) {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "certagent-testca")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "../certagent-testca")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build certagent-testca: %v\n%s", err, out)
	}
	at = background(t, exec.Command(program, "--listen", "localhost:0", "--dir", filepath.Join(dir, "ca")), "ready on ")
	return filepath.Join(dir, "ca", "ca.pem"), at
}

// background starts a program that runs until the test ends. It waits for a line that begins so, and gives the rest of it.
func background(t *testing.T, cmd *exec.Cmd, until string) (rest string) {
	t.Helper()
	said, err := cmd.StdoutPipe()
	must(t, err)
	cmd.Stderr = cmd.Stdout
	must(t, cmd.Start())
	var all bytes.Buffer // read once over is closed
	found, over := make(chan string, 1), make(chan struct{})
	go func() { // ends with the program
		defer close(over)
		for s := bufio.NewScanner(io.TeeReader(said, &all)); s.Scan(); {
			if _, rest, ok := strings.Cut(s.Text(), until); ok {
				select {
				case found <- rest:
				default:
				}
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		<-over
		_ = cmd.Wait() // it was killed
		if t.Failed() {
			t.Logf("%s:\n%s", cmd.Path, &all)
		}
	})
	select {
	case rest = <-found:
	case <-over:
		t.Fatalf("%s ended before it said %q", cmd.Path, until)
	case <-time.After(patience):
		t.Fatalf("%s does not say %q", cmd.Path, until)
	}
	return rest
}

// freeAddress is one at which nobody listens, of a port that the system gives nobody by itself (ip_local_port_range).
func freeAddress(t *testing.T) string {
	t.Helper()
	for range 100 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 15000+rand.IntN(15000)))
		if err == nil {
			defer l.Close()
			return l.Addr().String()
		}
	}
	t.Fatal("no free port")
	return ""
}

func fetch(t *testing.T, client *http.Client, from string) (int, []byte) {
	t.Helper()
	r, err := client.Get(from)
	if err != nil {
		return 0, nil // it does not listen yet
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	must(t, err)
	return r.StatusCode, body
}

// TestPrometheus: a real Prometheus scrapes a real agent, itself and by node_exporter; every query of the dashboard has data,
// and every rule can be evaluated.
func TestPrometheus(t *testing.T) {
	agentAt, nodeAt, serverAt := freeAddress(t), freeAddress(t), freeAddress(t)
	g := monitored(t, agentAt)
	direct := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

	// The three ways say the same, and promtool reads it.
	passing := regexp.MustCompile(`(?m)^certagent_snapshot_timestamp_seconds .*\n`)
	var said []byte
	g.until("the same text in three ways", func() bool {
		code, text := fetch(t, direct, "http://"+agentAt+"/metrics")
		_, other := fetch(t, g.socketClient(), "http://localhost/metrics")
		file, err := os.ReadFile(g.path("node", "certagent.prom"))
		must(t, err)
		said = file
		one := passing.ReplaceAll(text, nil)
		return code == 200 && bytes.Equal(one, passing.ReplaceAll(other, nil)) && bytes.Equal(one, passing.ReplaceAll(file, nil))
	})
	promtool(t, said, "check", "metrics")
	for _, secret := range []string{"estpwd", "estuser", "marked-word"} {
		if bytes.Contains(said, []byte(secret)) {
			t.Errorf("%s is in the metrics:\n%s", secret, said)
		}
	}

	background(t, exec.Command("prometheus-node-exporter", "--collector.disable-defaults", "--collector.textfile",
		"--collector.textfile.directory="+g.path("node"), "--web.listen-address="+nodeAt), "Listening on")
	g.example("certagent.rules.yml", "certagent.rules.yml", nil)
	g.example("prometheus.yml", "prometheus.yml", map[string]string{
		"scrape_interval: 1m": "scrape_interval: 1s\n  evaluation_interval: 1s",
		"scrape_configs:\n":   fmt.Sprintf("scrape_configs:\n  - job_name: node\n    static_configs:\n      - targets: [%q]\n", nodeAt),
		"127.0.0.1:9470":      agentAt,
	})
	background(t, exec.Command("prometheus", "--config.file="+g.path("prometheus.yml"), "--storage.tsdb.path="+g.path("tsdb"),
		"--web.listen-address="+serverAt), "Server is ready to receive web requests")

	query := func(expr string) (n int, why string) {
		code, body := fetch(t, direct, "http://"+serverAt+"/api/v1/query?query="+url.QueryEscape(expr))
		var answer struct {
			Error string
			Data  struct{ Result []json.RawMessage }
		}
		if code == 0 {
			t.Fatal("Prometheus does not answer")
		}
		must(t, json.Unmarshal(body, &answer))
		return len(answer.Data.Result), answer.Error
	}
	data := func(what, expr string) {
		t.Helper()
		g.until(what+": "+expr, func() bool {
			n, why := query(expr)
			if why != "" {
				t.Fatalf("%s: %s: %s", what, expr, why)
			}
			return n > 0
		})
	}
	data("both ways", `count(count by (job) (certagent_build_info{job=~"certagent|node"})) == 2`)
	data("node_exporter", `node_textfile_scrape_error == 0`)
	data("a certificate that works", `certagent_certificate_state{job="certagent",id="mqtt",state="valid"} == 1`)
	data("one that does not", `certagent_attempts_total{job="certagent",id="away",result="failed",class="unavailable"} >= 1`)

	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	must(t, json.Unmarshal([]byte(readFile(t, prometheusExample, "dashboard.json")), &dashboard))
	if len(dashboard.Panels) < 15 {
		t.Fatalf("%d panels", len(dashboard.Panels))
	}
	for _, p := range dashboard.Panels {
		if len(p.Targets) == 0 {
			t.Errorf("%s asks nothing", p.Title)
		}
		for _, target := range p.Targets {
			data(p.Title, strings.ReplaceAll(target.Expr, "$instance", ".*"))
		}
	}
	// A query that finds data whatever it asks for would prove nothing.
	if n, _ := query(`certagent_certificate_state{state="unmanaged"}`); n != 0 {
		t.Errorf("%d results of a query that has none", n)
	}

	wanted := strings.Count(readFile(t, g.path("certagent.rules.yml")), "- alert:")
	g.until("an evaluation of all rules", func() bool {
		_, body := fetch(t, direct, "http://"+serverAt+"/api/v1/rules")
		var answer struct {
			Data struct {
				Groups []struct {
					Rules []struct{ Name, Health, LastError string }
				}
			}
		}
		must(t, json.Unmarshal(body, &answer))
		well := 0
		for _, group := range answer.Data.Groups {
			for _, rule := range group.Rules {
				if rule.LastError != "" {
					t.Fatalf("%s: %s", rule.Name, rule.LastError)
				}
				if rule.Health == "ok" {
					well++
				}
			}
		}
		return well == wanted
	})
	data("an alert that is about to fire", `ALERTS{alertname="CertagentCertificateUnusable",id="away"}`)

	// The agent's own word and the metrics agree.
	for _, c := range g.status().Certificates {
		data("its state", fmt.Sprintf(`certagent_certificate_state{job="certagent",id=%q,state=%q} == 1`, c.ID, string(c.State)))
		if !c.NotAfter.IsZero() {
			data("its end", fmt.Sprintf(`certagent_certificate_not_after_timestamp_seconds{job="node",id=%q} == %d`,
				c.ID, c.NotAfter.Unix()))
		}
	}
	if c := g.certificate("away"); c.State != status.Missing {
		t.Errorf("away is %s", c.State)
	}
	g.stop()
	if !bytes.Contains([]byte(readFile(t, g.path("node", "certagent.prom"))), []byte("certagent_snapshot_timestamp_seconds")) {
		t.Error("the file went with the agent")
	}
}
