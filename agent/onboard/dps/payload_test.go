package dps_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"certagent/agent/onboard/dps"
	"certagent/agent/onboard/dps/dpstest"
)

func TestPayloadGoesToTheWebhookAtEachRegistration(t *testing.T) {
	r := newRig(t, dpstest.Options{})
	var seen []string
	r.server.EnrolIndividual("gw-17", dpstest.Enrolment{
		Webhook: func(id string, payload json.RawMessage) (string, json.RawMessage, error) {
			seen = append(seen, id+" "+string(payload))
			return dpstest.DefaultHub, json.RawMessage(`{"token":"for the device alone"}`), nil
		},
	}, r.ca.cert)
	r.o.Payload = filepath.Join(t.TempDir(), "payload.json")
	for _, text := range []string{"{\n  \"site\": \"Ulm\"\n}\n", `["A", 1]`} {
		if err := os.WriteFile(r.o.Payload, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		r.state = dps.ParseState(r.state).Ask().Bytes()
		r.restart()
		r.known(r.registered())
	}
	if len(seen) != 2 || seen[0] != `gw-17 {"site":"Ulm"}` || seen[1] != `gw-17 ["A",1]` {
		t.Errorf("the webhook saw %q", seen)
	}
	if strings.Contains(string(r.result)+string(r.state), "token") {
		t.Errorf("the webhook's answer is in a file for everybody: %s %s", r.result, r.state)
	}
}

func TestWebhookThatFails(t *testing.T) {
	r := newRig(t, dpstest.Options{})
	r.server.EnrolIndividual("gw-17", dpstest.Enrolment{
		Webhook: func(string, json.RawMessage) (string, json.RawMessage, error) {
			return "", nil, errors.New("out of hubs")
		},
	}, r.ca.cert)
	r.step()
	e := r.fails(dps.CodeAllocation)
	if !errors.Is(e, dps.ErrRejected) || !strings.Contains(e.Error(), "out of hubs") || !strings.Contains(e.Hint, "webhook") {
		t.Errorf("%v; %s", e, e.Hint)
	}
	r.server.RemoveIndividual("gw-17")
	r.known(r.registered())
}

func TestPayloadThatCannotBeSent(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, path := range map[string]string{
		"no file":        filepath.Join(dir, "none"),
		"no JSON":        write("text", "geheim"),
		"half":           write("half", `{"password": "geheim`),
		"two values":     write("two", `{"password": "geheim"} {}`),
		"empty":          write("empty", ""),
		"not at the end": write("middle", `{"password": geheim, "x": 1}`),
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, dpstest.Options{})
			r.o.Payload = path
			r.restart()
			e := r.fails(dps.CodePayload)
			if !errors.Is(e, dps.ErrDevice) || strings.Contains(e.Error(), "geheim") || !strings.Contains(e.Error(), path) {
				t.Errorf("%v", e)
			}
			if n := r.server.Connections(); n != 0 {
				t.Errorf("%d connections", n)
			}
			r.o.Payload = write("good", "{}")
			r.restart()
			r.known(r.registered())
		})
	}
}

// Services and webhooks quote what they were sent. It does not come back to us.
func TestPayloadIsNotInErrors(t *testing.T) {
	payload := `{"password":"ge\"heim","pin":123456,"list":[{"deep":"verborgen"},"two\nlinesheim","verb","verborgenZuyz"]}`
	for name, said := range map[string]string{
		"whole":   "cannot use " + payload,
		"values":  `the password ge"heim, pin 123456, verborgen`,
		"in bits": "ver\x00borgen",
		"lines":   "two\nlinesheim",
		"longer":  "not verborgenZuyz",
		"as JSON": `the password "ge\"heim" is wrong`,
	} {
		for _, answer := range []dpstest.Fault{dpstest.Error(400004, said), failed(400209, said), assigned("assignedHub", said),
			assigned("deviceId", said), assigned("registrationId", said), assigning(said),
			func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { // net/http quotes what is no HTTP
				c, _, _ := http.NewResponseController(w).Hijack()
				fmt.Fprintf(c, "HTTP/1.1 %s\r\n\r\n", strings.ReplaceAll(said, "\x00", ""))
				c.Close()
			}} {
			r := newRig(t, dpstest.Options{})
			r.o.Payload = filepath.Join(t.TempDir(), "payload.json")
			if err := os.WriteFile(r.o.Payload, []byte(payload), 0o600); err != nil {
				t.Fatal(err)
			}
			r.restart()
			r.server.Next("", answer)
			_, err := r.step()
			e := r.failure(err)
			for _, secret := range []string{"heim", "123456", "verb", "borgen", "Zuyz"} {
				if strings.Contains(e.Error()+e.Hint+string(r.state), secret) {
					t.Errorf("%s: %v", name, e)
				}
			}
			if e.Detail != "" && !strings.Contains(e.Error(), "[payload]") {
				t.Errorf("%s: %v", name, e)
			}
		}
	}
}

// After a restart the payload that was sent is not known, nor what of it a webhook quotes at the end.
func TestPayloadIsNotInErrorsAfterARestart(t *testing.T) {
	r := newRig(t, dpstest.Options{})
	r.o.Payload = filepath.Join(t.TempDir(), "payload.json")
	if err := os.WriteFile(r.o.Payload, []byte(`{"password":"geheim"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	r.restart()
	r.step()
	if err := os.WriteFile(r.o.Payload, []byte(`{}`), 0o600); err != nil {
		t.Fatal(err)
	}
	r.restart()
	r.server.Next("", failed(400209, "wrong password geheim"))
	if e := r.fails(dps.CodeAllocation); strings.Contains(e.Error(), "geheim") {
		t.Error(e)
	}
}
