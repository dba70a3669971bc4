package dps

import (
	"net/http"
	"testing"
	"time"

	"certagent/agent/onboard"
)

// FuzzAnswer has anything for an answer: it is one that can be used, or an error of one short line, and never both.
func FuzzAnswer(f *testing.F) {
	for _, body := range []string{
		`{"operationId":"4.x","status":"assigning"}`,
		`{"operationId":"4.x","status":"assigned","registrationState":{"assignedHub":"h.test","deviceId":"d"}}`,
		`{"operationId":"4.x","status":"failed","registrationState":{"errorCode":400209,"errorMessage":"no"}}`,
		`{"errorCode":401002,"trackingId":"a-b","message":"Unauthorized"}`, `{"status":"disabled"}`, `[`, ``,
	} {
		for _, status := range []int{200, 202, 307, 401, 404, 429, 500} {
			f.Add(status, body, "3", "", status%2 == 0)
		}
	}
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	want := Registration{Endpoint: "https://dps.test", IDScope: "0neA", RegistrationID: "gw-17", SHA256: "aa"}
	f.Fuzz(func(t *testing.T, status int, body, retry, code string, polling bool) {
		step := Step{Do: Register, Why: onboard.Unknown}
		if polling {
			step = Step{Do: Poll, Why: onboard.Unknown, Operation: "4.y"}
		}
		in := received{
			status: status, header: http.Header{"Retry-After": {retry}, "X-Ms-Error-Code": {code}}, body: []byte(body), came: now,
		}
		a, err := read(want, step, in, shown{asked: true, offered: true, chain: 1}, nil)
		state, result := State{}.Begin(want, step, .5, now).After(want, step, a, err, .5, now)
		next := Next(want, result, state, now)
		switch e, failed := err.(*Error); {
		case err != nil && (!failed || e.Class == nil || e.Code == "" || len(e.Error()) > 2000 || result != nil):
			t.Fatalf("error %#v, result %v", err, result)
		case err != nil && (next.Do == Nothing || next.At.Sub(now) < leastPollWait || next.At.Sub(now) > maxRetryAfter+maxSpread):
			t.Fatalf("next step %+v after %v", next, err)
		case err == nil && a.Result == nil && (next.Do != Poll || !isSegment(next.Operation) || next.At.Sub(now) < leastPollWait):
			t.Fatalf("next step %+v after %+v", next, a)
		case err == nil && a.Result != nil && (next.Do != Nothing || ParseResult(result.Bytes()) == nil):
			t.Fatalf("next step %+v after %+v", next, a.Result)
		}
		if got := ParseState(state.Bytes()); got.Failures != state.Failures || !got.NextTry.Equal(state.NextTry) {
			t.Fatalf("state %+v became %+v", state, got)
		}
	})
}
