package agent

import (
	"context"
	"fmt"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"certagent/agent/status"
)

// What those who read metrics over the network may take. There is no login, so that everybody may who reaches the port.
const (
	scrapeWithin   = 5 * time.Second // a request, and as long again for its answer
	maxScrapes     = 16              // connections at once; one more is closed
	maxScrapeBytes = 4 << 10         // of header; net/http adds 4 KiB
	// scrapeAge is how old an answer may be. The agent's keepers are not to be kept from their work by who asks all the time.
	scrapeAge = time.Second
)

// metricsPath is the only path that is served.
const metricsPath = "/metrics"

// keepListener serves metrics where the configuration says, looking when it is told to: once a minute, and after a reload. It
// ends with ctx.
func (a *Agent) keepListener(ctx context.Context) {
	var at string
	var server *http.Server // nil while there is none
	end := func() {
		if server != nil {
			_ = server.Close() // of a listener that nobody needs any more
			server = nil
		}
	}
	defer end()
	for {
		a.mu.Lock()
		want := a.cfg.Metrics.Listen
		a.mu.Unlock()
		if want != at {
			end()
		}
		at = want
		var err error
		if at != "" && server == nil {
			server, err = a.serveMetrics(ctx, at)
		}
		a.noteMetrics(&a.listenErr, err, "listener for metrics")
		select {
		case <-ctx.Done():
			return
		case <-a.lookAtListener:
		}
	}
}

// serveMetrics listens at address and answers there, until the server is closed.
func (a *Agent) serveMetrics(ctx context.Context, address string) (*http.Server, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("serve metrics: %w", err)
	}
	s := &http.Server{
		Handler:     &scrapes{agent: a},
		ReadTimeout: scrapeWithin, WriteTimeout: scrapeWithin, MaxHeaderBytes: maxScrapeBytes,
		ErrorLog: stdlog.New(io.Discard, "", 0), // what strangers do wrong is no news
	}
	s.SetKeepAlivesEnabled(false) // between two scrapes nothing is kept for anybody
	// It ends when s is closed, which is its only error.
	go func() { _ = s.Serve(&limited{Listener: l, room: make(slots, maxScrapes)}) }()
	a.o.Log.Info().Str("event", "metrics").Str("address", l.Addr().String()).Msg("metrics are served")
	return s, nil
}

// scrapes answers GET /metrics.
type scrapes struct {
	agent *Agent

	mu   sync.Mutex // guards what follows, and is held while an answer is made: there is one at a time
	text []byte
	made time.Time // by the monotonic clock too
}

// ServeHTTP implements [http.Handler].
func (s *scrapes) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path != metricsPath:
		http.Error(w, "metrics are at "+metricsPath, http.StatusNotFound)
		return
	case r.Method != http.MethodGet:
		w.Header().Set("Allow", http.MethodGet)
		http.Error(w, metricsPath+" takes GET", http.StatusMethodNotAllowed)
		return
	}
	text := s.answer(time.Now())
	w.Header().Set("Content-Type", status.MetricsType)
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	_, _ = w.Write(text) // a client that has gone is nobody to tell
}

func (s *scrapes) answer(now time.Time) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.made.IsZero() || now.Sub(s.made) >= scrapeAge {
		s.text, s.made = s.agent.Metrics(), now
	}
	return s.text
}

// limited is a listener with room for so many connections. One that is too many is closed at once.
type limited struct {
	net.Listener
	room slots
}

// Accept implements [net.Listener].
func (l *limited) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case l.room <- struct{}{}:
			return &guest{Conn: c, leave: sync.OnceFunc(l.room.release)}, nil
		default:
			c.Close() // an answer would have to wait for the question
		}
	}
}

// guest is a connection that takes up room until it is closed.
type guest struct {
	net.Conn
	leave func()
}

// Close implements [net.Conn].
func (g *guest) Close() error {
	g.leave()
	return g.Conn.Close()
}
