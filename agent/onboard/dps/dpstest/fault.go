package dpstest

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// A Fault answers a request in place of the service. It may call real to have that do its work, with w or with a writer
// of its own; it may panic with http.ErrAbortHandler to close the connection.
type Fault func(w http.ResponseWriter, r *http.Request, real http.Handler)

// queuedFault waits for a request of op; an empty op means any.
type queuedFault struct {
	op    string
	fault Fault
}

// Next queues faults for the next requests of op (OpRegister, OpPoll, OpSend; "" for any), one each, in this order.
func (s *Server) Next(op string, faults ...Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range faults {
		s.queue = append(s.queue, queuedFault{op, f})
	}
}

// Always answers every request of op so until Clear; queued faults go first.
func (s *Server) Always(op string, f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.always[op] = f
}

// Clear forgets every fault.
func (s *Server) Clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue = nil
	clear(s.always)
}

// takeFault removes and returns the fault for a request, nil if there is none. s.mu is held.
func (s *Server) takeFault(op string) Fault {
	for i, q := range s.queue {
		if q.op == "" || q.op == op {
			s.queue = slices.Delete(s.queue, i, i+1)
			return q.fault
		}
	}
	if f := s.always[op]; f != nil {
		return f
	}
	return s.always[""]
}

// Error answers an error of DPS's by its number, such as 401002, with headers given as name, value, name, value. The
// service does no work.
func Error(code int, message string, headers ...string) Fault {
	return Status(code/1000, map[string]any{
		"errorCode": code, "trackingId": "11111111-2222-4333-8444-555555555555", "message": message,
		"timestampUtc": "2030-01-02T03:04:05.1234567Z",
	}, append([]string{"x-ms-error-code", strconv.Itoa(code)}, headers...)...)
}

// Status answers with an HTTP status and a body: a string or bytes as they are, nil as none, anything else as JSON. The
// service does no work. A value that cannot be JSON, or a header without a value, is a mistake of the test's and panics
// there.
func Status(status int, body any, headers ...string) Fault {
	var text []byte
	switch body := body.(type) {
	case nil:
	case string:
		text = []byte(body)
	case []byte:
		text = body
	default:
		var err error
		if text, err = json.Marshal(body); err != nil {
			panic(err)
		}
	}
	pairs := slices.Collect(slices.Chunk(headers, 2))
	if len(headers)%2 != 0 {
		panic("dpstest: headers come as name, value, name, value")
	}
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		for _, p := range pairs {
			w.Header().Set(p[0], p[1])
		}
		w.WriteHeader(status)
		w.Write(text)
	}
}

// captured is an answer of the service that is held back.
type captured struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func capture(w http.ResponseWriter, r *http.Request, real http.Handler) *captured {
	c := &captured{header: w.Header().Clone(), status: http.StatusOK}
	real.ServeHTTP(c, r)
	return c
}

func (c *captured) Header() http.Header         { return c.header }
func (c *captured) WriteHeader(status int)      { c.status = status }
func (c *captured) Write(p []byte) (int, error) { return c.body.Write(p) }

// sendHead sends everything but the body.
func (c *captured) sendHead(w http.ResponseWriter) {
	maps.Copy(w.Header(), c.header)
	w.WriteHeader(c.status)
}

// Alter has the service do its work and changes the JSON object that it answers, whatever its status.
func Alter(change func(answer map[string]any)) Fault {
	return func(w http.ResponseWriter, r *http.Request, real http.Handler) {
		did, answer := capture(w, r, real), map[string]any{}
		if err := json.Unmarshal(did.body.Bytes(), &answer); err != nil {
			panic(err) // every answer of DPS is an object
		}
		change(answer)
		did.sendHead(w)
		json.NewEncoder(w).Encode(answer)
	}
}

// CloseBeforeAnswer is a Fault that closes the connection. The service does no work.
func CloseBeforeAnswer(http.ResponseWriter, *http.Request, http.Handler) { panic(http.ErrAbortHandler) }

// LoseAnswer is a Fault that has the service do its work, and closes the connection in place of an answer.
func LoseAnswer(w http.ResponseWriter, r *http.Request, real http.Handler) {
	capture(w, r, real)
	panic(http.ErrAbortHandler)
}

// CutAnswer is a Fault that has the service do its work, and closes the connection in the middle of its answer.
func CutAnswer(w http.ResponseWriter, r *http.Request, real http.Handler) {
	did := capture(w, r, real)
	did.header.Set("Content-Length", strconv.Itoa(did.body.Len()))
	did.sendHead(w)
	w.Write(did.body.Bytes()[:did.body.Len()/2])
	http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

// StopHalfway is a Fault that has the service do its work, sends half of its answer and no more, until the client goes
// away or the server is closed.
func StopHalfway(w http.ResponseWriter, r *http.Request, real http.Handler) {
	did := capture(w, r, real)
	did.header.Set("Content-Length", strconv.Itoa(did.body.Len()))
	did.sendHead(w)
	w.Write(did.body.Bytes()[:did.body.Len()/2])
	http.NewResponseController(w).Flush()
	<-r.Context().Done()
	panic(http.ErrAbortHandler)
}

// Hang answers nothing until until is done; then the service does its work, late. It ends without an answer when the
// client goes away or the server is closed.
func Hang(until context.Context) Fault {
	return func(w http.ResponseWriter, r *http.Request, real http.Handler) {
		select {
		case <-until.Done():
			real.ServeHTTP(w, r)
		case <-r.Context().Done():
			panic(http.ErrAbortHandler)
		}
	}
}

// Endless is a Fault that answers 200 with JSON that does not end, until the client stops reading.
func Endless(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
	io.WriteString(w, `{"status":"assigned","x":"`)
	for chunk := bytes.Repeat([]byte("A"), 32<<10); ; {
		if _, err := w.Write(chunk); err != nil {
			panic(http.ErrAbortHandler)
		}
	}
}

// Nested is a Fault that answers 200 with arrays in arrays, depth deep.
func Nested(depth int) Fault {
	deep := strings.Repeat("[", depth) + strings.Repeat("]", depth)
	return Status(http.StatusOK, `{"status":"assigned","registrationState":`+deep+`}`)
}
