package dps_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"certagent/agent/onboard/dps"
	"certagent/agent/onboard/dps/dpstest"
)

// assigned is an answer that ends a registration, with fields changed.
func assigned(changes ...any) dpstest.Fault {
	state := map[string]any{
		"registrationId": "gw-17", "assignedHub": dpstest.DefaultHub, "deviceId": "gw-17", "status": "assigned",
		"createdDateTimeUtc": "2030-01-02T03:04:05.1234567Z",
	}
	for i := 0; i < len(changes); i += 2 {
		state[changes[i].(string)] = changes[i+1]
	}
	return dpstest.Status(200, map[string]any{"operationId": "4.x", "status": "assigned", "registrationState": state})
}

// assigning is an answer that names an operation to ask for.
func assigning(operation any) dpstest.Fault {
	return dpstest.Status(202, map[string]any{"status": "assigning", "operationId": operation})
}

// Whatever an endpoint answers, nobody hangs, nothing is believed that cannot be, and the error is one short line.
func TestHostileAnswers(t *testing.T) {
	for name, answer := range map[string]dpstest.Fault{
		"endless":                  dpstest.Endless,
		"nested":                   dpstest.Nested(30_000),
		"nested beyond the parser": dpstest.Status(200, strings.Repeat("[", 60_000)),
		"nothing":                  dpstest.Status(200, ""),
		"null":                     dpstest.Status(200, "null"),
		"text":                     dpstest.Status(200, "assigned"),
		"html":                     dpstest.Status(200, "<html><body>Log in to the guest network</body></html>"),
		"a list":                   dpstest.Status(200, `[{"status":"assigned"}]`),
		"two values":               dpstest.Status(200, `{"status":"assigned"}{"status":"assigned"}`),
		"half":                     dpstest.Status(200, `{"status":"assigned","registrationState":{"assignedHub":"h.test","devi`),
		"status is a number":       dpstest.Status(200, `{"status":7,"operationId":"4.x"}`),
		"status is text":           dpstest.Status(200, map[string]any{"status": "in two words", "operationId": "4.x"}),
		"status is long":           dpstest.Status(200, map[string]any{"status": strings.Repeat("a", 9000), "operationId": "4.x"}),
		"no state":                 dpstest.Status(200, `{"status":"assigned","operationId":"4.x"}`),
		"state is a list":          dpstest.Status(200, `{"status":"assigned","registrationState":[]}`),
		"hub is missing":           assigned("assignedHub", ""),
		"hub is a number":          assigned("assignedHub", 7),
		"hub is a URL":             assigned("assignedHub", "https://evil.test/"),
		"hub has a port":           assigned("assignedHub", "evil.test:443"),
		"hub is an option":         assigned("assignedHub", "-o.evil.test"),
		"hub has lines":            assigned("assignedHub", "evil.test\nHub: x"),
		"hub is a word":            assigned("assignedHub", "localhost"),
		"hub is long":              assigned("assignedHub", strings.Repeat("a.", 200)+"test"),
		"device is missing":        assigned("deviceId", ""),
		"device is a list":         assigned("deviceId", []string{"gw-17"}),
		"device is a path":         assigned("deviceId", "../../etc/passwd"),
		"device has a blank":       assigned("deviceId", "gw 17"),
		"device is long":           assigned("deviceId", strings.Repeat("a", 129)),
		"another device":           assigned("registrationId", "gw-18"),
		"assigned and failed":      assigned("status", "Failed", "errorCode", 401002),
		"assigned and disabled":    assigned("status", "disabled"),
		"longer than it may be":    dpstest.Status(202, `{"status":"assigning","operationId":"4.x"}`+strings.Repeat(" ", 70_000)),
		"assigned twice":           dpstest.Status(200, `{"status":"assigned","status":"failed"}`),
		"operation has a header":   assigning("x\r\nHost: evil.test"),
		"operation is escaped":     assigning("x%2f..%2fy"),
		"operation is a path":      assigning("../../other/registrations"),
		"operation is dots":        assigning(".."),
		"operation has a query":    assigning("x?y"),
		"operation is long":        assigning(strings.Repeat("a", 257)),
		"operation is a number":    assigning(4),
		"other protocol":           dpstest.Status(101, nil, "Upgrade", "websocket", "Connection", "Upgrade"),
		"error without end":        dpstest.Status(500, strings.Repeat("x", 1<<20)),
		"error of lines":           dpstest.Error(400004, strings.Repeat("line\r\nline\x1b[2J\u202e ", 500)),
		"error of wrong types":     dpstest.Status(401, `{"errorCode":{},"trackingId":[],"message":7}`),
		"tracking id of lines":     dpstest.Status(401, map[string]any{"errorCode": 401002, "trackingId": "a\nb", "message": "\x00"}),
		"huge header":              dpstest.Status(202, `{"status":"assigning","operationId":"4.x"}`, "X-Junk", strings.Repeat("x", 200<<10)),
	} {
		for _, op := range []string{dpstest.OpRegister, dpstest.OpPoll} {
			t.Run(name+" at "+op, func(t *testing.T) {
				r := newRig(t, dpstest.Options{})
				if op == dpstest.OpPoll {
					r.step()
				}
				r.server.Next(op, answer)
				_, err := r.step()
				if err == nil {
					t.Fatalf("no error; state %s, result %s", r.state, r.result)
				}
				e := r.failure(err)
				if text := e.Error(); len(text) > 1000 || strings.ContainsAny(text, "\n\r\x00\x1b") {
					t.Errorf("error of %d bytes: %q", len(text), text)
				}
				if r.result != nil {
					t.Errorf("result %s", r.result)
				}
				if e.Code == dps.CodeBadResponse && e.Hint == "" {
					t.Errorf("no remedy for %v", e)
				}
				result, _ := r.settle() // the service is itself again
				r.known(result)
			})
		}
	}
}

