package dpstest

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The operations of a Request, and of faults.
const (
	OpRegister = "register" // PUT …/register
	OpPoll     = "poll"     // GET …/operations/…
	OpSend     = "send"     // POST …/messages/events, to a hub
)

// Request is one that came, whatever was answered.
type Request struct {
	Op     string // "" where it is none of the above
	Method string
	Target string // path and query as they came
	Header http.Header
	Body   []byte
	Chain  []*x509.Certificate // what the client showed
	When   time.Time           // by the service's clock
}

// record is a registration id and what became of it.
type record struct {
	id        string
	operation string
	ends      time.Time // when the service decides
	decided   bool
	enrolment *entry
	payload   json.RawMessage
	leaf      *x509.Certificate // what it registers with
	polls     []time.Time       // within the last ten seconds

	hub, deviceID string // "" before the first end
	substatus     string
	answer        json.RawMessage // of the webhook
	created       time.Time
	updated       time.Time
	failure       *serviceError
}

// serviceError is an error with a number of DPS.
type serviceError struct {
	code    int // six digits, of which the first three are the HTTP status
	message string
}

// Requests are those that came so far, in order.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// Changed returns a channel that is closed when the next request has come. Take it before looking at Requests.
func (s *Server) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// serve answers one request: by a fault if one is waiting, else as the service would.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	op, handle := s.route(r)
	s.mu.Lock()
	s.serial++
	id := fmt.Sprintf("00000000-0000-4000-8000-%012d", s.serial)
	s.requests = append(s.requests, Request{
		Op: op, Method: r.Method, Target: r.RequestURI, Header: r.Header.Clone(), Body: body,
		Chain: r.TLS.PeerCertificates, When: s.options.Now(),
	})
	fault := s.takeFault(op)
	close(s.changed)
	s.changed = make(chan struct{})
	s.mu.Unlock()
	w.Header().Set("x-ms-request-id", id)
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	real := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		handle(w, r, body)
	})
	if fault != nil {
		fault(w, r, real)
		return
	}
	real(w, r)
}

// versions are those of the API that are documented for devices.
var versions = []string{"2019-03-31", "2021-06-01", "2021-10-01"}

// registrationID is what a registration id may be.
var registrationID = regexp.MustCompile(`^[A-Za-z0-9._:-]{0,127}[A-Za-z0-9-]$`)

type handler func(w http.ResponseWriter, r *http.Request, body []byte)

// route finds the operation of a request. The handlers run under mu.
func (s *Server) route(r *http.Request) (op string, h handler) {
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/"), "/")
	var work handler
	switch n := len(parts); {
	case n == 4 && r.Method == http.MethodPut && parts[1] == "registrations" && parts[3] == "register":
		op = OpRegister
		work = func(w http.ResponseWriter, r *http.Request, body []byte) { s.register(w, r, parts[2], body) }
	case n == 5 && r.Method == http.MethodGet && parts[1] == "registrations" && parts[3] == "operations":
		op = OpPoll
		work = func(w http.ResponseWriter, r *http.Request, _ []byte) { s.poll(w, r, parts[2], parts[4]) }
	case n == 4 && r.Method == http.MethodPost && parts[0] == "devices" && parts[2] == "messages" && parts[3] == "events":
		return OpSend, func(w http.ResponseWriter, r *http.Request, _ []byte) { s.send(w, r, parts[1]) }
	case n == 4 && parts[1] == "registrations" && parts[3] == "register", n == 5 && parts[1] == "registrations" && parts[3] == "operations":
		return "", func(w http.ResponseWriter, _ *http.Request, _ []byte) { s.fail(w, 405001, "Method not allowed") }
	default:
		return "", func(w http.ResponseWriter, _ *http.Request, _ []byte) { s.fail(w, 404001, "Resource not found") }
	}
	return op, func(w http.ResponseWriter, r *http.Request, body []byte) {
		switch {
		case !slices.Contains(versions, r.URL.Query().Get("api-version")):
			s.fail(w, 400004, "The api-version is missing, or none")
		case parts[0] != s.options.IDScope:
			s.fail(w, 404002, "The ID scope does not exist")
		default:
			work(w, r, body)
		}
	}
}

// fail answers an error as DPS does.
func (s *Server) fail(w http.ResponseWriter, code int, message string) {
	id := w.Header().Get("x-ms-request-id")
	w.Header().Set("x-ms-error-code", strconv.Itoa(code))
	w.WriteHeader(code / 1000)
	json.NewEncoder(w).Encode(map[string]any{
		"errorCode": code, "trackingId": id, "message": message, "timestampUtc": stamp(s.options.Now()),
	})
}

// stamp is a time as DPS writes it, with seven digits of a fraction.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.0000000Z") }

