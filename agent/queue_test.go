package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"certagent/est"
)

// waiter asks for a turn, notes its name when it has it, and gives it back when told.
func waiter(ctx context.Context, q *queue, server string, by time.Time, begun func(), end <-chan struct{}) error {
	if err := q.wait(ctx, server, by); err != nil {
		return err
	}
	begun()
	<-end
	q.done(server)
	return nil
}

// Of those that wait, the one whose certificate expires first goes next.
func TestTurnsByUrgency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q queue
		var tasks sync.WaitGroup
		now := time.Now()
		held := make(chan struct{})
		for range maxPerServer {
			tasks.Go(func() { _ = waiter(t.Context(), &q, "ca", now, func() {}, held) })
		}
		synctest.Wait()
		var mu sync.Mutex // guards got
		var got []int
		at := func(days int) time.Time { return now.Add(time.Duration(days) * day) }
		for _, days := range []int{30, 1, 365, 0, 7} {
			tasks.Go(func() {
				_ = waiter(t.Context(), &q, "ca", at(days), func() { mu.Lock(); got = append(got, days); mu.Unlock() }, held)
			})
		}
		synctest.Wait()
		for range 5 { // one turn after the other
			held <- struct{}{}
			synctest.Wait()
		}
		close(held)
		tasks.Wait()
		if want := []int{0, 1, 7, 30, 365}; !slices.Equal(got, want) {
			t.Errorf("turns by days to expiry: %v, want %v", got, want)
		}
	})
}

// One server gets its share and no more, however many wait for it; each server always has a turn.
func TestTurnsByServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var q queue
		var tasks sync.WaitGroup
		var mu sync.Mutex // guards begun
		begun := map[string]int{}
		never := make(chan struct{})
		ask := func(server string, n int) {
			for range n {
				tasks.Go(func() {
					_ = waiter(ctx, &q, server, time.Now(), func() { mu.Lock(); begun[server]++; mu.Unlock() }, never)
				})
			}
			synctest.Wait()
		}
		hung := []string{"hung-1", "hung-2", "hung-3"}
		for _, server := range hung {
			ask(server, 100)
		}
		ask("well", 3)
		want := map[string]int{"hung-1": maxPerServer, "hung-2": maxAttempts - maxPerServer, "hung-3": 1, "well": 1}
		if fmt.Sprint(begun) != fmt.Sprint(want) {
			t.Errorf("turns while nothing ends: %v, want %v", begun, want)
		}
		q.mu.Lock()
		if q.running != maxAttempts+2 {
			t.Errorf("%d turns at once", q.running)
		}
		q.mu.Unlock()
		cancel()
		close(never)
		tasks.Wait()
		if q.running != 0 || len(q.at) != 0 || len(q.waiting) != 0 {
			t.Errorf("left over: %d running, %v, %d waiting", q.running, q.at, len(q.waiting))
		}
	})
}

// Whoever gives up waiting takes nobody's turn along.
func TestTurnGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q queue
		for range maxPerServer {
			if err := q.wait(t.Context(), "ca", time.Now()); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := q.wait(ctx, "ca", time.Now()); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("a turn that nobody gave back: %v", err)
		}
		q.done("ca")
		if err := q.wait(t.Context(), "ca", time.Now()); err != nil {
			t.Fatal(err)
		}
	})
}

const fleetHeader = `
[cert_issuance.est]
trusted_certs = ["file://DIR/ca.pem"]

[cert_issuance.est.auth]
username = "user"
password = "secret"
`

// fleetOf is the configuration of so many certificates of one server, whose names begin with prefix.
func fleetOf(n int, prefix, url string) (text string) {
	for i := range n {
		text += fmt.Sprintf("[cert_issuance.certs.%s-%03d]\nmethod = \"est\"\ncommon_name = \"%[1]s-%03[2]d\"\nurl = %q\n", prefix, i, url)
	}
	return text
}

// A server that hangs does not hold up the certificates of another, though each attempt at it lasts until its deadline and
// more wait for it than may run at once.
func TestAHungServerHoldsUpNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, 90*day, fleetHeader+
			fleetOf(40, "hung", "https://hung.example/est")+fleetOf(40, "well", "https://well.example/est"))
		d.change = func(o *Options) {
			dial := o.Dial
			o.Dial = func(eo est.Options) (Enroller, error) {
				e, err := dial(eo)
				if err == nil && eo.URL.Host == "hung.example" {
					e = neverAnswers{e, eo.Timeout}
				}
				return e, err
			}
		}
		_, stop := d.boot()
		defer stop()
		time.Sleep(30 * time.Second) // half of the deadline of an attempt
		for i := range 40 {
			d.live(fmt.Sprintf("well-%03d", i))
		}
	})
}

// neverAnswers is an EST server that takes requests and answers none before its time limit.
type neverAnswers struct {
	Enroller
	limit time.Duration
}

func (n neverAnswers) Attributes(ctx context.Context) (*est.Attributes, error) {
	ctx, cancel := context.WithTimeout(ctx, n.limit)
	defer cancel()
	<-ctx.Done()
	return nil, &est.Error{Class: est.ErrUnavailable, Err: ctx.Err()}
}
