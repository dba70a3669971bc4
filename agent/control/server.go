package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"certagent/agent/status"
)

// What a client may take of the server's time and memory. Everything that waits for a client has one of these.
const (
	readWithin  = 5 * time.Second // a request, from its first byte to its last
	writeWithin = 5 * time.Second // an answer
	idleWithin  = 5 * time.Second // between two requests of one connection
	maxHeader   = 8 << 10         // bytes; net/http adds 4 KiB
	maxBody     = 128 << 10       // bytes: a thousand ids of the longest kind
	// changeWithin is how long the agent may take over a change before the client is told that it goes on by itself.
	changeWithin = 30 * time.Second
	// catchUp is how long a reader waits for the agent to publish what has happened.
	catchUp = time.Second
)

// Server answers for an [Agent] at a unix socket. Its methods may be called from any goroutine.
type Server struct {
	agent  Agent
	log    zerolog.Logger
	paths  map[string]route
	http   *http.Server
	crowd  *crowd
	making chan struct{} // held by who makes a Snapshot: the agent's keepers contend with one reader at most

	mu   sync.Mutex // guards what follows
	door *door      // nil while there is none
}

// NewServer makes a Server that cannot be reached yet. It logs who changed what, and what is wrong with itself.
func NewServer(a Agent, log zerolog.Logger) *Server {
	s := &Server{agent: a, log: log, crowd: newCrowd(), making: make(chan struct{}, 1)}
	s.paths = s.routes()
	s.http = &http.Server{
		Handler:     s,
		ReadTimeout: readWithin, IdleTimeout: idleWithin, MaxHeaderBytes: maxHeader,
		WriteTimeout: max(MaxWait, changeWithin) + 2*writeWithin, // each answer has a shorter one, see answer
		ErrorLog:     stdlog.New(log.With().Str("level", "error").Str("event", "socket").Logger(), "", 0),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, visitorKey{}, c)
		},
	}
	return s
}

// Keep makes sure that the server can be reached at the socket called path, which belongs to uid and gid (-1: to this
// process) and has mode 0666. It opens it, or opens it anew where it is gone or was at another path. One that was left
// behind by a program that ended is replaced; one at which somebody answers, and what is no socket, never is.
func (s *Server) Keep(path string, uid, gid int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.door != nil && s.door.there(path) {
		return nil
	}
	d, err := open(path, uid, gid, s.crowd)
	if err != nil {
		return err
	}
	if s.door != nil {
		_ = s.door.Close() // nobody can reach it any more, or nobody should
	}
	s.door = d
	go func() { _ = s.http.Serve(d) }() // ends when the door is closed, which is its only error
	return nil
}

// Close ends all connections, waits for nobody, and removes the socket.
func (s *Server) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.http.Close() // of connections that end in any case
	if s.door != nil {
		_ = s.door.Close() // again, should it not have been served yet
		s.door = nil
	}
}

// visitorKey is where the context of a request has its *visitor.
type visitorKey struct{}

// route is what can be asked for at one path.
type route struct {
	method string
	serve  func(w http.ResponseWriter, r *http.Request)
}

// routes are all of them; docs/control-api.md has each. What takes GET is for everybody and has no body.
func (s *Server) routes() map[string]route {
	return map[string]route{
		pathStatus:  {http.MethodGet, s.status},
		pathMetrics: {http.MethodGet, s.metrics},
		pathRenew:   {http.MethodPost, s.change(s.renew)},
		pathReload:  {http.MethodPost, s.change(s.reload)},
		pathCloud:   {http.MethodPost, s.change(s.onboard)},
		pathImport:  {http.MethodPost, s.change(s.takeOver)},
	}
}

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	to, ok := s.paths[r.URL.Path]
	switch {
	case !ok:
		s.refuse(w, &Error{Status: http.StatusNotFound, Text: fmt.Sprintf("there is no %q here", r.URL.Path)})
	case r.Method != to.method:
		w.Header().Set("Allow", to.method)
		s.refuse(w, &Error{Status: http.StatusMethodNotAllowed, Text: fmt.Sprintf("%s takes %s", r.URL.Path, to.method)})
	case r.Method == http.MethodGet && r.ContentLength != 0:
		w.Header().Set("Connection", "close") // else the server would read the body first, and wait for it
		s.refuse(w, &Error{Status: http.StatusBadRequest, Text: "a GET has no body here"})
	default:
		to.serve(w, r)
	}
}

// understood is called when the whole request was read: from now on the client is not gone because it says nothing more. Before that
// it would let a body that never ends hold its connection for ever.
func understood(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // of a connection that is there
}

// status answers with the Snapshot, and holds the answer back while the client has the newest one and is ready to wait
// (If-None-Match of RFC 9110, Prefer: wait of RFC 7240).
func (s *Server) status(w http.ResponseWriter, r *http.Request) {
	understood(w)
	revision, changed := s.agent.News()
	if r.Header.Get("If-None-Match") == quoted(revision) {
		wait := time.NewTimer(waitOf(r.Header))
		defer wait.Stop()
		select {
		case <-changed:
		case <-wait.C:
			w.Header().Set("ETag", quoted(revision))
			w.WriteHeader(http.StatusNotModified)
			return
		case <-r.Context().Done():
			return
		}
	}
	body, revision, err := s.snapshot(r.Context())
	if r.Context().Err() != nil {
		return
	}
	if err != nil {
		s.refuse(w, err)
		return
	}
	w.Header().Set("ETag", quoted(revision))
	s.answer(w, http.StatusOK, body)
}

