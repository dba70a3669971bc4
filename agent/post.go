package agent

import (
	"context"
	"sync/atomic"
	"time"
)

// post is how the clock task and others reach a goroutine that owns something: mailboxes of one letter each, so that a
// sender never waits and letters that say the same are one.
type post struct {
	owner string // whom it reaches, for the log
	kick  chan struct{}
	ping  chan chan<- struct{} // the watchdog's; answered by closing
	// wake is when the clock task is to kick the owner, in Unix milliseconds; 0 means no time but only an event.
	wake *atomic.Int64
}

func newPost(owner string) post {
	return post{owner: owner, kick: make(chan struct{}, 1), ping: make(chan chan<- struct{}, 1), wake: new(atomic.Int64)}
}

// wakeAt sets when the clock task is to kick the owner; the zero time means never.
func (p post) wakeAt(at time.Time) {
	next := int64(0)
	if !at.IsZero() {
		next = at.Add(time.Millisecond - 1).UnixMilli() // not nanoseconds: they end in the year 2262
	}
	p.wake.Store(next)
}

// rest waits for d, or for the end of ctx, and goes on answering the watchdog: one owner that crashed is no reason to
// restart the daemon.
func (p post) rest(ctx context.Context, d time.Duration) {
	for over := time.After(d); ; {
		select {
		case <-ctx.Done():
			return
		case <-over:
			return
		case pong := <-p.ping:
			close(pong)
		}
	}
}

// send puts a letter into a mailbox unless one is there already.
func send[T any](box chan T, letter T) {
	select {
	case box <- letter:
	default:
	}
}
