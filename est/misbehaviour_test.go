package est_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"
	"unicode"

	"certagent/est"
	"certagent/est/esttest"
)

// enrolments is set in the process that TestMain makes a client of.
const enrolments = "CERTAGENT_TEST_ENROL"

// TestMain lets this test binary be a client in a process of its own, so that what an attempt allocates, leaves behind
// and prints can be measured while other tests run.
func TestMain(m *testing.M) {
	if os.Getenv(enrolments) != "" {
		if err := measureFromInput(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// task is what the client is told on its standard input, where no other user of the machine can read it.
type task struct {
	URL, Proxy       string
	Anchors          []byte // PEM
	Certificate, Key []byte // PEM; what it offers, if anything
	User, Password   string
	Timeout          time.Duration
}

// outcome is what it says on its standard output.
type outcome struct {
	Class, Text, Detail, Hint string // of the error; none if the certificate was issued
	Status                    int
	RetryAfter                time.Duration
	Refusal                   bool
	Warnings                  []string
	Allocated                 uint64 // bytes in all
	Goroutines                int    // more than before
	Sockets                   int    // still open
}

func measureFromInput() error {
	// net/http tells the standard logger, in full, what a server sends that was not asked for: our login too, if it is
	// quoted there. Whoever uses the package switches that off, as certagent does.
	log.SetOutput(io.Discard)
	var todo task
	if err := json.NewDecoder(os.Stdin).Decode(&todo); err != nil {
		return err
	}
	result, err := measure(todo)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}

// measure makes one attempt as the agent does, a renewal where there is a certificate, and measures it.
func measure(todo task) (outcome, error) {
	var result outcome
	base, err := url.Parse(todo.URL)
	if err != nil {
		return result, err
	}
	o := est.Options{
		URL: base, Timeout: todo.Timeout, Login: &est.Login{Username: todo.User, Password: todo.Password},
		Proxy: func(*http.Request) (*url.URL, error) { return nil, nil },
	}
	if todo.Proxy != "" {
		proxy, err := url.Parse(todo.Proxy)
		if err != nil {
			return result, err
		}
		o.Proxy = func(*http.Request) (*url.URL, error) { return proxy, nil }
	}
	for block, rest := pem.Decode(todo.Anchors); block != nil; block, rest = pem.Decode(rest) {
		anchor, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return result, err
		}
		o.Anchors = append(o.Anchors, anchor)
	}
	template := est.Template{
		Subject: pkix.RDNSequence{{{Type: []int{2, 5, 4, 3}, Value: "gateway"}}},
		Usages:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if len(todo.Certificate) > 0 {
		pair, err := tls.X509KeyPair(todo.Certificate, todo.Key)
		if err != nil {
			return result, err
		}
		o.Certificate, o.Identity = &pair, "certificate gateway"
		template = est.RenewalTemplate(pair.Leaf)
		template.Usages = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return result, err
	}
	csr, err := est.CreateRequest(key, template)
	if err != nil {
		return result, err
	}

	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	goroutines := runtime.NumGoroutine()

	client, err := est.New(o)
	if err != nil {
		return result, err
	}
	var warnings []string
	if _, err := client.Attributes(context.Background()); err != nil { // they are advice
		warnings = append(warnings, err.Error())
	}
	do := client.Enroll
	if o.Certificate != nil {
		do = client.Reenroll
	}
	issued, failed := do(context.Background(), csr, est.Want{})
	client.Close()

	runtime.ReadMemStats(&after)
	result.Allocated = after.TotalAlloc - before.TotalAlloc
	left := func() (int, int) { return runtime.NumGoroutine() - goroutines, sockets() }
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); <-time.After(time.Millisecond) {
		if result.Goroutines, result.Sockets = left(); result.Goroutines <= 0 && result.Sockets == 0 {
			break
		}
	}
	if failed == nil {
		result.Warnings = append(warnings, issued.Warnings...)
		return result, nil
	}
	e, ok := errors.AsType[*est.Error](failed)
	if !ok {
		return result, fmt.Errorf("not an *est.Error: %w", failed)
	}
	result.Class, result.Text = className(failed), failed.Error()
	result.Detail, result.Hint = e.Detail, e.Hint
	result.Status, result.RetryAfter, result.Refusal = e.Status, e.RetryAfter, e.Refusal
	return result, nil
}

func className(err error) string {
	for class, name := range map[error]string{
		est.ErrPending: "pending", est.ErrUnauthorized: "unauthorized", est.ErrRejected: "rejected",
		est.ErrUnavailable: "unavailable", est.ErrUntrusted: "untrusted", est.ErrBadResponse: "bad-response",
	} {
		if errors.Is(err, class) {
			return name
		}
	}
	return "none"
}

// sockets counts those that this process has open.
func sockets() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return -1
	}
	n := 0
	for _, e := range entries {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && strings.HasPrefix(to, "socket:") {
			n++
		}
	}
	return n
}

const (
	// markedUser and markedPassword are found again wherever they come out.
	markedUser     = "est-gw-7"
	markedPassword = "k4#marked-horse battery"

	allocationLimit = 16 << 20 // bytes of an attempt
	patience        = 30 * time.Second
)