// What DPS adds to its answers some day, or spells otherwise where nothing depends on it, is no reason to fail.
func TestAnswersThatMayBeDifferent(t *testing.T) {
	for name, answer := range map[string]dpstest.Fault{
		"more fields":          assigned("issuedClientCertificate", map[string]any{"x": []int{1}}),
		"no registration id":   assigned("registrationId", ""),
		"id of another case":   assigned("registrationId", "GW-17"),
		"payload is anything":  assigned("payload", []any{1, "two", nil}),
		"times are none":       assigned("createdDateTimeUtc", "yesterday"),
		"times of no calendar": assigned("createdDateTimeUtc", "9999-12-31T23:59:59-12:00"),
		"another spelling": dpstest.Status(200, map[string]any{"status": "ASSIGNED", "registrationState": map[string]any{
			"assignedHub": dpstest.DefaultHub, "deviceId": "gw-17", "status": "Assigned",
		}}),
		"error code is a word":  assigned("errorCode", "none"),
		"device of other signs": assigned("deviceId", "gw-17"),
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, dpstest.Options{})
			r.step()
			r.server.Next(dpstest.OpPoll, answer)
			if result := r.registered(); result.Hub != dpstest.DefaultHub || result.RegistrationID != "gw-17" ||
				r.count(dpstest.OpPoll) != 1 {
				t.Errorf("result %+v after %d polls", result, r.count(dpstest.OpPoll))
			}
		})
	}
}

// refusing is an endpoint that ends TLS over every client certificate.
func refusing(t *testing.T, version uint16) *httptest.Server {
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.TLS = &tls.Config{
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: x509.NewCertPool(), MaxVersion: version,
	}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// anonymous is an endpoint that asks for no client certificate.
func anonymous(t *testing.T, status int) *httptest.Server {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// Files that are broken, or somebody else's, are no result and no state; none makes anything fail.
func TestFilesThatAreNotOurs(t *testing.T) {
	r := newRig(t, dpstest.Options{Takes: 1})
	r.step()
	state := r.state
	r.registered()
	for n := range len(r.result) - 1 { // without its newline it is whole
		if got := dps.ParseResult(r.result[:n]); got != nil {
			t.Fatalf("the first %d bytes are a result: %+v", n, got)
		}
	}
	for n := range len(state) - 1 {
		if got := dps.ParseState(state[:n]); got != (dps.State{}) {
			t.Fatalf("the first %d bytes are a state: %+v", n, got)
		}
	}
	edit := func(file []byte, field string, value any) []byte {
		var fields map[string]any
		if err := json.Unmarshal(file, &fields); err != nil {
			t.Fatal(err)
		}
		if value == nil {
			delete(fields, field)
		} else {
			fields[field] = value
		}
		text, _ := json.Marshal(fields)
		return text
	}
	for _, c := range []struct {
		field string
		value any
	}{
		{"version", 2}, {"version", 0}, {"hub", "https://evil.test"}, {"hub", nil}, {"device_id", nil}, {"device_id", "../x"},
		{"sha256", nil}, {"endpoint", nil}, {"endpoint", "http://plain.test"}, {"id_scope", "a/b"}, {"registration_id", 7},
		{"registered", "yesterday"},
	} {
		if got := dps.ParseResult(edit(r.result, c.field, c.value)); got != nil {
			t.Errorf("%s = %v is a result: %+v", c.field, c.value, got)
		}
	}
	for _, c := range []struct {
		field string
		value any
	}{{"version", 2}, {"failures", -1}, {"operation", map[string]any{"id": "../x"}}, {"next_try", "soon"}} {
		if got := dps.ParseState(edit(state, c.field, c.value)); got != (dps.State{}) {
			t.Errorf("%s = %v is a state: %+v", c.field, c.value, got)
		}
	}
	if got := dps.ParseResult(edit(r.result, "added", "later")); got == nil {
		t.Error("a field of a later version makes the result none")
	}
	for _, other := range []string{"", "null", "[]", "{}", "\x00", "hello", strings.Repeat(" ", 100_000) + string(r.result)} {
		if dps.ParseResult([]byte(other)) != nil || dps.ParseState([]byte(other)) != (dps.State{}) {
			t.Errorf("%.20q is a result or a state", other)
		}
	}
	if again := dps.ParseResult(r.result); fmt.Sprint(string(again.Bytes())) != string(r.result) {
		t.Errorf("read and written again it is %s, was %s", again.Bytes(), r.result)
	}
}
