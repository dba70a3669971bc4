package agent

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certagent/agent/onboard/dps"
	"certagent/agent/onboard/dps/dpstest"
)

// TestConsumersThatWaitAreTold: while outputs and hooks wait for the cloud, for five minutes or a tenth of the certificate's lifetime,
// status says until when, from the agent and from the disk alike; and then no more.
func TestConsumersThatWaitAreTold(t *testing.T) {
	t.Parallel()
	for lifetime, wait := range map[time.Duration]time.Duration{day: 5 * time.Minute, 30 * time.Minute: 3 * time.Minute} {
		t.Run(lifetime.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := newClouded(t, lifetime, dpstest.Options{})
				defer c.end()
				c.cloud.Always("", dpstest.Status(503, ""))
				a, stop := c.boot()
				defer stop()
				look := func() (told, onDisk time.Time) {
					t.Helper()
					settle()
					s, err := survey(c.device)
					if err != nil {
						t.Fatal(err)
					}
					return device0(a).Onboarding.HoldsUntil, s.Certificates[0].Onboarding.HoldsUntil
				}
				time.Sleep(wait - time.Second)
				want := c.live("device-id").Meta.Issued.Add(wait)
				if told, onDisk := look(); !told.Equal(want) || !onDisk.Equal(want) {
					t.Errorf("they wait until %v, by the disk until %v, want %v", told, onDisk, want)
				}
				mustTell(t, c.hooks)
				time.Sleep(2 * time.Second)
				if told, onDisk := look(); !told.IsZero() || !onDisk.IsZero() {
					t.Errorf("when they wait no more they are said to wait until %v, by the disk until %v", told, onDisk)
				}
				mustTell(t, c.hooks, hookA+"/1/missing", hookB+"/1/missing")
			})
		})
	}
}

// TestRegistrationThatIsSuperseded: where a renewal takes the place of a certificate that DPS was deciding about, the log says which
// one was registered.
func TestRegistrationThatIsSuperseded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newClouded(t, day, dpstest.Options{Takes: 3 * time.Minute, RetryAfter: 20 * time.Second})
		defer c.end()
		a, stop := c.boot()
		defer stop()
		time.Sleep(30 * time.Second) // between two looks
		a.RenewAll()
		time.Sleep(10 * time.Minute)
		settle()
		c.mustBeKnown(a)
		for line := range strings.Lines(c.logs.String()) {
			if strings.Contains(line, `"event":"registration"`) && !strings.Contains(line, `"generation":2,`) {
				t.Errorf("generation 2 was registered, and the log has\n%s", line)
			}
		}
		c.logs.mustSay(t, 1, `"result":"registered"`)
	})
}

// TestReloadAfterAMendedFile: a file that kept the device from its cloud is read again at a reload, and not when the back-off ends; and
// a reload does not go over a back-off that the cloud is the reason for.
func TestReloadAfterAMendedFile(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newClouded(t, day, dpstest.Options{})
		defer c.end()
		remove(t, filepath.Join(c.dir, "cloud.pem"))
		a, stop := c.boot()
		defer stop()
		reload := func() {
			t.Helper()
			if err := a.ReloadNow(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Second)
			settle()
		}
		time.Sleep(5 * time.Hour)
		settle()
		if p := device0(a).Problems; len(p) != 1 || p[0].Code != dps.CodeUntrusted {
			t.Fatalf("without the file: %+v", p)
		}
		writeFile(t, filepath.Join(c.dir, "cloud.pem"), c.cloud.RootPEM())
		reload()
		c.mustBeKnown(a)

		c.cloud.Always("", dpstest.Status(503, ""))
		a.RenewAll()
		time.Sleep(5 * time.Hour)
		settle()
		n, next := len(c.asked()), device0(a).Onboarding.NextTry
		reload()
		if again := len(c.asked()) - n; again > 0 || !device0(a).Onboarding.NextTry.Equal(next) {
			t.Errorf("a reload had a cloud that is away asked %d times; the next try was to be at %v, and is at %v", again, next,
				device0(a).Onboarding.NextTry)
		}
	})
}