// turn waits until no other answer is being made from the state of the agent. done lets the next one be made, however often it is
// called; it is deferred, as another answer may work where this one panics.
func (s *Server) turn(ctx context.Context) (done func(), err error) {
	select {
	case s.making <- struct{}{}:
		return sync.OnceFunc(func() { <-s.making }), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// snapshot makes the answer about the status, when no other is being made.
func (s *Server) snapshot(ctx context.Context) (body []byte, revision string, err error) {
	done, err := s.turn(ctx)
	if err != nil {
		return nil, "", err
	}
	defer done()
	ctx, cancel := context.WithTimeout(ctx, catchUp)
	defer cancel()
	s.agent.CatchUp(ctx)
	revision, _ = s.agent.News() // before the Snapshot: what comes between the two is told once more
	var b bytes.Buffer
	err = s.agent.Snapshot().WriteJSON(&b)
	return b.Bytes(), revision, err
}

// metrics answers with the metrics, as far as the agent has published them: who reads them comes again.
func (s *Server) metrics(w http.ResponseWriter, r *http.Request) {
	done, err := s.turn(r.Context())
	if err != nil {
		return
	}
	defer done()
	body := s.agent.Metrics()
	done()
	w.Header().Set("Content-Type", status.MetricsType)
	s.answer(w, http.StatusOK, body)
}

// waitOf is how long the client is ready to wait for news, at most MaxWait.
func waitOf(h http.Header) time.Duration {
	for preference := range strings.SplitSeq(strings.Join(h.Values("Prefer"), ","), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(preference), "=")
		seconds, err := strconv.ParseUint(value, 10, 16)
		if strings.EqualFold(name, "wait") && err == nil {
			return min(time.Duration(seconds)*time.Second, MaxWait)
		}
	}
	return 0
}

func quoted(revision string) string { return `"` + revision + `"` }

// change is what changes something, for those who may. The body of the request is read to its end before do is called.
func (s *Server) change(do func(ctx context.Context, body []byte) (answer any, err error)) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, r *http.Request) {
		v, ok := r.Context().Value(visitorKey{}).(*visitor)
		if !ok || !v.mayChange() {
			w.Header().Set("Connection", "close") // whose body is not read
			s.refuse(w, v.forbidden())
			return
		}
		s.log.Info().Str("event", "order").Uint32("uid", v.peer.uid).Int32("pid", v.peer.pid).Str("path", r.URL.Path).
			Msg("asked over the control socket")
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		if err != nil {
			s.refuse(w, misunderstood(err))
			return
		}
		understood(w)
		ctx, cancel := context.WithTimeout(r.Context(), changeWithin)
		defer cancel()
		answer, err := do(ctx, body)
		if err != nil && ctx.Err() != nil && r.Context().Err() == nil {
			err = &Error{Status: http.StatusGatewayTimeout, Text: fmt.Sprintf("it is not done within %v, and goes on by itself", changeWithin)}
		}
		if err == nil {
			body, err = json.Marshal(answer)
		}
		if err != nil {
			s.refuse(w, err)
			return
		}
		s.answer(w, http.StatusOK, append(body, '\n'))
	}
}

func (s *Server) renew(ctx context.Context, body []byte) (any, error) {
	var order Renewal
	if err := read(body, &order); err != nil {
		return nil, err
	}
	certificates, err := s.agent.Renew(ctx, order)
	return renewals{certificates}, err
}

func (s *Server) reload(ctx context.Context, body []byte) (any, error) {
	if len(body) > 0 {
		if err := read(body, &struct{}{}); err != nil {
			return nil, err
		}
	}
	return struct{}{}, s.agent.ReloadNow(ctx)
}

func (s *Server) onboard(ctx context.Context, body []byte) (any, error) {
	var o Onboarding
	if len(body) > 0 {
		if err := read(body, &o); err != nil {
			return nil, err
		}
	}
	return s.agent.Onboard(ctx, o)
}

func (s *Server) takeOver(ctx context.Context, body []byte) (any, error) {
	var i Import
	if err := read(body, &i); err != nil {
		return nil, err
	}
	return s.agent.Import(ctx, i)
}

// read understands a body that is one JSON object and nothing else. A wish that is misspelt, or that is none ("null"), must not be
// another one.
func read(body []byte, into any) error {
	in := json.NewDecoder(bytes.NewReader(body))
	in.DisallowUnknownFields()
	err := in.Decode(into)
	if _, more := in.Token(); err == nil && (more != io.EOF || !bytes.HasPrefix(bytes.TrimSpace(body), []byte("{"))) {
		err = errors.New("it must be one JSON object and nothing else")
	}
	if err != nil {
		return misunderstood(err)
	}
	return nil
}

func misunderstood(err error) *Error {
	return &Error{Status: http.StatusBadRequest, Text: "read the request: " + err.Error()}
}

// refuse answers with an error.
func (s *Server) refuse(w http.ResponseWriter, err error) {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		e = &Error{Status: http.StatusInternalServerError, Text: err.Error()}
	}
	body, err := json.Marshal(e)
	if err != nil {
		return // two strings
	}
	s.answer(w, e.Status, append(body, '\n'))
}

// answer writes an answer, in JSON unless its type was set. A client that does not take it in time loses its connection.
func (s *Server) answer(w http.ResponseWriter, code int, body []byte) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeWithin)) // WriteTimeout holds all the same
	if w.Header().Get("Content-Type") == "" {
		w.Header().Set("Content-Type", "application/json")
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(code)
	_, _ = w.Write(body) // a client that has gone is nobody to tell
}
