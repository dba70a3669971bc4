package est_test

import (
	"context"
	"slices"
	"testing"

	"certagent/est"
	"certagent/est/esttest"
)

// What an attempt says that it cost is what went by: counted by a relay in between, for an enrolment that is asked for a
// password and for one that is refused.
func TestTraffic(t *testing.T) {
	for _, test := range []struct {
		name, password string
		statuses       []int
	}{
		{"issued", esttest.DefaultPassword, []int{200, 401, 200}},
		{"refused", "wrong", []int{200, 401, 401}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := esttest.New(t, esttest.Options{AskPassword: true})
			relay := esttest.NewRelay(t, s.Addr())
			o := optionsFor(t, s)
			o.URL, o.Login = relay.In(o.URL), &est.Login{Username: esttest.DefaultUser, Password: test.password}
			csr, err := est.CreateRequest(newKey(t), est.Template{})
			if err != nil {
				t.Fatal(err)
			}
			c, err := est.New(o)
			if err != nil {
				t.Fatal(err)
			}
			_, err = c.Enroll(context.WithoutCancel(t.Context()), csr, est.Want{})
			c.Close()
			if issued := test.password == esttest.DefaultPassword; issued != (err == nil) {
				t.Fatal(err)
			}
			relay.Stop()
			got := c.Traffic()
			if got.Connections != int(relay.Connections.Load()) || got.Connections != 2 || !got.PasswordSent || !slices.Equal(got.Statuses, test.statuses) {
				t.Errorf("%+v, and %d connections went by", got, relay.Connections.Load())
			}
			// What the server says when we have gone is not received.
			if got.Sent != relay.Up.Load() || got.Received == 0 || got.Received > relay.Down.Load() {
				t.Errorf("%d bytes sent and %d received; %d and %d went by", got.Sent, got.Received, relay.Up.Load(), relay.Down.Load())
			}
		})
	}
}
