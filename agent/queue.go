package agent

import (
	"context"
	"slices"
	"sync"
	"time"
)

// How many attempts run at once: a small device has little memory, and a server little patience. One server gets no more
// than its share while others wait, and each server may always have one.
const (
	maxAttempts  = 16
	maxPerServer = 12
)

// queue is where attempts wait for their turn. The one whose certificate expires first goes next, among those whose server
// has room. A server that has no attempt under way always has room, whatever the others do: so servers that hang, where
// each attempt lasts until its deadline, never hold up the certificates of one that answers. The zero value is ready.
type queue struct {
	mu      sync.Mutex // guards what follows
	running int
	at      map[string]int // running attempts by server; those that have none are not in it
	waiting []*turn        // in order of arrival
	rested  bool           // nobody had a turn since idle was asked last
}

// turn is a place in the queue.
type turn struct {
	server string
	// by is when it is too late: when the certificate expires. Where there is none, or it has expired, that is when it began
	// to wait; so whatever fails again and again is not always before those that live.
	by time.Time
	// granted is closed when the attempt may begin.
	granted chan struct{}
}

// wait waits for a turn at server, or for the end of ctx, whose error it returns. Whoever had a turn gives it back with done.
func (q *queue) wait(ctx context.Context, server string, by time.Time) error {
	t := &turn{server: server, by: by, granted: make(chan struct{})}
	q.mu.Lock()
	q.waiting = append(q.waiting, t)
	q.grant()
	q.mu.Unlock()
	select {
	case <-t.granted:
		return nil
	case <-ctx.Done():
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if i := slices.Index(q.waiting, t); i >= 0 {
		q.waiting = slices.Delete(q.waiting, i, i+1)
	} else {
		q.release(server) // it was granted at the same moment
	}
	return ctx.Err()
}

// done gives a turn back.
func (q *queue) done(server string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.release(server)
}

// idle reports, once after each time of work, that it is over: nobody has a turn or waits for one.
func (q *queue) idle() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.rested || q.running > 0 || len(q.waiting) > 0 {
		return false
	}
	q.rested = true
	return true
}

// release counts one less at server and lets the next begin. q.mu is held.
func (q *queue) release(server string) {
	q.running--
	if q.at[server]--; q.at[server] == 0 {
		delete(q.at, server)
	}
	q.grant()
}

// grant lets begin whoever can. q.mu is held.
func (q *queue) grant() {
	for {
		next := -1
		for i, t := range q.waiting {
			if q.room(t.server) && (next < 0 || t.by.Before(q.waiting[next].by)) {
				next = i
			}
		}
		if next < 0 {
			return
		}
		t := q.waiting[next]
		q.waiting = slices.Delete(q.waiting, next, next+1)
		if q.at == nil {
			q.at = map[string]int{}
		}
		q.running++
		q.rested = false
		q.at[t.server]++
		close(t.granted)
	}
}

// room tells whether an attempt at server may begin. q.mu is held.
func (q *queue) room(server string) bool {
	n := q.at[server]
	return n == 0 || n < maxPerServer && q.running < maxAttempts
}
