package est

import (
	"errors"
	"math"
	"net/http"
	"testing"
	"time"
)

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		values []string
		want   time.Duration
	}{
		{nil, 0},
		{[]string{""}, 0},
		{[]string{"0"}, 0},
		{[]string{" 90 "}, 90 * time.Second},
		{[]string{"-5"}, 0},
		{[]string{"+5"}, 0},
		{[]string{"1e9"}, 0},
		{[]string{"soon"}, 0},
		{[]string{"1.5"}, 2 * time.Second},
		{[]string{"0.001"}, time.Second},
		{[]string{"1.2.3"}, 0},
		{[]string{"."}, 0},
		{[]string{"3155760000"}, 3155760000 * time.Second}, // a century
		{[]string{"9223372036"}, 9223372036 * time.Second},
		{[]string{"9223372036.5"}, math.MaxInt64},
		{[]string{"9223372037"}, math.MaxInt64},
		{[]string{"99999999999999999999999"}, math.MaxInt64},
		{[]string{"Sun, 01 Mar 2026 13:00:00 GMT"}, time.Hour},
		{[]string{"Sunday, 01-Mar-26 13:00:00 GMT"}, time.Hour}, // RFC 850
		{[]string{"Sun Mar  1 13:00:00 2026"}, time.Hour},       // asctime
		{[]string{"Sun, 01 Mar 2026 11:00:00 GMT"}, 0},
		{[]string{"Mon, 01 Mar 2126 12:00:00 GMT"}, 36524 * 24 * time.Hour}, // a century
		{[]string{"Fri, 31 Dec 9999 23:59:59 GMT"}, math.MaxInt64},
		{[]string{"2026-03-01T13:00:00Z"}, 0},
		{[]string{"5", "soon", "120", "60"}, 2 * time.Minute},
		{[]string{"-1", "Sun, 01 Mar 2026 12:00:30 GMT"}, 30 * time.Second},
	} {
		if got := parseRetryAfter(test.values, now); got != test.want {
			t.Errorf("%q: %v, want %v", test.values, got, test.want)
		}
	}
}

// On the wire: several headers, and the class of their answer.
func TestSeveralRetryAfters(t *testing.T) {
	for _, status := range []int{http.StatusAccepted, http.StatusTooManyRequests, http.StatusServiceUnavailable} {
		s := newServer(t)
		s.handlers["simpleenroll"] = func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Retry-After"] = []string{"10", "later", "30.5"}
			w.WriteHeader(status)
		}
		s.start()
		_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
		_, err := newClient(t, s.options()).Enroll(t.Context(), csr, Want{})
		if e, ok := errors.AsType[*Error](err); !ok || e.Status != status || e.RetryAfter != 31*time.Second {
			t.Errorf("%v", err)
		}
	}
}
