package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"certagent/agent/onboard/awsiot/awstest"
)

// awsControl is the environment variable that names the server which the stand-in for the aws command asks.
const awsControl = "AWS_STAND_IN"

// awsCommand is the stand-in: it reads the files that are named file://, as the real one does, and has control answer.
func awsCommand() {
	args := os.Args[1:]
	for i, a := range args {
		if file, ok := strings.CutPrefix(a, "file://"); ok {
			data, err := os.ReadFile(file)
			if err != nil {
				fmt.Fprintln(os.Stderr, "aws: Error parsing parameter:", err)
				os.Exit(252)
			}
			args[i] = string(data)
		}
	}
	body, err := json.Marshal(args)
	if err == nil {
		var answer *http.Response
		if answer, err = http.Post(os.Getenv(awsControl), "application/json", bytes.NewReader(body)); err == nil {
			defer answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				io.Copy(os.Stdout, answer.Body)
				return
			}
			io.Copy(os.Stderr, answer.Body)
			os.Exit(254)
		}
	}
	fmt.Fprintln(os.Stderr, "aws:", err)
	os.Exit(255)
}

// account answers what the stand-in is asked: IoT by s, and identity and roles as far as the page needs them.
type account struct {
	s *awstest.Server

	mu       sync.Mutex // guards what follows
	done     []string   // the operations, in their order
	roles    map[string]string
	policies map[string]string
}

// awsAccount starts it, and has the stand-in find it.
func awsAccount(t *testing.T, s *awstest.Server) *account {
	t.Helper()
	a := &account{s: s, roles: map[string]string{}, policies: map[string]string{}}
	server := httptest.NewServer(a)
	t.Cleanup(server.Close)
	t.Setenv(awsControl, server.URL)
	return a
}

// accountID is its number.
const accountID = "123456789012"

// awsOptions are those that an operation takes here, all of them with a value, as the API's model has them.
func awsOptions() map[string][]string {
	return map[string][]string{
		"sts get-caller-identity":     {},
		"iam create-role":             {"role-name", "assume-role-policy-document"},
		"iam attach-role-policy":      {"role-name", "policy-arn"},
		"iot get-registration-code":   {},
		"iot create-policy":           {"policy-name", "policy-document"},
		"iot register-ca-certificate": {"ca-certificate", "verification-certificate"},
		"iot list-ca-certificates":    {},
		"iot update-ca-certificate": {"certificate-id", "new-status", "new-auto-registration-status",
			"registration-config"},
		"iot describe-ca-certificate": {"certificate-id"},
		"iot describe-endpoint":       {"endpoint-type"},
		"iot describe-thing":          {"thing-name"},
		"iot list-thing-principals":   {"thing-name"},
	}
}

func (a *account) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var args []string
	if err := json.NewDecoder(r.Body).Decode(&args); err != nil || len(args) < 2 {
		http.Error(w, "no command", http.StatusBadRequest)
		return
	}
	operation := args[0] + " " + args[1]
	a.done = append(a.done, operation)
	allowed, known := awsOptions()[operation]
	options := map[string]string{}
	for rest := args[2:]; len(rest) > 0; rest = rest[2:] {
		name, ok := strings.CutPrefix(rest[0], "--")
		if !known || !ok || len(rest) == 1 || !slices.Contains(append(allowed, "query", "output"), name) {
			http.Error(w, fmt.Sprintf("aws: error: %q", args), http.StatusBadRequest)
			return
		}
		options[name] = rest[1]
	}
	answer, err := a.answer(operation, options)
	if err != nil {
		http.Error(w, "An error occurred: "+err.Error(), http.StatusBadRequest)
		return
	}
	if options["output"] == "text" {
		fmt.Fprintln(w, answer[options["query"]])
		return
	}
	json.NewEncoder(w).Encode(answer)
}

// answer does an operation. a.mu is held.
func (a *account) answer(operation string, o map[string]string) (map[string]any, error) {
	switch operation {
	case "sts get-caller-identity":
		return map[string]any{"Account": accountID}, nil
	case "iam create-role":
		if !json.Valid([]byte(o["assume-role-policy-document"])) ||
			!strings.Contains(o["assume-role-policy-document"], "iot.amazonaws.com") {
			return nil, fmt.Errorf("MalformedPolicyDocument")
		}
		a.roles[o["role-name"]] = ""
		return nil, nil
	case "iam attach-role-policy":
		if _, ok := a.roles[o["role-name"]]; !ok {
			return nil, fmt.Errorf("NoSuchEntity")
		}
		a.roles[o["role-name"]] = o["policy-arn"]
		return nil, nil
	case "iot get-registration-code":
		return map[string]any{"registrationCode": a.s.RegistrationCode()}, nil
	case "iot create-policy":
		text := o["policy-document"]
		if !json.Valid([]byte(text)) || strings.Contains(text, "REGION") || strings.Contains(text, "ACCOUNT") {
			return nil, fmt.Errorf("MalformedPolicyException: %s", text)
		}
		a.policies[o["policy-name"]] = text
		return nil, nil
	case "iot register-ca-certificate":
		id, err := a.s.RegisterCA([]byte(o["ca-certificate"]), []byte(o["verification-certificate"]))
		return map[string]any{"certificateId": id}, err
	case "iot list-ca-certificates", "iot describe-ca-certificate":
		return map[string]any{"certificates": a.s.CAs()}, nil
	case "iot update-ca-certificate":
		return nil, a.updateCA(o)
	case "iot describe-endpoint":
		if o["endpoint-type"] != "iot:Data-ATS" {
			return nil, fmt.Errorf("InvalidRequestException: %s", o["endpoint-type"])
		}
		return map[string]any{"endpointAddress": a.s.Endpoint()}, nil
	}
	thing := a.s.Thing(o["thing-name"])
	if thing.Name == "" {
		return nil, fmt.Errorf("ResourceNotFoundException: no thing %s", o["thing-name"])
	}
	return map[string]any{"thing": thing}, nil
}

func (a *account) updateCA(o map[string]string) error {
	var auto *bool
	if status := o["new-auto-registration-status"]; status != "" {
		yes := status == "ENABLE"
		auto = &yes
	}
	var config *awstest.RegistrationConfig
	if text := o["registration-config"]; text != "" {
		config = new(awstest.RegistrationConfig)
		d := json.NewDecoder(strings.NewReader(text))
		d.DisallowUnknownFields()
		if err := d.Decode(config); err != nil {
			return fmt.Errorf("InvalidRequestException: %w", err)
		}
		role := strings.TrimPrefix(config.RoleARN, "arn:aws:iam::"+accountID+":role/")
		if !strings.HasSuffix(a.roles[role], "/AWSIoTThingsRegistration") {
			return fmt.Errorf("InvalidRequestException: role %s cannot register things", config.RoleARN)
		}
	}
	return a.s.UpdateCA(o["certificate-id"], awstest.Status(o["new-status"]), auto, config)
}
