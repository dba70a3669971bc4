package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"certagent/agent/control"
	"certagent/est/esttest"
	"certagent/store/durable/durabletest"
	"certagent/store/storetest"
)

// takenWord is what a device says on its standard output once it has answered an order.
const takenWord = "taken"

// obey runs the agent until what it was told has come to an end.
func obey(a *Agent, order control.Renewal) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }() // ends with ctx
	answers, err := a.Renew(ctx, order)
	if err != nil {
		return err
	}
	if answers[0].Refused == "" {
		fmt.Println(takenWord)
	}
	for {
		_, news := a.News()
		if c := a.Snapshot().Certificates[0]; !c.Ordered {
			break
		}
		select {
		case <-news:
		case <-ctx.Done():
			return errors.New("the order does not come to an end")
		}
	}
	cancel()
	return <-ended
}

// TestKilledAtEveryCallOfAnOrder: a device whose request waits for approval is told to drop that request, with a new key or not,
// and kills itself at each call on its file system and to the server. Once it has said that it took the order, there is no
// way back: whatever comes after the kill, the certificate has neither the key of the request that was dropped, nor, where a new
// one was asked for, the key it had.
func TestKilledAtEveryCallOfAnOrder(t *testing.T) {
	for name, c := range map[string]struct {
		order control.Renewal
		table string
	}{
		"new key": {control.Renewal{NewKey: true}, "[cert_issuance.certs.mqtt.auto_renew]\nrotate_key = false\n"},
		"discard": {control.Renewal{Discard: true}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := esttest.New(t, esttest.Options{})
			g := newGateway(t, server, trustFile, byUser, c.table)
			g.turnInAProcess(t)
			server.Always("simplereenroll", esttest.Pending202(24*time.Hour))
			if killed, says := g.diesWith(t, lastTurn{Order: new(control.Renewal)}); killed || !strings.Contains(says, takenWord) {
				t.Fatalf("nothing waits for approval: %q", says)
			}
			server.Clear()
			stride, points, taken := durabletest.Stride(3), 0, 0
			for at := 1; ; at += stride {
				killed, took := orderDiesAt(t, g, c.order, at)
				if took {
					taken++
				}
				if !killed {
					break
				}
				points++
			}
			t.Logf("killed at %d calls, every %dth, %d of them after the order was taken", points, stride, taken)
			if durabletest.Few(points, 10) || durabletest.Few(taken, 3) || taken == points {
				t.Errorf("killed at %d calls, %d of them after the order was taken", points, taken)
			}
		})
	}
}

// orderDiesAt has a copy of the device die at that call, checks, and reports whether it died and had taken the order.
func orderDiesAt(t *testing.T, before *gateway, order control.Renewal, at int) (killed, taken bool) {
	t.Helper()
	g := &gateway{t: t, dir: filepath.Join(t.TempDir(), "device"), text: before.text, ahead: before.ahead}
	if err := storetest.Copy(before.dir, g.dir); err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(g.dir, "state")
	writeFile(t, filepath.Join(g.dir, "config.toml"), []byte(strings.ReplaceAll(g.text, "DIR", g.dir)))
	live := func() *storetest.Pair {
		t.Helper()
		p, err := storetest.Live(state, "mqtt")
		if err != nil {
			t.Fatalf("killed at call %d: %v", at, err)
		}
		return p
	}
	old := live()
	dropped, err := storetest.PendingKey(state, "mqtt")
	if err != nil {
		t.Fatal(err)
	}
	killed, says := g.diesWith(t, lastTurn{Order: &order, At: at})
	taken = strings.Contains(says, takenWord)
	if wrong := storetest.Wrong(state); len(wrong) > 0 {
		t.Errorf("killed at call %d: on disk: %v", at, wrong)
	}
	after := live()
	next := lastTurn{} // what it took it does by itself
	if !taken && after.Leaf.Equal(old.Leaf) {
		next.Order = &order
	}
	if again, says := g.diesWith(t, next); again {
		t.Fatalf("killed by somebody else: %s", says)
	}
	is := live()
	switch {
	case !after.Leaf.Equal(old.Leaf) && !is.Leaf.Equal(after.Leaf):
		t.Errorf("killed at call %d: the order was carried out, and is once more", at)
	case is.Leaf.Equal(old.Leaf):
		t.Errorf("killed at call %d: the order was taken, and nobody did anything", at)
	case storetest.SameKey(dropped, is.Leaf.PublicKey):
		t.Errorf("killed at call %d: the certificate has the key of the request that was dropped", at)
	case order.NewKey && storetest.SameKey(old.Leaf.PublicKey, is.Leaf.PublicKey):
		t.Errorf("killed at call %d: the certificate has the key that it had", at)
	}
	left, err := storetest.Leftovers(state)
	if wrong := append(storetest.Wrong(state), left...); err != nil && !errors.Is(err, os.ErrNotExist) || len(wrong) > 0 {
		t.Errorf("killed at call %d: on disk in the end: %v, %v", at, wrong, err)
	}
	return killed, taken
}
