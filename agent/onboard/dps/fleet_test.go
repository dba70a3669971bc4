package dps_test

import (
	"container/heap"
	"math/rand/v2"
	"testing"
	"time"

	"certagent/agent/onboard/dps"
)

// turn is when a device of a fleet acts next.
type turn struct {
	at     time.Time
	device int
}

type turns []turn

func (t turns) Len() int           { return len(t) }
func (t turns) Less(i, j int) bool { return t[i].at.Before(t[j].at) }
func (t turns) Swap(i, j int)      { t[i], t[j] = t[j], t[i] }
func (t *turns) Push(x any)        { *t = append(*t, x.(turn)) }
func (t *turns) Pop() any {
	last := (*t)[len(*t)-1]
	*t = (*t)[:len(*t)-1]
	return last
}

// fleet is what became of 2000 devices at an instance that takes 200 registrations a minute, as 10,000 would fare at one that takes
// the 1000 of DPS, and says to the others when to come again, where retryAfter is not 0. Their certificates were issued within issued, and each waited a part of
// before until its first try. It gives the most requests in a second, all of them, and after which time a half, nine
// tenths and all of the devices were known.
func fleet(issued, before, retryAfter time.Duration) (peak, requests int, half, most, all time.Duration) {
	const devices, aMinute = 2000, 200
	dice := rand.New(rand.NewPCG(1, 2))
	part := func(d time.Duration) time.Duration { return time.Duration(dice.Float64() * float64(d)) }
	start := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	want := dps.Registration{Endpoint: "https://dps.test", IDScope: "0neA", RegistrationID: "gw", SHA256: "aa"}
	states, seconds := make([]dps.State, devices), map[int]int{}
	var queue turns
	for i := range devices {
		queue = append(queue, turn{start.Add(part(issued) + part(before)), i})
	}
	heap.Init(&queue)
	var taken []time.Time     // within a minute
	var known []time.Duration // in order
	for len(queue) > 0 {
		next := heap.Pop(&queue).(turn)
		now, s := next.at, &states[next.device]
		requests++
		second := int(now.Sub(start) / time.Second)
		seconds[second]++
		peak = max(peak, seconds[second])
		step := dps.Next(want, nil, *s, now)
		if step.Do == dps.Poll {
			known = append(known, now.Sub(start))
			continue
		}
		for len(taken) > 0 && now.Sub(taken[0]) >= time.Minute {
			taken = taken[1:]
		}
		answer, err := dps.Answer{HTTP: 202, Status: "assigning", Operation: "4.x", RetryAfter: 3 * time.Second}, error(nil)
		if len(taken) < aMinute {
			taken = append(taken, now)
		} else {
			err = &dps.Error{Class: dps.ErrUnavailable, Code: dps.CodeThrottled, Status: 429, RetryAfter: retryAfter}
		}
		*s, _ = s.Begin(want, step, dice.Float64(), now).After(want, step, answer, err, dice.Float64(), now)
		heap.Push(&queue, turn{s.NextTry, next.device})
	}
	return peak, requests, known[devices/2], known[devices*9/10], known[devices-1]
}

// Devices that come all at once are known within half an hour, by some five requests each, where the service needs ten
// minutes for them at best. A draw of ten seconds before the first try would change nothing of that, and the first second only where
// a CA issues them all in one: so there is none, for which every consumer would wait at every renewal.
func TestFleet(t *testing.T) {
	for _, issued := range []time.Duration{time.Second, 30 * time.Second} {
		for _, retryAfter := range []time.Duration{0, time.Minute} {
			peak, requests, half, most, all := fleet(issued, 0, retryAfter)
			if requests > 12_000 || half > 7*time.Minute || most > 21*time.Minute || all > 31*time.Minute {
				t.Errorf("issued in %v, Retry-After %v: %d requests, half known after %v, most after %v, all after %v",
					issued, retryAfter, requests, half, most, all)
			}
			drawnPeak, drawnRequests, drawnHalf, drawnMost, _ := fleet(issued, 10*time.Second, retryAfter)
			t.Logf("issued in %v, Retry-After %v: %d requests a second, %d in all, known after %v, %v, %v; with a draw %d, %d, %v, %v",
				issued, retryAfter, peak, requests, half, most, all, drawnPeak, drawnRequests, drawnHalf, drawnMost)
			if float64(drawnRequests) < .9*float64(requests) || drawnHalf.Seconds() < .9*half.Seconds() || drawnMost.Seconds() < .9*most.Seconds() {
				t.Errorf("issued in %v, Retry-After %v: a draw before the first try is worth it", issued, retryAfter)
			}
		}
	}
}
