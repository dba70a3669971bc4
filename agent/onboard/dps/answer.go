package dps

import (
	"cmp"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"certagent/agent/onboard"
)

// Answer is what DPS said to a request that it took.
type Answer struct {
	HTTP int
	// Status is DPS's word for how far it is.
	Status string
	// Result is where the device is registered; nil while it is not.
	Result *Result
	// Operation is what to ask for next, and RetryAfter when, counted from the answer, at most a day; 0 if DPS did not
	// say. They are there where Result is nil.
	Operation  string
	RetryAfter time.Duration
}

// The words of DPS for how far a registration is (RegistrationOperationStatus, DeviceRegistrationResult). Whatever else
// it says is taken for one that goes on.
const (
	statusAssigned = "assigned"
	statusFailed   = "failed"
	statusDisabled = "disabled"
)

// registrationAnswer is the body of a success. Of what it has beyond this nothing counts, whatever its types.
type registrationAnswer struct {
	OperationID string             `json:"operationId"`
	Status      string             `json:"status"`
	State       *registrationState `json:"registrationState"`
}

type registrationState struct {
	RegistrationID string    `json:"registrationId"`
	Hub            string    `json:"assignedHub"`
	DeviceID       string    `json:"deviceId"`
	Status         string    `json:"status"`
	Substatus      string    `json:"substatus"`
	Created        string    `json:"createdDateTimeUtc"`
	Updated        string    `json:"lastUpdatedDateTimeUtc"`
	ErrorCode      errorCode `json:"errorCode"`
	ErrorMessage   string    `json:"errorMessage"`
}

// errorAnswer is the body of an error (ProvisioningServiceErrorDetails).
type errorAnswer struct {
	ErrorCode  errorCode `json:"errorCode"`
	TrackingID string    `json:"trackingId"`
	Message    string    `json:"message"`
}

// errorCode is a number of six digits, which services spell as a number or as a string. Anything else is 0.
type errorCode int

func (c *errorCode) UnmarshalJSON(text []byte) error {
	n, err := strconv.Atoi(strings.Trim(string(text), `"`))
	if err != nil || n < 0 || n >= 1_000_000 {
		n = 0
	}
	*c = errorCode(n)
	return nil
}

// received is an answer as it came over the wire.
type received struct {
	status int
	header http.Header
	body   []byte
	cut    bool // there was more than bodyLimit
	came   time.Time
}

// read says what an answer to step means. It is without I/O. secrets are what is not to be quoted.
func read(want Registration, step Step, in received, s shown, secrets []string) (Answer, error) {
	e := &Error{
		Do: step.Do, Target: want, Status: in.status, Tracking: identifier(in.header.Get("x-ms-request-id")),
		RetryAfter: retryAfter(in.header.Get("Retry-After"), in.came),
	}
	if in.status != http.StatusOK && in.status != http.StatusAccepted {
		var body errorAnswer
		json.Unmarshal(in.body, &body) // whatever of it is usable: the status counts without it
		e.DPS = int(body.ErrorCode)
		if e.DPS == 0 {
			e.DPS, _ = strconv.Atoi(in.header.Get("x-ms-error-code"))
		}
		if e.DPS/1000 != in.status {
			e.DPS = 0 // not of this answer
		}
		if id := identifier(body.TrackingID); id != "" {
			e.Tracking = id
		}
		e.Detail = quote(body.Message, secrets)
		return Answer{}, e.judge(in.status, step, s)
	}
	unusable := func(why string) (Answer, error) { // it quotes nothing: that may be of the payload
		e.Class, e.Code, e.Hint, e.Err = ErrBadResponse, CodeBadResponse, hintNotDPS, errors.New(why)
		return Answer{}, e
	}
	if in.cut {
		return unusable("it has more than " + strconv.Itoa(bodyLimit) + " bytes")
	}
	var body registrationAnswer
	if err := json.Unmarshal(in.body, &body); err != nil {
		return unusable("it is not the JSON of DPS")
	}
	a := Answer{HTTP: in.status, Status: identifier(body.Status), RetryAfter: e.RetryAfter}
	e.RetryAfter = 0
	state := cmp.Or(body.State, new(registrationState))
	is := func(status string) bool { // an operation may be at its end and what it is about refused
		return strings.EqualFold(body.Status, status) || strings.EqualFold(state.Status, status)
	}
	switch {
	case a.Status == "":
		return unusable("it has no status")
	case is(statusDisabled):
		return Answer{}, disabled(e)
	case is(statusFailed):
		e.DPS, e.Detail = int(state.ErrorCode), quote(state.ErrorMessage, secrets)
		return Answer{}, e.failure(step, s)
	case strings.EqualFold(body.Status, statusAssigned):
		return assigned(want, a, state, in.came, unusable)
	}
	a.Operation = body.OperationID
	if a.Operation == "" {
		a.Operation = step.Operation // DPS leaves it out of a poll's answer at times (azure-sdk-for-c 2007)
	}
	switch {
	case a.Operation == "":
		return unusable("it names no operation to ask for")
	case !isSegment(a.Operation):
		return unusable("the operation that it names is none")
	}
	return a, nil
}

// assigned is the answer with the result in it, if that can be one.
func assigned(want Registration, a Answer, state *registrationState, came time.Time,
	unusable func(why string) (Answer, error)) (Answer, error) {
	switch {
	case !onboard.IsHost(state.Hub):
		return unusable("the device is assigned, and what should name the hub is no host name")
	case !isDeviceID(state.DeviceID):
		return unusable("the device is assigned, and what should name it at the hub is no name of a device")
	case state.RegistrationID != "" && !strings.EqualFold(state.RegistrationID, want.RegistrationID):
		return unusable("it is about another registration id")
	}
	a.Operation, a.RetryAfter = "", 0
	a.Result = &Result{
		Version: resultVersion, Hub: state.Hub, DeviceID: state.DeviceID, Substatus: identifier(state.Substatus),
		Registration: want, Registered: came.UTC().Truncate(time.Second),
		Created: serviceTime(state.Created), Updated: serviceTime(state.Updated),
	}
	return a, nil
}

// failure is the error of a registration that DPS decided against. It came with HTTP 200, so that the error code alone
// says why; without one it is the allocation that failed, for who is refused is so before that.
func (e *Error) failure(step Step, s shown) *Error {
	e.judge(e.DPS/1000, Step{Do: Register, Why: step.Why}, s)
	if e.Class == ErrBadResponse {
		e.Class, e.Code = ErrRejected, CodeAllocation
		e.Hint = "see the allocation policy and the hubs of the enrolment"
	}
	e.Err, e.decided = errors.New("the registration failed"), true
	return e
}

// serviceTime reads a time of DPS's, whose fraction has seven digits; zero where it is none.
func serviceTime(s string) time.Time {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil || t.Year() < 2000 || t.Year() > 9998 {
		return time.Time{}
	}
	return t.UTC()
}

// isSegment reports whether s can be an ID scope or the name of an operation, each a segment of a path. "." and ".."
// would lead elsewhere.
func isSegment(s string) bool {
	return s != "" && s != "." && s != ".." && len(s) <= 256 && !strings.ContainsFunc(s, notIdentifier)
}

// identifier is s if that can be an identifier, else "".
func identifier(s string) string {
	if len(s) > maxIdentifier || strings.ContainsFunc(s, notIdentifier) {
		return ""
	}
	return s
}
