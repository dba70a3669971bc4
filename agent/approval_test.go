package agent

import (
	"bytes"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"certagent/est"
)

// TestApprovalThatTakesDays: the same request is repeated byte for byte, also across a restart, no earlier than the server
// said, and a force does not change that.
func TestApprovalThatTakesDays(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, day, oneCertificate)
		d.ca.fail(func(c call) error {
			return &est.Error{Op: c.op, Class: est.ErrPending, Status: 202, RetryAfter: 6 * time.Hour}
		})
		a, stop := d.boot()
		time.Sleep(9 * time.Hour)
		a.RenewAll()
		settle()
		stop()
		a, stop = d.boot()
		defer stop()
		time.Sleep(time.Hour)
		settle()
		if p := a.Snapshot().Certificates[0]; !p.Pending {
			t.Errorf("status does not show the pending request: %+v", p)
		}
		d.ca.fail(nil)
		time.Sleep(3 * time.Hour)
		settle()
		calls := d.ca.seen()
		if len(calls) != 3 {
			t.Fatalf("%d requests, want 3", len(calls))
		}
		for i, c := range calls {
			if !bytes.Equal(c.csr, calls[0].csr) {
				t.Errorf("request %d is not the first one repeated", i+1)
			}
			if i > 0 && c.at.Sub(calls[i-1].at) < 6*time.Hour {
				t.Errorf("request %d came after %v", i+1, c.at.Sub(calls[i-1].at))
			}
		}
	})
}

// TestApprovalAtNoSaidTime: a 202 without Retry-After is a matter of a quarter of an hour, one until the next century of a
// week.
func TestApprovalAtNoSaidTime(t *testing.T) {
	stories := storiesOf(t)
	for _, test := range []struct{ said, want time.Duration }{{0, 15 * time.Minute}, {876600 * time.Hour, 7 * day}} {
		stories.play(fmt.Sprintf("told to wait %v", test.said), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDevice(t, day, oneCertificate)
				d.ca.fail(func(c call) error {
					return &est.Error{Op: c.op, Class: est.ErrPending, Status: 202, RetryAfter: test.said}
				})
				_, stop := d.boot()
				defer stop()
				time.Sleep(test.want + 5*time.Minute)
				settle()
				calls := d.ca.seen()
				if len(calls) != 2 || calls[1].at.Sub(calls[0].at) < test.want {
					t.Errorf("told to wait %v: %d requests, want a second after %v", test.said, len(calls), test.want)
				}
			})
		})
	}
}