// TestOutcomeThatCameTooLate: what came of telling the cloud one thing, when by then it is to know another, is not taken for the
// outcome of that.
func TestOutcomeThatCameTooLate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newClouded(t, day, dpstest.Options{})
		defer c.end()
		fails := dpstest.Status(503, "")
		c.cloud.Next("", func(w http.ResponseWriter, r *http.Request, real http.Handler) {
			time.Sleep(10 * time.Second)
			fails(w, r, real)
		})
		c.cloud.Always("", fails)
		a, stop := c.boot()
		defer stop()
		time.Sleep(5 * time.Second)
		k := a.deviceKeeper()
		if err := k.visit(t.Context(), func() func() {
			time.Sleep(10 * time.Second) // meanwhile the answer comes, and what to register changes
			a.mu.Lock()
			defer a.mu.Unlock()
			cfg := *a.cfg
			cfg.Provisioning.IDScope = "0neDEADBEEF"
			a.cfg = &cfg
			return func() {}
		}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		settle()
		c.logs.mustSay(t, 0, `"result":"registered"`)
		if p := device0(a).Problems; len(p) != 1 || p[0].Code != dps.CodeUnavailable {
			t.Errorf("problems: %+v", p)
		}
	})
}

// TestPayload: what the configuration names goes along to the webhook, and another payload is tried at once, over the back-off of a
// webhook that did not take the one before.
func TestPayload(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newClouded(t, day, dpstest.Options{})
		defer c.end()
		c.cloud.EnrolGroup(c.ca.cert, dpstest.Enrolment{
			Webhook: func(_ string, payload json.RawMessage) (string, json.RawMessage, error) {
				if string(payload) != `{"site":"north"}` {
					return "", nil, errors.New("no such site")
				}
				return dpstest.DefaultHub, nil, nil
			},
		})
		writeFile(t, filepath.Join(c.dir, "old.json"), []byte(`{"site":"south"}`))
		writeFile(t, filepath.Join(c.dir, "new.json"), []byte(`{"site":"north"}`))
		c.text = strings.Replace(c.text, "[provisioning]\n",
			"[provisioning]\npayload = { uri = \"file://"+filepath.Join(c.dir, "old.json")+"\" }\n", 1)
		a, stop := c.boot()
		defer stop()
		time.Sleep(5 * time.Hour)
		settle()
		if p := device0(a).Problems; len(p) != 1 || p[0].Code != dps.CodeAllocation {
			t.Fatalf("with a payload that the webhook does not take: %+v", p)
		}
		c.text = strings.Replace(c.text, "old.json", "new.json", 1)
		if err := a.ReloadNow(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		settle()
		c.mustBeKnown(a)
		for _, r := range c.cloud.Requests() {
			if got := r.Header.Get("User-Agent"); got != "certagent/test" {
				t.Errorf("the cloud is told that we are %q", got)
			}
		}
	})
}

// interrupted is a cloud that an errand is under way to.
type interrupted struct {
	cloud
	recorded, hungUp bool
}

func (i *interrupted) stored() (result, state []byte) { return nil, nil }
func (i *interrupted) hangUp()                        { i.hungUp = true }

// TestEndWaitsForWhatRuns: what comes of a delivery and of an errand while the agent ends is recorded, whichever comes last, and
// the cloud's connection hung up after that.
func TestEndWaitsForWhatRuns(t *testing.T) {
	t.Parallel()
	for _, last := range []string{"delivery", "errand"} {
		t.Run(last, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := &interrupted{}
				k := &keeper{agent: &Agent{o: Options{Now: time.Now, Rand: func() float64 { return .5 }}}, back: make(chan any, 2),
					courier: courier{running: true, cancel: func() {}}, envoy: envoy{cloud: i, running: true, cancel: func() {}}}
				letters := []any{
					tiding{over: true, record: func(float64, time.Time) bool { i.recorded = true; return false }},
					&handed{err: context.Canceled, step: deliveryStep{write: true}},
				}
				if last == "errand" {
					slices.Reverse(letters)
				}
				ended := make(chan struct{})
				go func() { k.windUp(); close(ended) }()
				k.back <- letters[0]
				synctest.Wait()
				if i.hungUp {
					t.Error("it ended before that did")
				}
				k.back <- letters[1]
				if <-ended; !i.recorded || !i.hungUp || !k.courier.outdated {
					t.Errorf("recorded: %t; hung up: %t; to be written again: %t", i.recorded, i.hungUp, k.courier.outdated)
				}
			})
		})
	}
}
