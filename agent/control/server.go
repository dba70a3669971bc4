package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
	http   *http.Server
	crowd  *crowd
	making chan struct{} // held by who makes a Snapshot: the agent's keepers contend with one reader at most

	mu   sync.Mutex // guards what follows
	door *door      // nil while there is none
}

// NewServer makes a Server that cannot be reached yet. It logs who changed what, and what is wrong with itself.
func NewServer(a Agent, log zerolog.Logger) *Server {
	s := &Server{agent: a, log: log, crowd: newCrowd(), making: make(chan struct{}, 1)}
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

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	method, serve := http.MethodPost, s.change
	switch r.URL.Path {
	case pathStatus:
		method, serve = http.MethodGet, s.status
	case pathMetrics:
		method, serve = http.MethodGet, s.metrics
	case pathRenew, pathReload, pathImport:
	default:
		s.refuse(w, &Error{Status: http.StatusNotFound, Text: fmt.Sprintf("there is no %q here", r.URL.Path)})
		return
	}
	if r.Method != method {
		w.Header().Set("Allow", method)
		s.refuse(w, &Error{Status: http.StatusMethodNotAllowed, Text: fmt.Sprintf("%s takes %s", r.URL.Path, method)})
		return
	}
	serve(w, r)
}

// status answers with the Snapshot, and holds the answer back while the client has the newest one and is ready to wait
// (If-None-Match of RFC 9110, Prefer: wait of RFC 7240).
func (s *Server) status(w http.ResponseWriter, r *http.Request) {
	deadlines := http.NewResponseController(w)
	_ = deadlines.SetReadDeadline(time.Time{}) // else the client would be taken for gone after readWithin
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
	select {
	case s.making <- struct{}{}:
	case <-r.Context().Done():
		return
	}
	body, revision, err := s.snapshot(r.Context())
	<-s.making
	if err != nil {
		s.refuse(w, err)
		return
	}
	w.Header().Set("ETag", quoted(revision))
	s.answer(w, http.StatusOK, body)
}

func (s *Server) snapshot(ctx context.Context) (body []byte, revision string, err error) {
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
	select {
	case s.making <- struct{}{}:
	case <-r.Context().Done():
		return
	}
	body := s.agent.Metrics()
	<-s.making
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

// change does what changes something, for those who may.
func (s *Server) change(w http.ResponseWriter, r *http.Request) {
	v, ok := r.Context().Value(visitorKey{}).(*visitor)
	if !ok || !v.mayChange() {
		s.refuse(w, v.forbidden())
		return
	}
	s.log.Info().Str("event", "order").Uint32("uid", v.peer.uid).Int32("pid", v.peer.pid).Str("path", r.URL.Path).
		Msg("asked over the control socket")
	ctx, cancel := context.WithTimeout(r.Context(), changeWithin)
	defer cancel()
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	answer, err := s.act(ctx, http.NewResponseController(w), r)
	if err != nil && ctx.Err() != nil && r.Context().Err() == nil {
		err = &Error{Status: http.StatusGatewayTimeout, Text: fmt.Sprintf("it is not done within %v, and goes on by itself", changeWithin)}
	}
	if err != nil {
		s.refuse(w, err)
		return
	}
	body, err := json.Marshal(answer)
	if err != nil {
		s.refuse(w, err)
		return
	}
	s.answer(w, http.StatusOK, append(body, '\n'))
}

func (s *Server) act(ctx context.Context, deadlines *http.ResponseController, r *http.Request) (any, error) {
	read := func(into any) error {
		in := json.NewDecoder(r.Body)
		in.DisallowUnknownFields() // a wish that is misspelt must not be another one
		if err := in.Decode(into); err != nil {
			return &Error{Status: http.StatusBadRequest, Text: "read the request: " + err.Error()}
		}
		_ = deadlines.SetReadDeadline(time.Time{}) // as in status
		return nil
	}
	switch r.URL.Path {
	case pathRenew:
		var order Renewal
		if err := read(&order); err != nil {
			return nil, err
		}
		certificates, err := s.agent.Renew(ctx, order)
		return renewals{certificates}, err
	case pathImport:
		var i Import
		if err := read(&i); err != nil {
			return nil, err
		}
		return s.agent.Import(ctx, i)
	default: // pathReload
		_ = deadlines.SetReadDeadline(time.Time{})
		return struct{}{}, s.agent.ReloadNow(ctx)
	}
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