// TestMisbehaviours: whatever a server does, an attempt ends in its time, in the right class, with a message that names
// the cause; it takes little memory, closes every connection, leaves no goroutine, and gives no secret away.
func TestMisbehaviours(t *testing.T) {
	catalogue := esttest.Misbehaviours()
	if len(catalogue) < 60 {
		t.Errorf("%d misbehaviours, want at least 60", len(catalogue))
	}
	named := map[string]bool{}
	for _, m := range catalogue {
		if named[m.Name] {
			t.Errorf("two misbehaviours are called %q", m.Name)
		}
		named[m.Name] = true
	}
	for name := range misbehaviourSays {
		if !named[name] {
			t.Errorf("there is no misbehaviour %q", name)
		}
	}
	// Processes that wait for their time limit cost nothing, and so more of them run at once than there are processors.
	waiting, working := make(chan struct{}, 12), make(chan struct{}, 4)
	for _, m := range catalogue {
		for _, withCertificate := range []bool{false, true} {
			if !withCertificate && (m.Certificate || m.Silent) {
				continue // it makes no difference
			}
			login, slots := "password", working
			if withCertificate {
				login = "certificate"
			}
			if m.Silent {
				slots = waiting
			}
			met := make(chan encounter, 1)
			go func() { // ends when its client does
				slots <- struct{}{}
				defer func() { <-slots }()
				limits := []time.Duration{patience}
				if m.Silent {
					// On a busy machine the first may end it before the server comes to its silence.
					limits = []time.Duration{2 * time.Second, 10 * time.Second}
				}
				var e encounter
				for _, limit := range limits {
					if e = meet(t, m, withCertificate, limit); e.says(m) {
						break
					}
				}
				met <- e
			}()
			t.Run(m.Name+"/"+login, func(t *testing.T) {
				t.Parallel()
				(<-met).judge(t, m)
			})
		}
	}
}

// encounter is what came of a client and a server that misbehaves.
type encounter struct {
	url     string
	outcome outcome
	printed string // by the client, past its caller
	took    time.Duration
	open    int // connections that the server waits for the client to close, in vain
	err     error
}

// all is everything that the client says of it.
func (e encounter) all() string {
	return strings.Join(append([]string{e.outcome.Text, e.outcome.Detail, e.outcome.Hint}, e.outcome.Warnings...), "\n")
}

// says reports whether the client says what a person must know of m.
func (e encounter) says(m esttest.Misbehaviour) bool {
	return regexp.MustCompile(misbehaviourSays[m.Name]).MatchString(e.all())
}

// meet has a client in a process of its own, with a time limit, meet a server that misbehaves.
func meet(t *testing.T, m esttest.Misbehaviour, withCertificate bool, limit time.Duration) (e encounter) {
	s, err := esttest.Open(esttest.Options{User: markedUser, Password: markedPassword})
	if err != nil {
		return encounter{err: err}
	}
	defer s.Close()
	s.Misbehave(m)
	e.url = s.URL()
	todo := task{
		URL: e.url, Anchors: s.RootPEM(), User: markedUser, Password: markedPassword, Timeout: limit,
	}
	if m.Proxy {
		todo.Proxy = "http://" + markedUser + ":" + url.QueryEscape(markedPassword) + "@" + s.Addr()
	}
	if withCertificate {
		todo.Certificate, todo.Key = s.IssueBootstrap("gateway", time.Hour)
	}
	began := time.Now()
	e.outcome, e.printed, e.err = enrol(t.Context(), todo)
	e.took = time.Since(began)
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-time.After(time.Millisecond) {
		if e.open = s.Open(); e.open == 0 {
			break
		}
	}
	return e
}

func (e encounter) judge(t *testing.T, m esttest.Misbehaviour) {
	if e.err != nil {
		t.Fatal(e.err)
	}
	got, all := e.outcome, e.all()
	says, ok := misbehaviourSays[m.Name]
	if !ok {
		t.Errorf("nothing is said about what this one must say; it is\n%s", all)
	}
	if got.Class != m.Class || !e.says(m) {
		t.Errorf("%q, want %q with %q in it:\n%s", got.Class, m.Class, says, all)
	}
	if m.Class != "" && !strings.Contains(got.Text, e.url) {
		t.Errorf("the server is not named: %s", got.Text)
	}
	if e.took > patience {
		t.Errorf("took %v", e.took)
	}
	if got.Allocated > allocationLimit {
		t.Errorf("allocated %d KiB", got.Allocated>>10)
	}
	if got.Goroutines > 0 || got.Sockets != 0 || e.open != 0 {
		t.Errorf("left %d goroutines and %d sockets behind; %d connections are open at the server",
			got.Goroutines, got.Sockets, e.open)
	}
	if e.printed != "" {
		t.Errorf("printed past its caller: %q", e.printed)
	}
	token := base64.StdEncoding.EncodeToString([]byte(markedUser + ":" + markedPassword))
	for _, secret := range []string{
		markedPassword, "horse", token, token[4:16], base64.StdEncoding.EncodeToString([]byte(markedPassword)),
		url.QueryEscape(markedPassword), url.PathEscape(markedPassword),
	} {
		if strings.Contains(all, secret) {
			t.Errorf("%q is in the error:\n%s", secret, all)
		}
	}
	for line := range strings.Lines(all) {
		if strings.ContainsFunc(strings.TrimSuffix(line, "\n"), func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("not printable: %q", line)
		}
	}
	if len(got.Text) > 2<<10 {
		t.Errorf("error of %d bytes", len(got.Text))
	}
}

// enrol runs the client, and returns what it printed on its standard error too.
func enrol(ctx context.Context, todo task) (got outcome, printed string, err error) {
	self, err := os.Executable()
	if err != nil {
		return got, "", err
	}
	input, err := json.Marshal(todo)
	if err != nil {
		return got, "", err
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), enrolments+"=1")
	cmd.Stdin = bytes.NewReader(input)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return got, "", fmt.Errorf("client: %w\n%s", err, stderr.String())
	}
	return got, stderr.String(), json.Unmarshal(stdout.Bytes(), &got)
}