func (s *Server) register(w http.ResponseWriter, r *http.Request, id string, body []byte) {
	now := s.options.Now()
	var asked struct {
		RegistrationID string          `json:"registrationId"`
		Payload        json.RawMessage `json:"payload"`
	}
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch err := json.Unmarshal(body, &asked); {
	case kind != "application/json":
		s.fail(w, 415001, "Unsupported media type")
		return
	case !registrationID.MatchString(id):
		s.fail(w, 400004, "The registration id is none")
		return
	case err != nil || !strings.EqualFold(asked.RegistrationID, id):
		s.fail(w, 400004, "The registration id of the body is not that of the path")
		return
	}
	enrolment, refused := s.attest(id, r.TLS.PeerCertificates, now)
	if enrolment == nil {
		s.fail(w, 401002, refused)
		return
	}
	v := s.records[strings.ToLower(id)]
	if v == nil {
		v = &record{id: id, created: now, decided: true}
		s.records[strings.ToLower(id)] = v
	}
	s.decide(v, now)
	if !v.decided {
		s.fail(w, 409203, "A registration of this device is going on")
		return
	}
	s.serial++
	v.operation = fmt.Sprintf("4.d57e%012x.00000000-0000-4000-8000-%012d", s.serial, s.serial)
	v.ends, v.decided, v.failure = now.Add(s.options.Takes), false, nil
	v.enrolment, v.payload, v.leaf = enrolment, asked.Payload, r.TLS.PeerCertificates[0]
	w.Header().Set("Location", fmt.Sprintf("%s/%s/registrations/%s/operations/%s?%s", s.URL(), s.options.IDScope, id,
		v.operation, r.URL.RawQuery))
	s.accepted(w, v)
}

// accepted answers that a registration is going on.
func (s *Server) accepted(w http.ResponseWriter, v *record) {
	if s.options.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int((s.options.RetryAfter+time.Second-1)/time.Second)))
	}
	w.WriteHeader(http.StatusAccepted)
	json.NewEncoder(w).Encode(map[string]any{"operationId": v.operation, "status": "assigning"})
}

func (s *Server) poll(w http.ResponseWriter, r *http.Request, id, operation string) {
	now := s.options.Now()
	if enrolment, refused := s.attest(id, r.TLS.PeerCertificates, now); enrolment == nil {
		s.fail(w, 401002, refused)
		return
	}
	v := s.records[strings.ToLower(id)]
	if v == nil || v.operation != operation {
		s.fail(w, 404203, "The operation does not exist")
		return
	}
	v.polls = slices.DeleteFunc(v.polls, func(t time.Time) bool { return now.Sub(t) >= 10*time.Second })
	if len(v.polls) >= 5 {
		w.Header().Set("Retry-After", "10")
		s.fail(w, 429001, "Too many requests")
		return
	}
	v.polls = append(v.polls, now)
	s.decide(v, now)
	if !v.decided {
		s.accepted(w, v)
		return
	}
	state := map[string]any{
		"registrationId": v.id, "createdDateTimeUtc": stamp(v.created), "lastUpdatedDateTimeUtc": stamp(v.updated),
		"etag": "IjAwMDAwMDAwLTAwMDAtMDAwMC0wMDAwLTAwMDAwMDAwMDAwMCI=",
	}
	status := "assigned"
	if v.failure != nil {
		status = "failed"
		state["errorCode"], state["errorMessage"] = v.failure.code, v.failure.message
	} else {
		state["x509"], state["assignedHub"] = map[string]any{}, v.hub
		state["deviceId"], state["substatus"] = v.deviceID, v.substatus
		if v.answer != nil {
			state["payload"] = v.answer
		}
	}
	state["status"] = status
	json.NewEncoder(w).Encode(map[string]any{"operationId": v.operation, "status": status, "registrationState": state})
}

// decide ends the registration of v if its time has come. s.mu is held.
func (s *Server) decide(v *record, now time.Time) {
	if v.decided || now.Before(v.ends) {
		return
	}
	v.decided, v.updated, v.answer = true, v.ends, nil
	hub, err := v.enrolment.Hub, error(nil)
	if hub == "" {
		hub = s.options.Hubs[0]
	}
	if v.enrolment.Webhook != nil {
		hub, v.answer, err = v.enrolment.Webhook(v.id, v.payload)
	}
	if err == nil && !slices.Contains(s.options.Hubs, hub) {
		err = errors.New("no such hub")
	}
	if err != nil {
		v.failure = &serviceError{400209, "Custom allocation failed with status code: 500: " + err.Error()}
		return
	}
	before := deviceKey{v.hub, v.deviceID}
	switch {
	case v.hub == "":
		v.hub, v.substatus = hub, "initialAssignment"
	case v.enrolment.Policy == Never:
		v.substatus = "reprovisionedToInitialAssignment"
	case v.enrolment.Policy == Reset:
		v.hub, v.substatus = hub, "deviceDataReset"
	case v.hub != hub:
		v.hub, v.substatus = hub, "deviceDataMigrated"
	default:
		v.substatus = "initialAssignment"
	}
	v.deviceID = v.leaf.Subject.CommonName
	if v.enrolment.DeviceID != "" {
		v.deviceID = v.enrolment.DeviceID
	}
	delete(s.devices, before)
	s.devices[deviceKey{v.hub, v.deviceID}] = &device{leaf: v.leaf}
}
