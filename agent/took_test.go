package agent

import (
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certagent/est"
)

// TestClockIsSetDuringAnAttempt: what the log says something took is by the monotonic clock, at a first boot too, where the
// wall clock jumps by decades in the midst of it.
func TestClockIsSetDuringAnAttempt(t *testing.T) {
	t.Parallel()
	for name, by := range map[string]time.Duration{"ahead": 30 * 365 * day, "back": -30 * day} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				a := newAstray(t, 365*day, oneCertificate)
				change := a.change
				a.change = func(o *Options) {
					change(o)
					dial := o.Dial
					o.Dial = func(eo est.Options) (Enroller, error) {
						time.Sleep(2 * time.Second)
						a.both(by)
						return dial(eo)
					}
				}
				_, stop := a.boot()
				time.Sleep(time.Minute)
				settle()
				stop()
				took := 0
				for line := range strings.Lines(a.logs.String()) {
					var l struct {
						Event string
						Took  float64 `json:"took_seconds"`
						Ran   float64 `json:"ran_seconds"`
					}
					if err := json.Unmarshal([]byte(line), &l); err != nil {
						t.Fatal(err)
					}
					if l.Event == "attempt" || l.Event == "stop" {
						took++
						if seconds := l.Took + l.Ran; seconds < 2 || seconds > 3600 {
							t.Errorf("%v s in %s", seconds, line)
						}
					}
				}
				if took < 2 {
					t.Errorf("no attempt, or no end of the agent:\n%s", a.logs)
				}
			})
		})
	}
}
